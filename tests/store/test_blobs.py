"""The stores of blobs: what the port promises, on a folder and on two S3 servers, and what each adds to it."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harm import damage_blobs
from proxy import Proxy

from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt, Invalid, NotFound, Unavailable, Unsupported
from loopwright.store import blobs as port
from loopwright.store import s3
from loopwright.store.blobs import Blobs, LocalBlobs
from loopwright.store.s3 import S3Blobs
from loopwright.testing.blobs import BlobsSuite


def local(folder: Path) -> LocalBlobs:
    for name in ("blobs", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return LocalBlobs(folder / "blobs", folder / "tmp")


class Suite(BlobsSuite):
    def spoil(self, blobs: Blobs, digest: str, data: bytes | None) -> None:
        damage_blobs(blobs, digest, data)


class TestFolder(Suite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> LocalBlobs:
        return local(tmp_path)


Store = dict[str, str]


@pytest.fixture
def weed(session_servers: Any, monkeypatch: pytest.MonkeyPatch) -> Store:
    """SeaweedFS with a prefix of its own."""
    found: Store = session_servers.object_store()
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return {"url": f"{found['LOOPWRIGHT_BLOBS']}/{uuid.uuid4().hex}", "endpoint": found["LOOPWRIGHT_BLOBS_ENDPOINT"]}


class TestWeed(Suite):
    @pytest.fixture
    def blobs(self, tmp_path: Path, weed: Store) -> S3Blobs:
        return S3Blobs(local(tmp_path), **weed)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    moto_server = pytest.importorskip("moto.server", reason="SKIPPED(moto is not installed)")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port_number = server.get_host_and_port()
    yield f"http://{host}:{port_number}"
    server.stop()


class TestMoto(Suite):
    @pytest.fixture
    def blobs(self, tmp_path: Path, moto: str, monkeypatch: pytest.MonkeyPatch) -> S3Blobs:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lw-test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lw-test-secret")
        import urllib.request

        bucket = f"b{uuid.uuid4().hex}"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        direct.open(urllib.request.Request(f"{moto}/{bucket}", method="PUT"), timeout=10).close()
        return S3Blobs(local(tmp_path), f"s3://{bucket}/some/prefix", moto)


# --- the folder -----------------------------------------------------------------------------------------------------


def test_bytes_put_again_repair_what_is_damaged(tmp_path: Path) -> None:
    first = local(tmp_path)
    digest = first.put_bytes(b"one")
    damage_blobs(first, digest, b"two")
    assert local(tmp_path).put_bytes(b"one") == digest  # another process
    assert first.read(digest) == b"one"
    damage_blobs(first, digest, b"")
    (tmp_path / "file").write_bytes(b"one")
    local(tmp_path).put_file(tmp_path / "file")
    assert first.read(digest) == b"one"


def test_the_name_of_a_blob_that_was_there_is_made_durable_once_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = local(tmp_path).put_bytes(b"one")
    synced: list[Path] = []
    monkeypatch.setattr(port, "fsync_folder", synced.append)
    again = local(tmp_path)
    for _ in range(3):
        again.put_bytes(b"one")
    assert synced == [again.path(digest).parent, again.folder]


def test_a_blob_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (told.append(name), real(*a))[1])
    digest = local(tmp_path).put_bytes(b"one")
    assert told == ["fsync", "rename", "fsync", "fsync"]
    assert local(tmp_path).path(digest).stat().st_mode & 0o777 == 0o400


def test_a_full_disk_leaves_nothing_and_the_next_put_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, real = local(tmp_path), os.fsync

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        blobs.put_bytes(b"one")
    monkeypatch.setattr(os, "fsync", real)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert blobs.read(blobs.put_bytes(b"one")) == b"one"


# --- the object store -----------------------------------------------------------------------------------------------


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    for url in ("http://x", "s3://", "s3://A/b", "s3://bucket/a?b", "s3://bucket/a b"):
        with pytest.raises(Invalid):
            S3Blobs(local(tmp_path), url)


@pytest.fixture
def two(tmp_path: Path, weed: Store) -> tuple[S3Blobs, S3Blobs]:
    """One store as two hosts see it."""
    return S3Blobs(local(tmp_path / "a"), **weed), S3Blobs(local(tmp_path / "b"), **weed)


def test_what_one_host_put_another_reads(two: tuple[S3Blobs, S3Blobs]) -> None:
    here, there = two
    digest = here.put_bytes(b"one")
    assert not there.local.has(digest) and there.has(digest) and there.size(digest) == 3
    assert there.path(digest).read_bytes() == b"one" and there.local.has(digest)
    assert list(there.all()) == [digest]


def test_what_lies_in_the_cache_lies_in_the_store(
    two: tuple[S3Blobs, S3Blobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = two

    def broken(*_: object) -> None:
        raise Unavailable("it does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(here, "_upload", broken)
        with pytest.raises(Unavailable):
            here.put_bytes(b"one")
    assert not here.local.has(canonical.digest_bytes(b"one")) and not list(here.local.temporary.iterdir())


def test_what_another_host_cleaned_away_is_put_anew(two: tuple[S3Blobs, S3Blobs]) -> None:
    here, there = two
    digest = here.put_bytes(b"one")
    os.utime(here.local.path(digest), (0, 0))  # long ago
    there.delete(digest)
    assert here.local.has(digest) and not there.has(digest)
    assert here.put_bytes(b"one") == digest and there.read(digest) == b"one"
    os.utime(here.local.path(digest), (0, 0))
    there.delete(digest)
    assert here.renew(digest) and there.read(digest) == b"one"


def test_bytes_that_come_wrong_are_refused_and_never_settle(two: tuple[S3Blobs, S3Blobs]) -> None:
    here, there = two
    digest = here.put_bytes(b"one" * 1000)
    damage_blobs(here, digest, b"two" * 1000)
    for act in (there.read, there.path):
        with pytest.raises(Corrupt):
            act(digest)
    assert not there.local.has(digest) and not list(there.local.temporary.iterdir())
    here.local._sure.clear()
    os.utime(here.local.path(digest), (0, 0))
    assert here.put_bytes(b"one" * 1000) == digest  # the same length, other bytes: put over
    assert there.read(digest) == b"one" * 1000


@pytest.fixture
def through(weed: Store, tmp_path: Path) -> Iterator[tuple[S3Blobs, Proxy, S3Blobs]]:
    """A store behind a line that can fail, and the same one past it."""
    with Proxy(weed["endpoint"]) as proxy:
        yield (
            S3Blobs(local(tmp_path / "a"), weed["url"], proxy.url),
            proxy,
            S3Blobs(local(tmp_path / "b"), **weed),
        )


def test_a_fetch_that_is_cut_off_goes_on_where_it_was(through: tuple[S3Blobs, Proxy, S3Blobs]) -> None:
    here, proxy, direct = through
    data = os.urandom(6 << 20)
    digest = direct.put_bytes(data)
    proxy.cut_answers_after = [3 << 20, 2 << 20]
    assert here.read(digest) == data
    assert proxy.cut_answers_after == [] and proxy.answered < 9 << 20  # it was not begun anew


def test_one_wrong_arrival_is_fetched_again(through: tuple[S3Blobs, Proxy, S3Blobs]) -> None:
    here, proxy, direct = through
    data = os.urandom(1 << 20)
    digest = direct.put_bytes(data)
    proxy.flip_answers_at = [500_000]
    assert here.read(digest) == data and proxy.flip_answers_at == []
    assert here.local.verify(digest)


def test_a_put_that_was_cut_off_is_done_again(
    through: tuple[S3Blobs, Proxy, S3Blobs], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, proxy, direct = through
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    (tmp_path / "large").write_bytes(data := os.urandom(11 << 20))
    proxy.cut_requests_after = [1 << 20] * 60
    with pytest.raises(Unavailable):
        here.put_file(tmp_path / "large")
    assert list(direct.all()) == [] and not list(here.local.all()) and not list(here.local.temporary.iterdir())
    proxy.cut_requests_after = []
    digest = here.put_file(tmp_path / "large")
    assert direct.read(digest) == data


def test_a_line_that_breaks_once_is_not_noticed(through: tuple[S3Blobs, Proxy, S3Blobs]) -> None:
    here, proxy, direct = through
    proxy.cut_requests_after = [100]
    digest = here.put_bytes(os.urandom(1000))
    assert direct.has(digest)
    proxy.cut_answers_after = [10]
    assert len(list(here.all())) == 1


def test_a_store_that_does_not_answer_is_unavailable_and_tells_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "planted-token")
    import servers

    blobs = S3Blobs(local(tmp_path), "s3://bucket/prefix", f"http://127.0.0.1:{servers.free_port()}")
    monkeypatch.setattr(s3, "RETRY_S", 0.5)
    digest = canonical.digest_bytes(b"one")
    for act in (lambda: blobs.put_bytes(b"one"), lambda: blobs.read(digest), lambda: list(blobs.all()), blobs.now_us):
        with pytest.raises(Unavailable) as caught:
            act()  # type: ignore[operator]
        told = f"{caught.value!r} {caught.value} {caught.value.to_dict()} {caught.value.__context__!r}"
        assert "s3://bucket/prefix at http://127.0.0.1" in told
        assert "planted" not in str(caught.value.to_dict()) and caught.value.__cause__ is None
    assert not blobs.local.has(digest)


def test_a_bucket_that_is_not_there_is_told(weed: Store, tmp_path: Path) -> None:
    blobs = S3Blobs(local(tmp_path), "s3://no-such-bucket-here/x", weed["endpoint"])
    with pytest.raises((Unavailable, NotFound)):
        list(blobs.all())
        blobs.put_bytes(b"one")
        blobs.read(canonical.digest_bytes(b"two"))


def test_a_forked_process_is_told_that_the_client_cannot_follow(two: tuple[S3Blobs, S3Blobs]) -> None:
    here, there = two
    digest = here.put_bytes(b"before")
    pid = os.fork()
    if not pid:
        code = 4
        try:
            assert here.read(digest) == b"before"  # from the cache
            there.read(digest)
        except Unsupported:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

"""fsck reads everything again: every flipped bit in a blob is found, named, and what it touches is told."""

import random
from pathlib import Path

import pytest
from harm import damage

from loopwright.artifacts import names, service
from loopwright.artifacts.fsck import Damage, fsck
from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt
from loopwright.runs import service as runs
from loopwright.store import frames
from loopwright.store.blobs import LocalBlobs
from loopwright.store.space import Space

ME = "local:me"


def found(space: Space, *, deep: bool = True) -> dict[str, Damage]:
    return {item.name: item for item in fsck(space, ME, deep=deep).damage if item.part == "blob"}


def model(space: Space) -> service.Artifact:
    tree = service.put_tree(space, {"a": b"aaa", "b/c": b"ccc"}, kind="model", meta={})
    space.write(lambda tx: names.register(tx, ME, "delay", tree))
    return tree


def test_a_flipped_bit_and_a_missing_blob_are_found_with_what_they_touch(space: Space) -> None:
    model(space)
    whole = fsck(space, ME, deep=True)
    assert whole.ok and (whole.blobs, whole.artifacts, whole.references) == (3, 1, 1)
    damage(space, canonical.digest_bytes(b"aaa"), b"aab")
    damage(space, canonical.digest_bytes(b"ccc"), None)
    damaged = found(space)
    assert {name: (item.what, item.touches) for name, item in damaged.items()} == {
        canonical.digest_bytes(b"aaa"): ("its bytes do not have its digest", ["delay@1"]),
        canonical.digest_bytes(b"ccc"): ("it is missing", ["delay@1"]),
    }
    assert all("lw restore" in item.hint for item in damaged.values())


def test_the_same_bytes_put_again_repair_a_damaged_blob(space: Space) -> None:
    model(space)
    damage(space, canonical.digest_bytes(b"aaa"), b"aab")
    assert not fsck(space, ME, deep=True).ok
    space.blobs._sure.clear() if isinstance(space.blobs, LocalBlobs) else space.blobs.local._sure.clear()  # type: ignore[attr-defined]
    model(space)  # as another process does
    assert fsck(space, ME, deep=True).ok


def test_every_bit_counts(wall_space: Space) -> None:
    space, dice = wall_space, random.Random(7)
    digests = [space.blobs.put_bytes(dice.randbytes(dice.randrange(1, 5000))) for _ in range(40)]
    flipped = {}
    for digest in digests:
        data = bytearray(space.blobs.read(digest))
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        damage(space, digest, bytes(data))
        flipped[digest] = bytes(data)
    assert set(found(space)) == set(digests)
    if not space.blobs.remote:
        for digest in digests:
            with pytest.raises(Corrupt):
                space.blobs.read(digest)


def test_a_listing_says_how_long_its_files_are(space: Space) -> None:
    model(space)
    damage(space, canonical.digest_bytes(b"aaa"), b"aa")
    (item,) = found(space, deep=False).values()
    assert item.touches == ["delay@1"]
    assert item.what in ("its bytes do not have its digest", "it has 2 bytes, and 3 were stored")


def test_runs_and_artifacts_without_a_name_are_told_too(space: Space) -> None:
    tree = service.put_tree(space, {"a": b"1"}, kind="code", meta={})
    recorder = runs.start(space, ME, "step", "train")
    (space.root / "plot.txt").write_text("plot")
    file = recorder.file(space.root / "plot.txt", "plot.txt")
    damage(space, file, b"plat")
    damage(space, canonical.digest_bytes(b"1"), b"2")
    damaged = found(space)
    assert damaged[file].touches == [f"run {recorder.run_id}"]
    assert damaged[canonical.digest_bytes(b"1")].touches == [f"code {tree.digest[:12]}"]
    lone = space.blobs.put_bytes(b"lone")
    damage(space, lone, b"lane")
    assert found(space)[lone].touches == [] and "lw gc" in found(space)[lone].hint
    recorder.close()


def test_a_version_without_its_artifact_is_told(space: Space) -> None:
    tree = model(space)
    space.write(lambda tx: tx.execute("DELETE FROM artifacts WHERE digest = ?", (tree.digest,)))
    (item,) = fsck(space, ME).damage
    assert (item.part, item.name, item.touches) == ("name", "delay@1", ["delay@1"])


def test_a_listing_that_is_none_is_told(space: Space) -> None:
    fake = service.put_blob(space, b"no listing", kind="model", meta={})
    space.write(lambda tx: tx.execute("UPDATE artifacts SET is_tree = 1"))
    (item,) = fsck(space, ME).damage
    assert item.digest == fake.digest and "no tree listing" in item.what


def test_a_damaged_copy_in_the_cache_is_told_and_read_from_the_store(space: Space) -> None:
    if not space.blobs.remote:
        pytest.skip("the folder is the store here, not its cache")
    digest = space.blobs.put_bytes(b"whole")
    path = space.blobs.path(digest)
    path.chmod(0o600)
    path.write_bytes(b"halfe")
    (item,) = fsck(space, ME).damage
    assert (item.part, item.digest) == ("cache", digest) and item.hint.startswith("rm .loopwright/blobs/")
    assert space.blobs.read(digest) == b"whole"
    assert fsck(space, ME, deep=True).ok


def test_a_damaged_database_is_told(wall_space: Space) -> None:
    if wall_space.settings.database is not None:
        assert not [item for item in fsck(wall_space, ME).damage if item.part == "database"]
        return
    space = wall_space
    for number in range(300):
        made = service.put_blob(space, f"{number}".encode(), kind="data", meta={"n": "x" * 50})
        space.write(lambda tx, a=made: names.register(tx, ME, "many", a))  # type: ignore[misc]
    root = space.root
    space.close()
    path = root / ".loopwright" / "space.db"
    with open(path, "r+b") as stream:  # the end of the file, where the tables have grown
        size = path.stat().st_size
        for page in range(size // 4096 * 3 // 4, size // 4096):
            stream.seek(page * 4096)
            stream.write(b"\xff" * 16)
    from loopwright import house

    again = house.open(root)
    try:
        report = fsck(again, ME)
        assert any(item.part == "database" for item in report.damage) and not report.ok
    finally:
        again.close()


def test_frames_that_are_not_what_was_written_are_told_and_a_torn_tail_is_not(space: Space) -> None:
    path = space.home / "spool" / "delay" / "0000000000001.spool"
    path.parent.mkdir()
    whole = [frames.encode(bytes([n]) * 100) for n in range(3)]
    path.write_bytes(b"".join(whole) + whole[0][:50])
    assert fsck(space, ME).ok
    for offset in (9, 60, 108 + 50, 2, 108):  # payloads and heads; the last frame's head can look like a torn tail
        data = bytearray(b"".join(whole))
        data[offset] ^= 0x10
        path.write_bytes(data)
        (item,) = fsck(space, ME).damage
        assert (item.part, item.touches) == ("log", ["endpoint delay"]) and "byte" in item.what


def test_every_flip_in_a_file_of_frames_is_found_but_in_the_length_of_its_last(tmp_path: Path) -> None:
    path, whole = tmp_path / "f", [frames.encode(bytes(range(n, n + 20))) for n in range(4)]
    start = sum(len(frame) for frame in whole[:-1])
    for bit in range(8 * sum(map(len, whole))):
        if start <= bit // 8 < start + 4:
            continue
        data = bytearray(b"".join(whole))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert frames.find_damage(path) is not None, bit
    path.write_bytes(b"".join(whole))
    assert frames.find_damage(path) is None


def test_a_blob_that_cannot_be_read_is_told(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = service.put_tree(space, {"a": b"1"}, kind="code", meta={})
    file = service.files(space, tree.digest)["a"]
    real = space.blobs.reread

    def reread(digest: str) -> bool:
        if digest == file:
            raise OSError(5, "Input/output error")
        return real(digest)

    monkeypatch.setattr(space.blobs, "reread", reread)
    (item,) = fsck(space, ME, deep=True).damage
    assert item.digest == file and item.what == "it cannot be read: Input/output error"


def test_what_is_stored_while_fsck_looks_is_not_missed(space: Space) -> None:
    service.put_blob(space, b"before", kind="data", meta={})
    late: list[service.Artifact] = []

    def progress(*_: object) -> None:
        late.append(service.put_blob(space, b"meanwhile", kind="data", meta={}))

    report = fsck(space, ME, deep=True, progress=progress)
    assert late and report.ok and report.artifacts == 2

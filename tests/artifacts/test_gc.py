"""Cleaning: what something refers to stays, what nothing refers to goes, and who writes meanwhile loses nothing."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harm import damage

from loopwright import house
from loopwright.artifacts import gc as cleaning
from loopwright.artifacts import names, service
from loopwright.artifacts.fsck import fsck
from loopwright.artifacts.gc import GcReport, gc
from loopwright.kernel import canonical
from loopwright.kernel.errors import Conflict, Corrupt, Invalid, NotFound
from loopwright.runs import service as runs
from loopwright.store import postgres
from loopwright.store.space import Space

ME = "local:me"


def clean(space: Space, **changes: Any) -> GcReport:
    return gc(space, ME, **{"grace": "0s", "alone": True, **changes})


def gone(report: GcReport) -> set[str]:
    return {item.name for item in report.removed}


def named(space: Space, name: str, text: str) -> names.Version:
    made = service.put_blob(space, text.encode(), kind="data", meta={})
    return space.write(lambda tx: names.register(tx, ME, name, made))


def test_what_is_named_stays_and_what_is_not_goes(space: Space) -> None:
    kept = named(space, "flights", "kept")
    tree = service.put_tree(space, {"a": b"1", "b/c": b"2"}, kind="model", meta={"of": canonical.digest_bytes(b"x")})
    space.write(lambda tx: names.register(tx, ME, "delay", tree))
    meant = space.blobs.put_bytes(b"x")  # only the metadata of a tree names it
    recorder = runs.start(space, ME, "step", "train")
    (space.root / "plot.txt").write_text("plot")
    file = recorder.file(space.root / "plot.txt", "plot.txt")
    lone = space.blobs.put_bytes(b"nothing names me")
    made = service.put_blob(space, b"recorded and never named", kind="data", meta={})
    report = clean(space)
    assert gone(report) == {lone, made.digest}
    assert report.kept == {"run": 1, "version": 5} and report.young == 0 and report.blobs == 8
    assert report.freed_bytes == len(b"nothing names me") + len(b"recorded and never named")
    assert [space.blobs.has(d) for d in (kept.digest, tree.digest, meant, file, lone)] == [True] * 4 + [False]
    with pytest.raises(NotFound):
        service.get(space, made.digest)
    recorder.close()
    assert clean(space).removed == [] or gone(clean(space)) == set()
    assert fsck(space, ME).ok


def test_a_dry_run_takes_nothing_and_the_grace_keeps_what_is_young(space: Space) -> None:
    lone = space.blobs.put_bytes(b"lone")
    assert gone(clean(space, dry_run=True)) == {lone} and space.blobs.has(lone)
    report = gc(space, ME, grace="1h")
    assert report.removed == [] and report.young == 1 and space.blobs.has(lone)
    made = service.put_blob(space, b"recorded", kind="data", meta={})
    assert gc(space, ME).kept == {"young": 1} and space.blobs.has(made.digest)
    with pytest.raises(Invalid):
        gc(space, ME, grace="soon")


def test_bytes_that_are_put_again_are_young_again(space: Space) -> None:
    if space.blobs.remote:
        pytest.skip("an object store does not let its clock be set back")
    lone = space.blobs.put_bytes(b"lone")
    os.utime(space.blobs.path(lone), (0, 0))
    assert gone(gc(space, ME, dry_run=True)) == {lone}
    assert space.blobs.put_bytes(b"lone") == lone
    assert gc(space, ME, dry_run=True).young == 1


HOLDER = """
import sys
from pathlib import Path
from loopwright import house
space = house.open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_short_grace_beside_another_process_is_refused(space: Space) -> None:
    lone = space.blobs.put_bytes(b"lone")
    start = [sys.executable, "-c", HOLDER, str(space.root)]
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(Conflict, match="other processes"):
            clean(space)
        assert gc(space, ME, grace="1h").young == 1
    assert gone(clean(space)) == {lone}


def test_a_short_grace_beside_a_running_server_is_refused(space: Space) -> None:
    path = space.home / "run" / "worker-0.lock"  # a worker never opens the store, and may be about to begin a spool
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="other processes"):
            clean(space)
        assert gc(space, ME, grace="1h").removed == []
    assert clean(space).removed == []


def test_a_short_grace_on_a_shared_store_must_be_asked_for(space: Space) -> None:
    if not space.blobs.remote:
        assert gc(space, ME, grace="0s").removed == []
        return
    with pytest.raises(Conflict, match="other hosts"):
        gc(space, ME, grace="0s")


def test_two_cleanings_at_once_are_one(space: Space) -> None:
    seen: list[str] = []

    def progress(*_: object) -> None:
        with pytest.raises(Conflict, match="another lw gc"):
            gc(space, ME)
        seen.append("refused")

    space.blobs.put_bytes(b"lone")
    clean(space, progress=progress)
    assert seen


def test_what_is_taken_between_the_put_and_the_record_is_put_again(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = service._record, iter(range(9))
    first = space.write

    def write(fn: Any) -> Any:
        if getattr(fn, "func", None) is real and next(times) < 2:
            monkeypatch.setattr(space, "write", first)
            clean(space)
            monkeypatch.setattr(space, "write", write)
        return first(fn)

    monkeypatch.setattr(space, "write", write)
    made = service.put_blob(space, b"soon gone", kind="data", meta={})
    tree = service.put_tree(space, {"a": b"soon gone too", "b": made.digest}, kind="model", meta={})
    assert next(times) > 2
    assert service.read(space, made.digest) == b"soon gone"
    assert service.read(space, tree.digest, "a") == b"soon gone too"


class Killed(BaseException):
    pass


def test_two_hosts_clean_and_put_the_same_bytes(space: Space, tmp_path: Path) -> None:
    if not space.blobs.remote:
        pytest.skip("SKIPPED(a folder has one host)")
    shutil.copy(space.root / "loopwright.toml", tmp_path)
    other = house.open(tmp_path, create=True)
    try:
        lone = other.blobs.put_bytes(b"both")
        for _ in range(2):
            assert gone(clean(space)) == {lone}
            assert other.blobs.local.has(lone)  # type: ignore[attr-defined]
            made = service.put_blob(other, b"both", kind="data", meta={})
            assert space.blobs.reread(lone) and service.read(space, made.digest) == b"both"
            other.write(lambda tx: tx.execute("DELETE FROM artifacts"))
    finally:
        other.close()


def test_a_killed_cleaning_stops_nobody_and_the_next_one_ends_it(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [space.blobs.put_bytes(text) for text in (b"one", b"two", b"three")]
    real, done = space.blobs.delete, []

    def delete(digest: str) -> None:
        if len(done) == 1:
            raise Killed
        done.append(digest)
        real(digest)

    monkeypatch.setattr(space.blobs, "delete", delete)
    with pytest.raises(Killed):
        clean(space)
    monkeypatch.setattr(space.blobs, "delete", real)
    if space.blobs.remote:  # there another host's cleaning could still be at work: it has its time
        monkeypatch.setattr(cleaning.condemned, "_DEAD_US", 0)
    again = service.put_blob(space, b"one", kind="data", meta={})
    space.write(lambda tx: names.register(tx, ME, "kept", again))
    report = clean(space)
    assert gone(report) | set(done) >= set(digests[1:]) and again.digest not in gone(report)
    assert service.read(space, again.digest) == b"one" and fsck(space, ME).ok
    assert [space.blobs.has(digest) for digest in digests] == [True, False, False]


def test_a_tree_that_cannot_be_read_stops_the_cleaning(space: Space) -> None:
    tree = service.put_tree(space, {"a": b"1"}, kind="model", meta={})
    space.write(lambda tx: names.register(tx, ME, "delay", tree))
    damage(space, tree.digest, b"not a listing")
    with pytest.raises(Corrupt, match="nobody knows which blobs"):
        clean(space)
    assert space.blobs.has(canonical.digest_bytes(b"1"))


def test_a_name_is_not_given_to_what_was_cleaned_away(space: Space) -> None:
    made = service.put_blob(space, b"late", kind="data", meta={})
    clean(space)
    with pytest.raises(NotFound):
        space.write(lambda tx: names.register(tx, ME, "late", made))


def test_what_killed_processes_left_goes(wall_space: Space) -> None:
    space = wall_space
    dead = runs.start(space, ME, "step", "dead")
    dead.metrics({"loss": 1.0})
    dead.close(keep=True)
    with space.read() as tx:
        assert tx.value("SELECT state FROM runs") == "running"
    runs.sweep(space)  # as the next run that starts does
    left = ["tmp/tmpabc", "tmp/folder/inner", ".new-x", "run/.new-y", "run/step-0a.lock", "spool/delay/x.new"]
    left += ["blobs/ab/half", "blobs/stray", "keys/.new-1", "runs/run_0/console.txt", "runs/job_0/console"]
    left += [f"projects/{'0' * 64}/p.py", f"values/{'0' * 64}/table.csv"]
    for name in left:
        path = space.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (space.root / ".new-1-loopwright.toml").touch()
    assert gc(space, ME).removed == []
    before = {str(path.relative_to(space.root)) for path in space.root.rglob("*")}
    report = clean(space)
    assert {str(path.relative_to(space.root)) for path in space.root.rglob("*")} < before
    for name in left:
        assert not (space.home / name).exists(), name
    assert not (space.root / ".new-1-loopwright.toml").exists()
    assert all(item.what == "file" and item.reason for item in report.removed)
    assert clean(space).removed == []


def test_writers_beside_cleanings_without_grace_lose_nothing(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    # these writers are of one process with the cleaning, so nothing keeps it from the files that they are writing
    monkeypatch.setattr(cleaning, "_temporary", lambda space: iter(()))
    stop, kept, failed = threading.Event(), dict[str, bytes](), list[BaseException]()

    def write(who: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            data = f"{number % 7}".encode()  # the same few bytes, by all
            try:
                made = service.put_blob(space, data, kind="data", meta={})
                version = space.write(partial(names.register, actor=ME, name=f"w{who}.{number}", artifact=made))
            except NotFound:
                continue  # it was cleaned away before it had a name: refused, not lost
            except BaseException as error:
                failed.append(error)
                raise
            kept[version.ref] = data
            forget(version.name)

    def forget(name: str) -> None:
        """Take the name away again, so that the next cleaning finds something to do."""
        if int(name.partition(".")[2]) % 5:
            space.write(lambda tx: tx.execute("DELETE FROM versions WHERE name = ?", (name,)))
            del kept[f"{name}@1"]

    threads = [threading.Thread(target=write, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    removed = 0
    for _ in range(2000):
        removed += len(clean(space).removed)
        if failed or (removed > 10 and len(kept) > 10):
            break
        stop.wait(0.004)  # a cleaning without any pause leaves nobody the time to name what was put
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed and kept and removed
    for ref, data in kept.items():
        assert service.read(space, names.resolve(space, ref).digest) == data
    assert fsck(space, ME).ok
    assert not [path for path in (space.home / "tmp").iterdir() if Path(path).is_file()]


def test_a_record_without_its_blob_goes_and_so_do_stale_copies(space: Space) -> None:
    made = service.put_blob(space, b"lost", kind="data", meta={})
    kept = named(space, "flights", "kept")
    damage(space, made.digest, None)
    if space.blobs.remote:
        other = space.blobs.put_bytes(b"another host took me from the store")
        space.blobs.local.path(other).rename(space.home / "aside")  # type: ignore[attr-defined]
        space.blobs.delete(other)
        (space.home / "aside").rename(space.blobs.local.path(other))  # type: ignore[attr-defined]
    report = clean(space)
    assert made.digest in gone(report) and service.read(space, kept.digest) == b"kept"
    with pytest.raises(NotFound):
        service.get(space, made.digest)
    if space.blobs.remote:
        assert [path.name for path in space.blobs.local.folder.rglob("*") if path.is_file()] == [kept.digest]  # type: ignore[attr-defined]


@pytest.mark.parametrize("ground", ["postgres"], indirect=True)
def test_trees_that_come_slowly_hold_no_snapshot_open(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = service.put_tree(space, {"a": b"1"}, kind="model", meta={})
    space.write(lambda tx: names.register(tx, ME, "delay", tree))
    monkeypatch.setitem(postgres._SESSION, "idle_in_transaction_session_timeout", "100ms")
    with contextlib.closing(house.open(space.root)) as other:
        read = other.blobs.read

        def slowly(digest: str) -> bytes:
            threading.Event().wait(0.3)
            return read(digest)

        monkeypatch.setattr(other.blobs, "read", slowly)
        assert fsck(other, ME).ok
        assert gc(other, ME, grace="1h", dry_run=True).kept == {"version": 2}

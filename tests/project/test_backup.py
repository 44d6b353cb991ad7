"""A backup is taken beside writers and has all that was acknowledged before; it comes back whole, on any ground."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from grounds import shared_ground
from harm import damage

from loopwright import house
from loopwright.artifacts import names, service
from loopwright.artifacts.fsck import fsck
from loopwright.artifacts.gc import gc
from loopwright.audit import service as audit
from loopwright.kernel.errors import Conflict, Corrupt, Invalid, LoopwrightError, NotFound
from loopwright.kernel.event import EventKind
from loopwright.kernel.settings import ENVIRONMENT
from loopwright.pipelines import queue
from loopwright.project import backup as making
from loopwright.project import restore as restoring
from loopwright.project.backup import backup
from loopwright.project.restore import Ground, Restore, RestoreReport
from loopwright.runs import service as runs
from loopwright.serving import predictions, record, seal
from loopwright.serving.record import Columns, LogRow
from loopwright.store import backup as copies
from loopwright.store import frames, ledger
from loopwright.store import space as spaces
from loopwright.store.space import Space

ME = "local:me"
MADE = EventKind("thing.made@1", "{subject} was made")
RELEASE = Path(__file__).parents[1] / "store" / "releases" / "0.1.0" / "store.tar.xz"


def rooms() -> dict[str, Any]:
    return {"store": spaces.MIGRATIONS, **house.migrations()}


def back(source: Path, into: Path, ground: Ground | None = None, **changes: Any) -> RestoreReport:
    found = restoring.pick(source)
    return Restore(found, into, ground or Ground(), **{"rooms": rooms(), **changes}).run(house.open)


def tables(space: Space) -> dict[str, list[tuple[Any, ...]]]:
    with space.read() as tx:
        kept = [table for table in tx.tables() if table not in (*copies.FLEETING, "migrations")]
        return {t: sorted((tuple(row) for row in tx.query(f"SELECT * FROM {t}")), key=repr) for t in kept}


def made(space: Space) -> None:
    """Something in each part of the store."""
    tree = service.put_tree(space, {"a": b"aaa", "b/c": b""}, kind="model", meta={"é": [1.5, None]})
    space.write(lambda tx: names.register(tx, ME, "delay", tree))
    space.write(lambda tx: ledger.append(tx, ME, MADE, "x", {"text": "ünï\n", "number": 2**53}))
    recorder = runs.start(space, ME, "step", "train")
    (space.root / "plot.txt").write_text("plot")
    recorder.file(space.root / "plot.txt", "plot.txt")
    recorder.metrics({"loss": 0.25})
    recorder.close(keep=True)
    spool(space, "delay", "0000000000001", ["one", "two"])
    space.write(lambda tx: queue.enqueue(tx, "seal at home", "serving.seal", {}, host="host_left_behind"))


def spool(space: Space, endpoint: str, name: str, ids: list[str]) -> Path:
    path = space.home / "spool" / endpoint / f"{name}.spool"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [LogRow(f"pred_{i}", 1000 + n, 1000 + n, i, 1, 1, None, [0.5], {1: 0.5}) for n, i in enumerate(ids)]
    header = record.header(Columns(("x",), ("float64",)))
    path.write_bytes(frames.encode(header) + frames.encode(record.rows_payload(rows)))
    return path


@pytest.fixture(params=["here", "there"])
def target(request: pytest.FixtureRequest, ground: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """A SQLite file and a folder, or a schema and an object store."""
    if request.param == "here":
        yield Ground()
        return
    with shared_ground(request.getfixturevalue("session_servers"), monkeypatch) as found:
        yield found


def test_a_project_comes_back_on_any_ground(
    space: Space, tmp_path: Path, target: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(space)
    audit.seal(space, ME)
    report = backup(space, ME, folder=tmp_path / "kept")
    assert report.ok and report.copied == report.blobs == 4
    before, last = tables(space), report.events
    for name in ENVIRONMENT.values():  # what names the source is not what names the target
        monkeypatch.delenv(name, raising=False)
    found = back(tmp_path / "kept", tmp_path / "new", target)
    assert found.blobs == 4 and found.events == last
    again = house.open(tmp_path / "new")
    try:
        assert {**tables(again), "jobs": []} == {**before, "jobs": []}
        assert fsck(again, ME, deep=True).ok
        chain = audit.verify(again, ME)
        assert chain.ok and chain.seals == 1
        assert again.settings.clock == "replay" and again.clock.now_us() == space.clock.now_us()
        assert service.read(again, names.resolve(again, "delay").digest, "a") == b"aaa"
        assert again.write(lambda tx: ledger.append(tx, ME, MADE, "y", {})) == last + 1
        assert [run.name for run in runs.search(again).items] == ["train"]
        assert gc(again, ME, grace="0s", alone=True).removed == []
        waits = queue.claim(again)
        assert waits is not None and waits.action_id == "seal at home"
        assert (again.home / "spool" / "delay" / "0000000000001.spool").exists()
        for path in again.home.rglob("*"):
            if path.name != ".gitignore" and not path.is_relative_to(again.home / "run"):
                assert path.stat().st_mode & 0o077 == 0, path
    finally:
        again.close()


def test_what_was_acknowledged_before_it_began_is_in_it(
    wall_space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, stop, done = wall_space, threading.Event(), dict[str, str]()

    def write(who: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            text = f"{who}.{number}"
            blob = service.put_blob(space, text.encode(), kind="data", meta={})
            space.write(lambda tx, a=blob, n=f"w{who}": names.register(tx, ME, n, a))  # type: ignore[misc]
            done[text] = blob.digest

    def log() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            spool(space, "delay", f"{number:013}", [f"id-{number}"])
            done[f"id-{number}"] = ""
            if number % 3 == 0:
                seal.seal(space)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)] + [threading.Thread(target=log)]
    for thread in threads:
        thread.start()
    while len(done) < 20:
        threading.Event().wait(0.01)
    seen = []
    for number in range(2):
        acknowledged = dict(done)
        seen.append((acknowledged, backup(space, ME, folder=tmp_path / "kept")))
        assert len(done) > len(acknowledged), number  # they went on
    stop.set()
    for thread in threads:
        thread.join()
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    for place, (acknowledged, report) in enumerate(seen):
        assert report.ok
        Restore(Path(report.folder), tmp_path / f"new{place}", Ground(), rooms()).run(house.open)
        again = house.open(tmp_path / f"new{place}")
        try:
            assert fsck(again, ME).ok
            seal.seal(again)
            with again.read() as tx:
                held = {row[0] for row in tx.query("SELECT digest FROM versions")}
                logged = sum(row[0] for row in tx.query("SELECT rows FROM prediction_log"))
                spools = {row[0] for row in tx.query("SELECT spool FROM prediction_log")}
            assert {digest for digest in acknowledged.values() if digest} <= held
            asked = [text for text in acknowledged if text.startswith("id-")]
            assert {f"{int(text[3:]):013}" for text in asked} <= spools and logged == len(spools)
        finally:
            again.close()


def test_a_spool_that_is_sealed_meanwhile_is_there_once(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool(space, "delay", "0000000000001", ["one", "two"])
    real = copies.copy_out

    def late(*args: Any) -> None:
        seal.seal(space)
        real(*args)

    monkeypatch.setattr(copies, "copy_out", late)
    backup(space, ME, folder=tmp_path / "kept")
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    back(tmp_path / "kept", tmp_path / "new")
    again = house.open(tmp_path / "new")
    try:
        assert seal.seal(again).rows == 2  # the copy of the spool, which the manifest knows
        with again.read() as tx:
            assert [row["rows"] for row in tx.query("SELECT rows FROM prediction_log")] == [2]
        assert not list((again.home / "spool").rglob("*.spool"))
    finally:
        again.close()


def test_a_backup_inside_the_project_is_refused(wall_space: Space) -> None:
    for place in (wall_space.root, wall_space.root / "kept", wall_space.home / "backups"):
        with pytest.raises(Invalid, match="inside the project") as told:
            backup(wall_space, ME, folder=place)
        assert told.value.hint
    assert not list(wall_space.root.glob("20*"))


def test_blobs_are_copied_once_and_what_is_damaged_is_told(space: Space, tmp_path: Path) -> None:
    made(space)
    kept = tmp_path / "kept"
    backup(space, ME, folder=kept)
    assert backup(space, ME, folder=kept).copied == 0
    digest = names.resolve(space, "delay").digest
    held = kept / "blobs" / digest[:2] / digest
    held.chmod(0o600)
    held.write_bytes(b"flipped")
    assert backup(space, ME, folder=kept, verify=True).copied == 1
    lost = service.files(space, digest)["a"]
    shutil.rmtree(kept)
    damage(space, lost, None)
    report = backup(space, ME, folder=kept)
    assert report.missing == [lost] and not report.ok and "lw fsck" in making.text(report)


def test_a_backup_that_is_not_what_was_written_is_refused_and_nothing_opens(wall_space: Space, tmp_path: Path) -> None:
    made(wall_space)
    kept, new = tmp_path / "kept", tmp_path / "new"
    source = Path(backup(wall_space, ME, folder=kept).folder)
    digest = names.resolve(wall_space, "delay").digest
    for path in (source / "space.db", source / "blobs.txt", kept / "blobs" / digest[:2] / digest):
        whole = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(Corrupt):
            back(kept, new)
        with pytest.raises(LoopwrightError):
            house.open(new)
        path.write_bytes(whole)
    path = next((source / "home").rglob("*.spool"))
    path.unlink()
    with pytest.raises(Corrupt):
        back(kept, new)
    manifest = msgspec.json.decode((source / "manifest.json").read_bytes())
    for changes in ({"schema": "lw.backup-manifest/9"}, {"files": {"../../x": "0" * 64}}, {"files": 3}):
        (source / "manifest.json").write_bytes(msgspec.json.encode({**manifest, **changes}))
        with pytest.raises((Invalid, Corrupt)):
            back(kept, new)


def test_a_folder_that_holds_something_is_refused(wall_space: Space, tmp_path: Path) -> None:
    backup(wall_space, ME, folder=tmp_path / "kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(Conflict) as caught:
        back(tmp_path / "kept", tmp_path / "full")
    assert caught.value.code == "restore.full" and os.listdir(tmp_path / "full") == ["mine.txt"]
    with pytest.raises(Conflict):
        back(tmp_path / "kept", wall_space.root)
    with pytest.raises(Invalid):
        backup(wall_space, ME, folder=wall_space.home / "x")
    with pytest.raises(NotFound):
        restoring.pick(tmp_path / "full")
    with pytest.raises(NotFound):
        restoring.pick(tmp_path / "kept", "1999")
    assert restoring.pick(tmp_path / "kept", "20")


def test_a_ground_that_cannot_be_named_is_refused_before_anything_is_brought(wall_space: Space, tmp_path: Path) -> None:
    backup(wall_space, ME, folder=tmp_path / "kept")
    for ground in (
        Ground(database="postgresql://me:planted@db/x"),
        Ground(database="mysql://db"),
        Ground(schema="No Name"),
        Ground(blobs="http://x"),
        Ground(blobs="s3://bucket/x", blobs_endpoint="ftp://x"),
    ):
        with pytest.raises(Invalid) as caught:
            back(tmp_path / "kept", tmp_path / "new", ground)
        assert "planted" not in str(caught.value.to_dict()) and not (tmp_path / "new").exists()


class Killed(BaseException):
    pass


def test_a_killed_restore_can_be_done_again(
    wall_space: Space, tmp_path: Path, target: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(wall_space)
    kept, new = tmp_path / "kept", tmp_path / "new"
    backup(wall_space, ME, folder=kept)
    before = tables(wall_space)
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)

    def killed(*_: object) -> None:
        raise Killed

    for name in ("_files", "_blobs", "_database", "_code"):
        with monkeypatch.context() as patched:
            patched.setattr(Restore, name, killed)
            with pytest.raises(Killed):
                back(kept, new, target)
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)  # all is there but the name
        with pytest.raises(Killed):
            back(kept, new, target)
    back(kept, new, target)
    again = house.open(new)
    assert {**tables(again), "jobs": []} == {**before, "jobs": []} and fsck(again, ME).ok
    again.close()
    if target.database is not None:
        with pytest.raises(Conflict) as caught:  # the schema lives now
            back(kept, tmp_path / "other", target)
        assert caught.value.code == "restore.schema"


def test_a_backup_of_a_newer_loopwright_is_refused_with_the_pip_line(wall_space: Space, tmp_path: Path) -> None:
    backup(wall_space, ME, folder=tmp_path / "kept")
    with pytest.raises(LoopwrightError, match="newer") as caught:
        back(tmp_path / "kept", tmp_path / "new", rooms={**rooms(), "runs": []})
    assert "pip install" in str(caught.value.hint)


def test_a_killed_backup_is_none_and_the_next_one_sweeps_it(
    wall_space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(making, "_copy_blobs", killed)
        with pytest.raises(Killed):
            backup(wall_space, ME, folder=kept)
    with pytest.raises(NotFound):
        restoring.pick(kept)
    backup(wall_space, ME, folder=kept)
    assert not list(kept.glob(".new-*")) and restoring.pick(kept)


def test_an_older_project_moves_by_command(
    tmp_path: Path, session_servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of 0.1.0 to PostgreSQL and S3: its predictions, labels, routes and versions are there."""
    with shared_ground(session_servers, monkeypatch) as ground, tarfile.open(RELEASE) as packed:
        packed.extractall(tmp_path, filter="data")

        def lw(*words: str, cwd: Path) -> Any:
            ran = subprocess.run(
                [sys.executable, "-m", "loopwright", *words, "--json"], cwd=cwd, capture_output=True, text=True
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
            return json.loads(ran.stdout)

        kept, new = tmp_path / "kept", tmp_path / "new"
        assert lw("backup", str(kept), cwd=tmp_path / "tiny")["missing"] == []
        options = ["--database", ground.database, "--schema", ground.schema, "--blobs", ground.blobs]
        told = lw("restore", str(kept), str(new), *options, "--blobs-endpoint", ground.blobs_endpoint, cwd=tmp_path)
        assert "PostgreSQL" in told["ground"] and told["code"] == 2 and (new / "project.py").exists()
        assert lw("fsck", "--deep", cwd=new)["damage"] == []
        space = house.open(new)
        try:
            for number in range(12):
                found = predictions.find(space, f"ask-{number}", "tiny")
                assert found.request_id == f"ask-{number}" and found.version == 1
            assert service.get(space, names.resolve(space, "tiny").digest).kind == "model"
            with space.read() as tx:
                assert tx.value("SELECT COUNT(*) FROM labels") == 9
        finally:
            space.close()

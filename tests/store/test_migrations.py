"""Stores of earlier releases: copied, brought forward in one step, and all that was in them is there."""

import fcntl
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from loopwright import house
from loopwright.artifacts import names
from loopwright.artifacts.fsck import fsck
from loopwright.kernel.errors import Conflict, LoopwrightError
from loopwright.kernel.event import EventKind
from loopwright.kernel.settings import ENVIRONMENT
from loopwright.serving import predictions
from loopwright.store import backup, leases, ledger, migrate
from loopwright.store import space as spaces
from loopwright.store.space import Space

RELEASES = sorted((Path(__file__).parent / "releases").glob("*/store.tar.xz"))
Schema = dict[str, str]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=RELEASES, ids=lambda path: path.parent.name)
def old(request: pytest.FixtureRequest, here: None, tmp_path: Path) -> Path:
    """The project folder of a release."""
    with tarfile.open(request.param) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "tiny"


def schema(path: Path) -> Schema:
    with closing(sqlite3.connect(path)) as found:
        rows = found.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return {name: re.sub(r"\s+", " ", sql) for name, sql in rows}


def rows(path: Path) -> dict[str, set[tuple[object, ...]]]:
    """Every row of every table, without the columns that later migrations add."""
    with closing(sqlite3.connect(path)) as found:
        tables = [row[0] for row in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: {tuple(row) for row in found.execute(f"SELECT * FROM {table}")} for table in tables}


def test_there_are_stores_of_releases() -> None:
    assert len(RELEASES) >= 1 and all(path.stat().st_size < 200_000 for path in RELEASES)


def test_a_store_of_a_release_is_copied_and_brought_forward(old: Path, tmp_path: Path) -> None:
    before = rows(old / ".loopwright" / "space.db")
    house.init(tmp_path / "fresh").close()
    with_old = house.open(old)
    try:
        (copy,) = (old / ".loopwright" / "backups").iterdir()
        assert rows(copy) == before and copy.stat().st_mode & 0o777 == 0o600
        after = rows(old / ".loopwright" / "space.db")
        for table, found in before.items():
            if table != "sqlite_sequence":
                width = len(next(iter(found), ()))
                assert found <= {row[:width] for row in after[table]}, table
        assert fsck(with_old, "local:me").ok
        assert names.resolve(with_old, "tiny").number == 1
        for number in range(12):
            assert predictions.find(with_old, f"ask-{number}", "tiny").request_id == f"ask-{number}"
        with with_old.read() as tx:
            assert tx.value("SELECT COUNT(*) FROM labels") == 9
    finally:
        with_old.close()
    assert set(schema(old / ".loopwright" / "space.db")) == set(schema(tmp_path / "fresh" / ".loopwright" / "space.db"))
    assert columns(old) == columns(tmp_path / "fresh")
    house.open(old).close()
    assert len(list((old / ".loopwright" / "backups").iterdir())) == 1  # nothing to do: no copy


def columns(project: Path) -> dict[str, set[tuple[object, ...]]]:
    with closing(sqlite3.connect(project / ".loopwright" / "space.db")) as found:
        tables = [row[0] for row in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {t: {row[1:] for row in found.execute(f"SELECT * FROM pragma_table_info('{t}')")} for t in tables}


KILLED = """
import os, signal, sys
from pathlib import Path
from loopwright import house
from loopwright.store import sqlite

left = int(sys.argv[2])
real = sqlite.SqliteTx.execute

def execute(self, sql, args=()):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, sql, args)

sqlite.SqliteTx.execute = execute
if sys.argv[3] == "copy":
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
house.open(Path(sys.argv[1])).close()
print(left)
"""


def test_a_store_killed_while_it_is_brought_forward_opens(old: Path) -> None:
    def opened(left: int, where: str = "") -> "subprocess.CompletedProcess[str]":
        start = [sys.executable, "-c", KILLED, str(old), str(left), where]
        return subprocess.run(start, capture_output=True, text=True, check=False)

    before = schema(old / ".loopwright" / "space.db")
    assert opened(10**6, "copy").returncode == -signal.SIGKILL
    for left in (1, 2, 5, 9, 14):
        assert opened(left).returncode == -signal.SIGKILL
        assert schema(old / ".loopwright" / "space.db") == before
    assert len(list((old / ".loopwright" / "backups").glob("*.db"))) == 3  # the newest are kept
    assert opened(10**6).returncode == 0
    space = house.open(old)
    assert fsck(space, "local:me").ok
    space.close()


def test_an_older_store_under_a_running_server_is_refused(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_WAIT_S", 0.1)
    run = old / ".loopwright" / "run"
    run.mkdir(exist_ok=True)
    up = os.open(run / "up.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(up, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="an `lw up` runs on it") as caught:
            house.open(old)
        assert caught.value.code == "store.older" and not (old / ".loopwright" / "backups").exists()
        monkeypatch.setattr(migrate, "_WAIT_S", 60.0)
        waiting = threading.Thread(target=lambda: house.open(old).close())  # as the job server, which starts beside it
        with monkeypatch.context() as patched:
            patched.setattr(migrate, "_mine", lambda path: threading.current_thread() is not waiting)
            waiting.start()
            house.open(old).close()  # as control
            waiting.join()
        assert len(list((old / ".loopwright" / "backups").iterdir())) == 1
    finally:
        os.close(up)


def test_control_knows_its_own_lock(tmp_path: Path) -> None:
    path = tmp_path / "control.lock"
    assert not migrate._mine(path)
    with open(path, "w"):
        assert migrate._mine(path)
    assert not migrate._mine(path)


@pytest.mark.parametrize("ground", ["postgres"], indirect=True)
def test_an_older_store_that_another_host_serves_is_refused(ground: str, tmp_path: Path) -> None:
    rooms = house.migrations()
    older = {room: scripts[:-1] if room == "artifacts" else scripts for room, scripts in rooms.items()}
    (tmp_path / "old").mkdir()
    space = spaces.open_space(tmp_path / "old", migrations=lambda: older, create=True)
    lease = leases.take(space, "loop", "another", 60)
    assert lease is not None
    with pytest.raises(Conflict, match="another host") as caught:
        house.open(tmp_path / "old")
    assert caught.value.code == "store.older" and not (tmp_path / "old" / ".loopwright" / "backups").exists()
    leases.release(space, lease)
    leases.take(space, "loop", space.host, 60)
    house.open(tmp_path / "old").close()
    space.close()


@pytest.mark.usefixtures("ground")
def test_an_older_store_on_either_ground_is_copied_and_brought_forward(tmp_path: Path) -> None:
    rooms = house.migrations()
    older = {room: scripts[:-1] if room == "artifacts" else scripts for room, scripts in rooms.items()}
    (tmp_path / "old").mkdir()
    space = spaces.open_space(tmp_path / "old", migrations=lambda: older, create=True)
    space.write(lambda tx: tx.execute("INSERT INTO names(name, kind) VALUES ('flights', 'data')"))
    space.write(lambda tx: ledger.append(tx, "local:me", EventKind("thing.made@1", ""), "x", {"ü": 1.5}))
    with space.read() as tx:
        assert not tx.has_table("taints")
    space.close()
    again = house.open(tmp_path / "old")
    (copy,) = (again.home / "backups").iterdir()
    with again.read() as tx, backup.opened(copy) as kept:
        assert tx.has_table("taints") and not kept.has_table("taints")
        for table in ("names", "events", "clock"):
            assert [tuple(row) for row in kept.query(f"SELECT * FROM {table}")] == [
                tuple(row) for row in tx.query(f"SELECT * FROM {table}")
            ]
        assert kept.value("SELECT COUNT(*) FROM names") == kept.value("SELECT COUNT(*) FROM events") == 1
    again.close()


def test_a_newer_store_is_refused_and_left_as_it_is(wall_space: Space) -> None:
    wall_space.write(lambda tx: tx.execute("INSERT INTO migrations(room, number, at_us) VALUES ('runs', 99, 0)"))
    with pytest.raises(LoopwrightError, match="newer") as caught:
        house.open(wall_space.root)
    assert "pip install" in str(caught.value.hint) and not (wall_space.home / "backups").exists()

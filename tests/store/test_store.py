"""Database, blobs, frames, ledger and clock."""

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright import house
from loopwright.kernel.errors import Conflict, Corrupt, Invalid, LoopwrightError, NotFound, Unavailable
from loopwright.kernel.event import EventKind
from loopwright.store import clock, frames, ledger
from loopwright.store.database import Tx
from loopwright.store.gate import Gate
from loopwright.store.space import Space
from loopwright.store.sqlite import SqliteDatabase

MADE = EventKind("thing.made@1", "{subject} was made")


def test_a_write_is_whole_or_not_at_all(space: Space) -> None:
    def bad(tx: Tx) -> None:
        ledger.append(tx, "local:me", MADE, "a", {})
        raise ValueError("no")

    before = _count(space)
    with pytest.raises(ValueError):
        space.write(bad)
    assert _count(space) == before
    space.write(lambda tx: ledger.append(tx, "local:me", MADE, "a", {"n": 1}))
    assert _count(space) == before + 1


def test_one_failing_write_does_not_take_its_batch_with_it(space: Space) -> None:
    outcomes: list[str] = []

    def one(number: int) -> None:
        def fn(tx: Tx) -> None:
            ledger.append(tx, "local:me", MADE, str(number), {})
            if number % 3 == 0:
                raise ValueError

        try:
            space.write(fn)
            outcomes.append("kept")
        except ValueError:
            outcomes.append("undone")

    threads = [threading.Thread(target=one, args=(n,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("kept") == 20 == _count(space)
    with space.read() as tx:
        assert tx.value("SELECT MAX(seq) - COUNT(*) FROM events") == 0, "no number is lost with what was undone"


ON_FILES = pytest.mark.parametrize("ground", ["sqlite"], indirect=True)


def test_a_read_cannot_write(space: Space) -> None:
    with pytest.raises((sqlite3.OperationalError, psycopg.errors.ReadOnlySqlTransaction)), space.read() as tx:
        tx.execute("DELETE FROM events")


WRITER = """
import sys
from pathlib import Path
from loopwright import house
from loopwright.kernel.event import EventKind
from loopwright.store import ledger
space = house.open(Path(sys.argv[1]))
kind = EventKind("thing.made@1", "")
for number in range(int(sys.argv[2])):
    seq = space.write(lambda tx: ledger.append(tx, "local:me", kind, sys.argv[3], {"n": number}))
    print(seq, flush=True)
"""


def test_four_processes_write_and_a_killed_one_loses_nothing_and_blocks_nobody(space: Space) -> None:
    start = [sys.executable, "-c", WRITER, str(space.root)]
    victim = subprocess.Popen([*start, "100000", "victim"], stdout=subprocess.PIPE, text=True)
    others = [subprocess.Popen([*start, "40", f"w{n}"], stdout=subprocess.PIPE, text=True) for n in range(3)]
    assert victim.stdout is not None
    acknowledged = [victim.stdout.readline() for _ in range(10)]
    os.kill(victim.pid, signal.SIGKILL)
    acknowledged += victim.stdout.readlines()
    victim.wait()
    victim.stdout.close()
    for other in others:
        out, _ = other.communicate(timeout=60)
        assert len(out.split()) == 40 and other.returncode == 0
    whole = [int(line) for line in acknowledged if line.endswith("\n")]
    with space.read() as tx:
        kept = {row[0] for row in tx.query("SELECT seq FROM events WHERE subject = 'victim'")}
        assert tx.value("SELECT COUNT(*) FROM events WHERE subject LIKE 'w%'") == 120
    assert set(whole) <= kept


def test_events_come_back_in_order_and_by_kind(space: Space) -> None:
    for number in range(5):
        space.write(lambda tx, n=number: ledger.append(tx, "local:me", MADE, f"s{n % 2}", {"n": n}))
    with space.read() as tx:
        found = ledger.read(tx, kinds=["thing.made@1"], subject="s1")
        assert [event.data["n"] for event in found] == [1, 3]
        assert ledger.read(tx, after=found[-1].seq, subject="s1") == []


def test_a_replay_clock_moves_forward_only_and_is_for_life(space: Space) -> None:
    now = space.clock.now_us()
    space.write(lambda tx: clock.advance(tx, "replay", now + 5))
    assert space.clock.now_us() == now + 5
    with pytest.raises(Conflict):
        space.write(lambda tx: clock.advance(tx, "replay", now))
    (space.root / "loopwright.toml").write_text('clock = "wall"\n')
    with pytest.raises(Conflict, match="keeps its clock"):
        house.open(space.root)


def test_the_wall_clock_cannot_be_driven(wall_space: Space) -> None:
    with pytest.raises(Conflict):
        wall_space.write(lambda tx: clock.advance(tx, "replay", 0))


def test_a_newer_store_is_refused_with_the_pip_line(space: Space) -> None:
    space.write(lambda tx: tx.execute("INSERT INTO migrations(room, number, at_us) VALUES ('store', 99, 0)"))
    with pytest.raises(LoopwrightError, match="newer") as caught:
        house.open(space.root)
    assert "pip install" in str(caught.value.hint)


def test_no_space_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        house.open(tmp_path / "nowhere")
    assert caught.value.hint == "lw init"


def test_a_new_database_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    made = house.init(tmp_path / "fresh")
    files = list(made.home.glob("space.db*"))
    assert len(files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    made.close()


@ON_FILES
def test_blobs_are_whole_and_checked(space: Space, tmp_path: Path) -> None:
    digest = space.blobs.put_bytes(b"one")
    (tmp_path / "f").write_bytes(b"one")
    assert space.blobs.put_file(tmp_path / "f") == digest
    assert space.blobs.read(digest) == b"one"
    assert list(space.blobs.all()) == [digest]
    assert not list((space.home / "tmp").iterdir())
    path = space.blobs.path(digest)
    path.chmod(0o600)
    path.write_bytes(b"two")
    assert not space.blobs.verify(digest)
    with pytest.raises(Corrupt):
        space.blobs.read(digest)
    with pytest.raises(NotFound):
        space.blobs.read("0" * 64)
    with pytest.raises(Invalid):
        space.blobs.path("../../etc/passwd")


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(min_value=0, max_value=60))
def test_frames_survive_a_torn_tail(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], cut: int) -> None:
    path = tmp_path_factory.mktemp("frames") / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    sizes = [frames.append(fd, payload) for payload in payloads]
    os.close(fd)
    assert list(frames.read_frames(path)) == payloads
    keep = max(0, sum(sizes) - cut)
    os.truncate(path, keep)
    whole, end = 0, 0
    for size in sizes:
        end += size
        whole += end <= keep
    assert list(frames.read_frames(path)) == payloads[:whole]


def test_zeros_at_the_end_are_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(frames.encode(b"row") + bytes(4096))
    assert list(frames.read_frames(path)) == [b"row"]
    assert frames.find_damage(path) is None
    whole = frames.encode(b"row" * 4000)
    path.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    assert (list(frames.read_frames(path)), frames.find_damage(path)) == ([], None)
    path.write_bytes(whole[:9000] + b"?" + whole[9001:])
    assert (list(frames.read_frames(path)), frames.find_damage(path)) == ([], 0)
    with pytest.raises(ValueError):
        frames.encode(b"")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_a_fault(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("frames") / "f"
    path.write_bytes(data)
    assert all(isinstance(payload, bytes) for payload in frames.read_frames(path))


def _count(space: Space) -> int:
    with space.read() as tx:
        return int(tx.value("SELECT COUNT(*) FROM events WHERE kind = 'thing.made@1'"))


@ON_FILES
def test_a_full_disk_is_told_as_one_and_the_next_write_works(space: Space) -> None:
    pages = space.write(lambda tx: tx.value("PRAGMA page_count"))
    space.write(lambda tx: tx.value(f"PRAGMA max_page_count={pages + 5}"))
    before = _count(space)
    with pytest.raises(Unavailable, match="full"):
        space.write(lambda tx: ledger.append(tx, "local:me", MADE, "a", {"text": "x" * 1_000_000}))
    space.write(lambda tx: tx.value("PRAGMA max_page_count=1000000"))
    space.write(lambda tx: ledger.append(tx, "local:me", MADE, "a", {}))
    assert _count(space) == before + 1


@ON_FILES
def test_a_database_that_cannot_be_opened_again_keeps_nobody_waiting(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> sqlite3.Connection:
        raise Corrupt("the disk is gone")

    told: list[str] = []

    def write() -> None:
        try:
            space.write(lambda tx: tx.value("SELECT 1"))
        except Unavailable as error:
            told.append(error.message)

    with monkeypatch.context() as patch:
        patch.setattr(space.database, "_connect", refuse)
        space.database._connection.close()
        for _ in range(2):
            thread = threading.Thread(target=write, daemon=True)
            thread.start()
            thread.join(30)
    assert len(told) == 2
    with pytest.raises(Unavailable):
        space.write(lambda tx: tx.value("SELECT 1"))
    assert space.write(lambda tx: tx.value("SELECT 1")) == 1


def test_threads_that_have_ended_hold_no_file_open(space: Space) -> None:
    def look() -> None:
        with space.read() as tx:
            tx.value("SELECT 1")

    counts = []
    for _ in range(20):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] <= counts[1]


FORKED = """
import os, sys
from pathlib import Path
from loopwright import house
space = house.open(Path(sys.argv[1]))
space.write(lambda tx: tx.value("SELECT 1"))
with space.read() as tx:
    tx.value("SELECT 1")
pid = os.fork()
if not pid:
    done = space.write(lambda tx: tx.execute("CREATE TABLE of_the_child(x INTEGER)"))
    with space.read() as tx:
        os._exit(int(tx.value("SELECT COUNT(*) FROM of_the_child")))
assert os.waitpid(pid, 0)[1] == 0
with space.read() as tx:
    print(tx.value("SELECT COUNT(*) FROM of_the_child"))
"""


def test_a_forked_process_writes_and_reads_on_its_own(space: Space) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(space.root)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == b"0\n"


_FORKS = """
import os, sys, time
from pathlib import Path
from loopwright.store import locks
from loopwright.store.gate import Gate
path = Path(sys.argv[1])
if path.name == "gate":
    gate = Gate(path)
else:
    os.close(locks.take(path))
    other = os.open("/dev/null", os.O_RDONLY)  # has the number of the lock that was let go
    held = locks.take(path)
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, b".")
    if path.name != "gate":
        os.fstat(other)
    time.sleep(60)
    os._exit(0)
os.read(reading, 1)
if path.name == "gate":
    gate.__enter__()
print(child, flush=True)
time.sleep(60)
"""


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("name", ["gate", "some.lock"])
def test_a_forked_process_does_not_keep_what_one_that_was_killed_held(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with subprocess.Popen([sys.executable, "-c", _FORKS, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with open(path, "rb") as seen, pytest.raises(BlockingIOError):
                fcntl.flock(seen, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder.kill()
            holder.wait()
            assert _runs(child)
            with open(path, "rb") as free:
                fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_closed_database_gives_its_files_back(tmp_path: Path) -> None:
    def opened() -> int:
        held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        return sum(path.startswith(str(tmp_path)) for path in held)

    made = SqliteDatabase(tmp_path / "space.db", Gate(tmp_path / "gate"))
    made.write(lambda tx: tx.execute("CREATE TABLE t(x)"))
    assert opened()
    made.close()
    assert opened() == 0

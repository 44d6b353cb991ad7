"""Parts of a worker by themselves: spools that rotate, ids that name them, bodies that nobody would send."""

import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_harness import VALUES, ask, make_model, row

from loopwright.serving import record, spool, subjects
from loopwright.serving.columns import gather
from loopwright.serving.engine import Ask, Engine
from loopwright.serving.protocols.door import refusal
from loopwright.serving.protocols.oip import Call, Oip, Reply
from loopwright.serving.record import Columns
from loopwright.serving.scoring import Served, target_of
from loopwright.store import frames
from loopwright.store.space import Space

COLUMNS = Columns(("wind",), ("float64",))


def test_spools_rotate_by_size_and_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "ROTATE_BYTES", 2000)
    made = spool.Spool(tmp_path, "delay", 7, lambda work: work())
    ids = []
    for n in range(60):
        entry = row(f"r{n}", n)
        entry.id = made.next_id(1_000_000 * n)
        ids.append(entry.id)
        made.append(COLUMNS, [entry])
    monkeypatch.setattr(spool, "ROTATE_S", 0.0)
    made.tick()
    files = {path.stem: gather(record.read(path)).rows for path in sorted((tmp_path / "spool/delay").glob("*.spool"))}
    assert len(files) > 2 and sum(len(rows) for rows in files.values()) == 60
    assert all(record.spool_of(entry.id) == name for name, rows in files.items() for entry in rows)
    assert len(set(ids)) == 60 and ids == sorted(ids)
    assert list((tmp_path / "spool/delay").glob("*.new")) == []


def test_rows_that_are_too_many_for_a_frame_lie_in_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST_BYTES", 150)
    names = [f"{n}-{count}" for n in range(2) for count in range(9)]
    log = spool.Spool(tmp_path, "delay", 0, lambda work: work())
    for n in range(2):
        log.append(COLUMNS, [row(f"{n}-{count}", count) for count in range(9)])
    [path] = (tmp_path / "spool" / "delay").iterdir()
    assert [made.request_id for _, rows in record.read(path) for made in rows] == names
    assert all(len(payload) <= 150 for payload in frames.read_frames(path))
    size = path.stat().st_size
    real, left = os.write, [2]

    def full(fd: int, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="space"):
        log.append(COLUMNS, [row(f"2-{count}", count) for count in range(9)])
    assert path.stat().st_size == size, "of what was not taken whole nothing stays"
    monkeypatch.undo()
    log.append(COLUMNS, [row("3", 3)])
    assert [made.request_id for _, rows in record.read(path) for made in rows][-2:] == ["1-8", "3"]


def test_a_frame_that_no_reader_takes_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_PAYLOAD_BYTES", 10)
    assert frames.encode(bytes(10))
    for odd in (b"", bytes(11)):
        with pytest.raises(ValueError, match="1 to 10"):
            frames.encode(odd)


def test_ids_are_made_as_they_are_described() -> None:
    name = record.spool_id(1023, 1_764_000_000_000_000)
    ids = record.Ids(name)
    assert [ids.next(1_764_000_000_123_456) for _ in range(3)] == [
        record.prediction_id(1_764_000_000_123_456, name, count) for count in range(3)
    ]
    assert record.spool_of(record.prediction_id(5, name, 2**30 - 1) + "/17") == name
    assert record.spool_of("r-17") is None and record.spool_of("pred_" + "x" * 27) is None


def test_frames_outside_the_times_are_passed_over(tmp_path: Path) -> None:
    made = spool.Spool(tmp_path, "delay", 0, lambda work: work())
    for at in (10, 20, 30):
        made.append(COLUMNS, [row(f"r{at}", at)])
    (path,) = (tmp_path / "spool/delay").glob("*.spool")
    assert [r.request_id for r in gather(record.read(path, 15, 30)).rows] == ["r20"]
    assert record.whole_bytes(path) == path.stat().st_size


def test_subjects_are_hashed_under_the_key_of_their_space(space: Space, wall_space: Space) -> None:
    keys = [subjects.key_path(where).read_bytes() for where in (space, space, wall_space)]
    assert keys[0] == keys[1] != keys[2] and len(keys[0]) == 32
    assert subjects.key_path(space).stat().st_mode & 0o077 == 0
    assert subjects.keyed_hash(keys[0], "id=1") != subjects.keyed_hash(keys[2], "id=1")


def test_the_door_by_itself() -> None:
    for host in ("localhost", "127.0.0.1:4601", "[::1]:80", "LOCALHOST:1", "127.8.8.8"):
        assert refusal(host, None, None) is None
        assert refusal(host, f"http://{host}", "same-origin") is None
    for host in ("", "evil", "127.0.0.1.evil", "localhost:", "localhost:x", "10.0.0.1", "[::2]", "a@localhost"):
        assert refusal(host, None, None) is not None
    assert refusal(None, None, None) is None and refusal(None, "http://localhost", None) is not None


@pytest.fixture(scope="module")
def wire() -> Any:
    packed = make_model(1)
    served = Served(version=1, weight=1.0, live=True, predictor=packed.load(), signature=packed.card.signature)
    engine = Engine(Path("/nowhere"), 0, lambda work: None)
    engine.targets = {"delay": target_of("delay", "kept", [served])}
    engine.subject_key = b"k" * 32
    return Oip(engine, "1", lambda: True)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(VALUES)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "datatype", "shape", "data", "id", "inputs", "parameters", "time", "subject"]), inner
    ),
    max_leaves=12,
)  # fmt: skip
PLACES: list[tuple[Any, ...]] = [
    *((), ("id",), ("inputs",), ("parameters",), ("outputs",), ("parameters", "time"), ("parameters", "subject")),
    *(("inputs", 1, key) for key in ("name", "datatype", "shape", "data", "parameters")),
]


@settings(max_examples=400, deadline=None)
@given(place=st.sampled_from(PLACES), junk=JUNK)
def test_no_document_breaks_the_decoder(wire: Any, place: tuple[Any, ...], junk: Any) -> None:
    document: Any = ask(id="x")
    if not place:
        document = junk
    else:
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = junk
    try:
        body = orjson.dumps(document)
    except TypeError:
        return
    got = wire.decode(Call(wire._engine.targets["delay"], None), body)
    assert isinstance(got, Ask) or (isinstance(got, Reply) and got.status in (400, 415, 422))
    if isinstance(got, Reply):
        assert orjson.loads(got.body)["error"]


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(0, 600), more=st.binary(max_size=8))
def test_no_bytes_break_the_decoder(wire: Any, cut: int, more: bytes) -> None:
    body = orjson.dumps(ask(id="x"))
    got = wire.decode(Call(wire._engine.targets["delay"], None), body[:cut] + more + body[cut + len(more) :])
    assert isinstance(got, Ask) or got.status in (400, 415, 422)

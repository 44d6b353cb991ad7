"""The chain: what is changed in sealed events is found and named; what only a checkpoint can show is shown by one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loopwright.audit import seals, service
from loopwright.audit.model import ChainReport
from loopwright.kernel.errors import Forbidden, Invalid
from loopwright.kernel.event import EventKind
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

ACTOR = "loop"
KIND = EventKind("thing.made@1", "{subject} was made")


def write(space: Space, count: int) -> list[int]:
    def put(tx: Tx) -> list[int]:
        return [ledger.append(tx, ACTOR, KIND, f"thing:{n}", {"n": n, "size": n / 8}) for n in range(count)]

    return space.write(put)


@pytest.fixture
def seqs(space: Space, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Twenty events under seals of at most eight."""
    monkeypatch.setattr(service, "RANGE", 8)
    written = write(space, 20)
    service.seal(space, ACTOR)
    return written


def change(space: Space, *statements: str) -> None:
    space.write(lambda tx: [tx.execute(statement) for statement in statements])


def found(report: ChainReport) -> list[tuple[str, int | None, int | None]]:
    return [(finding.what, finding.first_seq, finding.last_seq) for finding in report.findings]


def test_untouched_events_hold(space: Space, seqs: list[int]) -> None:
    report = service.verify(space, ACTOR)
    assert report.ok and report.verified and report.findings == []
    assert (report.events, report.sealed, report.unsealed) == (report.last_sealed_seq, report.events, 0)
    assert report.seals >= 3 and report.last_sealed_seq == seqs[-1]
    more = write(space, 3)
    assert service.verify(space, ACTOR).unsealed == service.unsealed(space) == 3
    done = service.seal(space, ACTOR)
    assert (done.events, done.last_seq) == (3, more[-1])
    again = service.seal(space, ACTOR)
    assert (again.events, again.seals, again.head) == (0, done.seals, done.head)
    assert service.verify(space, ACTOR).ok


@pytest.mark.parametrize(
    ("column", "value"),
    [("at_us", "1"), ("known_at_us", "1"), ("actor", "'user:other'"), ("kind", "'thing.lost@1'"),
     ("subject", "'thing:x'"), ("data", "'{}'"), ("cause", "1"), ("data", "data || ' '")],
)  # fmt: skip
def test_an_edit_is_found(space: Space, seqs: list[int], column: str, value: str) -> None:
    change(space, f"UPDATE events SET {column} = {value} WHERE seq = {seqs[9]}")
    report = service.verify(space, ACTOR)
    assert not report.ok
    assert found(report) == [("edited", seqs[9], seqs[9])]


def test_bytes_that_are_no_text_are_found(space: Space, seqs: list[int]) -> None:
    if space.settings.database is not None:
        return  # PostgreSQL lets none into a text
    change(space, f"UPDATE events SET data = CAST(x'7bff7d' AS TEXT) WHERE seq = {seqs[9]}")
    assert found(service.verify(space, ACTOR)) == [("edited", seqs[9], seqs[9])]


@pytest.mark.parametrize("count", [1, 3])
def test_a_deletion_is_found(space: Space, seqs: list[int], count: int) -> None:
    change(space, f"DELETE FROM events WHERE seq BETWEEN {seqs[9]} AND {seqs[9] + count - 1}")
    assert found(service.verify(space, ACTOR)) == [("deleted", seqs[9], seqs[9] + count - 1)]


def test_a_deletion_over_ranges_is_found_in_each(space: Space, seqs: list[int]) -> None:
    change(space, f"DELETE FROM events WHERE seq >= {seqs[2]} AND seq < {seqs[18]}")
    gone = [
        seq
        for what, first, last in found(service.verify(space, ACTOR))
        if what == "deleted" and first is not None and last is not None
        for seq in range(first, last + 1)
    ]
    assert gone == seqs[2:18]


def test_a_cut_end_of_the_sealed_events_is_found(space: Space, seqs: list[int]) -> None:
    change(space, f"DELETE FROM events WHERE seq > {seqs[17]}")
    assert found(service.verify(space, ACTOR)) == [("deleted", seqs[18], seqs[19])]


def test_an_exchange_is_found(space: Space, seqs: list[int]) -> None:
    one, two = seqs[9], seqs[10]
    change(
        space,
        f"UPDATE events SET seq = -7 WHERE seq = {one}",
        f"UPDATE events SET seq = {one} WHERE seq = {two}",
        f"UPDATE events SET seq = {two} WHERE seq = -7",
    )
    assert found(service.verify(space, ACTOR)) == [("reordered", one, two)]


def test_an_insertion_is_found(space: Space, seqs: list[int]) -> None:
    copied = "at_us, known_at_us, actor, kind, subject, data, cause FROM events"
    change(space, f"INSERT INTO events SELECT 0, {copied} WHERE seq = {seqs[3]}")
    assert found(service.verify(space, ACTOR)) == [("inserted", 0, 0)]
    change(space, "DELETE FROM events WHERE seq = 0", f"DELETE FROM events WHERE seq = {seqs[9]}")
    change(space, f"INSERT INTO events SELECT {seqs[9]}, {copied} WHERE seq = {seqs[3]}")
    assert found(service.verify(space, ACTOR)) == [("edited", seqs[9], seqs[9])]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE seals SET rows_hash = (SELECT rows_hash FROM seals WHERE number = 1) WHERE number = 2",
        "UPDATE seals SET sealed_us = sealed_us + 1 WHERE number = 2",
        "UPDATE seals SET events = events - 1 WHERE number = 2",
        "UPDATE seals SET last_seq = last_seq - 1 WHERE number = 2",
        "DELETE FROM seals WHERE number = 2",
        "UPDATE seals SET hash = (SELECT hash FROM seals WHERE number = 1) WHERE number = 2",
        "UPDATE seals SET marks = (SELECT marks FROM seals WHERE number = 1) WHERE number = 2",
    ],
)
def test_a_changed_seal_is_found(space: Space, seqs: list[int], statement: str) -> None:
    change(space, statement)
    report = service.verify(space, ACTOR)
    assert "seal" in {finding.what for finding in report.findings}


@pytest.mark.parametrize("column", ["events", "last_seq", "hash", "marks", "rows_hash", "previous", "sealed_us"])
def test_a_seal_that_holds_something_else_is_found(space: Space, seqs: list[int], column: str) -> None:
    if space.settings.database is not None:
        return  # PostgreSQL keeps the types of columns
    signed = service.sign(space, ACTOR)
    change(space, f"UPDATE seals SET {column} = 'zz' WHERE number = 2")
    report = service.verify(space, ACTOR, against=signed.text)
    assert "seal" in {finding.what for finding in report.findings}


def rewritten(space: Space) -> None:
    """Change an event and make all seals anew over it, as one who holds the database can."""
    change(space, "UPDATE events SET actor = 'user:other' WHERE seq = 5", "DELETE FROM seals")
    service.seal(space, ACTOR)


def cut(space: Space) -> None:
    """Take away the last seal and its events."""
    with space.read() as tx:
        last = seals.last(tx)
    assert last is not None
    change(space, f"DELETE FROM seals WHERE number = {last.number}", f"DELETE FROM events WHERE seq > {last.after}")


@pytest.mark.parametrize("act", [rewritten, cut])
def test_what_the_chain_alone_cannot_show_a_checkpoint_does(
    space: Space, seqs: list[int], act: Callable[[Space], None]
) -> None:
    signed = service.sign(space, ACTOR)
    held = service.verify(space, ACTOR, against=signed.text, key=signed.key)
    assert held.ok and held.checkpoint is not None and held.checkpoint.matches
    act(space)
    assert [f.what for f in service.verify(space, ACTOR).findings] == []
    report = service.verify(space, ACTOR, against=signed.text, key=signed.key)
    assert [finding.what for finding in report.findings] == ["checkpoint"]
    assert report.checkpoint is not None and report.checkpoint.signed_by == signed.key


def test_an_older_checkpoint_holds_while_the_chain_grows(space: Space, seqs: list[int]) -> None:
    signed = service.sign(space, ACTOR)
    assert (signed.events, signed.last_seq) == (seqs[-1], seqs[-1])
    write(space, 30)
    service.seal(space, ACTOR)
    assert service.verify(space, ACTOR, against=signed.text, key=signed.key).ok
    later = service.sign(space, ACTOR)
    assert later.key == signed.key and later.size > signed.size
    assert service.verify(space, ACTOR, against=later.text).ok
    assert (space.home / "keys" / "audit.key").stat().st_mode & 0o777 == 0o600
    assert (space.home / "keys").stat().st_mode & 0o777 == 0o700


def test_a_checkpoint_of_another_store_is_told_as_one(space: Space, wall_space: Space, seqs: list[int]) -> None:
    write(wall_space, 3)
    other = service.sign(wall_space, ACTOR)
    report = service.verify(space, ACTOR, against=other.text)
    assert report.checkpoint is not None and report.checkpoint.signed_by is None
    assert {finding.what for finding in report.findings} == {"checkpoint"} and len(report.findings) == 2


def test_who_may_not_is_refused(space: Space) -> None:
    for act in (service.seal, service.sign, service.state, service.verify):
        with pytest.raises(Forbidden):
            act(space, "user:nobody")


def test_what_is_no_checkpoint_is_refused_and_changes_nothing(space: Space, seqs: list[int], tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        service.verify(space, ACTOR, against="hello")
    assert (caught.value.field, caught.value.code) == ("against", "audit.checkpoint-form")
    with pytest.raises(Invalid) as caught:
        service.verify(space, ACTOR, key="hello")
    assert caught.value.field == "key"


def test_numbers_that_are_not_finite_are_told_as_texts(space: Space) -> None:
    data = {"gain": float("nan"), "more": [float("inf"), {"less": float("-inf")}], "fine": 0.5}
    seq = space.write(lambda tx: ledger.append(tx, ACTOR, KIND, "thing:1", data))
    with space.read() as tx:
        event = ledger.get(tx, seq)
    assert event is not None
    assert event.data == {"gain": "NaN", "more": ["Infinity", {"less": "-Infinity"}], "fine": 0.5}

"""One person is erased everywhere, at once and again, killed in between, and what is left is as it was."""

import csv
import gzip
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import people
from people import ENDPOINT, ME
from planted import NAME, SUBJECT

from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.fsck import fsck
from loopwright.artifacts.gc import gc
from loopwright.audit import service as audit
from loopwright.audit.erase import Receipt, erase, quoting, receipts, text
from loopwright.data import facts
from loopwright.data import service as data
from loopwright.kernel.errors import Erased, Forbidden, Invalid
from loopwright.lineage.show import show
from loopwright.lineage.trace import trace
from loopwright.models import service as models
from loopwright.notes import service as notes
from loopwright.pipelines.service import run_step
from loopwright.project.backup import backup
from loopwright.project.status import status
from loopwright.project.status import text as status_text
from loopwright.serving import labels, predictions
from loopwright.store import erasure, ledger
from loopwright.store.space import Space

# what is planted, by place; the names of results and packages are digests
PLANTED = {
    "data version asks@1": 6, "data version outcomes@1": 6, "data version people@1": 1, "data version visits@1": 6,
    "labels mood": 24, "prediction log mood": 24, "step result": 6, "run file seen.txt": 1, "table notes": 1,
    "table runs": 1,
}  # fmt: skip


@pytest.fixture
def held(space: Space, monkeypatch: pytest.MonkeyPatch) -> Space:
    """A project with a planted person."""
    monkeypatch.chdir(space.root)
    people.prepare(space)
    return space


def counted(receipt: Receipt) -> dict[str, int]:
    found = {f"{one.place} {one.name}".strip(): one.rows for one in receipt.places}
    samples = {key: found.pop(key) for key in list(found) if key.startswith("model sample")}
    results = {key: found.pop(key) for key in list(found) if key.startswith("step result")}
    assert 0 < sum(samples.values()) <= 6
    return {**found, "step result": sum(results.values())}


def contents(space: Space) -> Any:
    with space.read() as tx:
        tables = {table: [list(row) for row in tx.query(f"SELECT * FROM {table}")] for table in tx.tables()}
    return tables, sorted(space.blobs.all()), sorted(p.name for p in (space.home / "spool").rglob("*"))


def asked(space: Space) -> list[tuple[Any, ...]]:
    with predictions.connect() as con:
        predictions.joined(con, space, ENDPOINT, 2**60)
        rows: list[tuple[Any, ...]] = con.execute(
            "SELECT request_id, at_us, subject, in_x, score_1, label FROM judged ORDER BY at_us, request_id"
        ).fetchall()
    return rows


def test_a_dry_run_counts_and_changes_nothing(held: Space) -> None:
    before = contents(held)
    receipt = erase(held, ME, subject=SUBJECT, dry_run=True)
    assert counted(receipt) == PLANTED and receipt.tainted == ["mood@1"]
    assert contents(held) == before
    assert NAME not in text(receipt) and "would be erased" in text(receipt)


def test_a_person_is_erased_everywhere_and_the_others_are_as_they_were(held: Space) -> None:
    rows, expected = asked(held), models.sample(held, names.get(held, "mood", 1).digest)
    mine = [row for row in rows if int(row[0].partition("-")[2]) % 40 % 5 == 0]
    with open(data_file(held, "asks"), newline="") as stream:
        lines = [row for row in csv.reader(stream) if NAME not in row]
    receipt = erase(held, ME, subject=SUBJECT)
    assert counted(receipt) == PLANTED and receipt.tainted == ["mood@1"]
    assert receipt.left == [] and list(quoting(held.home, NAME)) == []
    assert asked(held) == [row for row in rows if row not in mine] and len(mine) == 24
    assert [row[-1] for row in asked(held)].count(None) == 0
    with open(data_file(held, "asks"), newline="") as stream:
        assert list(csv.reader(stream)) == lines
    with gzip.open(data_file(held, "visits"), "rt") as stream:
        assert "old-3," not in stream.read()
    sample = models.sample(held, names.get(held, "mood", 1).digest)
    assert len(expected.rows) - len(sample.rows) > 0 and all(row in expected.rows for row in sample.rows)
    assert models.verify(held, names.get(held, "mood", 1).digest)
    with held.read() as tx:
        note = tx.value("SELECT text FROM notes")
    assert note == f"held because {erasure.MASK} asked for it"


def data_file(space: Space, name: str) -> Path:
    version = names.newest(space, name)
    assert version is not None
    return artifacts.local_path(space, version.digest)


def test_what_was_erased_says_so_and_nothing_is_damaged(held: Space) -> None:
    old, row = names.get(held, "asks", 1), next(r for r in asked(held) if r[0] == "ask-0")
    mine = predictions.find(held, row[0])
    erase(held, ME, subject=SUBJECT)
    with pytest.raises(Erased, match="erased"):
        artifacts.read(held, old.digest)
    with pytest.raises(Erased, match=data_digest(held, "asks")):
        artifacts.get(held, old.digest)
    for reference in (mine.id, mine.request_id):
        with pytest.raises(Erased):
            trace(held, ME, prediction=reference)
    found = trace(held, ME, prediction="ask-1")
    assert found.tainted and [one.erased for one in found.data] == [True] * 4
    assert all(one.bytes_ok for one in found.data), "their successors are as they were stored"
    assert fsck(held, ME).damage == []
    audit.seal(held, ME)
    assert audit.verify(held, ME).ok
    gc(held, ME, grace="1h")
    assert fsck(held, ME).damage == [] and len(receipts(held, ME)) == 1
    with held.read() as tx:
        events = ledger.read(tx, kinds=["subject.erased@1", "model.tainted@1"], limit=10)
    assert [event.kind for event in events] == ["model.tainted@1", "subject.erased@1"]
    assert events[1].data["rows"] == receipts(held, ME)[0].rows and NAME not in str(events)


def data_digest(space: Space, name: str) -> str:
    version = names.newest(space, name)
    assert version is not None and version.number == 2
    return version.digest


def test_erased_bytes_and_labels_do_not_come_back(held: Space) -> None:
    erase(held, ME, subject=SUBJECT)
    before = len(asked(held))
    with pytest.raises(Erased):
        data.add(held, ME, held.root / "asks.csv")
    assert not list(quoting(held.home, NAME))
    taken = labels.add(held, ME, ENDPOINT, b'{"id": "ask-0", "label": 1}\n{"id": "ask-1", "label": 0}')
    assert (taken.accepted, taken.repeated) == (1, 1)
    assert len(asked(held)) == before
    receipt = erase(held, ME, subject=SUBJECT, files=True)
    assert receipt.rows == 0 and "nothing of it" in text(receipt) and len(receipts(held, ME)) == 1
    assert list(quoting(held.root / "asks.csv", NAME)) == [] and NAME not in (held.root / "asks.csv").read_text()
    assert data.add(held, ME, held.root / "asks.csv").rows == people.ROWS - 6
    people.log(held, 5, first=1000)
    again = erase(held, ME, subject=SUBJECT)
    assert counted_log(again) == 3, "who comes back is erased again when asked"


def counted_log(receipt: Receipt) -> int:
    return sum(one.rows for one in receipt.places if one.place == "prediction log")


def test_a_training_goes_on_without_the_rows(held: Space) -> None:
    erase(held, ME, subject=SUBJECT, files=True)
    x, _ = run_step(held, ME, people.table).value.load()
    assert not [name for name in x.index if name in ("old-3", "old-23", "ask-0", "ask-5")]
    run_step(held, ME, people.train)
    with held.read() as tx:
        assert names.taints(tx, "mood", 2) == [] and len(names.taints(tx, "mood")) == 1


@pytest.mark.parametrize("subject", ["", "who", "who=", "=x", "who =x", "who= x", "x" * 300])
def test_a_subject_that_is_none_is_refused(space: Space, subject: str) -> None:
    with pytest.raises(Invalid):
        erase(space, ME, subject=subject)


def test_a_viewer_erases_nobody(space: Space) -> None:
    with pytest.raises(Forbidden):
        erase(space, "user:nobody", subject=SUBJECT)


class Killed(BaseException):
    """Ends an erasure as a kill does: nothing below catches it."""


@pytest.mark.parametrize("ground", ["sqlite"], indirect=True)
@pytest.mark.parametrize("nth", [1, 8, 18])
def test_killed_at_a_write_and_asked_again_it_is_finished(
    held: Space, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    expected = counted(erase(held, ME, subject=SUBJECT, dry_run=True))
    write, writes = held.database.write, 0

    def cut(fn: Any) -> Any:
        nonlocal writes
        writes += 1
        done = write(fn) if writes != nth or nth % 2 else None
        if writes == nth:
            raise Killed
        return done

    monkeypatch.setattr(held.database, "write", cut)
    with pytest.raises(Killed):
        erase(held, ME, subject=SUBJECT)
    monkeypatch.undo()
    monkeypatch.chdir(held.root)
    receipt = erase(held, ME, subject=SUBJECT)
    assert counted(receipt) == expected and receipt.tainted == ["mood@1"]
    assert receipt.left == [] and fsck(held, ME).damage == [] and len(receipts(held, ME)) == 1


def test_a_note_can_be_read_by_its_digest_after_all(held: Space) -> None:
    with held.read() as tx:
        digest = tx.value("SELECT digest FROM notes")
    erase(held, ME, subject=SUBJECT)
    assert erasure.MASK in notes.get(held, digest)


def test_a_backup_made_afterwards_holds_nothing_of_it_and_misses_nothing(held: Space, tmp_path: Path) -> None:
    erase(held, ME, subject=SUBJECT)
    made = backup(held, ME, folder=tmp_path / "kept")
    assert made.ok and list(quoting(tmp_path / "kept", NAME)) == []


def test_a_marked_model_is_told_by_status_and_show(held: Space) -> None:
    before = status(held, ME)
    assert [one.tainted for one in before.endpoints] == [[]] and "TAINTED" not in status_text(before)
    erase(held, ME, subject=SUBJECT)
    after = status(held, ME)
    assert [one.tainted for one in after.endpoints] == [[1]] and "TAINTED v1" in status_text(after)
    (shown,) = [one for one in show(held, ME, ref="mood@1") if one.kind == "model"]
    assert shown.facts["tainted"][0]["rows"] == 6


def test_facts_are_erased_by_column_and_by_request(held: Space) -> None:
    told = [{"id": f"told-{n}", "asked_at": "2013-04-01T06:00:00Z", "x": n, "shop": "north", "who": who}
            for n, who in enumerate([NAME, "Other", NAME])]  # fmt: skip
    left = [{"id": name, "left_at": "2013-04-01T06:00:00Z", "shop": "north", "stay": 3}
            for name in ("told-0", "told-1", "ask-0", "ask-1")]  # fmt: skip
    for source, rows in (("asks", told), ("visits", left)):
        taken = facts.add(held, ME, source, b"\n".join(msgspec.json.encode(row) for row in rows))
        assert taken.accepted == len(rows)
    receipt = erase(held, ME, subject=SUBJECT)
    assert {one.name: one.rows for one in receipt.places if one.place == "facts"} == {"asks": 2, "visits": 2}
    with held.read() as tx:
        kept = [row["body"] for row in tx.query("SELECT body FROM facts ORDER BY seq")]
    assert len(kept) == 3 and not [body for body in kept if NAME in body or "ask-0" in body or "told-0" in body]
    assert list(quoting(held.home, NAME)) == []

"""Labels: append-only facts (id, value, known-at) that are joined with predictions when these are read.

A label may come late, twice, corrected, or before its prediction.
"""

import math
from pathlib import Path

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.serving import routes, subjects
from loopwright.serving.moments import moment
from loopwright.store.database import Tx
from loopwright.store.space import Space

MAX_ID_CHARACTERS = 300
_CHUNK = 500
_LAST = (1 << 63) - 1


class LabelLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line: the request's or the prediction's id, the truth, and when it became known (now by default)."""

    id: str
    label: bool | int | float
    known_at: str | None = None


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """How many labels were new, and how many had been sent before."""

    accepted: int
    repeated: int


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One label as it was kept."""

    seq: int
    endpoint: str
    ref: str
    value: float
    known_at_us: int
    received_us: int


def add(space: Space, actor: str, endpoint: str, body: bytes) -> Taken:
    """Take NDJSON lines `{"id", "label", "known_at"}` for an endpoint: all of them, durably, or none.

    A line that says what is already known is counted as repeated. Another value for an id is a correction: the one
    with the latest known_at stands, and of equal ones the last to arrive. A label of an erased request is not kept, and
    counts as repeated.

    Raises:
        Invalid: a line is not a label; names the line and the field.
        NotFound: there is no such endpoint.
    """
    spec = routes.endpoint(space, endpoint)
    lines = read(body, spec.task)
    key = subjects.key_path(space)
    return space.write(lambda tx: _insert(tx, endpoint, lines, key))


def read(body: bytes, task: str) -> list[tuple[str, float, int | None]]:
    """The labels of NDJSON lines: id, value, and when it became known if the line says so.

    Raises:
        Invalid: a line is not a label, or there is none; names the line and the field.
    """
    lines = [_line(number, raw, task) for number, raw in enumerate(body.split(b"\n"), 1) if raw.strip()]
    if not lines:
        raise Invalid("there is no label in the body", code="labels.empty", field="body")
    return lines


def _line(number: int, raw: bytes, task: str) -> tuple[str, float, int | None]:
    try:
        line = msgspec.json.decode(raw, type=LabelLine)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"line {number} is no label: {error}", code="labels.line", field=f"line {number}") from None
    place = f"line {number}"
    if not line.id or len(line.id) > MAX_ID_CHARACTERS:
        raise Invalid(f"{place}: id has 1 to {MAX_ID_CHARACTERS} characters", code="labels.id", field=f"{place}, id")
    value = float(line.label) if abs(line.label) < 1e300 else math.inf
    if not math.isfinite(value) or (task == "binary" and value not in (0.0, 1.0)):
        wanted = "0 or 1" if task == "binary" else "a finite number"
        raise Invalid(f"{place}: label must be {wanted}", code="labels.value", field=f"{place}, label")
    known = None if line.known_at is None else moment(line.known_at, f"{place}, known_at")
    return line.id, value, known


def _insert(tx: Tx, endpoint: str, lines: list[tuple[str, float, int | None]], key: Path) -> Taken:
    now = tx.now_us()
    accepted = 0
    gone = subjects.erased_refs(tx, (line[0] for line in lines), key)
    for ref, value, known in lines:
        if ref in gone:
            continue
        if known is None:
            last = tx.value(
                "SELECT value FROM labels WHERE endpoint = ? AND ref = ? ORDER BY known_at_us DESC, seq DESC LIMIT 1",
                (endpoint, ref),
            )
            if last == value:
                continue
        accepted += tx.execute(
            "INSERT INTO labels(endpoint, ref, value, known_at_us, received_us) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (endpoint, ref, known_at_us, value) DO NOTHING",
            (endpoint, ref, value, now if known is None else known, now),
        )
    return Taken(accepted=accepted, repeated=len(lines) - accepted)


def of(tx: Tx, endpoint: str, refs: list[str]) -> list[Label]:
    """All labels that were sent for some ids, in the order in which they came."""
    out: list[Label] = []
    for start in range(0, len(refs), _CHUNK):
        part = refs[start : start + _CHUNK]
        rows = tx.query(
            f"SELECT * FROM labels WHERE endpoint = ? AND ref IN ({','.join('?' * len(part))})", [endpoint, *part]
        )
        out += [Label(**dict(row)) for row in rows]
    return sorted(out, key=lambda label: label.seq)


def known(
    tx: Tx, endpoint: str, before_us: int, refs: list[str] | None = None, last_seq: int | None = None
) -> list[tuple[str, float, int, int]]:
    """The label of each id as it stood at a moment: (id, value, known_at_us, seq), of those known before it.

    `refs` asks for some ids only, `last_seq` for the labels that had arrived when that one had.
    """
    last = _LAST if last_seq is None else last_seq
    if refs is not None:
        found = [row for row in of(tx, endpoint, refs) if row.known_at_us < before_us and row.seq <= last]
        newest: dict[str, Label] = {}
        for label in sorted(found, key=lambda label: (label.known_at_us, label.seq)):
            newest[label.ref] = label
        return [(label.ref, label.value, label.known_at_us, label.seq) for label in newest.values()]
    rows = tx.query(
        "SELECT ref, value, known_at_us, seq FROM labels WHERE endpoint = ? AND known_at_us < ? AND seq <= ?"
        " ORDER BY known_at_us, seq",
        (endpoint, before_us, last),
    )
    latest = {row[0]: (row[0], row[1], row[2], row[3]) for row in rows}
    return list(latest.values())


def between(tx: Tx, endpoint: str, since_us: int, until_us: int) -> list[tuple[int, float]]:
    """The labels (known_at_us, value) that became known in [since, until), corrections too, in a fixed order."""
    rows = tx.query(
        "SELECT known_at_us, value FROM labels WHERE endpoint = ? AND known_at_us >= ? AND known_at_us < ?"
        " ORDER BY known_at_us, ref, value",
        (endpoint, since_us, until_us),
    )
    return [(row[0], row[1]) for row in rows]


def state(tx: Tx, endpoint: str, before_us: int, last_seq: int | None = None) -> tuple[int, int]:
    """How many labels were known before a moment, and the number of the last of them; `last_seq` as for `known`."""
    row = tx.one(
        "SELECT COUNT(*) AS n, COALESCE(MAX(seq), 0) AS last FROM labels WHERE endpoint = ? AND known_at_us < ?"
        " AND seq <= ?",
        (endpoint, before_us, _LAST if last_seq is None else last_seq),
    )
    return (0, 0) if row is None else (row["n"], row["last"])

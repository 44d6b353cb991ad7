"""Erasing a subject everywhere: find, mark the models that saw it, forget, prove, and keep a receipt without its value.

Each room answers for its own tables and files (HOLDINGS). Killed at any point, the same command goes on and ends it.
"""

import contextlib
import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from loopwright.access import service as access
from loopwright.artifacts import names
from loopwright.artifacts.model import Taint
from loopwright.artifacts.reach import Reach
from loopwright.audit.model import MODEL_TAINTED, SUBJECT_ERASED
from loopwright.data import holdings as data
from loopwright.data.subjects import Frames, opened
from loopwright.kernel.errors import Invalid, Unavailable
from loopwright.kernel.ids import new_id
from loopwright.kernel.op import Progress, silent
from loopwright.kernel.times import format_time, parse_time
from loopwright.models.model import KIND as MODEL
from loopwright.runs import service as runs
from loopwright.serving import holdings as serving
from loopwright.serving import routes, subjects
from loopwright.store import erasure, ledger
from loopwright.store.blobs import is_digest
from loopwright.store.database import Tx, as_text
from loopwright.store.erasure import Found, Subject
from loopwright.store.roots import all_roots, digests_in
from loopwright.store.space import Space

PASSES = 3
_FEW = 6  # places of one kind that are listed one by one
_BACKUPS = "backups"
_NOT_OURS = ("backups made before (lw backup), and copies of this folder, still hold them",)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows or texts were found in one place."""

    place: str
    name: str
    rows: int


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure found and took away; it does not say whose the rows were.

    Args:
        subject: the keyed hash of the subject.
        tainted: the versions of models that were made from data with the rows; they go on serving, and are marked.
        left: files of the store that quote the value after it all, and what they are.
        elsewhere: copies that this command does not reach.
    """

    subject: str
    dry_run: bool
    erasure: str | None
    ended: str | None
    rows: int
    places: list[Place]
    tainted: list[str]
    left: list[str] = []
    elsewhere: list[str] = []


def erase(
    space: Space,
    actor: str,
    *,
    subject: str,
    dry_run: bool = False,
    files: bool = False,
    progress: Progress = silent,
) -> Receipt:
    """Take every row of a subject, `column=value`, away from everywhere in the store; `dry_run` only counts them.

    Raises:
        Invalid: the subject has another form.
        Unavailable: rows came faster than they went, or a worker did not let its log go; asked again, it goes on.
    """
    access.require(space, actor, "subjects.erase")
    whose = _whose(space, subject)
    found = _found(space, whose)
    with space.read() as tx:
        begun = erasure.begun(tx, whose.hash)
    if dry_run or (not found and begun is None):
        return _answer(space, whose, found, _seen(space, whose, found), dry_run=dry_run, files=files)
    erasure_id = begun or new_id("erasure")
    if begun is None:
        space.write(lambda tx: erasure.begin(tx, erasure_id, whose.hash, actor))
    seen = _seen(space, whose, found)
    space.write(lambda tx: _mark(tx, actor, erasure_id, seen))
    rooms = erasure.all_holdings()
    for number in range(PASSES):
        for place, room in enumerate(rooms):
            room.forget(space, whose, erasure_id)
            progress(number * len(rooms) + place + 1, PASSES * len(rooms), "rooms")
        erasure.sweep(space)
        if not (found := _found(space, whose)):
            break
    else:
        raise Unavailable(f"rows of the subject are still in {found[0].place} {found[0].name}", code="erase.busy",
                          hint="the same lw erase again")  # fmt: skip
    _old_copies(space, erasure_id)
    serving.renew(space)
    own = data.own_files(space, whose, rewrite=files)
    emptied = space.database.compact(_touched(space, erasure_id))
    left = _left(space, whose) + ([] if emptied else ["the WAL, which a reader holds: the same lw erase again"])
    return _end(space, actor, erasure_id, whose.hash, left, [] if files else own)


def receipts(space: Space, actor: str) -> list[Receipt]:
    """The receipts of all erasures, oldest first."""
    access.require(space, actor, "audit.read")
    with space.read() as tx:
        return [msgspec.json.decode(told, type=Receipt) for told in erasure.receipts(tx)]


def _whose(space: Space, text: str) -> Subject:
    column, _, value = subjects.check(text, "subject").partition("=")
    if column != column.strip() or value != value.strip():
        raise Invalid("a subject is column=value without blanks around it", code="subject.form", field="subject")
    whose = Subject(column, value, subjects.hasher(space))
    specs = routes.endpoints(space)
    labels: dict[str, set[str]] = {}
    for spec in specs:
        if spec.features is not None and spec.labels is not None:
            labels.setdefault(spec.features, set()).add(spec.labels)
    whose.labels = {name: frozenset(found) for name, found in labels.items()}
    for room in reversed(erasure.all_holdings()):  # data first: logs are searched by the ids that it gives
        whose.refs |= frozenset(room.refs(space, whose))
    with opened(space, whose) as con:
        rows = list(Frames(space, whose).rows(con))
    whose.rows = [*rows, *(row for spec in specs for row in serving.rows(space, whose, spec.name))]
    return whose


def _found(space: Space, whose: Subject) -> list[Found]:
    return [found for room in erasure.all_holdings() for found in room.find(space, whose)]


def _seen(space: Space, whose: Subject, found: Sequence[Found]) -> dict[tuple[str, int], int]:
    """The versions of models that were made from data with rows of the subject, and with how many at most.

    A run's inputs name the data and the tables that it read by digest, and say up to when it read the log.
    """
    held = {one.digest: one.rows for one in found if one.digest is not None}
    asked = sorted(row["at_us"] for row in whose.rows if row.get("at_us") is not None and "request_id" in row)
    seen = {}
    for name, kind in names.all_names(space):
        for version in names.versions(space, name) if kind == MODEL else ():
            if version.run is None:
                continue
            run = runs.get(space, version.run)
            text = as_text(run.inputs)
            rows = max((held[digest] for digest in digests_in(text) if digest in held), default=0)
            if (until := run.params.get("until")) is not None and '"log"' in text:
                rows = max(rows, sum(at < parse_time(str(until), "until") for at in asked))
            if rows:
                seen[name, version.number] = rows
    return seen


def _mark(tx: Tx, actor: str, erasure_id: str, seen: dict[tuple[str, int], int]) -> None:
    for (name, number), rows in sorted(seen.items()):
        if names.taint(tx, Taint(name=name, number=number, erasure=erasure_id, rows=rows, at_us=tx.now_us())):
            data = {"rows": rows, "erasure": erasure_id}
            ledger.append(tx, actor, MODEL_TAINTED, f"{name}@{number}", data)


def _old_copies(space: Space, erasure_id: str) -> None:
    """Copies of the database that a change of its tables left behind hold it as it was."""
    for path in sorted((space.home / _BACKUPS).glob("*")):
        path.unlink(missing_ok=True)
        space.write(lambda tx, name=path.name: erasure.count(tx, erasure_id, Found("copy of the database", name, 1)))  # type: ignore[misc]


def _touched(space: Space, erasure_id: str) -> list[str]:
    """The tables from which something went."""
    with space.read() as tx:
        named = {found.name for found in erasure.counts(tx, erasure_id) if found.place == "table"}
        return sorted(({"labels", "facts", "artifacts", "data_versions"} | named) & set(tx.tables()))


def _left(space: Space, whose: Subject) -> list[str]:
    """The files of the store that quote the value, by their places; of events, their numbers: these are not changed."""
    if len(whose.value) < erasure.TEXT_CHARACTERS:
        return []
    found = []
    for path, n in quoting(space.home, whose.value):
        why = _why(space, path.name) if is_digest(path.name) else ""
        found.append(f"{path.relative_to(space.home)} ({n} times{why})")
    with space.read() as tx:
        events = ledger.quoting(tx, whose.value)
    return found + [f"event {event.seq}" for event in events if whose.pattern.search(as_text(event.data))]


def _why(space: Space, digest: str) -> str:
    reach = Reach(space)
    with space.read() as tx:
        reach.load(tx)
        roots = list(all_roots(space, tx))
    reach.add(None, roots)
    return "".join(f"; {reason}" for reason in reach.reasons(digest)[:2])


def quoting(folder: Path, value: str) -> Iterator[tuple[Path, int]]:
    """The files of a folder whose bytes hold a value as a word, and how often."""
    word = re.compile(rb"(?<![0-9A-Za-z_])" + re.escape(value.encode()) + rb"(?![0-9A-Za-z_])")
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError, ValueError):  # gone meanwhile, or empty
            if path.is_file() and not path.is_symlink():
                with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
                    if n := sum(1 for _ in word.finditer(held)):
                        yield path, n


def _end(space: Space, actor: str, erasure_id: str, subject: str, left: list[str], own: Sequence[str]) -> Receipt:
    def end(tx: Tx) -> Receipt:
        elsewhere = [*(f"{path}, the project's own file (--files)" for path in own), *_reached_not(space)]
        found, tainted = erasure.counts(tx, erasure_id), names.tainted_by(tx, erasure_id)
        more = {"ended": format_time(tx.now_us()), "left": left, "elsewhere": elsewhere}
        receipt = _receipt(subject, found, tainted, erasure=erasure_id, **more)
        erasure.end(tx, erasure_id, as_text(receipt))
        places = {f"{one.place} {one.name}": one.rows for one in receipt.places}
        about = {"rows": receipt.rows, "places": places, "tainted": len(tainted), "left": len(left)}
        ledger.append(tx, actor, SUBJECT_ERASED, erasure_id, {"hash": subject, **about})
        return receipt

    return space.write(end)


def _reached_not(space: Space) -> Iterable[str]:
    yield from _NOT_OURS
    if space.settings.database is not None:
        yield "PostgreSQL's own WAL files hold them until the server recycles these"
    if space.settings.blobs is not None:
        yield f"old versions of objects in {space.settings.blobs}, where the store keeps some"


def _receipt(subject: str, found: Iterable[Found], tainted: list[str], **more: object) -> Receipt:
    places: dict[tuple[str, str], int] = {}
    for one in found:
        places[one.place, one.name] = places.get((one.place, one.name), 0) + one.rows
    listed = [Place(place=place, name=name, rows=rows) for (place, name), rows in sorted(places.items())]
    about = {"dry_run": False, "erasure": None, "ended": None, **more}
    rows = sum(places.values())
    return Receipt(subject=subject, rows=rows, places=listed, tainted=tainted, **about)  # type: ignore[arg-type]


def _answer(
    space: Space, whose: Subject, found: list[Found], seen: dict[tuple[str, int], int], *, dry_run: bool, files: bool
) -> Receipt:
    """What would be done, or that there is nothing to do but for the project's own files."""
    own = data.own_files(space, whose, rewrite=files and not dry_run)
    told = [f"{path}, the project's own file (--files)" for path in own if dry_run or not files]
    tainted = [f"{name}@{number}" for name, number in sorted(seen)]
    elsewhere = [*told, *_reached_not(space)]
    return _receipt(whose.hash, found, tainted, dry_run=dry_run, elsewhere=elsewhere)


def text(receipt: Receipt) -> str:
    """A receipt as a person reads it."""
    verb = "would be erased" if receipt.dry_run else "erased"
    if not receipt.places and not receipt.dry_run:
        lines = ["nothing of it is here"]
    else:
        lines = [f"subject {receipt.subject}: {receipt.rows} rows and texts {verb}"]
    for place in dict.fromkeys(one.place for one in receipt.places):
        held = [one for one in receipt.places if one.place == place]
        if len(held) > _FEW:
            lines.append(f"  {sum(one.rows for one in held):>7}  in {len(held)} places of kind {place}")
        else:
            lines += [f"  {one.rows:>7}  {one.place} {one.name}" for one in held]
    if receipt.tainted:
        marked = "would be marked" if receipt.dry_run else "marked; they go on serving"
        few = [*receipt.tainted[:_FEW], *(["..."] if len(receipt.tainted) > _FEW else [])]
        lines.append(f"  {len(receipt.tainted)} models were made from data with its rows, {marked}: {', '.join(few)}")
    lines += [f"  STILL QUOTED in {place}" for place in receipt.left]
    return "\n".join([*lines, *(f"  not reached: {place}" for place in receipt.elsewhere)])

"""Names: lines of numbered versions, and labels on them with their history."""

import re
from collections.abc import Iterator

from loopwright.access import permits
from loopwright.artifacts import service
from loopwright.artifacts.model import LABEL_MOVED, VERSION_REGISTERED, Artifact, LabelMove, Taint, Version
from loopwright.kernel.errors import Conflict, Invalid, NotFound
from loopwright.kernel.ids import valid_name
from loopwright.store import ledger
from loopwright.store.database import Row, Tx, as_struct
from loopwright.store.roots import Root
from loopwright.store.space import Space

_REF = re.compile(r"(?P<name>[^@~]+)(?:@(?P<at>[0-9]{1,9}|[^@~]*[^0-9@~][^@~]*))?(?:~(?P<back>[0-9]{1,6}))?")


def register(
    tx: Tx, actor: str, name: str, artifact: Artifact, *, run: str | None = None, always: bool = True
) -> Version:
    """Append a version to a name; with `always=False` nothing is appended when the newest digest is equal.

    Raises:
        Conflict: the name is of another kind.
        NotFound: the artifact is not here, or has been cleaned away since it was found.
    """
    valid_name(name)
    kind = tx.value("SELECT kind FROM names WHERE name = ?", (name,))
    if kind is None:
        tx.execute("INSERT INTO names(name, kind) VALUES (?, ?)", (name, artifact.kind))
    elif kind != artifact.kind:
        raise Conflict(
            f"{name} holds versions of kind {kind}, not {artifact.kind}",
            code="name.kind",
            field="name",
            hint="--as NAME",
        )
    last = _last(tx, name)
    if last is not None and not always and last.digest == artifact.digest:
        return last
    service.find(tx, artifact.digest, artifact.kind)
    number = 1 if last is None else last.number + 1
    now = tx.now_us()
    tx.execute(
        "INSERT INTO versions(name, number, digest, kind, run, at_us) VALUES (?, ?, ?, ?, ?, ?)",
        (name, number, artifact.digest, artifact.kind, run, now),
    )
    data = {"number": number, "kind": artifact.kind, "digest": artifact.digest, "run": run}
    ledger.append(tx, actor, VERSION_REGISTERED, f"{name}@{number}", data)
    return Version(name=name, number=number, digest=artifact.digest, kind=artifact.kind, run=run, at_us=now)


def newest(space: Space, name: str) -> Version | None:
    """The newest version of a name, or None."""
    with space.read() as tx:
        return _last(tx, name)


def get(space: Space, name: str, number: int) -> Version:
    """One version of a name.

    Raises:
        NotFound: there is none.
    """
    with space.read() as tx:
        return find(tx, name, number)


def find(tx: Tx, name: str, number: int) -> Version:
    """One version of a name, inside a transaction.

    Raises:
        NotFound: there is none.
    """
    row = tx.one("SELECT * FROM versions WHERE name = ? AND number = ?", (name, number))
    if row is None:
        raise NotFound(f"no version {name}@{number}", code="version.missing", field="ref", hint=f"lw log {name}")
    return _version(row)


def versions(space: Space, name: str) -> list[Version]:
    """All versions of a name, oldest first."""
    with space.read() as tx:
        return [_version(row) for row in tx.query("SELECT * FROM versions WHERE name = ? ORDER BY number", (name,))]


def all_names(space: Space) -> list[tuple[str, str]]:
    """All names with their kinds, in order."""
    with space.read() as tx:
        return [(row["name"], row["kind"]) for row in tx.query("SELECT name, kind FROM names ORDER BY name")]


def by_digest(space: Space, digest: str) -> list[Version]:
    """The versions that hold an artifact."""
    with space.read() as tx:
        rows = tx.query("SELECT * FROM versions WHERE digest = ? ORDER BY name, number", (digest,))
    return [_version(row) for row in rows]


def resolve(space: Space, ref: str) -> Version:
    """The version that an address names: `delay`, `delay@3`, `delay@prod`, or `~1` for the one before.

    Raises:
        Invalid: the text is no address.
        NotFound: it names nothing.
    """
    match = _REF.fullmatch(ref)
    if match is None:
        raise Invalid(f"{ref!r} is no address such as delay@7 or delay@prod~1", code="ref.form", field="ref")
    name, at, back = valid_name(match["name"]), match["at"], int(match["back"] or 0)
    if at is not None and not (at.isascii() and at.isdigit()):
        held = label_history(space, name, valid_name(at, "label"))
        if len(held) <= back:
            raise NotFound(f"{ref} names nothing: {name}@{at} has held {len(held)} versions", code="ref.missing")
        return get(space, name, held[-1 - back].number)
    last = newest(space, name)
    if last is None:
        raise NotFound(f"no name {name}", code="name.missing", field="ref", hint="lw show")
    return get(space, name, (int(at) if at else last.number) - back)


def move(
    tx: Tx, actor: str, name: str, label: str, number: int, *, permit: str | None = None, cause: int | None = None
) -> None:
    """Put a label on a version; a guarded label needs a permit.

    Raises:
        Forbidden: the label is guarded and the permit does not allow the move.
        NotFound: there is no such version.
    """
    find(tx, valid_name(name), number)
    valid_name(label, "label")
    if label.isdigit():
        raise Invalid("a label is not a number", code="label.form", field="label")
    held = label_in(tx, name, label)
    if held == number:
        return
    if tx.one("SELECT 1 FROM label_guards WHERE name = ? AND label = ?", (name, label)):
        permits.use(tx, permit, f"{name}@{label}", "" if held is None else str(held), str(number))
    tx.execute(
        "INSERT INTO label_moves(name, label, number, actor, at_us) VALUES (?, ?, ?, ?, ?)",
        (name, label, number, actor, tx.now_us()),
    )
    ledger.append(tx, actor, LABEL_MOVED, f"{name}@{label}", {"number": number, "before": held}, cause=cause)


def taint(tx: Tx, mark: Taint) -> bool:
    """Mark a version as made from rows that were erased; False when it was before."""
    added = tx.execute(
        "INSERT INTO taints(name, number, erasure, rows, at_us) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (name, number, erasure) DO NOTHING",
        (mark.name, mark.number, mark.erasure, mark.rows, mark.at_us),
    )
    return added == 1


def taints(tx: Tx, name: str, number: int | None = None) -> list[Taint]:
    """The marks of a name's versions, or of one of them."""
    rows = tx.query(
        "SELECT * FROM taints WHERE name = ? AND number = COALESCE(?, number) ORDER BY number, at_us, erasure",
        (name, number),
    )
    return [as_struct(Taint, row) for row in rows]


def tainted_by(tx: Tx, erasure: str) -> list[str]:
    """The versions that an erasure marked."""
    rows = tx.query("SELECT name, number FROM taints WHERE erasure = ? ORDER BY name, number", (erasure,))
    return [f"{row['name']}@{row['number']}" for row in rows]


def guard(tx: Tx, name: str, label: str) -> None:
    """Let a label move only with a permit from now on."""
    tx.execute("INSERT INTO label_guards(name, label) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, label))


def label_in(tx: Tx, name: str, label: str) -> int | None:
    """The version that a label is on, inside a transaction, or None."""
    held = tx.value(
        "SELECT number FROM label_moves WHERE name = ? AND label = ? ORDER BY seq DESC LIMIT 1", (name, label)
    )
    return None if held is None else int(held)


def label_history(space: Space, name: str, label: str) -> list[LabelMove]:
    """What a label has held, oldest first."""
    with space.read() as tx:
        rows = tx.query("SELECT * FROM label_moves WHERE name = ? AND label = ? ORDER BY seq", (name, label))
    return [LabelMove(label=label, number=r["number"], actor=r["actor"], at_us=r["at_us"]) for r in rows]


def labels_of(space: Space, name: str) -> dict[str, int]:
    """The labels of a name and the versions they are on now."""
    with space.read() as tx:
        rows = tx.query("SELECT label, number FROM label_moves WHERE name = ? ORDER BY seq", (name,))
    return {row["label"]: row["number"] for row in rows}


def _last(tx: Tx, name: str) -> Version | None:
    row = tx.one("SELECT * FROM versions WHERE name = ? ORDER BY number DESC LIMIT 1", (name,))
    return None if row is None else _version(row)


def _version(row: Row) -> Version:
    return as_struct(Version, row)


def roots(space: Space, tx: Tx) -> Iterator[Root]:
    """The artifacts that versions hold."""
    for row in tx.query("SELECT digest, name, number FROM versions"):
        yield Root(row["digest"], "version", f"{row['name']}@{row['number']}")


ROOTS = roots

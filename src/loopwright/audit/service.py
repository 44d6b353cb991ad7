"""Sealing the events, signing a checkpoint, and reading everything again to see what was changed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from loopwright.access import service as access
from loopwright.audit import checkpoint, merkle, seals
from loopwright.audit.model import (
    CHECKPOINT_SIGNED,
    ChainReport,
    CheckpointFound,
    Finding,
    Seal,
    Sealed,
    Signed,
)
from loopwright.kernel.clock import machine_us
from loopwright.kernel.files import fresh_file
from loopwright.store import check as checks
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

MIGRATIONS = seals.MIGRATIONS
RANGE = 10_000  # events a seal at most; also how many are read at once
SUBJECT = "audit"


def unsealed(space: Space) -> int:
    """How many numbers stand behind the last seal; 0 when all events are sealed."""
    with space.read() as tx:
        found = seals.last(tx)
        return max(0, ledger.last_seq(tx) - (found.last_seq if found else 0))


def seal(space: Space, actor: str) -> Sealed:
    """Seal the events that are not sealed yet; does nothing when there are none."""
    access.require(space, actor, "audit.seal")
    count = 0
    while (made := _next(space)) is not None:
        fresh = made
        if space.write(lambda tx, fresh=fresh: seals.insert(tx, fresh)):  # type: ignore[misc]
            count += fresh.events
    with space.read() as tx:
        found = seals.last(tx)
    head, number, end = (found.hash, found.number, found.last_seq) if found else (None, 0, 0)
    return Sealed(events=count, seals=number, last_seq=end, head=head)


def _next(space: Space) -> Seal | None:
    """The seal that is to come; hashed outside the write, for events do not change and none comes in between."""
    with space.read() as tx:
        before = seals.last(tx)
        after = before.last_seq if before else seals.BEFORE_ALL
        seqs, lines = ledger.lines(tx, after=after, limit=RANGE)
    if not seqs:
        return None
    bare = Seal(
        number=before.number + 1 if before else 1,
        after=after,
        last_seq=seqs[-1],
        events=len(seqs),
        rows=seals.rows_hash(lines),
        marks=seals.marks(seqs, lines),
        sealed_us=machine_us(),
        previous=before.hash if before else "",
        hash="",
    )
    return _with_hash(bare)


def _with_hash(bare: Seal) -> Seal:
    return msgspec.structs.replace(bare, hash=seals.chained(bare))


def sign(space: Space, actor: str) -> Signed:
    """Seal what is there and sign a checkpoint over it."""
    access.require(space, actor, "audit.sign")
    seal(space, actor)
    name, seed, public = checkpoint.own_key(space.home / "keys")
    with space.read() as tx:
        chain = seals.every(tx)
    root = _root(chain)
    events, end = sum(one.events for one in chain), chain[-1].last_seq if chain else 0
    text = checkpoint.sign(checkpoint.body(name, len(chain), root, f"events {events} to {end}"), name, seed)

    def keep(tx: Tx) -> None:
        seals.keep_key(tx, public, machine_us())
        data = {"size": len(chain), "root": root.hex(), "events": events, "key": public}
        ledger.append(tx, actor, CHECKPOINT_SIGNED, SUBJECT, data)

    space.write(keep)
    return Signed(origin=name, size=len(chain), root=root.hex(), events=events, last_seq=end, key=public, text=text)


def _root(chain: Sequence[Seal]) -> bytes:
    return merkle.root([merkle.leaf(one.hash.encode()) for one in chain])


def state(space: Space, actor: str) -> ChainReport:
    """What of the events is sealed; nothing is read again."""
    access.require(space, actor, "audit.read")
    with space.read() as tx:
        chain, total, public = seals.every(tx), ledger.count(tx), seals.keys(tx)
    return _report(chain, total, public, [], verified=False)


def verify(space: Space, actor: str, *, against: str | None = None, key: str | None = None) -> ChainReport:
    """Read all events again and hold them against the seals, and the seals against a checkpoint kept elsewhere.

    Raises:
        Invalid: what is given as a checkpoint or as a key is none.
    """
    access.require(space, actor, "audit.read")
    given = None if against is None else checkpoint.parse(against)
    if key is not None:
        checkpoint.read_public(key)
    with space.read() as tx:
        chain, total, public = seals.every(tx), ledger.count(tx), seals.keys(tx)
    findings = [*_chain_findings(chain), *_range_findings(space, chain)]
    found = None
    if given is not None:
        found, more = _held_against(chain, given, [key] if key is not None else public)
        findings += more
    return _report(chain, total, public, findings, verified=True, found=found)


def check(space: Space) -> Iterator[checks.Finding]:
    """What of the sealed events is not what was sealed, as fsck tells it."""
    with space.read() as tx:
        chain = seals.every(tx)
    for finding in (*_chain_findings(chain), *_range_findings(space, chain)):
        name = "events" if finding.first_seq is None else f"events {finding.first_seq} to {finding.last_seq}"
        yield checks.Finding("events", name, f"{finding.what}: {finding.text}", hint="lw audit --verify")


CHECKS = check


def _report(
    chain: Sequence[Seal],
    total: int,
    public: list[str],
    findings: list[Finding],
    *,
    verified: bool,
    found: CheckpointFound | None = None,
) -> ChainReport:
    sealed = sum(one.events for one in chain)
    return ChainReport(
        ok=not findings,
        verified=verified,
        events=total,
        sealed=sealed,
        seals=len(chain),
        last_sealed_seq=chain[-1].last_seq if chain else 0,
        unsealed=max(0, total - sealed),
        head=chain[-1].hash if chain else None,
        findings=findings,
        keys=public,
        checkpoint=found,
    )


def _chain_findings(chain: Sequence[Seal]) -> Iterator[Finding]:
    """Seals that are not what they were, or do not stand where they stood."""
    before: Seal | None = None
    for number, one in enumerate(chain, 1):
        previous, after = (before.hash, before.last_seq) if before else ("", seals.BEFORE_ALL)
        if one.hash != seals.chained(one):
            yield _broken_seal(one, f"seal {one.number} was changed")
        elif (one.number, one.previous, one.after) != (number, previous, after):
            yield _broken_seal(one, f"seal {one.number} does not follow the one before it")
        before = one


def _broken_seal(one: Seal, text: str) -> Finding:
    return Finding(what="seal", first_seq=max(one.after, 0) + 1, last_seq=one.last_seq, text=text)


def _range_findings(space: Space, chain: Sequence[Seal]) -> Iterator[Finding]:
    """Ranges whose events are not those that were sealed, read in few and large pieces."""
    todo = list(chain)
    while todo:
        piece: list[Seal] = []
        count = 0
        while todo and (not piece or count + todo[0].events <= RANGE):
            count += todo[0].events
            piece.append(todo.pop(0))
        with space.read() as tx:
            seqs, lines = ledger.lines(tx, after=piece[0].after, upto=piece[-1].last_seq)
        start = 0
        for one in piece:
            end = start + one.events
            if not _ends_with(seqs, start, end, one):  # there are more or fewer than were sealed
                end = next((i for i in range(start, len(seqs)) if seqs[i] > one.last_seq), len(seqs))
            if end - start != one.events or seals.rows_hash(lines[start:end]) != one.rows:
                yield from _located(one, seqs[start:end], lines[start:end])
            start = end


def _ends_with(seqs: Sequence[int], start: int, end: int, one: Seal) -> bool:
    whole = end <= len(seqs) and (end == start or seqs[end - 1] <= one.last_seq)
    return whole and (end == len(seqs) or seqs[end] > one.last_seq)


def _located(one: Seal, seqs: Sequence[int], lines: Sequence[str]) -> Iterator[Finding]:
    """Which events of a range were edited, deleted, put in or exchanged."""
    was, now = seals.read_marks(one.marks), seals.read_marks(seals.marks(seqs, lines))
    changed = [seq for seq in was if seq in now and was[seq] != now[seq]]
    moved = _moved(changed, was, now)
    groups: list[tuple[str, list[int], str]] = [
        ("edited", [seq for seq in changed if seq not in moved], "was edited after it was sealed"),
        ("deleted", [seq for seq in was if seq not in now], "is gone"),
        ("inserted", [seq for seq in now if seq not in was], "was put in after the range was sealed"),
        ("reordered", sorted(moved), "stands in another one's place"),
    ]
    nothing = True
    for what, found, text in groups:
        for first, last in _runs(found):
            nothing = False
            which = f"event {first} {text}" if first == last else f"events {first} to {last}: each {text}"
            yield Finding(what=what, first_seq=first, last_seq=last, text=which)  # type: ignore[arg-type]
    if nothing:
        yield _broken_seal(one, f"the events of seal {one.number} are not those that it was made over")


def _moved(changed: Sequence[int], was: Mapping[int, bytes], now: Mapping[int, bytes]) -> set[int]:
    """Events whose line now stands under another number that was sealed too."""
    places = {was[seq]: seq for seq in changed}
    return {seq for seq in changed if now[seq] in places and was[seq] in {now[other] for other in changed}}


def _runs(found: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as first and last."""
    start = before = None
    for seq in sorted(found):
        if start is None:
            start = seq
        elif before is not None and seq != before + 1:
            yield start, before
            start = seq
        before = seq
    if start is not None and before is not None:
        yield start, before


def _held_against(
    chain: Sequence[Seal], given: checkpoint.Checkpoint, keys: Sequence[str]
) -> tuple[CheckpointFound, list[Finding]]:
    """Whether the chain still begins with what a checkpoint was signed over."""
    signer = next((key for key in keys if checkpoint.signed_by(given, key)), None)
    findings = []
    if signer is None:
        findings.append(_checkpoint_finding("the checkpoint is not signed by a key that is known here"))
    if given.size > len(chain):
        text = f"the checkpoint covers {given.size} seals and only {len(chain)} are left: the end was cut off"
        findings.append(_checkpoint_finding(text, chain[-1].last_seq + 1 if chain else 1))
    elif _root(chain[: given.size]) != given.root:
        text = "the chain is not the one that the checkpoint was signed over: it was written anew"
        findings.append(_checkpoint_finding(text, 1, chain[given.size - 1].last_seq if given.size else 0))
    found = CheckpointFound(
        origin=given.origin, size=given.size, root=given.root.hex(), signed_by=signer, matches=not findings
    )
    return found, findings


def _checkpoint_finding(text: str, first: int | None = None, last: int | None = None) -> Finding:
    return Finding(what="checkpoint", first_seq=first, last_seq=last, text=text)


def write_out(text: str, out: Path) -> None:
    """Put a checkpoint into a file, whole or not at all."""
    with fresh_file(out) as fresh:
        fresh.write_text(text, "utf-8")

"""What audit keeps and answers with: seals, checkpoints, findings."""

from typing import Literal

import msgspec

from loopwright.kernel.event import EventKind

FindingKind = Literal["edited", "deleted", "inserted", "reordered", "seal", "checkpoint"]


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """One range of events under a hash that also covers the seal before it.

    Args:
        number: 1 for the first.
        after: the last event of the seal before; the range holds what stands behind it, up to `last_seq`.
        events: how many events the range held.
        rows: SHA-256 of their canonical lines.
        marks: 16 bytes an event, its number and a short hash of its line, to find the one that was changed.
        sealed_us: when it was sealed, by the machine's clock.
        previous: the hash of the seal before; empty for the first.
        hash: SHA-256 over all of these.
    """

    number: int
    after: int
    last_seq: int
    events: int
    rows: str
    marks: bytes
    sealed_us: int
    previous: str
    hash: str


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """How many events were sealed now, and where the chain ends."""

    events: int
    seals: int
    last_seq: int
    head: str | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What is not as it was written, and which events it touches."""

    what: FindingKind
    first_seq: int | None
    last_seq: int | None
    text: str


class CheckpointFound(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint that the chain was held against."""

    origin: str
    size: int
    root: str
    signed_by: str | None
    matches: bool


class ChainReport(msgspec.Struct, frozen=True, kw_only=True):
    """What of the events is sealed and, when they were read again, whether they are what was sealed.

    Args:
        verified: whether all events were read again; without it `ok` only says that nothing was found.
        events: all events that stand in the ledger.
        unsealed: events behind the last seal; a change of these cannot be seen yet.
        head: the hash of the last seal.
        keys: the public keys that have signed checkpoints here.
    """

    ok: bool
    verified: bool
    events: int
    sealed: int
    seals: int
    last_sealed_seq: int
    unsealed: int
    head: str | None
    findings: list[Finding]
    keys: list[str]
    checkpoint: CheckpointFound | None = None


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A signed checkpoint: its text is what is kept elsewhere."""

    origin: str
    size: int
    root: str
    events: int
    last_seq: int
    key: str
    text: str


CHECKPOINT_SIGNED = EventKind("checkpoint.signed@1", "a checkpoint over {events} events was signed")
SUBJECT_ERASED = EventKind("subject.erased@1", "{rows} rows of one subject were erased, {tainted} models are marked")
MODEL_TAINTED = EventKind("model.tainted@1", "{subject} was made from data of which {rows} rows were erased")
EVENTS = [CHECKPOINT_SIGNED, SUBJECT_ERASED, MODEL_TAINTED]

"""What artifacts keeps: artifacts, versions and moves of labels."""

from typing import Any

import msgspec

from loopwright.kernel.event import EventKind


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable bytes by digest: one blob, or a tree of them."""

    digest: str
    kind: str
    size_bytes: int
    is_tree: bool
    meta: dict[str, Any]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a name; each is one artifact for ever."""

    name: str
    number: int
    digest: str
    kind: str
    run: str | None
    at_us: int

    @property
    def ref(self) -> str:
        """`name@number`."""
        return f"{self.name}@{self.number}"


class LabelMove(msgspec.Struct, frozen=True, kw_only=True):
    """Where a label of a name has been put, and when."""

    label: str
    number: int
    actor: str
    at_us: int


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was made from rows which were erased later."""

    name: str
    number: int
    erasure: str
    rows: int
    at_us: int


VERSION_REGISTERED = EventKind("version.registered@1", "{subject} was registered ({kind})")
LABEL_MOVED = EventKind("label.moved@1", "{subject} now points at version {number}")
STORE_CLEANED = EventKind(
    "store.cleaned@1", "{blobs} blobs and {files} files that nothing referred to were taken away, {bytes} bytes"
)
EVENTS = [VERSION_REGISTERED, LABEL_MOVED, STORE_CLEANED]

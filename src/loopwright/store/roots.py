"""Roots: what the rooms above refer to, and what their killed processes may have left behind.

Each room says which digests it needs and why; the house says where the rooms are to be asked.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from loopwright.store.database import Tx
from loopwright.store.space import Space

_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Root(NamedTuple):
    """A digest that must stay, and why: a kind of reason and the one thing that gives it."""

    digest: str
    kind: str
    reason: str


class Leftover(NamedTuple):
    """A file or folder that nobody needs once it is old, and why."""

    path: Path
    reason: str


RootSource = Callable[[Space, Tx], Iterable[Root]]
LeftoverSource = Callable[[Space], Iterable[Leftover]]
_roots: Callable[[], Sequence[RootSource]] = list
_leftovers: Callable[[], Sequence[LeftoverSource]] = list


def set_sources(roots: Callable[[], Sequence[RootSource]], leftovers: Callable[[], Sequence[LeftoverSource]]) -> None:
    """Say where all rooms' roots and leftovers are to be had; asked only by fsck, gc and backup."""
    global _roots, _leftovers
    _roots, _leftovers = roots, leftovers


def digests_in(text: str | None) -> Iterator[str]:
    """Everything in a text that reads as a digest; one too many keeps a blob, one too few would lose it."""
    return iter(_DIGEST.findall(text)) if text else iter(())


def all_roots(space: Space, tx: Tx) -> Iterator[Root]:
    """What every room refers to, inside one transaction."""
    for source in _roots():
        yield from source(space, tx)


def all_leftovers(space: Space) -> Iterator[Leftover]:
    """What every room knows to be left behind."""
    for source in _leftovers():
        yield from source(space)

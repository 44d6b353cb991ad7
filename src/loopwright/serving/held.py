"""The port through which the log learns which requests saw a broken feed. Knows nothing of the floor that plugs in."""

from typing import Protocol

from loopwright.store.database import Tx

Spans = list[tuple[int, int | None]]


class HeldReader(Protocol):
    """Tells the times whose requests are not to be learnt from."""

    def __call__(self, tx: Tx, endpoint: str) -> Spans:
        """Spans [since_us, until_us) of `at`, in order; None = it goes on."""


_reader: HeldReader | None = None


def set_held_reader(reader: HeldReader | None) -> None:
    """Plug in what knows of broken feeds."""
    global _reader
    _reader = reader


def spans(tx: Tx, endpoint: str) -> Spans:
    """The times of an endpoint whose requests are not to be learnt from."""
    return [] if _reader is None else _reader(tx, endpoint)

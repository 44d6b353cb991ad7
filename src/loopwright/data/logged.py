"""The port through which served requests come back as training rows. Knows nothing of the floor that plugs in."""

from typing import Any, Protocol

from loopwright.store.space import Space


class LogReader(Protocol):
    """Reads the requests that were answered from features of a name, with their labels."""

    def __call__(self, space: Space, con: Any, features: str, until_us: int) -> int | None:
        """Make the view `logged` in a DuckDB connection and return the time of the first request.

        The view has id, at_us, the feature columns, label, label_known_us: the requests with at_us < until_us whose
        label was known before until_us, the value as known then. None, and no view, when nothing was served.
        """

    def state(self, space: Space, features: str, until_us: int) -> Any:
        """What tells two states of that log apart, as JSON can hold it: equal while the view would be equal."""


_reader: LogReader | None = None


def set_log_reader(reader: LogReader | None) -> None:
    """Plug in the reader of served requests."""
    global _reader
    _reader = reader


def log_reader() -> LogReader | None:
    """The reader that is plugged in, or None."""
    return _reader

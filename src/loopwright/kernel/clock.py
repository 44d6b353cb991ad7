"""Clocks: the world's time of a Space (`Clock`) and this machine's own time.

The only module that reads the machine's clock.
"""

import time
from typing import Literal, Protocol

Mode = Literal["wall", "replay"]


class Clock(Protocol):
    """The time of the Space's world."""

    @property
    def mode(self) -> Mode:
        """`wall`, or `replay` when a replay drives it."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z in the Space's world."""


class WallClock:
    """The machine's clock."""

    mode: Mode = "wall"

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""
        return machine_us()


def machine_us() -> int:
    """This machine's time in microseconds since 1970-01-01T00:00:00Z; for leases, rotation and receipts."""
    return time.time_ns() // 1000


def monotonic_s() -> float:
    """Seconds of a clock that never goes back; for timeouts."""
    return time.monotonic()

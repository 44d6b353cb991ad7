"""Waiting for what must come, without a guess how long it takes."""

import time
from collections.abc import Callable
from typing import Any


def until(found: Callable[[], Any], tell: Callable[[], str] = lambda: "it did not come", limit_s: float = 90.0) -> Any:
    """What a look finds, once it finds anything; `tell` says what was wrong when it never does."""
    end = time.monotonic() + limit_s
    while not (met := found()):
        assert time.monotonic() < end, tell()
        time.sleep(0.01)
    return met

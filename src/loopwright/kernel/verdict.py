"""Verdict: what a check says, and why."""

from typing import Any, Literal

import msgspec

Outcome = Literal["pass", "warn", "fail", "unknown"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a check: outcome, a reason a person understands, and the figures behind it."""

    outcome: Outcome
    check: str
    reason: str
    evidence: dict[str, Any] = {}

    @property
    def passed(self) -> bool:
        """Whether nothing stands in the way: passed, or only a warning."""
        return self.outcome in ("pass", "warn")

"""What access keeps: permits."""

from typing import Any

import msgspec

from loopwright.kernel.event import EventKind


class Permit(msgspec.Struct, frozen=True, kw_only=True):
    """Leave for one move of one subject from one state to another, given by a passing verdict."""

    id: str
    subject: str
    from_state: str
    to_state: str
    evidence: list[str]
    verdict: dict[str, Any]
    expires_us: int


PERMIT_ISSUED = EventKind("permit.issued@1", "a permit was given for {subject}: {from_state} -> {to_state}")
EVENTS = [PERMIT_ISSUED]

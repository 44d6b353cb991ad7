"""The errors of loopwright.

LoopwrightError
  NotFound      Conflict   Invalid     Forbidden(reason)   GateFailed(verdict)
  Unavailable(retry_after_s)           Corrupt             Erased
  Timeout       Unsupported(extra)
"""

from typing import Any


class LoopwrightError(Exception):
    """Base of every error that loopwright raises on purpose.

    Args:
        message: one sentence that says what was asked and what is wrong.
        code: stable name of the case; the default is the kind's own.
        field: the field, column or argument at fault.
        hint: the command or edit to try next.
    """

    kind = "error"

    def __init__(self, message: str, *, code: str = "", field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.kind
        self.field = field
        self.hint = hint

    def to_dict(self) -> dict[str, str | None]:
        """The document that HTTP and `--json` show: code, message, field, hint."""
        return {"code": self.code, "message": self.message, "field": self.field, "hint": self.hint}


class NotFound(LoopwrightError):
    """What was asked for is not there."""

    kind = "not-found"


class Conflict(LoopwrightError):
    """It is there already, or has moved on since it was read."""

    kind = "conflict"


class Invalid(LoopwrightError):
    """What came in does not have the form or the value it must have."""

    kind = "invalid"


class Forbidden(LoopwrightError):
    """The actor may not do this; `reason` says which rule decided."""

    kind = "forbidden"

    def __init__(self, reason: str, *, code: str = "", field: str | None = None, hint: str | None = None) -> None:
        super().__init__(reason, code=code, field=field, hint=hint)
        self.reason = reason


class GateFailed(LoopwrightError):
    """A gate refused; `verdict` is the Verdict (or list of verdicts) that says why."""

    kind = "gate-failed"

    def __init__(self, message: str, *, verdict: Any = None, code: str = "", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.verdict = verdict


class Unavailable(LoopwrightError):
    """A part that is needed does not answer now."""

    kind = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str = "", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after_s = retry_after_s


class Corrupt(LoopwrightError):
    """Stored bytes are not what was stored."""

    kind = "corrupt"


class Erased(LoopwrightError):
    """It was here and has been erased on purpose."""

    kind = "erased"


class Timeout(LoopwrightError):
    """It did not happen in the time given."""

    kind = "timeout"


class Unsupported(LoopwrightError):
    """This cannot be done here; `extra` names the optional install that would help."""

    kind = "unsupported"

    def __init__(
        self,
        message: str,
        *,
        extra: str | None = None,
        code: str = "",
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, code=code, field=field, hint=hint)
        self.extra = extra

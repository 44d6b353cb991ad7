"""The errors of loopwright.

LoopwrightError
  NotFound      Conflict   Invalid     Forbidden(reason)   GateFailed(verdict)
  Unavailable(retry_after_s)           Corrupt             Erased
  Timeout       Unsupported(extra)
"""

from collections.abc import Mapping
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

    @classmethod
    def kind_name(cls) -> str:
        """The kind in the tree above that the error belongs to."""
        return next((base.kind for base in cls.__mro__ if base.__module__ == __name__), "error")  # type: ignore[attr-defined]

    def to_dict(self) -> dict[str, Any]:
        """The document that HTTP and `--json` show: kind, code, message, field, hint, and what its kind adds."""
        told = {"kind": self.kind_name(), "code": self.code, "message": self.message, "field": self.field}
        return {**told, "hint": self.hint, **self.more()}

    def more(self) -> dict[str, Any]:
        """What this kind of error tells besides."""
        return {}


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

    def more(self) -> dict[str, Any]:
        """The verdict."""
        return {"verdict": self.verdict}


class Unavailable(LoopwrightError):
    """A part that is needed does not answer now."""

    kind = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, code: str = "", hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after_s = retry_after_s

    def more(self) -> dict[str, Any]:
        """When to try again."""
        return {"retry_after_s": self.retry_after_s}


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

    def more(self) -> dict[str, Any]:
        """The extra, when one would help."""
        return {} if self.extra is None else {"extra": self.extra}


def rebuilt(document: Mapping[str, Any], fallback: str = "error") -> LoopwrightError:
    """The error that a document tells of, of the same kind; what the document leaves out is empty."""
    name = document.get("kind")
    kind = _KINDS.get(name if isinstance(name, str) else fallback, _KINDS.get(fallback, LoopwrightError))
    told = {key: document.get(key) for key in ("field", "hint")}
    message, code = str(document.get("message") or "no reason was given"), str(document.get("code") or "")
    if kind is GateFailed:
        return GateFailed(message, verdict=document.get("verdict"), code=code, hint=told["hint"])
    if kind is Unavailable:
        after_s = document.get("retry_after_s")
        wait_s = float(after_s) if isinstance(after_s, int | float) else 1.0
        return Unavailable(message, retry_after_s=wait_s, code=code, hint=told["hint"])
    if kind is Unsupported:
        return Unsupported(message, extra=document.get("extra"), code=code, **told)
    return kind(message, code=code, **told)


_KINDS: dict[str, type[LoopwrightError]] = {
    kind.kind: kind
    for kind in (
        LoopwrightError,
        NotFound,
        Conflict,
        Invalid,
        Forbidden,
        GateFailed,
        Unavailable,
        Corrupt,
        Erased,
        Timeout,
        Unsupported,
    )
}

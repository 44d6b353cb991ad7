"""The boundary around a step's own code: what it throws is wrapped once, with its traceback."""

from typing import Any

from loopwright.kernel.errors import LoopwrightError
from loopwright.pipelines.model import StepFailed
from loopwright.pipelines.step import Step
from loopwright.runs.model import Failure

_LAST_FRAMES = 30


def call(step: Step[..., Any], arguments: dict[str, Any]) -> Any:
    """Call the step's function.

    Raises:
        StepFailed: its code raised something that is not loopwright's own error.
    """
    positional = step.positional
    given = [arguments[name] for name in positional]
    named = {name: value for name, value in arguments.items() if name not in positional}
    try:
        return step.fn(*given, **named)
    except LoopwrightError:
        raise
    except (Exception, SystemExit) as error:  # the boundary around user code
        raise StepFailed(step.name, error, _text(error)) from error


def failure_of(error: BaseException) -> Failure:
    """Why a run failed, for its record."""
    if isinstance(error, StepFailed):
        return Failure(type=error.error, message=error.message, traceback=error.traceback)
    message = error.message if isinstance(error, LoopwrightError) else str(error)
    return Failure(type=type(error).__name__, message=message, traceback=_text(error))


def _text(error: BaseException) -> str:
    """The traceback from the step's own first line on."""
    import traceback

    inside = error.__traceback__
    while inside is not None and inside.tb_next is not None and inside.tb_frame.f_globals.get("__name__") == __name__:
        inside = inside.tb_next
    return "".join(traceback.format_exception(type(error), error, inside, limit=-_LAST_FRAMES))

"""What a flavour finds out about a fitted model, whatever library fitted it; all that packing needs to know of it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from loopwright.kernel.errors import Invalid, Unsupported
from loopwright.models.model import Flavour, Level, Task, Unseen

Width = Literal["float32", "float64"]


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model, taken apart.

    Args:
        columns: of the sample frame, in the model's order.
        levels: of the categorical columns, in the order of the model's codes.
        unseen: what a level is to the model that it was not trained on; a null where a column is not named.
        refuses_null: columns in which the model refuses a null.
        version: of the library.
        native: the model in the library's own form; None when that would be a pickle.
        reference: the library's own scores of a frame.
        convert: the model as ONNX that takes numbers of a width.
        libraries: packages whose versions matter.
    """

    flavour: Flavour
    task: Task
    columns: list[Any]
    levels: dict[Any, tuple[Level, ...]]
    unseen: dict[Any, Unseen] = {}
    refuses_null: frozenset[Any] = frozenset()
    version: str
    native: bytes | None
    reference: Callable[[Any], list[float]]
    convert: Callable[[Width], bytes]
    libraries: tuple[str, ...]


def is_from(fitted: Any, package: str) -> bool:
    """Whether a value's class, or one that it is derived from, comes from a package."""
    return any(base.__module__.split(".")[0] == package for base in type(fitted).__mro__)


def check_binary(classes: Any) -> None:
    """Check that a classifier tells 0 from 1.

    Raises:
        Unsupported: it has another number of classes.
        Invalid: its two classes are others.
    """
    found = list(classes)
    if len(found) != 2:
        raise Unsupported(
            f"a classifier of {len(found)} classes (multiclass) cannot be served: it must give one score a row",
            code="model.objective",
            field="fitted",
            hint="fit one classifier a class, or a binary or regression target",
        )
    if [float(c) if _is_number(c) else None for c in found] != [0.0, 1.0]:
        raise Invalid(
            "a classifier's classes must be 0 and 1",
            code="model.classes",
            field="fitted",
            hint="encode the target as 0 and 1 before fitting",
        )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def check_task(found: Task, asked: Task | None) -> Task:
    """The task that was found, unless another was asked for.

    Raises:
        Invalid: the task asked for is another one.
    """
    if asked is not None and asked != found:
        message = f"the model was trained for {found}, not for {asked}"
        raise Invalid(message, code="model.task", field="task", hint="leave task out")
    return found


def level(value: Any) -> Level:
    """A level as a plain value; a whole float, which is how a frame with gaps holds whole numbers, is a whole number.

    Raises:
        Unsupported: it is none that a request can hold.
    """
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str | int | bool):
        raise Unsupported(f"a level must be text, a whole number or a boolean, not {value!r}", code="model.levels")
    return value


def not_fitted() -> Invalid:
    """What to raise for a model that was only declared."""
    return Invalid("the model has not been fitted", code="model.fitted", field="fitted", hint="call .fit first")


def not_served(objective: str, hint: str) -> Unsupported:
    """What to raise for a booster that gives no single probability or value."""
    return Unsupported(
        f"a model of objective {objective} cannot be served: it needs one probability or one value a row",
        code="model.objective",
        field="fitted",
        hint=hint,
    )


def other_frame(message: str, *, code: str = "model.column", field: str = "sample") -> Invalid:
    """What to raise when the sample is not the frame that the model was fitted on."""
    return Invalid(message, code=code, field=field, hint="pass the frame that the model was fitted on as sample=")


def columns_named(names: Sequence[str], frame: Any, written: Callable[[str], str] = str) -> list[Any]:
    """The frame's columns of these names, in their order; `written` is how the library writes a column's name.

    Raises:
        Invalid: the frame lacks one.
    """
    present = {written(str(name)): name for name in frame.columns}
    for name in names:
        if name not in present:
            raise other_frame(f"the model was trained on column {name!r}, which the sample lacks", field=str(name))
    return [present[name] for name in names]


def columns_counted(count: int, frame: Any) -> list[Any]:
    """The frame's columns, for a model that knows only how many it was trained on.

    Raises:
        Invalid: the frame has another number.
    """
    if count != len(frame.columns):
        raise other_frame(f"the model was trained on {count} columns and the sample has {len(frame.columns)}")
    return list(frame.columns)


def category_levels(frame: Any, columns: list[Any]) -> dict[Any, tuple[Level, ...]]:
    """The levels of the frame's categorical columns, in the order of their codes."""
    return {
        name: tuple(level(v) for v in frame[name].cat.categories)
        for name in columns
        if str(frame[name].dtype) == "category"
    }

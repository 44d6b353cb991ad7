"""Flavour lightgbm: reads a fitted Booster or LGBM estimator without importing lightgbm, which its maker has done."""

import re
from typing import Any

from loopwright.kernel.errors import Invalid, Unsupported
from loopwright.models.model import Level, Task

FLAVOUR = "lightgbm"
_OBJECTIVE = re.compile(r"^objective=(\S+)", re.MULTILINE)
_BINARY = ("binary", "cross_entropy")
_REGRESSION = (
    *("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie"),
)
_HINT = "lw.model takes a fitted lightgbm Booster, LGBMClassifier (two classes) or LGBMRegressor"


def booster_of(fitted: Any) -> Any:
    """The Booster inside a fitted model.

    Raises:
        Unsupported: it is no LightGBM model, or one with more than one score a row.
        Invalid: it has not been fitted, or its classes are not 0 and 1.
    """
    kind = type(fitted)
    if not any(base.__module__.split(".")[0] == FLAVOUR for base in kind.__mro__):
        raise Unsupported(f"no flavour packs a {kind.__module__}.{kind.__qualname__}", code="model.flavour", hint=_HINT)
    if hasattr(kind, "booster_"):
        if not getattr(fitted, "fitted_", False):
            raise Invalid("the model has not been fitted", code="model.fitted", field="fitted", hint="call .fit first")
        classes = getattr(fitted, "classes_", ())
        if len(classes) == 2 and [float(c) for c in classes if _is_number(c)] != [0.0, 1.0]:
            raise Invalid(
                "a classifier's classes must be 0 and 1",
                code="model.classes",
                field="fitted",
                hint="encode the target as 0 and 1 before fitting",
            )
        fitted = fitted.booster_
    if not hasattr(fitted, "model_to_string"):
        raise Unsupported(f"no flavour packs a {kind.__qualname__}", code="model.flavour", hint=_HINT)
    return fitted


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def native_text(booster: Any) -> bytes:
    """The model in LightGBM's own text, its best iterations only."""
    return str(booster.model_to_string()).encode()


def task_of(text: bytes, asked: Task | None) -> Task:
    """What the model was trained for, read from its objective.

    Raises:
        Unsupported: the objective gives no single probability or value.
        Invalid: the task asked for is another one.
    """
    match = _OBJECTIVE.search(text.decode())
    objective = match.group(1) if match else "none"
    found: Task | None = None
    if objective in _BINARY:
        found = "binary"
    elif objective in _REGRESSION or (objective in ("none", "custom") and asked == "regression"):
        found = "regression"
    if found is None:
        raise Unsupported(
            f"a model of objective {objective} cannot be served: it needs one probability or one value a row",
            code="model.objective",
            field="fitted",
            hint="objective=binary or objective=regression",
        )
    if asked is not None and asked != found:
        message = f"the model was trained for {found}, not for {asked}"
        raise Invalid(message, code="model.task", field="task", hint="leave task out")
    return found


def columns_of(booster: Any, frame: Any) -> list[str]:
    """The frame's columns that the model takes, in the model's order.

    Raises:
        Invalid: the frame lacks one of them.
    """
    # LightGBM writes a blank in a name as an underscore.
    present = {re.sub(r"\s", "_", str(name)): name for name in frame.columns}
    names = []
    for name in booster.feature_name():
        if name not in present:
            raise Invalid(
                f"the model was trained on column {name!r}, which the sample lacks",
                code="model.column",
                field=name,
                hint="pass the frame that the model was fitted on as sample=",
            )
        names.append(present[name])
    return names


def levels_of(booster: Any, frame: Any, names: list[str]) -> dict[str, tuple[Level, ...]]:
    """The levels of each categorical column, in the order of the model's codes.

    Raises:
        Invalid: the sample has other categorical columns than the model was trained on.
    """
    known = booster.pandas_categorical or []
    columns = [name for name in names if str(frame[name].dtype) == "category"]
    if len(columns) != len(known):
        raise Invalid(
            f"the model was trained on {len(known)} categorical columns and the sample has {len(columns)}",
            code="model.levels",
            field="sample",
            hint="pass the frame that the model was fitted on as sample=",
        )
    return {name: tuple(_level(v) for v in levels) for name, levels in zip(columns, known, strict=True)}


def _level(value: Any) -> Level:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str | int | bool):
        raise Unsupported(f"a level must be text, a whole number or a boolean, not {value!r}", code="model.levels")
    return value

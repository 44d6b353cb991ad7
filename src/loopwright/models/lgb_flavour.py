"""Flavour lightgbm: reads a fitted Booster or LGBM estimator without importing lightgbm, which its maker has done."""

import re
from importlib import metadata
from typing import Any

from loopwright.kernel.errors import Invalid, Unsupported
from loopwright.models.fitted import Fitted, Width, check_binary, check_task, is_from, level, not_fitted
from loopwright.models.model import Level, Task

FLAVOUR = "lightgbm"
_OBJECTIVE = re.compile(r"^objective=(\S+)", re.MULTILINE)
_BINARY = ("binary", "cross_entropy")
_REGRESSION = (
    *("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie"),
)


def accepts(fitted: Any) -> bool:
    """Whether a model is LightGBM's."""
    return is_from(fitted, FLAVOUR)


def take_apart(fitted: Any, frame: Any, asked: Task | None) -> Fitted:
    """Find out what packing needs to know.

    Raises:
        Unsupported: it gives no single probability or value.
        Invalid: it has not been fitted, its classes are not 0 and 1, or the frame is not the one it was fitted on.
    """
    booster = _booster_of(fitted)
    text = str(booster.model_to_string()).encode()  # its best iterations only
    task = _task_of(text, asked)
    columns = _columns_of(booster, frame)
    return Fitted(
        flavour="lightgbm",
        task=task,
        columns=columns,
        levels=_levels_of(booster, frame, columns),
        version=metadata.version("lightgbm"),
        native=text,
        reference=lambda part: [float(value) for value in booster.predict(part[columns], num_threads=1)],
        convert=lambda width: _convert(booster, len(columns), width),
        libraries=("lightgbm", "numpy", "pandas"),
    )


def _convert(booster: Any, columns: int, width: Width) -> bytes:
    from loopwright.models.convert import boosted

    return boosted("lightgbm", booster, columns, width)


def _booster_of(fitted: Any) -> Any:
    kind = type(fitted)
    if hasattr(kind, "booster_"):
        if not getattr(fitted, "fitted_", False):
            raise not_fitted()
        if len(getattr(fitted, "classes_", ())) == 2:
            check_binary(fitted.classes_)
        fitted = fitted.booster_
    if not hasattr(fitted, "model_to_string"):
        hint = "lw.model takes a lightgbm Booster, LGBMClassifier (two classes) or LGBMRegressor"
        raise Unsupported(f"no flavour packs a {kind.__qualname__}", code="model.flavour", hint=hint)
    return fitted


def _task_of(text: bytes, asked: Task | None) -> Task:
    """What the model was trained for, read from its objective."""
    match = _OBJECTIVE.search(text.decode())
    objective = match.group(1) if match else "none"
    if objective in _BINARY:
        return check_task("binary", asked)
    if objective in _REGRESSION or (objective in ("none", "custom") and asked == "regression"):
        return check_task("regression", asked)
    raise Unsupported(
        f"a model of objective {objective} cannot be served: it needs one probability or one value a row",
        code="model.objective",
        field="fitted",
        hint="objective=binary or objective=regression",
    )


def _columns_of(booster: Any, frame: Any) -> list[Any]:
    """The frame's columns that the model takes, in the model's order."""
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


def _levels_of(booster: Any, frame: Any, names: list[Any]) -> dict[Any, tuple[Level, ...]]:
    """The levels of each categorical column, in the order of the model's codes."""
    known = booster.pandas_categorical or []
    columns = [name for name in names if str(frame[name].dtype) == "category"]
    if len(columns) != len(known):
        raise Invalid(
            f"the model was trained on {len(known)} categorical columns and the sample has {len(columns)}",
            code="model.levels",
            field="sample",
            hint="pass the frame that the model was fitted on as sample=",
        )
    return {name: tuple(level(v) for v in levels) for name, levels in zip(columns, known, strict=True)}

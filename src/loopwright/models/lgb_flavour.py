"""Flavour lightgbm: reads a fitted Booster or LGBM estimator without importing lightgbm, which its maker has done."""

import re
from importlib import metadata
from typing import Any

from loopwright.kernel.errors import Unsupported
from loopwright.models import fitted as about
from loopwright.models.fitted import Fitted, Width
from loopwright.models.model import Level, Task

FLAVOUR = "lightgbm"
_OBJECTIVE = re.compile(r"^objective=(\S+)", re.MULTILINE)
_BINARY = ("binary", "cross_entropy")
_REGRESSION = ("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie")


def accepts(fitted: Any) -> bool:
    """Whether a model is LightGBM's."""
    return about.is_from(fitted, FLAVOUR)


def take_apart(fitted: Any, frame: Any, asked: Task | None) -> Fitted:
    """Find out what packing needs to know.

    Raises:
        Unsupported: it gives no single probability or value.
        Invalid: it has not been fitted, its classes are not 0 and 1, or the frame is not the one it was fitted on.
    """
    booster = _booster_of(fitted)
    text = str(booster.model_to_string()).encode()  # its best iterations only
    task = _task_of(text, asked)
    # LightGBM writes a blank in a name as an underscore.
    columns = about.columns_named(booster.feature_name(), frame, lambda name: re.sub(r"\s", "_", name))
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
            raise about.not_fitted()
        if len(getattr(fitted, "classes_", ())) == 2:
            about.check_binary(fitted.classes_)
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
        return about.check_task("binary", asked)
    if objective in _REGRESSION or (objective in ("none", "custom") and asked == "regression"):
        return about.check_task("regression", asked)
    raise about.not_served(objective, "objective=binary or objective=regression")


def _levels_of(booster: Any, frame: Any, names: list[Any]) -> dict[Any, tuple[Level, ...]]:
    """The levels of each categorical column, in the order of the model's codes."""
    known = booster.pandas_categorical or []
    columns = [name for name in names if str(frame[name].dtype) == "category"]
    if len(columns) != len(known):
        message = f"the model was trained on {len(known)} categorical columns and the sample has {len(columns)}"
        raise about.other_frame(message, code="model.levels")
    return {name: tuple(about.level(v) for v in levels) for name, levels in zip(columns, known, strict=True)}

"""Flavour xgboost: reads a fitted Booster or XGB estimator without importing xgboost, which its maker has done."""

import contextlib
import json
import sys
from importlib import metadata
from typing import Any

from loopwright.kernel.errors import Unsupported
from loopwright.models import fitted as about
from loopwright.models.fitted import Fitted, Width
from loopwright.models.model import Task

FLAVOUR = "xgboost"
_BINARY = ("binary:logistic", "reg:logistic")
_REGRESSION = ("reg:", "count:poisson", "survival:aft")


def accepts(fitted: Any) -> bool:
    """Whether a model is XGBoost's."""
    return about.is_from(fitted, FLAVOUR)


def take_apart(fitted: Any, frame: Any, asked: Task | None) -> Fitted:
    """Find out what packing needs to know.

    Raises:
        Unsupported: it gives no single probability or value.
        Invalid: it has not been fitted, its classes are not 0 and 1, or the frame is not the one it was fitted on.
    """
    booster = _booster_of(fitted)
    task = _task_of(booster, asked)
    columns = _columns_of(booster, frame)
    return Fitted(
        flavour="xgboost",
        task=task,
        columns=columns,
        levels=about.category_levels(frame, columns),
        version=_version(),
        native=bytes(booster.save_raw("ubj")),
        reference=lambda part: _scores(booster, part[columns]),
        convert=lambda width: _convert(booster, len(columns), width),
        libraries=("xgboost", "xgboost-cpu", "numpy", "pandas"),
    )


def _version() -> str:
    for name in ("xgboost", "xgboost-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _scores(booster: Any, part: Any) -> list[float]:
    named = booster.feature_names is not None
    data = part if named or any(str(kind) == "category" for kind in part.dtypes) else part.to_numpy()
    matrix = sys.modules["xgboost"].DMatrix(data, enable_categorical=True, nthread=1)
    return [float(value) for value in booster.predict(matrix, validate_features=named)]


def _convert(booster: Any, columns: int, width: Width) -> bytes:
    from loopwright.models.convert import boosted

    plain = booster.copy()
    if "c" in (plain.feature_types or ()):
        message = "the converter knows no categorical splits of XGBoost"
        raise Unsupported(message, code="model.convert", field="fitted")
    plain.feature_names = plain.feature_types = None  # the converter takes only names of its own
    return boosted("xgboost", plain, columns, width)


def _booster_of(fitted: Any) -> Any:
    kind = type(fitted)
    if hasattr(kind, "get_booster"):
        if not getattr(fitted, "__sklearn_is_fitted__", lambda: True)():
            raise about.not_fitted()
        booster, best = fitted.get_booster(), None
        if hasattr(fitted, "classes_"):
            about.check_binary(fitted.classes_)
        with contextlib.suppress(AttributeError):
            best = fitted.best_iteration  # an estimator that stopped early scores with its best trees only
        fitted = booster if best is None else booster[: best + 1]
    if not hasattr(fitted, "save_raw"):
        hint = "lw.model takes an xgboost Booster, XGBClassifier (two classes) or XGBRegressor"
        raise Unsupported(f"no flavour packs a {kind.__qualname__}", code="model.flavour", hint=hint)
    return fitted


def _task_of(booster: Any, asked: Task | None) -> Task:
    learner = json.loads(booster.save_config())["learner"]
    objective, targets = learner["objective"]["name"], learner["learner_model_param"].get("num_target", "1")
    if objective in _BINARY:
        return about.check_task("binary", asked)
    if objective.startswith(_REGRESSION) and targets in ("0", "1"):
        return about.check_task("regression", asked)
    raise about.not_served(objective, "objective=binary:logistic or objective=reg:squarederror")


def _columns_of(booster: Any, frame: Any) -> list[Any]:
    names = booster.feature_names
    if names is None:
        return about.columns_counted(booster.num_features(), frame)
    return about.columns_named(names, frame)

"""Flavour sklearn: any fitted estimator or pipeline that predicts one value or the probability of class 1.

Nothing is pickled: numbers go into ONNX as they are, and encoders of texts and levels as the table of what they give.
"""

import copy
import warnings
from importlib import metadata
from typing import Any

from loopwright.kernel.errors import Unsupported
from loopwright.models import fitted as about
from loopwright.models.fitted import Fitted, Width
from loopwright.models.model import Level, Task, Unseen

FLAVOUR = "sklearn"
MAX_LEVELS = 10_000
_TREES = ("sklearn.tree.", "sklearn.ensemble._hist", "xgboost.", "lightgbm.")
_FORESTS = (
    *("RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor"),
    *("GradientBoostingClassifier", "GradientBoostingRegressor"),
)
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")


def accepts(fitted: Any) -> bool:
    """Whether a model is scikit-learn's."""
    return about.is_from(fitted, FLAVOUR) and hasattr(fitted, "predict")


def take_apart(fitted: Any, frame: Any, asked: Task | None) -> Fitted:
    """Find out what packing needs to know.

    Raises:
        Unsupported: it gives no single probability or value, or a column of it cannot be taken apart.
        Invalid: it has not been fitted, its classes are not 0 and 1, or the frame is not the one it was fitted on.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    fitted = getattr(fitted, "best_estimator_", fitted)
    try:
        check_is_fitted(fitted)
    except NotFittedError:
        raise about.not_fitted() from None
    task = about.check_task(_task_of(fitted), asked)
    columns, named = _columns_of(fitted, frame)
    used = _used(fitted, len(columns)) if named else list(range(len(columns)))
    columns = [columns[place] for place in used]
    branches = _Branches(fitted, frame[columns], named, used)
    plain = branches.plain()
    return Fitted(
        flavour="sklearn",
        task=task,
        columns=columns,
        levels=branches.levels,
        unseen=branches.unseen,
        refuses_null=frozenset(branches.refuses_null),
        version=metadata.version("scikit-learn"),
        native=None,
        reference=lambda part: scores(fitted, part[columns] if named else part[columns].to_numpy(), task),
        convert=lambda width: _convert(plain, len(columns), width),
        libraries=("scikit-learn", "numpy", "pandas", "skl2onnx", "onnx", "onnxruntime"),
    )


def _convert(model: Any, columns: int, width: Width) -> bytes:
    from loopwright.models.convert import scikit

    if width == "float64":
        model = _trees_in_float32(model)
    return scikit(model, columns, width)


def _refilled(step: Any) -> Any:
    """A step whose imputers, and functions of numpy, are written so that onnxruntime has them at either width."""
    from sklearn.pipeline import Pipeline

    from loopwright.models.skl_lookup import FUNCTIONS, Elementwise, FillGaps

    if isinstance(step, Pipeline):
        return Pipeline([(name, _refilled(part)) for name, part in step.steps])
    if type(step).__name__ == "FunctionTransformer":
        name = getattr(step.func, "__name__", "")
        plain = type(step.func).__name__ == "ufunc" and name in FUNCTIONS and not step.kw_args
        return Elementwise(name) if plain else step
    if type(step).__name__ != "SimpleImputer" or step.add_indicator or step.missing_values == step.missing_values:
        return step
    try:
        values = [float(value) for value in step.statistics_]
    except (TypeError, ValueError):
        return step
    return FillGaps(values) if all(value == value for value in values) else step


def _trees_in_float32(model: Any) -> Any:
    """The model with a cast before its trees, which compare in float32 what is reckoned in float64 before them."""
    from sklearn.pipeline import Pipeline

    from loopwright.models.skl_lookup import ToFloat32

    steps = list(model.steps) if isinstance(model, Pipeline) else [("model", model)]
    name, last = steps[-1]
    if not (type(last).__module__.startswith(_TREES) or type(last).__name__ in _FORESTS):
        return model
    return Pipeline([*steps[:-1], ("float32", ToFloat32()), (name, last)])


def scores(fitted: Any, rows: Any, task: Task) -> list[float]:
    """The library's own scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fitted.predict_proba(rows)[:, 1] if task == "binary" else fitted.predict(rows)
    return [float(value) for value in found]


def _task_of(fitted: Any) -> Task:
    from sklearn.base import is_classifier, is_regressor

    if is_classifier(fitted):
        about.check_binary(fitted.classes_)
        if not hasattr(fitted, "predict_proba"):
            raise Unsupported(
                f"a {type(fitted).__name__} gives no probabilities",
                code="model.objective",
                field="fitted",
                hint="wrap it in sklearn.calibration.CalibratedClassifierCV",
            )
        return "binary"
    if is_regressor(fitted):
        return "regression"
    raise Unsupported(
        f"a {type(fitted).__name__} neither classifies nor regresses",
        code="model.objective",
        field="fitted",
        hint="lw.model takes a classifier of two classes or a regressor",
    )


def _columns_of(fitted: Any, frame: Any) -> tuple[list[Any], bool]:
    """The frame's columns that the model takes, and whether it knows them by name."""
    names = getattr(fitted, "feature_names_in_", None)
    if names is not None:
        return about.columns_named(names, frame), True
    return about.columns_counted(getattr(fitted, "n_features_in_", len(frame.columns)), frame), False


def _used(fitted: Any, count: int) -> list[int]:
    """The columns that the model looks at: a ColumnTransformer drops those that it does not name."""
    first = fitted.steps[0][1] if hasattr(fitted, "steps") else fitted
    if not hasattr(first, "_transformer_to_input_indices"):
        return list(range(count))
    found: set[int] = set()
    for name, step, _ in first.transformers_:
        if not (isinstance(step, str) and step == "drop"):
            found.update(first._transformer_to_input_indices[name])
    return sorted(found)


class _Branches:
    """A pipeline whose encoders are replaced by tables, column by column."""

    def __init__(self, fitted: Any, frame: Any, named: bool, used: list[int]) -> None:
        self._fitted = fitted
        self._place = {before: now for now, before in enumerate(used)}
        self._frame = frame
        self._named = named
        self.levels: dict[Any, tuple[Level, ...]] = {}
        self.unseen: dict[Any, Unseen] = {}
        self.refuses_null: set[Any] = set()
        self._numbers: set[Any] = set()

    def plain(self) -> Any:
        """The same model over a matrix of numbers, in which a level is its place among the levels of its column."""
        from sklearn.compose import ColumnTransformer
        from sklearn.pipeline import Pipeline

        fitted = self._fitted
        steps = list(fitted.steps) if isinstance(fitted, Pipeline) else [("model", fitted)]
        if isinstance(steps[0][1], ColumnTransformer):
            return Pipeline([("columns", self._columns(steps[0][1])), *_sparsely(steps, steps[0][1].sparse_output_)])
        encoders = [place for place, (_, step) in enumerate(steps) if type(step).__name__ in _ENCODERS]
        if encoders:
            head = Pipeline(steps[: encoders[-1] + 1])
            lookup = self._table(head, list(range(self._frame.shape[1])))
            sparse = hasattr(head.transform(self._rows(self._frame.iloc[:1])), "toarray")
            return Pipeline([("columns", lookup), *_sparsely(steps[encoders[-1] :], sparse)])
        self._only_numbers(list(range(self._frame.shape[1])))
        return _refilled(fitted)

    def _columns(self, transformer: Any) -> Any:
        made = copy.copy(transformer)
        made.transformers_ = []
        for name, step, _ in transformer.transformers_:
            before = transformer._transformer_to_input_indices[name]
            if not len(before) or (isinstance(step, str) and step == "drop"):
                continue
            where = [self._place[place] for place in before]
            if self._encodes(step, where):
                step = self._table(step, where)
            else:
                self._only_numbers(where)
                step = _refilled(step)
                if type(step).__name__ == "FunctionTransformer" and step.func is None:
                    step = "passthrough"
            made.transformers_.append((name, step, where))
        both = self._numbers & set(self.levels)
        if both:
            raise _two_ways(min(both, key=str))
        return made

    def _encodes(self, step: Any, where: list[int]) -> bool:
        parts = [part for _, part in step.steps] if hasattr(step, "steps") else [step]
        if any(type(part).__name__ in _ENCODERS for part in parts):
            return True
        return not isinstance(step, str) and any(not _is_number(self._frame.iloc[:, place]) for place in where)

    def _only_numbers(self, where: list[int]) -> None:
        for place in where:
            series = self._frame.iloc[:, place]
            self._numbers.add(series.name)
            if not _is_number(series):
                raise Unsupported(
                    f"column {str(series.name)!r} is of type {series.dtype} and no encoder stands before the model",
                    code="model.dtype",
                    field=str(series.name),
                    hint="put a OneHotEncoder or OrdinalEncoder into the pipeline",
                )

    def _table(self, step: Any, where: list[int]) -> Any:
        """What an encoder gives for each level of each of its columns, for a null and for a level it has not seen."""
        import numpy as np

        from loopwright.models.skl_lookup import TableLookup

        part = self._frame.iloc[:, where]
        base = part.iloc[:1]
        ground = self._out(step, base)[0]
        tables, places, owner = [], [], np.full(len(ground), -1)
        for number, place in enumerate(where):
            series = self._frame.iloc[:, place]
            values = _levels_of(step, series, number)
            known = self._out(step, _with(base, number, values, series))
            null = self._try(step, _with(base, number, [_null_of(series)], series))
            odd = self._try(step, _with(base, number, [_stranger(values)], series))
            none = np.full((1, len(ground)), np.nan)
            rows = np.vstack([known, none if null is None else null, none if odd is None else odd])
            told = np.vstack([known, *(row for row in (null, odd) if row is not None)])
            differs = ~((told == ground) | (np.isnan(told) & np.isnan(ground))).all(axis=0)
            if (owner[differs] != -1).any():
                raise _mixes(step)
            owner[differs] = number
            tables.append(rows)
            self._keep(series.name, tuple(about.level(value) for value in values), null is None, odd is None)
        # What no column changes is the same in every row; it goes with the first.
        owner[owner == -1] = 0
        cut = [table[:, owner == number] for number, table in enumerate(tables)]
        beside = np.concatenate([np.flatnonzero(owner == number) for number in range(len(tables))])
        places = np.argsort(beside, kind="stable").tolist()
        return TableLookup(tables=cut, places=places)

    def _keep(self, name: Any, levels: tuple[Level, ...], no_null: bool, no_stranger: bool) -> None:
        if self.levels.setdefault(name, levels) != levels:
            raise _two_ways(name)
        self.unseen[name] = "refused" if no_stranger or self.unseen.get(name) == "refused" else "own"
        if no_null:
            self.refuses_null.add(name)

    def _rows(self, part: Any) -> Any:
        return part if self._named else part.to_numpy()

    def _out(self, step: Any, part: Any) -> Any:
        import numpy as np

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = step.transform(self._rows(part))
        out = out.toarray() if hasattr(out, "toarray") else out
        return np.asarray(out, dtype=np.float64)

    def _try(self, step: Any, part: Any) -> Any:
        try:
            return self._out(step, part)
        except (ValueError, TypeError):
            return None


def _sparsely(steps: list[tuple[str, Any]], sparse: bool) -> list[tuple[str, Any]]:
    """The steps after the first; to XGBoost a zero in a sparse matrix is no value."""
    from loopwright.models.skl_lookup import ZeroIsMissing

    after = [(name, _refilled(step)) for name, step in steps[1:]]
    if sparse and len(after) == 1 and about.is_from(after[0][1], "xgboost"):
        return [("zeros", ZeroIsMissing()), *after]
    return after


def _two_ways(name: Any) -> Unsupported:
    return Unsupported(
        f"column {str(name)!r} is taken as a number in one place and as levels in another",
        code="model.encoder",
        field=str(name),
        hint="give the model a copy of the column under a second name",
    )


def _mixes(step: Any) -> Unsupported:
    return Unsupported(
        f"{type(step).__name__} mixes the columns of texts and levels, so they cannot be taken apart",
        code="model.encoder",
        field="fitted",
        hint="encode each column by itself, and mix the encoded columns after the ColumnTransformer",
    )


def _is_number(series: Any) -> bool:
    kind = str(series.dtype).lower()
    return kind.startswith(("int", "uint", "float", "bool"))


def _levels_of(step: Any, series: Any, number: int) -> list[Any]:
    """The values of a column that the encoder may meet: those of the sample, and those that it was fitted on."""
    found = dict.fromkeys(series.dropna().unique().tolist())
    parts = [part for _, part in step.steps] if hasattr(step, "steps") else [step]
    for part in parts:
        known = getattr(part, "categories_", None)
        if known is not None and number < len(known):
            found.update(dict.fromkeys(v for v in known[number].tolist() if v is not None and v == v))
    if len(found) > MAX_LEVELS:
        name = str(series.name)
        message = f"column {name!r} has {len(found)} levels; a package holds at most {MAX_LEVELS}"
        raise Unsupported(message, code="model.levels", field=name, hint="group the rare ones before fitting")
    try:
        return sorted(found)
    except TypeError:
        raise Unsupported(
            f"the levels of {str(series.name)!r} are of several types", code="model.levels", field=str(series.name)
        ) from None


def _null_of(series: Any) -> Any:
    """What stands for no value in a column: what stood there in training, where something did."""
    gaps = series[series.isna()]
    return gaps.iloc[0] if len(gaps) else float("nan")


def _stranger(values: list[Any]) -> Any:
    """A level that is none of these."""
    if values and isinstance(values[0], str):
        return max(values) + " "
    if set(values) <= {False, True} and values:
        return next((value for value in (False, True) if value not in values), 2)
    return max(values) + 1 if values else "?"


def _with(base: Any, number: int, values: list[Any], series: Any) -> Any:
    """The base row once for each value of one of its columns, in the column's own type where it can hold them."""
    import pandas as pd

    out = base.iloc[[0] * len(values)].reset_index(drop=True)
    if str(series.dtype) == "category":
        known = list(series.cat.categories)
        more = [value for value in values if value == value and value is not None and value not in known]
        made = pd.Series(pd.Categorical(values, dtype=pd.CategoricalDtype([*known, *more])))
    else:
        try:
            made = pd.Series(values).astype(series.dtype)
        except (TypeError, ValueError):
            made = pd.Series(values, dtype=object)
    out.isetitem(number, made)
    return out

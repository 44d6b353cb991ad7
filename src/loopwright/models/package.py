"""Packing a fitted model: the file that scores, card, sample rows with the library's own scores, contract, environment.

Equal models give equal bytes, so a repeated training makes no new version.
"""

import platform
from collections.abc import Iterable, Sequence
from importlib import metadata, util
from typing import Any, Literal

import msgspec

from loopwright.kernel.errors import Invalid, LoopwrightError, Unsupported
from loopwright.kernel.ids import valid_name
from loopwright.models import lgb_flavour, parity, skl_flavour, xgb_flavour
from loopwright.models.fitted import Fitted, Width
from loopwright.models.model import (
    CARD_FILE,
    CONTRACT_FILE,
    ENVIRONMENT_FILE,
    NATIVE_FILES,
    ONNX_FILE,
    SAMPLE_FILE,
    Card,
    ColumnContract,
    Dtype,
    Field,
    Level,
    Parity,
    Runtime,
    Sample,
    Signature,
    Task,
)
from loopwright.models.runtime import Predictor, values_of
from loopwright.models.value import Model

SAMPLE_ROWS = 100
Engine = Literal["native", "onnx"]
_OUTPUT: dict[Task, str] = {"binary": "probability", "regression": "value"}
_HINT = (
    "lw.model takes a LightGBM or XGBoost model, or a scikit-learn estimator or pipeline, "
    "that was fitted for two classes or for a value"
)


def model(name: str, fitted: Any, *, sample: Any, task: Task | None = None, runtime: Engine | None = None) -> Model:
    """Pack a fitted model as a value that a step can return, register and serve.

    Args:
        fitted: a LightGBM or XGBoost booster or estimator, or a scikit-learn estimator or pipeline.
        sample: the frame (or matrix) it was fitted on; rows of it, and what it looked like, go into the package.
        task: `binary` or `regression`; read from the model when absent.
        runtime: what scores it, `native` or `onnx`; by default LightGBM's own library for its models, and ONNX for
            others when the extra `onnx` is there and the converted model scores the sample as the fitted one does.

    Raises:
        Invalid: the sample is not the frame that the model was fitted on, or the model cannot be packed truly.
        Unsupported: no flavour packs this model, or an extra is missing.
    """
    valid_name(name)
    if runtime not in (None, "native", "onnx"):
        raise Invalid("runtime must be native or onnx", code="model.runtime", field="runtime")
    frame = _frame(sample)
    found = _take_apart(fitted, frame, task)
    card = _card(found, frame)
    _check_finite(frame, card)
    card, converted = _converted(found, frame, card, runtime)
    files = {NATIVE_FILES[found.flavour]: found.native} if found.native is not None else {}
    if converted is not None:
        files[ONNX_FILE] = converted
    rows = _sample(found, frame, card, files[card.file])
    contract = [_contract(frame[field.name], field) for field in card.signature.inputs]
    return Model(
        name=name,
        files={
            CARD_FILE: _encode(card),
            **files,
            SAMPLE_FILE: _encode(rows),
            CONTRACT_FILE: _encode(contract),
            ENVIRONMENT_FILE: _encode(_environment(found)),
        },
    )


def _frame(sample: Any) -> Any:
    """The sample as a frame; the columns of a matrix are x0, x1, ..."""
    if not hasattr(sample, "columns") and getattr(sample, "ndim", 0) == 2:
        import pandas as pd

        sample = pd.DataFrame(sample, columns=[f"x{place}" for place in range(sample.shape[1])])
    if not hasattr(sample, "columns") or len(sample) == 0:
        raise Invalid("sample must be a frame or a matrix with rows", code="model.sample", field="sample")
    return sample


def _take_apart(fitted: Any, frame: Any, task: Task | None) -> Fitted:
    if lgb_flavour.accepts(fitted):
        return lgb_flavour.take_apart(fitted, frame, task)
    if xgb_flavour.accepts(fitted):
        return xgb_flavour.take_apart(fitted, frame, task)
    if skl_flavour.accepts(fitted):
        return skl_flavour.take_apart(fitted, frame, task)
    kind = type(fitted)
    raise Unsupported(f"no flavour packs a {kind.__module__}.{kind.__qualname__}", code="model.flavour", hint=_HINT)


def _card(found: Fitted, frame: Any) -> Card:
    _check_names(found.columns)
    about = dict(frame.attrs.get("loopwright") or {})
    said = set(about.get("nullable") or ())
    return Card(
        flavour=found.flavour,
        task=found.task,
        signature=Signature(
            inputs=tuple(_field(found, frame, column, said) for column in found.columns), output=_OUTPUT[found.task]
        ),
        framework={"name": found.flavour, "version": found.version},
        features=about.get("features"),
        trained_until_us=about.get("until_us"),
    )


def _check_names(columns: Iterable[Any]) -> None:
    """See that the prediction log can tell the columns apart: DuckDB does not by case."""
    seen: dict[str, str] = {}
    for name in map(str, columns):
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise Unsupported(
                f"the columns {other!r} and {name!r} differ by case alone",
                code="model.column-case",
                field=name,
                hint=f'sample.rename(columns={{"{name}": "{name}_2"}}) before fitting',
            )


def _field(found: Fitted, frame: Any, column: Any, said: set[str]) -> Field:
    series, levels = frame[column], found.levels.get(column)
    dtype = _dtype(series, str(column), levels)
    made = Field(str(column), dtype, bool(series.isna().any()), levels, found.unseen.get(column, "null"))
    if made.nullable or column not in said or column in found.refuses_null:
        return made
    asked = msgspec.structs.replace(made, nullable=True)
    return asked if levels is not None or _takes_null(found, frame, asked) else made


def _takes_null(found: Fitted, frame: Any, field: Field) -> bool:
    """Whether a model that has met no null in a column scores one there; boosters always do."""
    if found.flavour != "sklearn":
        return True
    try:
        found.reference(parity.with_null(frame.iloc[:1], frame, field))
    except Exception:  # noqa: BLE001 - whatever the library throws, it refuses
        return False
    return True


def _encode(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=1) + b"\n"


def _dtype(series: Any, name: str, levels: tuple[Level, ...] | None) -> Dtype:
    if levels is not None:
        kinds = {bool: "bool", int: "int64", str: "string"}
        found = {kinds[type(level)] for level in levels}
        if len(found) > 1:
            raise Unsupported(f"the levels of {name!r} are of several types", code="model.levels", field=str(name))
        return found.pop() if found else "string"  # type: ignore[return-value]
    kind = str(series.dtype).lower()
    if kind in ("bool", "boolean"):
        return "bool"
    if kind.startswith(("int", "uint")):
        return "int64"
    if kind.startswith("float"):
        return "float64"
    raise Unsupported(
        f"column {name!r} is of type {series.dtype}; a model takes numbers, booleans and categories",
        code="model.dtype",
        field=str(name),
        hint=f'sample["{name}"].astype("category") before fitting',
    )


def _converted(found: Fitted, frame: Any, card: Card, asked: Engine | None) -> tuple[Card, bytes | None]:
    """The card with what scores the model, and the model as ONNX when that does."""
    if found.native is None and asked == "native":
        message = f"a {found.flavour} model has no file of its own that is not a pickle"
        raise Unsupported(message, code="model.runtime", field="runtime", hint="leave runtime out")
    reason, far = "", None
    if asked == "onnx" or (asked is None and _by_itself(found)):
        for width in _widths(found):
            try:
                data = found.convert(width)
                made = _tried(found, frame, card, data, width)
            except LoopwrightError as error:
                if error.code == "model.library":
                    raise
                reason = reason or error.message
                continue
            far = made.parity
            if far is None or far.passed:
                return msgspec.structs.replace(card, runtime=made), data
            reason = f"scores differ by {far.error:.3g}, more than {far.tolerance:.3g}"
    if found.native is None:
        raise _refused(reason, far)
    made = Runtime(versions=_versions(found), parity=far, reason=reason[:500])
    return msgspec.structs.replace(card, runtime=made), None


def _by_itself(found: Fitted) -> bool:
    """Whether a flavour is converted unasked: LightGBM compares in float64 and is fast by itself; see decision 0016."""
    if found.native is None:
        return True
    return found.flavour == "xgboost" and all(map(util.find_spec, ("onnxruntime", "onnxmltools", "skl2onnx")))


def _widths(found: Fitted) -> Sequence[Width]:
    return ("float32", "float64") if found.flavour == "sklearn" else ("float32",)


def _refused(reason: str, far: Parity | None) -> LoopwrightError:
    if far is None:
        return Unsupported(
            f"the model could not be converted: {reason}",
            code="model.convert",
            field="fitted",
            hint="use parts that skl2onnx knows, or a LightGBM or XGBoost model",
        )
    return Invalid(
        f"the converted model is not the fitted one: {reason}, over {far.rows} rows",
        code="model.parity",
        field="fitted",
        hint="fill gaps (SimpleImputer) and scale large numbers before the model, or use a LightGBM or XGBoost model",
    )


def _tried(found: Fitted, frame: Any, card: Card, data: bytes, width: Width) -> Runtime:
    """What a conversion is worth."""
    made = Runtime(engine="onnx", versions=_versions(found), width=width)
    far = parity.compare(found, frame, msgspec.structs.replace(card, runtime=made), data)
    made = msgspec.structs.replace(made, parity=far)
    if far.passed:
        alike = parity.holds_alone(msgspec.structs.replace(card, runtime=made), data, frame)
        made = msgspec.structs.replace(made, together=alike)
    return made


def _check_finite(frame: Any, card: Card) -> None:
    for field in card.signature.inputs:
        if field.dtype == "float64" and bool(frame[field.name].abs().max() == float("inf")):
            raise Invalid(
                f"column {field.name!r} of the sample is infinite somewhere",
                code="model.infinite",
                field=field.name,
                hint="make such values null before fitting",
            )


def _sample(found: Fitted, frame: Any, card: Card, data: bytes) -> Sample:
    """Rows spread evenly over the sample, scored by the library; its own file must agree with that bit for bit."""
    part = parity.spread(frame[found.columns], SAMPLE_ROWS)
    expected, rows = found.reference(part), values_of(part, card.signature)
    if card.runtime.engine == "native":
        got = Predictor(card, data).predict_values(rows)
        wrong = [place for place, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b]
        if wrong:
            raise Invalid(
                f"the packaged model scores {len(wrong)} of {len(rows)} sample rows differently from the fitted one",
                code="model.parity",
                field="fitted",
            )
    return Sample(columns=tuple(field.name for field in card.signature.inputs), rows=rows, expected=expected)


def _contract(series: Any, field: Field) -> ColumnContract:
    rows, gaps = len(series), int(series.isna().sum())
    about: dict[str, Any] = {"name": field.name, "dtype": field.dtype, "rows": rows, "null_share": gaps / rows}
    if field.levels is not None or field.dtype == "bool":
        counts = series.value_counts()
        found = {_key(level): int(count) for level, count in counts.items() if count}
        return ColumnContract(**about, levels=dict(sorted(found.items())))
    if gaps == rows:
        return ColumnContract(**about)
    low, high = float(series.min()), float(series.max())
    margin = (high - low) / 2
    return ColumnContract(**about, minimum=low, maximum=high, low=low - margin, high=high + margin)


def _key(level: Any) -> str:
    return str(level.item() if hasattr(level, "item") else level)


def _versions(found: Fitted) -> dict[str, str]:
    """The versions of the packages that fitted and converted."""
    versions = {}
    for name in found.libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _environment(found: Fitted) -> dict[str, Any]:
    return {"python": platform.python_version(), "packages": _versions(found)}

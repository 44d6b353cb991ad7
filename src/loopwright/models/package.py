"""Packing a fitted model: native text, card, sample rows with the framework's own scores, contract, environment.

Equal models give equal bytes, so a repeated training makes no new version.
"""

import platform
from importlib import metadata
from typing import Any

import msgspec

from loopwright.kernel.errors import Invalid, Unsupported
from loopwright.kernel.ids import valid_name
from loopwright.models import booster as flavour
from loopwright.models import runtime
from loopwright.models.model import (
    CARD_FILE,
    CONTRACT_FILE,
    ENVIRONMENT_FILE,
    NATIVE_FILE,
    SAMPLE_FILE,
    Card,
    ColumnContract,
    Dtype,
    Field,
    Level,
    Sample,
    Signature,
    Task,
)
from loopwright.models.value import Model

SAMPLE_ROWS = 100
_PACKAGES = ("lightgbm", "numpy", "pandas")
_OUTPUT: dict[Task, str] = {"binary": "probability", "regression": "value"}


def model(name: str, fitted: Any, *, sample: Any, task: Task | None = None) -> Model:
    """Pack a fitted model as a value that a step can return, register and serve.

    Args:
        fitted: a LightGBM Booster, LGBMClassifier of two classes or LGBMRegressor.
        sample: the frame it was fitted on; rows of it, and what it looked like, go into the package.
        task: `binary` or `regression`; read from the model when absent.

    Raises:
        Invalid: the sample is not the frame that the model was fitted on.
        Unsupported: no flavour packs this model.
    """
    valid_name(name)
    if not hasattr(sample, "columns") or len(sample) == 0:
        raise Invalid("sample must be a frame with rows", code="model.sample", field="sample")
    booster = flavour.booster_of(fitted)
    text = flavour.native_text(booster)
    found = flavour.task_of(text, task)
    names = flavour.columns_of(booster, sample)
    levels = flavour.levels_of(booster, sample, names)
    about = dict(sample.attrs.get("loopwright") or {})
    signature = Signature(
        inputs=tuple(_field(sample[column], column, levels.get(column), about) for column in names),
        output=_OUTPUT[found],
    )
    card = Card(
        flavour=flavour.FLAVOUR,
        task=found,
        signature=signature,
        framework={"name": flavour.FLAVOUR, "version": metadata.version("lightgbm")},
        features=about.get("features"),
        trained_until_us=about.get("until_us"),
    )
    rows = _sample(booster, sample[names], card, text)
    contract = [_contract(sample[field.name], field) for field in signature.inputs]
    return Model(
        name=name,
        files={
            CARD_FILE: _encode(card),
            NATIVE_FILE: text,
            SAMPLE_FILE: _encode(rows),
            CONTRACT_FILE: _encode(contract),
            ENVIRONMENT_FILE: _encode(_environment()),
        },
    )


def _encode(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=1) + b"\n"


def _field(series: Any, name: str, levels: tuple[Level, ...] | None, about: dict[str, Any]) -> Field:
    dtype = _dtype(series, name, levels)
    nullable = bool(series.isna().any()) or name in set(about.get("nullable") or ())
    return Field(name=str(name), dtype=dtype, nullable=nullable, levels=levels)


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


def _sample(booster: Any, frame: Any, card: Card, text: bytes) -> Sample:
    """Rows spread evenly over the sample, scored by the framework; the packaged file must agree bit for bit."""
    for field in card.signature.inputs:
        if field.dtype == "float64" and bool(frame[field.name].abs().max() == float("inf")):
            raise Invalid(
                f"column {field.name!r} of the sample is infinite somewhere",
                code="model.infinite",
                field=field.name,
                hint="make such values null before fitting",
            )
    count = min(SAMPLE_ROWS, len(frame))
    part = frame.iloc[[place * len(frame) // count for place in range(count)]]
    expected = [float(value) for value in booster.predict(part, num_threads=1)]
    rows = runtime.values_of(part, card.signature)
    got = runtime.Predictor(card, text).predict_values(rows)
    wrong = [place for place, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b]
    if wrong:
        raise Invalid(
            f"the packaged model scores {len(wrong)} of {count} sample rows differently from the fitted one",
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


def _environment() -> dict[str, Any]:
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "packages": packages}

"""Whether a converted model scores as the fitted one does, on rows of its sample and on rows made from them."""

from collections.abc import Iterator
from typing import Any

from loopwright.kernel.errors import LoopwrightError
from loopwright.models.fitted import Fitted
from loopwright.models.model import Card, Field, Parity
from loopwright.models.runtime import Predictor, values_of

ROWS = 2000
# A model that takes long for a row is compared on fewer of them, so that packing it has an end.
_FEWEST_ROWS, _MOST_S = 200, 20.0
_SLOW_US = 2000.0
TOLERANCE = 1e-5
_MADE_ROWS = 20
_COMPANY = (2, 3, 7, 16, 33, 100)


def compare(fitted: Fitted, frame: Any, card: Card, data: bytes) -> Parity:
    """Score rows spread over the sample, and rows with nulls and unseen levels, by both; say how far they are apart.

    Probabilities may differ by TOLERANCE, values by that share of the largest of them.
    """
    loaded = Predictor(card, data)
    expected: list[float] = []
    got: list[float] = []
    made = 0
    for part, is_made in _parts(frame, card, _affordable(loaded)):
        try:
            right = fitted.reference(part)
        except Exception:  # noqa: BLE001 - a row that the library itself refuses has no right answer
            continue
        expected += right
        got += _scores(loaded, part)
        made += len(right) if is_made else 0
    scale = 1.0 if card.task == "binary" else max((abs(value) for value in expected), default=1.0) or 1.0
    error = max((_distance(a, b) for a, b in zip(expected, got, strict=True)), default=0.0)
    tolerance = TOLERANCE * scale
    return Parity(rows=len(expected), made=made, error=error, tolerance=tolerance, passed=error <= tolerance)


def _affordable(loaded: Predictor) -> int:
    row_s = loaded.measure().row_us / 1e6
    return ROWS if row_s == 0 else max(_FEWEST_ROWS, min(ROWS, int(_MOST_S / row_s)))


def _distance(right: float, got: float) -> float:
    found = abs(right - got)
    return found if found == found else 1e300  # JSON has no infinity


def _scores(loaded: Predictor, part: Any) -> list[float]:
    try:
        return loaded.predict_values(values_of(part, loaded.signature))
    except LoopwrightError:
        return [float("nan")] * len(part)


def holds_alone(card: Card, data: bytes, frame: Any) -> bool:
    """Whether a row's score is the same to the last bit whatever rows it is scored with; not asked of slow models.

    A call for each row adds nothing that would be noticed to what a slow model takes for it.
    """
    loaded = Predictor(card, data)
    if loaded.measure().row_us > _SLOW_US:
        return False
    rows = [loaded.encoder.pack(row) for row in values_of(spread(frame, 300), loaded.signature)]
    alone = [loaded.score([row])[0] for row in rows]
    for size in (*_COMPANY, len(rows)):
        groups = [rows[place : place + size] for place in range(0, len(rows), size)]
        if [score for group in groups for score in loaded.score(group)] != alone:
            return False
    return True


def spread(frame: Any, count: int) -> Any:
    """At most so many rows, evenly over the frame."""
    count = min(count, len(frame))
    return frame.iloc[[place * len(frame) // count for place in range(count)]]


def _parts(frame: Any, card: Card, rows: int) -> Iterator[tuple[Any, bool]]:
    yield spread(frame, rows), False
    few = spread(frame, _MADE_ROWS)
    for field in card.signature.inputs:
        if field.nullable:
            yield with_null(few, frame, field), True
        if field.levels and field.dtype != "bool" and field.unseen != "refused":
            yield _with_stranger(few, field), True


def with_null(part: Any, frame: Any, field: Field) -> Any:
    """Rows whose column holds no value, told as the sample told it."""
    import pandas as pd

    series = frame[field.name]
    gaps = series[series.isna()]
    out, gap = part.copy(), gaps.iloc[0] if len(gaps) else float("nan")
    if str(series.dtype) == "category":
        out[field.name] = pd.Categorical([None] * len(out), dtype=series.dtype)
    elif len(gaps):
        out[field.name] = pd.Series([gap] * len(out), index=out.index).astype(series.dtype)
    else:
        text = field.dtype == "string"
        out[field.name] = pd.Series([gap] * len(out), index=out.index, dtype=object if text else "float64")
    return out


def _with_stranger(part: Any, field: Field) -> Any:
    """Rows whose column holds a level that training has not seen."""
    import pandas as pd

    levels: list[Any] = list(field.levels or ())
    strange = max(levels) + (" " if field.dtype == "string" else 1)
    out, series = part.copy(), part[field.name]
    if str(series.dtype) == "category":
        kind = pd.CategoricalDtype([*series.cat.categories, strange])
        out[field.name] = pd.Categorical([strange] * len(out), dtype=kind)
    else:
        out[field.name] = pd.Series([strange] * len(out), index=out.index)
    return out

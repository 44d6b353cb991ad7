"""Scoring a package: values in, one float64 a row out, byte for byte the same in a worker, a job or a shell."""

import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Protocol

import msgspec

from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt, Invalid, LoopwrightError
from loopwright.models.model import CARD_FILE, Card, Field, Signature, Value

_NAN = float("nan")
_MANY = 32


class Scorer(Protocol):
    """What scores packed rows: a library's own predictor, or onnxruntime."""

    columns: int

    def score(self, rows: Sequence[bytes]) -> list[float]:
        """The score of each packed row."""


class Cost(msgspec.Struct, frozen=True):
    """How long a model takes for a row alone, and for each further row beside it."""

    row_us: float = 0.0
    each_us: float = 0.0


class Encoder:
    """Packs a row of values, in the signature's order, as the float64 that a scorer takes.

    A null is NaN. A level is its number; to a model with codes of its own for them, null is the number after the last
    level and an unseen level the one after that.
    """

    def __init__(self, signature: Signature) -> None:
        self.names = tuple(field.name for field in signature.inputs)
        self._pack = struct.Struct(f"{len(self.names)}d").pack
        self._levels = [
            (place, *_codes(field)) for place, field in enumerate(signature.inputs) if field.levels is not None
        ]
        # Two models with the same names and levels pack rows alike and can share them.
        self.key = tuple((field.name, field.levels, field.unseen) for field in signature.inputs)

    def pack(self, values: Sequence[Value]) -> bytes:
        """The packed row.

        Raises:
            Invalid: a level is none that the model was trained on, and the model refuses such.
        """
        if not self._levels:
            try:
                return self._pack(*values)
            except struct.error:
                pass
        row: list[Any] = [_NAN if value is None else value for value in values]
        for place, codes, unseen in self._levels:
            code = codes.get(values[place], unseen)
            if code is None:
                name = self.names[place]
                message = f"input {name!r} has a value that the model was not trained on"
                raise Invalid(message, code="input.level", field=name)
            row[place] = code
        try:
            return self._pack(*row)
        except struct.error:
            raise Invalid("a row holds what is no number", code="input.value") from None


def _codes(field: Field) -> tuple[dict[Value, float], float | None]:
    levels = field.levels or ()
    codes: dict[Value, float] = {level: float(code) for code, level in enumerate(levels)}
    if field.unseen == "null":
        return codes, _NAN
    if field.nullable:
        codes[None] = float(len(levels))
    return codes, float(len(levels) + 1) if field.unseen == "own" else None


class Predictor:
    """A loaded model: card, encoder and scorer; for one thread.

    `failure` is why it is asked no longer, when somebody has found that it hangs.
    """

    def __init__(self, card: Card, data: bytes) -> None:
        self.card = card
        self.encoder = Encoder(card.signature)
        self._scorer = _scorer(card, data)
        self.cost = Cost()
        self.failure = ""
        if self._scorer.columns != len(card.signature.inputs):
            raise Corrupt(
                f"the card names {len(card.signature.inputs)} columns and the model takes {self._scorer.columns}",
                code="model.width",
            )

    @property
    def signature(self) -> Signature:
        """What goes in and comes out."""
        return self.card.signature

    @property
    def score(self) -> Callable[[Sequence[bytes]], list[float]]:
        """Scores packed rows."""
        return self._scorer.score

    def predict_values(self, rows: Iterable[Sequence[Value]]) -> list[float]:
        """Scores of rows of plain values in the signature's order."""
        packed = [self.encoder.pack(row) for row in rows]
        return self.score(packed) if packed else []

    def measure(self) -> Cost:
        """Find out what a row costs, by rows of zeros; for the loader's thread, since a slow model takes its time."""
        row = bytes(8 * self._scorer.columns)
        try:
            first = _fastest(lambda: self.score([row]), 5)
            many = first * _MANY if first > 20_000 else _fastest(lambda: self.score([row] * _MANY), 3)
        except LoopwrightError:
            return self.cost  # this row is none for the model; others will tell
        self.cost = Cost(first, max(0.0, many - first) / (_MANY - 1))
        return self.cost


def _fastest(act: Callable[[], object], times: int) -> float:
    """Microseconds of the fastest of several calls, of fewer when they are slow."""
    found: list[float] = []
    while len(found) < times and sum(found) < 50_000:
        start = perf_counter_ns()
        act()
        found.append((perf_counter_ns() - start) / 1000)
    return min(found)


def _scorer(card: Card, data: bytes) -> Scorer:
    if card.runtime.engine == "onnx":
        from loopwright.models.onnx_scorer import OnnxScorer

        return OnnxScorer(data, card.runtime, len(card.signature.inputs))
    if card.flavour == "xgboost":
        from loopwright.models.xgb_native import XgbBooster

        return XgbBooster(data)
    if card.flavour == "lightgbm":
        from loopwright.models.lgb_native import LgbBooster

        return LgbBooster(data)
    raise Corrupt(f"{CARD_FILE} names the flavour {card.flavour!r}", code="model.flavour", hint="lw fsck")


def load_file(card: Card, path: Path, digest: str) -> Predictor:
    """Load a model from its card and the local file that scores, checked against `digest`.

    Raises:
        Corrupt: the file is missing or does not hold what was stored.
        Unsupported: the model's library is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Corrupt(f"the package cannot be read: {error.strerror}", code="model.files", hint="lw fsck") from None
    if canonical.digest_bytes(data) != digest:
        raise Corrupt("the model's file does not hold what was stored", code="model.corrupt", hint="lw fsck")
    return Predictor(card, data)


def values_of(frame: Any, signature: Signature) -> list[list[Value]]:
    """The rows of a frame as plain values in the signature's order.

    Raises:
        Invalid: the frame lacks a column.
    """
    present = set(frame.columns)
    columns = []
    for field in signature.inputs:
        if field.name not in present:
            raise Invalid(f"the frame has no column {field.name!r}", code="model.column", field=field.name)
        columns.append(plain(frame[field.name], field.dtype))
    return [list(row) for row in zip(*columns, strict=True)]


def plain(series: Any, dtype: str) -> list[Value]:
    """A column of a frame as plain values of a signature's type, None where it has none.

    Raises:
        Invalid: a value is not of that type.
    """
    make: Callable[[Any], Value] = {"float64": float, "int64": int, "bool": bool, "string": str}[dtype]
    try:
        gaps = series.isna().tolist()
        return [None if gap else make(value) for value, gap in zip(series.tolist(), gaps, strict=True)]
    except (TypeError, ValueError):
        raise Invalid(f"column {series.name!r} is not of type {dtype}", code="model.dtype", field=series.name) from None

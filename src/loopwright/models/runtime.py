"""Scoring a package: values in, one float64 a row out, byte for byte the same in a worker, a job or a shell.

Nulls and levels that training has not seen become NaN, which LightGBM treats as missing.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt, Invalid
from loopwright.models.model import CARD_FILE, NATIVE_FILE, Card, Signature, Value, decode_card
from loopwright.models.native import NativeBooster

_NAN = float("nan")


class Encoder:
    """Packs a row of values, in the signature's order, as the float64 that the native model takes."""

    def __init__(self, signature: Signature) -> None:
        self.names = tuple(field.name for field in signature.inputs)
        self._pack = struct.Struct(f"{len(self.names)}d").pack
        self._levels = [
            (place, {level: float(code) for code, level in enumerate(field.levels)})
            for place, field in enumerate(signature.inputs)
            if field.levels is not None
        ]
        # Two models with the same names and levels pack rows alike and can share them.
        self.key = tuple((field.name, field.levels) for field in signature.inputs)

    def pack(self, values: Sequence[Value]) -> bytes:
        """The packed row."""
        row: list[Any] = [_NAN if value is None else value for value in values]
        for place, codes in self._levels:
            row[place] = codes.get(values[place], _NAN)  # type: ignore[arg-type]
        return self._pack(*row)


class Predictor:
    """A loaded model: card, encoder and native scorer; for one thread."""

    def __init__(self, card: Card, native: bytes) -> None:
        self.card = card
        self.encoder = Encoder(card.signature)
        self._booster = NativeBooster(native)
        if self._booster.columns != len(card.signature.inputs):
            raise Corrupt(
                f"the card names {len(card.signature.inputs)} columns and the model takes {self._booster.columns}",
                code="model.width",
            )

    @property
    def signature(self) -> Signature:
        """What goes in and comes out."""
        return self.card.signature

    @property
    def score(self) -> Callable[[Sequence[bytes]], list[float]]:
        """Scores packed rows."""
        return self._booster.score

    def predict(self, matrix: Any) -> Any:
        """Scores of an (n_rows, n_columns) float64 array of codes and numbers: (n_rows,) float64."""
        return self._booster.predict(matrix)

    def predict_values(self, rows: Iterable[Sequence[Value]]) -> list[float]:
        """Scores of rows of plain values in the signature's order."""
        return self._booster.score([self.encoder.pack(row) for row in rows])


def load(paths: Mapping[str, Path], *, digest: str | None = None) -> Predictor:
    """Load a package from the local files of model.json and model.txt; `digest` is that of model.txt.

    Raises:
        Corrupt: a file is missing or does not hold what was stored.
    """
    try:
        card = decode_card(paths[CARD_FILE].read_bytes())
    except OSError as error:
        raise Corrupt(f"the package cannot be read: {error.strerror}", code="model.files", hint="lw fsck") from None
    return load_native(card, paths[NATIVE_FILE], digest)


def load_native(card: Card, native: Path, digest: str | None = None) -> Predictor:
    """Load a model from its card and the local file of its native text, checked against `digest`.

    Raises:
        Corrupt: the file is missing or does not hold what was stored.
    """
    try:
        text = native.read_bytes()
    except OSError as error:
        raise Corrupt(f"the package cannot be read: {error.strerror}", code="model.files", hint="lw fsck") from None
    if digest is not None and canonical.digest_bytes(text) != digest:
        raise Corrupt("the native model does not hold what was stored", code="model.corrupt", hint="lw fsck")
    return Predictor(card, text)


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

"""A model as a value that steps pass on, register and score with."""

from typing import Any

import msgspec

from loopwright.models.model import Card, read_card
from loopwright.models.runtime import Predictor, values_of


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a value: a name and the files of its package."""

    name: str
    files: dict[str, bytes]

    @property
    def card(self) -> Card:
        """The package's model.json.

        Raises:
            Corrupt: the file is missing or is no card.
        """
        return read_card(self.files)

    def predict(self, rows: Any) -> Any:
        """Scores of a frame (or of rows in the model's order), by the packaged file itself: (n_rows,) float64.

        Raises:
            Invalid: the frame lacks a column.
        """
        import numpy as np

        loaded = self.load()
        values = values_of(rows, loaded.signature) if hasattr(rows, "columns") else rows
        return np.array(loaded.predict_values(values), dtype=np.float64)

    def load(self) -> Predictor:
        """The packaged file, ready to score; for one thread."""
        card = self.card
        return Predictor(card, self.files.get(card.file, b""))

    def _repr_html_(self) -> str:
        from html import escape

        card = self.card
        inputs = "".join(f"<tr><td>{escape(f.name)}</td><td>{f.dtype}</td></tr>" for f in card.signature.inputs)
        head = f"<b>{escape(self.name)}</b> {card.flavour}, {card.task}, gives {card.signature.output}"
        return f"<div>{head}<table>{inputs}</table></div>"

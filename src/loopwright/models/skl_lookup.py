"""A step that stands for the encoders of a scikit-learn pipeline: the number of a level picks a row of a table.

Imported only while a model is packed; scikit-learn and skl2onnx are there then.
"""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin


class TableLookup(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """For each column a table with a row a level; the rows side by side, in the order of `places`."""

    def __init__(self, tables: list[Any] | None = None, places: list[int] | None = None) -> None:
        self.tables = tables
        self.places = places

    def fit(self, matrix: Any, target: Any = None) -> "TableLookup":
        """Nothing is learned here."""
        return self

    def transform(self, matrix: Any) -> Any:
        """The rows of the tables for numbers of levels."""
        codes = np.asarray(matrix).astype(np.int64)
        parts = [table[codes[:, place]] for place, table in enumerate(self.tables or [])]
        return np.concatenate(parts, axis=1)[:, self.places]


def register() -> None:
    """Tell skl2onnx how a lookup is written in ONNX."""
    from skl2onnx import update_registered_converter

    update_registered_converter(TableLookup, "LoopwrightTableLookup", _shape, _convert)


def _shape(operator: Any) -> None:
    found = operator.inputs[0].type.__class__([None, len(operator.raw_operator.places)])
    operator.outputs[0].type = found


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType

    lookup, source = operator.raw_operator, operator.inputs[0].full_name
    double = isinstance(operator.inputs[0].type, DoubleTensorType)
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT

    def name(word: str) -> str:
        return str(scope.get_unique_variable_name(word))

    def node(op: str, inputs: list[str], **attributes: Any) -> str:
        out = name("looked_up")
        container.add_node(op, inputs, out, name=scope.get_unique_operator_name(op), op_version=13, **attributes)
        return out

    def weights(word: str, kind: int, values: Any) -> str:
        made, array = name(word), np.asarray(values)
        container.add_initializer(made, kind, list(array.shape), array.ravel().tolist())
        return made

    codes = node("Cast", [source], to=TensorProto.INT64)
    parts = []
    for place, table in enumerate(lookup.tables):
        column = node("Gather", [codes, weights("place", TensorProto.INT64, place)], axis=1)
        parts.append(node("Gather", [weights("table", kind, table), column], axis=0))
    beside = node("Concat", parts, axis=1) if len(parts) > 1 else parts[0]
    order = weights("places", TensorProto.INT64, lookup.places)
    container.add_node(
        "Gather", [beside, order], operator.outputs[0].full_name, name=scope.get_unique_operator_name("Gather"),
        op_version=13, axis=1,
    )  # fmt: skip

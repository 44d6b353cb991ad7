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


class ZeroIsMissing(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What XGBoost makes of a sparse matrix: an entry that is not stored, and a zero is not, has no value."""

    def fit(self, matrix: Any, target: Any = None) -> "ZeroIsMissing":
        """Nothing is learned here."""
        return self

    def transform(self, matrix: Any) -> Any:
        """The matrix with NaN for zero."""
        return np.where(matrix == 0, np.nan, matrix)


class ToFloat32(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What trees do with their input: they compare in float32, whatever was reckoned before them."""

    def fit(self, matrix: Any, target: Any = None) -> "ToFloat32":
        """Nothing is learned here."""
        return self

    def transform(self, matrix: Any) -> Any:
        """The matrix as float32."""
        return np.asarray(matrix, dtype=np.float32)


class FillGaps(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What SimpleImputer does with numbers, at either width: a value of its column for each NaN."""

    def __init__(self, values: list[float] | None = None) -> None:
        self.values = values

    def fit(self, matrix: Any, target: Any = None) -> "FillGaps":
        """Nothing is learned here."""
        return self

    def transform(self, matrix: Any) -> Any:
        """The matrix without NaN."""
        return np.where(np.isnan(matrix), np.asarray(self.values), matrix)


class Elementwise(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A FunctionTransformer of one of numpy's functions of a number."""

    def __init__(self, function: str = "log") -> None:
        self.function = function

    def fit(self, matrix: Any, target: Any = None) -> "Elementwise":
        """Nothing is learned here."""
        return self

    def transform(self, matrix: Any) -> Any:
        """The function of each number."""
        return getattr(np, self.function)(matrix)


# numpy's function -> ONNX's operator, and what is added before and after it.
FUNCTIONS: dict[str, tuple[str, float, float]] = {
    "log": ("Log", 0.0, 0.0), "log1p": ("Log", 1.0, 0.0), "exp": ("Exp", 0.0, 0.0), "expm1": ("Exp", 0.0, -1.0),
    "sqrt": ("Sqrt", 0.0, 0.0), "absolute": ("Abs", 0.0, 0.0), "sin": ("Sin", 0.0, 0.0), "cos": ("Cos", 0.0, 0.0),
}  # fmt: skip


def register() -> None:
    """Tell skl2onnx how these are written in ONNX."""
    from skl2onnx import update_registered_converter

    update_registered_converter(TableLookup, "LoopwrightTableLookup", _shape, _convert)
    update_registered_converter(ZeroIsMissing, "LoopwrightZeroIsMissing", _same_shape, _convert_zero)
    update_registered_converter(ToFloat32, "LoopwrightToFloat32", _float_shape, _convert_float)
    update_registered_converter(FillGaps, "LoopwrightFillGaps", _same_shape, _convert_gaps)
    update_registered_converter(Elementwise, "LoopwrightElementwise", _same_shape, _convert_function)


def _shape(operator: Any) -> None:
    found = operator.inputs[0].type.__class__([None, len(operator.raw_operator.places)])
    operator.outputs[0].type = found


def _same_shape(operator: Any) -> None:
    found = operator.inputs[0].type
    operator.outputs[0].type = found.__class__([None, found.shape[1]])


def _float_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import FloatTensorType

    operator.outputs[0].type = FloatTensorType([None, operator.inputs[0].type.shape[1]])


def _convert_float(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto

    source, target = operator.inputs[0].full_name, operator.outputs[0].full_name
    name = scope.get_unique_operator_name("Cast")
    container.add_node("Cast", [source], target, name=name, op_version=13, to=TensorProto.FLOAT)


def _convert_gaps(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType

    source, target = operator.inputs[0].full_name, operator.outputs[0].full_name
    kind = TensorProto.DOUBLE if isinstance(operator.inputs[0].type, DoubleTensorType) else TensorProto.FLOAT
    values, found = (scope.get_unique_variable_name(word) for word in ("values", "is_gap"))
    container.add_initializer(values, kind, [1, len(operator.raw_operator.values)], operator.raw_operator.values)
    container.add_node("IsNaN", [source], found, name=scope.get_unique_operator_name("IsNaN"), op_version=13)
    name = scope.get_unique_operator_name("Where")
    container.add_node("Where", [found, values, source], target, name=name, op_version=9)


def _convert_function(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType

    kind = TensorProto.DOUBLE if isinstance(operator.inputs[0].type, DoubleTensorType) else TensorProto.FLOAT
    op, before, after = FUNCTIONS[operator.raw_operator.function]
    steps: list[tuple[str, float | None]] = [("Add", before), (op, None), ("Add", after)]
    value = operator.inputs[0].full_name
    for name, number in steps:
        if number == 0:
            continue
        inputs, out = [value], scope.get_unique_variable_name("value")
        if number is not None:
            inputs.append(scope.get_unique_variable_name("number"))
            container.add_initializer(inputs[1], kind, [1], [number])
        version = 13 if number is None else 14
        container.add_node(name, inputs, out, name=scope.get_unique_operator_name(name), op_version=version)
        value = out
    name = scope.get_unique_operator_name("Identity")
    container.add_node("Identity", [value], operator.outputs[0].full_name, name=name, op_version=14)


def _convert_zero(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType

    source, target = operator.inputs[0].full_name, operator.outputs[0].full_name
    kind = TensorProto.DOUBLE if isinstance(operator.inputs[0].type, DoubleTensorType) else TensorProto.FLOAT
    zero, gap, found = (scope.get_unique_variable_name(word) for word in ("zero", "gap", "is_zero"))
    container.add_initializer(zero, kind, [1], [0.0])
    container.add_initializer(gap, kind, [1], [float("nan")])
    container.add_node("Equal", [source, zero], found, name=scope.get_unique_operator_name("Equal"), op_version=13)
    container.add_node(
        "Where", [found, gap, source], target, name=scope.get_unique_operator_name("Where"), op_version=9
    )


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

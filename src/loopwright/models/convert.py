"""Conversion of fitted models to ONNX: one matrix of numbers in, one value or two probabilities a row out.

Imports onnx and its converters (extra `onnx`) only when something is converted; equal models give equal bytes.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loopwright.kernel.errors import Unsupported
from loopwright.models.fitted import Width

INPUT = "X"
# The newest of both that the converters of all three libraries write.
_OPSET, _ML_OPSET = 18, 3
_BOOSTER_OPSET = 15
# The converters are patched while they work, so they work one at a time.
_ONE = threading.Lock()


def require() -> None:
    """Check that the converters are installed.

    Raises:
        Unsupported: they are not.
    """
    try:
        import onnx  # noqa: F401
        import onnxmltools  # noqa: F401
        import onnxruntime  # noqa: F401
        import skl2onnx  # noqa: F401
    except ImportError as error:
        raise Unsupported(
            f"this model is packed as ONNX, and {error.name} is not installed",
            code="model.library",
            extra="onnx",
            hint="pip install 'loopwright[onnx]'",
        ) from None


def boosted(flavour: str, booster: Any, columns: int, width: Width) -> bytes:
    """A LightGBM or XGBoost booster as ONNX.

    Raises:
        Unsupported: the converter does not know it, or is not installed.
    """
    require()
    if width != "float32":
        raise Unsupported("the converter of boosters takes float32 only", code="model.convert", field="fitted")
    from onnxmltools.convert import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    make = convert_lightgbm if flavour == "lightgbm" else convert_xgboost
    types = [(INPUT, FloatTensorType([None, columns]))]
    options = {"zipmap": False} if flavour == "lightgbm" else {}
    with _converting(flavour):
        made = make(booster, name="model", initial_types=types, target_opset=_BOOSTER_OPSET, **options)
    return tidy(made)


def scikit(model: Any, columns: int, width: Width) -> bytes:
    """A fitted scikit-learn estimator or pipeline over a matrix as ONNX.

    Raises:
        Unsupported: the converter does not know a part of it, or is not installed.
    """
    require()
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    from loopwright.models import skl_lookup

    skl_lookup.register()
    _register_boosters(model)
    kind = FloatTensorType if width == "float32" else DoubleTensorType
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    with _converting("scikit-learn"):
        made = convert_sklearn(
            model,
            name="model",
            initial_types=[(INPUT, kind([None, columns]))],
            target_opset={"": _OPSET, "ai.onnx.ml": _ML_OPSET},
            options=options,
        )
    return tidy(made)


def _register_boosters(model: Any) -> None:
    """Tell skl2onnx of boosters that stand at the end of a pipeline."""
    last = type(model.steps[-1][1] if hasattr(model, "steps") else model)
    package = last.__module__.split(".")[0]
    if package not in ("lightgbm", "xgboost"):
        return
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    if package == "lightgbm":
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm as make
    else:
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as make
    classifier = hasattr(last, "predict_proba")
    shapes = calculate_linear_classifier_output_shapes if classifier else calculate_linear_regressor_output_shapes
    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifier else {}
    if package == "lightgbm":
        options["split"] = None
    update_registered_converter(last, f"{package}{last.__name__}", shapes, make, options=options)


@contextmanager
def _converting(what: str) -> Iterator[None]:
    """Run a converter: one at a time, quietly, its errors told as one of ours."""
    from skl2onnx.common import _container

    make_node = _container.make_node

    def make(kind: str, *places: Any, **attributes: Any) -> Any:
        # Newer protobuf takes no numpy scalars where it wants whole numbers, and the converter writes such.
        return make_node(kind, *places, **{name: _plain(value) for name, value in attributes.items()})

    with _ONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _container.make_node = make
        try:
            yield
        except Unsupported:
            raise
        except Exception as error:  # converters throw whatever they stumble over
            said = " ".join(str(error).split())[:200]
            message = f"{what} to ONNX: {type(error).__name__}: {said}"
            raise Unsupported(message, code="model.convert", field="fitted") from error
        finally:
            _container.make_node = make_node


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple) and any(isinstance(item, bool | np.generic) for item in value):
        return [int(item) if isinstance(item, bool | np.bool_ | np.integer) else _item(item) for item in value]
    return value


def _item(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def tidy(made: Any) -> bytes:
    """The bytes of a model with its scores as the only output, and without who made it when.

    Raises:
        Unsupported: it has no output of one value a row.
    """
    from onnx import helper

    graph = made.graph
    wanted = graph.output[-1]  # probabilities come after the label; a regressor has one output
    del graph.output[:]
    graph.output.append(wanted)
    # The converter takes the input's width for the output's, and trees give float32 whatever they are given.
    graph.output[0].type.Clear()
    needed, kept = {wanted.name}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.value_info[:]
    used = {node.domain for node in graph.node} | {""}
    opsets = {(entry.domain, entry.version) for entry in made.opset_import if entry.domain in used}
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(opsets))
    made.producer_name, made.producer_version, made.domain, made.doc_string = "loopwright", "", "", ""
    made.model_version = 0
    graph.name, graph.doc_string = "model", ""
    del made.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    return bytes(made.SerializeToString(deterministic=True))

"""ONNX files that a worker must not load are refused before anything of them is run."""

import contextlib
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from loopwright.kernel.errors import Corrupt, LoopwrightError, Unsupported
from loopwright.models import onnx_safe
from loopwright.models.model import Runtime
from loopwright.models.onnx_scorer import OnnxScorer


def made(*nodes: Any, initializers: Any = (), domains: Any = ("",), **more: Any) -> onnx.ModelProto:
    """A model of one matrix and one output."""
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("ReduceSum", ["X"], ["Y"], keepdims=0, axes=None)],
        "model",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(d, 13) for d in domains], ir_version=8, **more)


def branch(inner: Any) -> Any:
    """A graph within a graph."""
    graph = helper.make_graph([inner], "inner", [], [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)])
    return helper.make_node("If", ["C"], ["Y"], then_branch=graph, else_branch=graph)


def outside() -> Any:
    """A weight that lies in a file."""
    tensor = helper.make_tensor("W", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return tensor


def test_a_plain_model_is_taken_and_scores() -> None:
    flat = made(helper.make_node("Gather", ["X", "I"], ["Y"], axis=1), initializers=[
        helper.make_tensor("I", TensorProto.INT64, [], [2])
    ])  # fmt: skip
    onnx_safe.check(flat.SerializeToString())
    scorer = OnnxScorer(flat.SerializeToString(), Runtime(engine="onnx", width="float32"), 3)
    rows = [np.array(row, dtype=np.float64).tobytes() for row in ([1, 2, 3], [4, 5, 6])]
    assert scorer.score(rows) == [3.0, 6.0]
    with pytest.raises(LoopwrightError):
        scorer.score([rows[0][:-8]])
    with pytest.raises(Corrupt, match="names 4 columns"):
        OnnxScorer(flat.SerializeToString(), Runtime(engine="onnx", width="float32"), 4)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (made(helper.make_node("Run", ["X"], ["Y"], domain="com.evil")), "com.evil"),
        (made(domains=("", "com.microsoft")), "com.microsoft"),
        (made(branch(helper.make_node("Run", [], ["Y"], domain="com.evil"))), "com.evil"),
        (made(initializers=[outside()]), "outside the file"),
        (made(branch(helper.make_node("Constant", [], ["Y"], value=outside()))), "outside the file"),
        (made(functions=[helper.make_function("f", "F", ["a"], ["b"], [], [])]), "functions"),
    ],
)
def test_what_reaches_outside_is_refused(bad: Any, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        onnx_safe.check(bad.SerializeToString())


def test_what_is_no_model_is_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"", b"\0", b"tree\nversion=v4", made().SerializeToString()[:-3]):
        with pytest.raises(Corrupt):
            onnx_safe.check(data)
    monkeypatch.setattr(onnx_safe, "MAX_BYTES", 10)
    with pytest.raises(Unsupported, match="at most"):
        onnx_safe.check(made().SerializeToString())


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 200), more=st.binary(max_size=6))
def test_no_bytes_break_the_check(cut: int, more: bytes) -> None:
    data = made(branch(helper.make_node("Constant", [], ["Y"], value=outside()))).SerializeToString()
    with contextlib.suppress(LoopwrightError):
        onnx_safe.check(data[:cut] + more + data[cut + len(more) :])

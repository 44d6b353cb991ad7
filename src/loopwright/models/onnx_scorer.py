"""Scores packed rows by onnxruntime, on one thread; imported only where such a model is served or packed."""

from collections.abc import Sequence
from typing import Any

from loopwright.kernel.errors import Corrupt, Invalid, Unsupported
from loopwright.models import onnx_safe
from loopwright.models.model import Runtime


class OnnxScorer:
    """An ONNX model in memory: one matrix in, a value or two classes' probabilities a row out."""

    def __init__(self, data: bytes, runtime: Runtime, columns: int) -> None:
        """Check the file and make a session of it.

        Raises:
            Corrupt: it is no ONNX model of one matrix of that many columns.
            Unsupported: it holds what is not served, or onnxruntime is not installed.
        """
        onnx_safe.check(data)
        try:
            import numpy as np
            import onnxruntime as ort
        except ImportError:
            message = "this model is scored by onnxruntime, which is not installed"
            hint = "pip install 'loopwright[onnx]'"
            raise Unsupported(message, code="model.library", extra="onnx", hint=hint) from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # An arena would keep the memory of the largest batch for ever.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common class but this
            said = " ".join(str(error).split())[:300]
            raise Corrupt(f"onnxruntime could not read the model: {said}", code="model.onnx", hint="lw fsck") from None
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 2:
            raise Corrupt("the ONNX model is not one of a matrix and one output", code="model.onnx", hint="lw fsck")
        self.columns = columns
        if inputs[0].shape[1] != columns:
            raise Corrupt(
                f"the card names {columns} columns and the model takes {inputs[0].shape[1]}", code="model.width"
            )
        self._single = not runtime.together
        self._input, self._output = inputs[0].name, [outputs[0].name]
        self._session = session
        # The session's own call, without the wrapper that checks the names anew each time.
        self._run = session._sess.run
        self._type = np.dtype(runtime.width)
        self._from, self._float64 = np.frombuffer, np.float64

    def score(self, rows: Sequence[bytes]) -> list[float]:
        """The score of each packed row.

        Raises:
            Invalid: a row has not the model's width.
            Corrupt: onnxruntime refused.
        """
        if self._single and len(rows) > 1:
            return [self.score([row])[0] for row in rows]
        data = rows[0] if len(rows) == 1 else b"".join(rows)
        if len(data) != 8 * len(rows) * self.columns:
            raise Invalid(f"the model takes {self.columns} columns", code="model.width")
        matrix = self._from(data, self._float64).reshape(len(rows), self.columns).astype(self._type)
        try:
            (out,) = self._run(self._output, {self._input: matrix}, None)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common class but this
            said = " ".join(str(error).split())[:300]
            raise Corrupt(f"onnxruntime could not score: {said}", code="model.onnx") from None
        return _last_column(out)


def _last_column(out: Any) -> list[float]:
    """One value a row: the only one, or the probability of class 1."""
    found: list[float] = (out if out.ndim == 1 else out[:, -1]).tolist()
    return found

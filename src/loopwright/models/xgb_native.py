"""XGBoost's own predictor, called through its C library: the worker never imports the xgboost package.

A row is its float64 values packed as bytes, taken as float32 as XGBoost does; one score comes out a row.
"""

import ctypes
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from loopwright.kernel.errors import Corrupt, Invalid, Unsupported
from loopwright.models import c_library

_HANDLE = ctypes.c_void_p
_HOW = json.dumps(
    {"type": 0, "training": False, "iteration_begin": 0, "iteration_end": 0, "missing": float("nan"),
     "strict_shape": False, "cache_id": 0}
).encode()  # fmt: skip


_TEXT, _SIZE, _OUT = ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER
_SIGNATURES: dict[str, list[Any]] = {
    "XGBoosterCreate": [_HANDLE, _SIZE, _OUT(_HANDLE)],
    "XGBoosterFree": [_HANDLE],
    "XGBoosterSetParam": [_HANDLE, _TEXT, _TEXT],
    "XGBoosterLoadModelFromBuffer": [_HANDLE, _TEXT, _SIZE],
    "XGBoosterGetNumFeature": [_HANDLE, _OUT(_SIZE)],
    "XGBoosterPredictFromDense": [
        *(_HANDLE, _TEXT, _TEXT, _HANDLE, _OUT(_OUT(_SIZE)), _OUT(_SIZE), _OUT(_OUT(ctypes.c_float))),
    ],
}


@cache
def library() -> ctypes.CDLL:
    """The C library inside the installed xgboost distribution.

    Raises:
        Unsupported: it is not installed.
    """
    lib = c_library.load("xgboost", "libxgboost", _SIGNATURES)
    if lib is None:
        message = "this model needs XGBoost, which is not installed"
        raise Unsupported(message, code="model.library", extra="xgboost", hint="pip install xgboost")
    lib.XGBGetLastError.restype = _TEXT
    return lib


class XgbBooster:
    """An XGBoost model in memory, for one thread."""

    def __init__(self, ubj: bytes) -> None:
        """Load the model from UBJSON, XGBoost's own binary form.

        Raises:
            Corrupt: XGBoost cannot read it.
            Unsupported: XGBoost is not installed.
        """
        self._lib = library()
        self._booster = _HANDLE()
        # Where the text should be an object, XGBoost takes anything for its older form, which is no data alone.
        if not ubj.startswith(b"{"):
            raise Corrupt("the package's file is no XGBoost model", code="model.native", hint="lw fsck")
        self._check(self._lib.XGBoosterCreate(None, 0, ctypes.byref(self._booster)), "start")
        self._check(self._lib.XGBoosterSetParam(self._booster, b"nthread", b"1"), "prepare the model")
        self._check(self._lib.XGBoosterLoadModelFromBuffer(self._booster, ubj, len(ubj)), "read the model")
        self._check(self._lib.XGBoosterSetParam(self._booster, b"nthread", b"1"), "prepare the model")
        columns = ctypes.c_uint64()
        self._check(self._lib.XGBoosterGetNumFeature(self._booster, ctypes.byref(columns)), "ask the model")
        self.columns = columns.value

    def _check(self, code: int, what: str) -> None:
        if code != 0:
            reason = self._lib.XGBGetLastError().decode("utf-8", "replace").strip().splitlines()
            said = next((line for line in reason if line), "")[:300]
            raise Corrupt(f"XGBoost could not {what}: {said}", code="model.native", hint="lw fsck")

    def score(self, rows: Sequence[bytes]) -> list[float]:
        """The score of each packed row.

        Raises:
            Invalid: a row has not the model's width.
            Corrupt: XGBoost refused.
        """
        count, data = len(rows), b"".join(rows)
        if len(data) != 8 * count * self.columns:
            raise Invalid(f"the model takes {self.columns} columns", code="model.width")
        where = ctypes.cast(ctypes.c_char_p(data), _HANDLE).value or 0
        matrix = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f8","version":3}' % (where, count, self.columns)
        shape, dims = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        out = ctypes.POINTER(ctypes.c_float)()
        code = self._lib.XGBoosterPredictFromDense(
            *(self._booster, matrix, _HOW, None, ctypes.byref(shape), ctypes.byref(dims), ctypes.byref(out))
        )
        self._check(code, "score the rows")
        found = 1
        for axis in range(dims.value):
            found *= shape[axis]
        if found != count:
            raise Unsupported("models with one score a row can be served; this one has a score a class")
        return out[:count]

    def __del__(self) -> None:
        if getattr(self, "_booster", None):
            self._lib.XGBoosterFree(self._booster)

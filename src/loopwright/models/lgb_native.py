"""LightGBM's own predictor, called through its C library: the worker never imports the lightgbm package.

A row is its float64 values packed as bytes; one score comes out a row, the same whatever other rows go with it.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

from loopwright.kernel.errors import Corrupt, Invalid, Unsupported
from loopwright.models import c_library

_FLOAT64 = 1
_NORMAL = 0
_ALL_TREES = -1
_PARAMETERS = b"num_threads=1"
# From here on one call for the whole matrix beats one call a row.
_MATRIX_FROM_ROWS = 24


_POINTER, _NUMBER, _OUT = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
_SIGNATURES: dict[str, list[Any]] = {
    "LGBM_BoosterLoadModelFromString": [ctypes.c_char_p, _OUT, ctypes.POINTER(_POINTER)],
    "LGBM_BoosterFree": [_POINTER],
    "LGBM_BoosterGetNumFeature": [_POINTER, _OUT],
    "LGBM_BoosterGetNumClasses": [_POINTER, _OUT],
    "LGBM_BoosterPredictForMatSingleRowFastInit": [
        *(_POINTER, _NUMBER, _NUMBER, _NUMBER, _NUMBER, ctypes.c_int32, ctypes.c_char_p, ctypes.POINTER(_POINTER)),
    ],
    "LGBM_BoosterPredictForMatSingleRowFast": [_POINTER, _POINTER, _POINTER, _POINTER],
    "LGBM_FastConfigFree": [_POINTER],
    "LGBM_BoosterPredictForMat": [
        *(_POINTER, _POINTER, _NUMBER, ctypes.c_int32, ctypes.c_int32, _NUMBER, _NUMBER, _NUMBER, _NUMBER),
        *(ctypes.c_char_p, _POINTER, _POINTER),
    ],
}


@cache
def library() -> ctypes.CDLL:
    """The C library inside the installed lightgbm distribution.

    Raises:
        Unsupported: it is not installed.
    """
    lib = c_library.load("lightgbm", "lib_lightgbm", _SIGNATURES)
    if lib is None:
        raise Unsupported(
            "this model needs LightGBM, which is not installed",
            code="model.library",
            extra="demo",
            hint="pip install 'loopwright[demo]'",
        )
    lib.LGBM_GetLastError.restype = ctypes.c_char_p
    return lib


class LgbBooster:
    """A LightGBM model in memory, for one thread."""

    def __init__(self, text: bytes) -> None:
        """Load the model's text.

        Raises:
            Corrupt: LightGBM cannot read it.
            Unsupported: it gives more than one number a row, or LightGBM is not installed.
        """
        self._lib = library()
        self._booster, self._fast = ctypes.c_void_p(), ctypes.c_void_p()
        trees = ctypes.c_int()
        # LightGBM ends the process on some texts that are cut short; so the end of its text is looked for first.
        if not text.startswith(b"tree") or b"\nend of trees" not in text or b"\0" in text:
            raise Corrupt("the package's file is no whole LightGBM model", code="model.native", hint="lw fsck")
        self._check(
            self._lib.LGBM_BoosterLoadModelFromString(text, ctypes.byref(trees), ctypes.byref(self._booster)),
            "read the model",
        )
        self.columns = self._number("LGBM_BoosterGetNumFeature")
        if self._number("LGBM_BoosterGetNumClasses") != 1:
            raise Unsupported("models with one score a row can be served; this one has a score a class")
        code = self._lib.LGBM_BoosterPredictForMatSingleRowFastInit(
            *(self._booster, _NORMAL, 0, _ALL_TREES, _FLOAT64, self.columns, _PARAMETERS, ctypes.byref(self._fast))
        )
        self._check(code, "prepare the model")
        self._score = ctypes.c_double()
        self._length = ctypes.c_int64()
        # The same four pointers go into every call, so they are made once.
        self._call = self._lib.LGBM_BoosterPredictForMatSingleRowFast
        self._pointers = (self._fast.value, ctypes.addressof(self._length), ctypes.addressof(self._score))
        self._row_bytes = 8 * self.columns

    def _number(self, function: str) -> int:
        out = ctypes.c_int()
        self._check(getattr(self._lib, function)(self._booster, ctypes.byref(out)), "ask the model")
        return out.value

    def _check(self, code: int, what: str) -> None:
        if code != 0:
            reason = self._lib.LGBM_GetLastError().decode("utf-8", "replace")[:300]
            raise Corrupt(f"LightGBM could not {what}: {reason}", code="model.native", hint="lw fsck")

    def score(self, rows: Sequence[bytes]) -> list[float]:
        """The score of each packed row.

        Raises:
            Invalid: a row has not the model's width.
            Corrupt: LightGBM refused.
        """
        if len(rows) >= _MATRIX_FROM_ROWS:
            return list(self._matrix(b"".join(rows), len(rows)))
        fast, length, score = self._pointers
        call, cell, wide, out = self._call, self._score, self._row_bytes, []
        for row in rows:
            if len(row) != wide:
                raise Invalid(f"the model takes {self.columns} columns, not {len(row) // 8}", code="model.width")
            self._check(call(fast, row, length, score), "score a row")
            out.append(cell.value)
        return out

    def _matrix(self, data: bytes, rows: int) -> "ctypes.Array[ctypes.c_double]":
        if len(data) != rows * self._row_bytes:
            raise Invalid(f"the model takes {self.columns} columns", code="model.width")
        out, length = (ctypes.c_double * rows)(), ctypes.c_int64()
        code = self._lib.LGBM_BoosterPredictForMat(
            *(self._booster, data, _FLOAT64, rows, self.columns, 1, _NORMAL, 0, _ALL_TREES),
            *(_PARAMETERS, ctypes.byref(length), out),
        )
        self._check(code, "score the rows")
        return out

    def __del__(self) -> None:
        if getattr(self, "_fast", None):
            self._lib.LGBM_FastConfigFree(self._fast)
        if getattr(self, "_booster", None):
            self._lib.LGBM_BoosterFree(self._booster)

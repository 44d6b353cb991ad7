"""C libraries that the wheels of frameworks bring, loaded without importing the framework itself."""

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def load(package: str, stem: str, signatures: Mapping[str, Sequence[Any]]) -> ctypes.CDLL | None:
    """The library of an installed package, with the argument types of its functions said; None when there is none."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for name in (f"{stem}.so", f"{stem}.dylib"):
            for path in (Path(place) / "lib" / name, Path(place) / name):
                if path.is_file():
                    lib = ctypes.CDLL(str(path))
                    for function, arguments in signatures.items():
                        getattr(lib, function).argtypes = arguments
                    return lib
    return None

"""Data sources by version, and features joined by the time a value became known.

The room has the name of the function that declares a source; so the package itself can be called: `lw.data(...)`.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, path: str, **options: Any) -> Any:
        from loopwright.data.declare import data

        return data(path, **options)


sys.modules[__name__].__class__ = _Room

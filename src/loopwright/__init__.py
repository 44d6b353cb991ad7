"""loopwright: one tool that closes the machine-learning lifecycle as a loop.

Names are resolved on first use, so that `import loopwright` costs next to nothing.
"""

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "data": "data.declare",
    "features": "data.declare",
    "asof": "data.declare",
    "lookup": "data.declare",
    "window": "data.declare",
    "step": "pipelines.step",
    "log": "runs.current",
    "log_file": "runs.current",
    "model": "models.package",
    "load": "models.registered",
    "gate": "releases.declare",
    "floor": "releases.declare",
    "better": "releases.declare",
    "known_in_time": "releases.declare",
    "fast": "releases.declare",
    "slices": "releases.declare",
    "warm": "releases.declare",
    "endpoint": "project.declare",
    "run": "project.run",
    "predictions": "serving.predictions",
    "connect": "house",
}
__all__ = sorted(_NAMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    module = _NAMES.get(name)
    if module is None:
        raise AttributeError(f"module 'loopwright' has no attribute {name!r}")
    import_module("loopwright.house")
    value = getattr(import_module(f"loopwright.{module}"), name)
    value = sys.modules.get(f"loopwright.{name}", value)  # a room of that name can itself be called
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_NAMES, "__version__"])

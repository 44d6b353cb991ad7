"""The environment of a step: Python, and the versions of the distributions that the project's files import.

Read from the names of the installed `*.dist-info` folders, which costs a listing and imports nothing.
"""

import os
import platform
import sys
from collections.abc import Iterable
from functools import cache

from loopwright.pipelines.sources import find, is_project


def environment(modules: Iterable[str]) -> dict[str, str]:
    """Versions by distribution (`python` among them) for the top-level modules that the project imports."""
    found = {"python": platform.python_version()}
    for module in modules:
        named = distribution(module)
        if named is not None:
            found[named[0]] = named[1]
    return dict(sorted(found.items()))


@cache
def distribution(module: str) -> tuple[str, str] | None:
    """The distribution that a top-level module comes from and its version; None for Python's and the project's own."""
    if module in sys.builtin_module_names:
        return None
    live = sys.modules.get(module)
    path = getattr(live, "__file__", None) or find(module)
    if module == "loopwright":
        return "loopwright", _ours()
    if path is None:
        own = live is not None or module in sys.stdlib_module_names
        return None if own else (module, "missing")
    if is_project(path):
        return None
    for folder in _installed_in(path):
        found = _listing(folder).get(_normal(module)) or _by_contents(folder, module)
        if found is not None:
            return found
    return None


def _ours() -> str:
    from loopwright import __version__

    return __version__


def _installed_in(path: str) -> list[str]:
    for mark in ("site-packages", "dist-packages"):
        head, found, _ = path.rpartition(f"{os.sep}{mark}{os.sep}")
        if found:
            return [f"{head}{os.sep}{mark}"]
    return []


def _normal(name: str) -> str:
    return name.replace("-", "_").replace(".", "_").lower()


@cache
def _listing(folder: str) -> dict[str, tuple[str, str]]:
    """Distributions of a folder by normal name: (name, version)."""
    found = {}
    for entry in sorted(os.listdir(folder)):
        stem, dot, kind = entry.rpartition(".")
        if dot and kind == "dist-info":
            name, _, version = stem.partition("-")
            found[_normal(name)] = (name, version)
    return found


@cache
def _by_contents(folder: str, module: str) -> tuple[str, str] | None:
    """The distribution whose list of files holds the module: the names differ, as scikit-learn's and sklearn's do."""
    for name, version in _listing(folder).values():
        info = os.path.join(folder, f"{name}-{version}.dist-info")
        try:
            with open(os.path.join(info, "RECORD"), encoding="utf-8") as stream:
                held = any(line.startswith((f"{module}/", f"{module}.")) for line in stream)
        except OSError:
            continue
        if held:
            return name, version
    return None

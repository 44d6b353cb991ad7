"""The environment of a step: Python, the distributions that the project's files import, the machine and the seeds.

Read from the names of the installed `*.dist-info` folders, which costs a listing and imports nothing; what the
distributions need in turn, the machine and the seeds are told apart from them and read for a record alone.
"""

import contextlib
import hashlib
import os
import platform
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
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


_NEED = re.compile(r"\s*([A-Za-z0-9._-]+)")
MACHINE, SEED = ("cpu:", "platform"), "seed:"
_fixed: dict[str, int] = {}


def needed(direct: Mapping[str, str]) -> dict[str, str]:
    """Versions of distributions, with those that they need in turn, as far as they are installed here."""
    found, todo = dict(direct), [name for name in direct if name != "python"]
    while todo:
        for name, version in _needs(todo.pop()):
            if not any(_normal(name) == _normal(known) for known in found):
                found[name] = version
                todo.append(name)
    return dict(sorted(found.items()))


@cache
def _needs(name: str) -> tuple[tuple[str, str], ...]:
    from importlib import metadata

    try:
        asked = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return ()
    out = []
    for line in asked:
        match = _NEED.match(line)
        with contextlib.suppress(metadata.PackageNotFoundError):
            if match is not None and "extra" not in line.partition(";")[2]:
                found = metadata.distribution(match[1])
                out.append((found.metadata["Name"], found.version))
    return tuple(out)


def machine() -> dict[str, str]:
    """What of this machine can change a float's last bit: its processor, and how many threads may run."""
    about = os.uname()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"platform": f"{about.sysname} {about.machine}", "cpu:threads": str(threads), **_processor()}


@cache
def _processor() -> dict[str, str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            lines = dict(line.split(":", 1) for line in stream.read().split("\n\n")[0].splitlines() if ":" in line)
    except OSError:
        return {"cpu:model": platform.processor() or "unknown"}
    told = {name.strip().lower(): value.strip() for name, value in lines.items()}
    flags = " ".join(sorted((told.get("flags") or told.get("features") or "").split()))
    digest = hashlib.blake2b(flags.encode(), digest_size=6).hexdigest()
    return {"cpu:model": told.get("model name", _numbered(told)), "cpu:flags": digest}


def _numbered(told: Mapping[str, str]) -> str:
    return " ".join(told.get(name, "") for name in ("cpu implementer", "cpu part")).strip() or "unknown"


def fix_seeds(seeds: Mapping[str, int]) -> None:
    """Let steps start from the seeds of runs that are done again, by the names of the steps."""
    _fixed.clear()
    _fixed.update(seeds)


def seeds(step: str, key: str) -> dict[str, str]:
    """What a step's randomness starts from where its code names no seed: the same for the same key."""
    start = _fixed.get(step, int(key[:8], 16))
    return {f"{SEED}hash": os.environ.get("PYTHONHASHSEED", "random"), f"{SEED}random": str(start)}


@contextlib.contextmanager
def seeded(start: int, *, arrays: bool) -> Iterator[None]:
    """Inside, the global generators of `random` and numpy start from a number; then they are as they were."""
    before = random.getstate()
    random.seed(start)
    if not arrays and "numpy" not in sys.modules:
        try:
            yield
        finally:
            random.setstate(before)
        return
    import numpy

    kept = numpy.random.get_state()
    numpy.random.seed(start)
    try:
        yield
    finally:
        random.setstate(before)
        numpy.random.set_state(kept)

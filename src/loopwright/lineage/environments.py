"""Environments: where steps are run again: under this Python as it is, or with the recorded distributions before it.

A folder of distributions is made by pip, once, under .loopwright/envs; pip's own settings say from where they come.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import msgspec

from loopwright.kernel import canonical
from loopwright.kernel.errors import Unavailable
from loopwright.pipelines.environment import MACHINE, SEED
from loopwright.runs.model import Run
from loopwright.store.space import Space

FOLDER, OWN = "envs", "loopwright"
_DISTRIBUTION, _VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"), re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An interpreter, the folders that stand before its own, and what that is in words."""

    python: str
    paths: list[str]
    what: str


def here(run: Run) -> Place:
    """This Python as it is."""
    return Place(python=sys.executable, paths=[], what=f"this Python ({_python()}) as it is")


def built(space: Space, run: Run) -> Place:
    """The recorded environment: this one where nothing differs, else made of the recorded versions.

    Raises:
        Unavailable: the recorded Python is not installed, or pip cannot get a version.
    """
    wanted = {name: told for name, told in run.environment.items() if not name.startswith((*MACHINE, SEED))}
    then = wanted.pop("python", _python())
    wanted = {name: told for name, told in wanted.items() if told != "missing" and name != OWN}
    series = then.rpartition(".")[0]
    if series == _python().rpartition(".")[0]:
        differ = {name: told for name, told in wanted.items() if _installed(name) != told}
        if not differ:
            return Place(
                python=sys.executable, paths=[], what=f"this Python ({_python()}), which has what was recorded"
            )
        return Place(python=sys.executable, paths=[str(_made(space, differ, None))], what=_told(differ, _python()))
    python = shutil.which(f"python{series}")
    if python is None:
        message = f"the run was made by Python {then}, and no python{series} is installed"
        raise Unavailable(message, code="reproduce.python", hint="install it, or use --here")
    return Place(python=python, paths=[str(_made(space, wanted, series))], what=_told(wanted, then))


def _told(wanted: dict[str, str], python: str) -> str:
    return f"Python {python} with {', '.join(f'{name} {told}' for name, told in sorted(wanted.items()))}"


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _made(space: Space, wanted: dict[str, str], series: str | None) -> Path:
    """A folder with these distributions; another Python's holds loopwright as well."""
    for name, told in wanted.items():
        if not (_DISTRIBUTION.fullmatch(name) and _VERSION.fullmatch(told)):
            raise Unavailable(
                f"{name!r} {told!r} is no distribution that pip can get", code="reproduce.pip", hint="--here"
            )
    folder = space.home / FOLDER / canonical.digest([sorted(wanted.items()), series or _python()])[:32]
    ready = folder / "site-packages"  # by this name, as what is installed is told from a project's own files
    if ready.is_dir():
        return ready
    folder.parent.mkdir(exist_ok=True, mode=0o700)
    fresh = Path(tempfile.mkdtemp(dir=space.home / "tmp", prefix="env-"))
    try:
        _pip(fresh / "site-packages", wanted, series)
        if series is not None:
            os.symlink(Path(__file__).parents[1], fresh / "site-packages" / OWN)
        os.rename(fresh, folder)
    except OSError:
        if not ready.is_dir():  # made by another process meanwhile
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return ready


def _pip(target: Path, wanted: dict[str, str], series: str | None) -> None:
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    words += ["--target", str(target)]
    words += [] if series is None else ["--python-version", series, "--only-binary=:all:"]
    words += [f"{name}=={told}" for name, told in sorted(wanted.items())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        message = f"pip cannot build the recorded environment: {lines[-1] if lines else done.returncode}"
        raise Unavailable(message, code="reproduce.pip", hint="lw reproduce REF --here")

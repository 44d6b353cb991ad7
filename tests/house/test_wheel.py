"""The wheel holds the package, all of it and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import house_rules as rules
import pytest


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    ran = subprocess.run(command, cwd=rules.ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    [built] = Path(folder).glob("*.whl")
    return zipfile.ZipFile(built)


def package_files() -> set[str]:
    src = rules.PACKAGE.parent
    places = (p.relative_to(src) for p in rules.PACKAGE.rglob("*") if p.is_file())
    shown = (p for p in places if not any(part == "__pycache__" or part.startswith(".") for part in p.parts))
    return {p.as_posix() for p in shown}


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    inside = {n for n in wheel.namelist() if n.startswith("loopwright/")}
    assert len(inside) > 40
    assert inside == package_files()


def test_wheel_carries_types_licence_and_the_demo(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "loopwright/py.typed" in names
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)
    assert any(n.startswith("loopwright/demos/flights/") and n.endswith(".py") for n in names)


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    others = {n.split("/")[0] for n in wheel.namelist()} - {"loopwright"}
    assert [n for n in others if not n.endswith(".dist-info")] == []


def test_wheel_offers_both_commands(wheel: zipfile.ZipFile) -> None:
    [name] = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    lines = wheel.read(name).decode().splitlines()
    assert "loopwright = loopwright.__main__:main" in lines
    assert "lw = loopwright.__main__:main" in lines

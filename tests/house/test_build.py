"""From a fresh clone to running tests: the pinned requirements cover the extras, and the verbs are there."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import house_rules as rules
import pytest
from packaging.requirements import Requirement

PINNED = re.compile(r"^(?P<line>[a-z0-9][^\\\n]*?) \\\n(?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.MULTILINE)


def pins(name: str) -> dict[str, list[Requirement]]:
    """Package -> its pins; a package may be pinned once for each range of Python versions."""
    text = (rules.ROOT / "requirements" / name).read_text()
    found: dict[str, list[Requirement]] = {}
    for match in PINNED.finditer(text):
        pin = Requirement(match["line"])
        found.setdefault(pin.name, []).append(pin)
    count = sum(1 for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line))
    assert count == sum(map(len, found.values())) > 5, "a line without a pin or without a hash"
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", ["dev.txt", "demo.txt", "build.txt"])
def test_every_line_is_one_version_with_hashes(name: str) -> None:
    for package, found in pins(name).items():
        for pin in found:
            assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), f"{package}: {pin.specifier}"


def wanted() -> list[Requirement]:
    project = tomllib.loads((rules.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(r) for r in [*project["dependencies"], *(need for extra in extras.values() for need in extra)]]


def test_pins_cover_the_base_and_the_extras() -> None:
    have = pins("dev.txt")
    assert len(wanted()) > 20
    for need in wanted():
        found = have.get(normal(need.name))
        assert found, f"{need} is not pinned: make pins"
        for pin in found:
            [spec] = pin.specifier
            assert spec.version in need.specifier, f"{pin} does not satisfy {need}: make pins"


def test_the_demo_runs_on_what_the_tests_run_on() -> None:
    have, some = pins("dev.txt"), pins("demo.txt")
    assert len(some) < len(have) / 2, "the demo needs a part of it only"
    for name, found in some.items():
        assert {str(pin.specifier) for pin in found} <= {str(pin.specifier) for pin in have[name]}, name


def test_build_pins_cover_the_build_backend() -> None:
    backend = tomllib.loads((rules.ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    have = pins("build.txt")
    for need in map(Requirement, backend):
        [pin] = have[normal(need.name)]
        [spec] = pin.specifier
        assert spec.version in need.specifier


def test_ci_is_make_test_with_its_exit_code(tmp_path: Path) -> None:
    script = rules.ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "$@" from "$PWD"\nexit 7\n')
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(["bash", str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 7
    assert ran.stdout.strip() == f"test from {rules.ROOT}"


@pytest.mark.parametrize("verb", ["env", "demo", "test", "lint", "bench", "promised", "test-faults"])
def test_make_knows_its_verbs(verb: str) -> None:
    ran = subprocess.run(["make", "-n", "-B", verb], cwd=rules.ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    needed = "demo.txt" if verb == "demo" else "dev.txt"
    assert f"--use-pep517 -r requirements/{needed}" in ran.stdout, "every verb builds the environment first"


SYSTEM = rules.ROOT / "requirements" / "system.sh"


def system(**env: str) -> subprocess.CompletedProcess[str]:
    wanted = {**os.environ, **env}
    return subprocess.run(["sh", str(SYSTEM), "tests"], env=wanted, capture_output=True, text=True, check=False)


def test_a_machine_that_has_all_is_left_alone(tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho installing >&2\nexit 1\n")
    apt.chmod(0o755)
    ran = system(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", PY=sys.executable)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_python_that_is_too_old_is_said(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    ran = system(PY=str(old))
    assert ran.returncode == 1
    assert "older than 3.11" in ran.stderr
    assert "no /nowhere/python found" in system(PY="/nowhere/python").stderr


@pytest.mark.parametrize("script", sorted((rules.ROOT / "requirements").glob("*.sh")), ids=lambda p: p.name)
def test_scripts_parse(script: Path) -> None:
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0

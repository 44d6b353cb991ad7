"""mypy strict and ruff are clean, on every file they should see."""

import re
import subprocess
import sys
import tomllib

import house_rules as rules


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=rules.ROOT, capture_output=True, text=True, check=False)


def test_mypy_is_strict_and_clean() -> None:
    config = tomllib.loads((rules.ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert config["strict"] is True
    ran = run("mypy")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    seen = re.search(r"no issues found in (\d+) source files", ran.stdout)
    assert seen is not None, ran.stdout
    assert int(seen.group(1)) == len(rules.package_sources()) > 40


def test_ruff_is_clean() -> None:
    ran = run("ruff", "check", ".")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    files = run("ruff", "check", "--show-files", ".").stdout.splitlines()
    seen = {f.removeprefix(f"{rules.ROOT}/") for f in files}
    assert {s.path for s in rules.package_sources()} <= seen


def test_ruff_bans_the_machine_clock_and_pickle() -> None:
    wrong = "import pickle\nimport time\nfrom datetime import datetime\n"
    wrong += "x = time.time(), pickle.dumps(1), datetime.now()\n"
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "src/loopwright/store/wrong.py", "-"]
    ran = subprocess.run(command, cwd=rules.ROOT, input=wrong, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    for banned in ("`time.time` is banned", "`pickle` is banned", "`datetime.datetime.now` is banned"):
        assert banned in ran.stdout, ran.stdout

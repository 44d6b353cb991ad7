"""Does loopwright live beside others? Each of them newest and loopwright's wheel in an environment of their own.

  .venv/bin/python bench/beside.py --json [OUT] [--only ID,..] [--list] [--quick]

Takes some minutes and, while it runs, some gigabytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import contract
from contract import Bar, Bench, Result, Row, stat

PEERS = {"mlflow": "mlflow", "airflow": "apache-airflow", "torch": "torch"}
ROWS = tuple(
    Row(f"beside.{name}", f"conflicts that `pip check` finds beside {package}", "", "lower", (Bar("==", 0),))
    for name, package in PEERS.items()
)


def _pip(python: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _wheel(folder: Path) -> Path:
    python = contract.VENV / "bin" / "python"
    made = _pip(python, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(contract.ROOT))
    if made.returncode:
        raise contract.CannotRun(f"the wheel cannot be built: {made.stderr.strip()[-300:]}")
    return next(folder.glob("loopwright-*.whl"))


def _conflicts(folder: Path, wheel: Path, package: str) -> tuple[list[str], str]:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    installed = _pip(python, "install", "--quiet", str(wheel), package)
    if installed.returncode:
        return [installed.stderr.strip()[-300:]], ""
    found = _pip(python, "check")
    lines = [] if found.returncode == 0 else found.stdout.strip().splitlines()
    started = subprocess.run([folder / "bin" / "lw", "--help"], capture_output=True, text=True, check=False)
    lines += [] if started.returncode == 0 else [started.stderr.strip()[-300:]]
    shown = _pip(python, "show", package).stdout.splitlines()
    return lines, next(line.removeprefix("Version: ") for line in shown if line.startswith("Version: "))


def measure(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(dir=contract.OUT) as work:
        wheel = _wheel(Path(work))
        for name, package in PEERS.items():
            row = f"beside.{name}"
            if not bench.wants(row):
                continue
            with tempfile.TemporaryDirectory(dir=work) as folder:
                lines, version = _conflicts(Path(folder), wheel, package)
            why = "; ".join(lines) or f"{package} {version}"
            bench.put(row, Result(stat([len(lines)], "count"), counts={"attempted": 1, "checked": 1}, reason=why))


if __name__ == "__main__":
    contract.use_venv()
    sys.exit(contract.main("beside", ROWS, contract.parser(__doc__).parse_args(), measure))

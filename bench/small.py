"""A small project that a bench makes, deploys and serves by commands alone, and the processes of its `lw up`."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contract

PYTHON = Path(sys.executable)  # of the environment that `make env` built: every bench runs in it
LW = PYTHON.parent / "lw"
SOURCE = contract.ROOT / "tests" / "faces" / "tiny"
ENDPOINT = "tiny"
AT = "2020-01-25T05:00:00Z"


def environment() -> dict[str, str]:
    """Without what a person or another bench has set for loopwright."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LOOPWRIGHT")} | {"NO_COLOR": "1"}


def lw(folder: Path, *words: str) -> str:
    """What a command prints; it must succeed."""
    ran = subprocess.run([str(LW), *words], cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"lw {' '.join(words)}: {ran.returncode} {ran.stderr.strip()[:500]}")
    return ran.stdout


def make(folder: Path) -> Path:
    """Make the project, train its model and deploy it."""
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([str(PYTHON), "make_files.py"], cwd=folder, check=True)
    for words in (("init",), ("run",), ("deploy", ENDPOINT)):
        lw(folder, *words)
    return folder


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Served:
    """The `lw up` of a project, on ports that stay its own."""

    folder: Path
    workers: int = 2
    port: int = field(default_factory=free_port)
    data_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and return the seconds until it is ready."""
        begun = time.perf_counter()
        words = ["up", "--workers", str(self.workers), "--port", str(self.port), "--data-port", str(self.data_port)]
        with (self.folder / "up.log").open("ab") as out:
            self.process = subprocess.Popen(
                [str(LW), *words], cwd=self.folder, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.wait_ready(begun + 120)
        return time.perf_counter() - begun

    def wait_ready(self, until: float) -> None:
        """Wait until the readiness probe says yes."""
        while self.health() is not True:
            if time.perf_counter() > until:
                raise RuntimeError("`lw up` does not get ready: " + (self.folder / "up.log").read_text()[-500:])
            time.sleep(0.01)

    def health(self) -> bool | None:
        """What the readiness probe says; None when nobody answers it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/health/ready")
            response = connection.getresponse()
            response.read()
            return response.status == 200
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def children(self) -> dict[str, int]:
        """The processes that the supervisor keeps alive, by name."""
        try:
            told: list[dict[str, Any]] = json.loads((self.folder / ".loopwright/run/children.json").read_text())
        except (OSError, ValueError):
            return {}
        return {state["name"]: state["pid"] for state in told if state["pid"]}

    def kill(self, pid: int) -> None:
        """kill -9 of one process."""
        os.kill(pid, signal.SIGKILL)
        if self.process is not None and pid == self.process.pid:
            self.process.wait()

    def stop(self) -> None:
        """End it as a person would."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


def family(pid: int) -> list[int]:
    """A process and its living descendants."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for parent in found:
        found += [child for child, other in parents.items() if other == parent]
    return found

"""A workshop for fault tests: prepared projects, commands in copies of a warm process, and an oracle outside the store.

Used by the tests beside it and by bench/faults.py; standard library only.
"""

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STUCK_S = 60
LABELS = "".join(
    json.dumps({"id": f"ask-{slot}-{number}", "label": (slot + number) % 2, "known_at": "2020-01-20T03:00:00Z"}) + "\n"
    for slot in (0, 1)
    for number in range(20)
)


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str
    stuck: bool
    took_s: float

    @property
    def acknowledged(self) -> bool:
        """Whether it told its caller that all is done: by its exit code, or by the document that it printed."""
        if self.code == 0:
            return True
        with contextlib.suppress(ValueError):
            told = json.loads(self.out)
            return not (isinstance(told, dict) and str(told.get("schema", "")).startswith("lw.error"))
        return False


How = dict[str, Any]


@dataclass(frozen=True)
class Begun:
    """A function of acts.py that goes on."""

    lab: "Lab"
    pid: int
    out: Path

    def kill(self) -> None:
        """End it as kill -9 does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.lab.wait(self.pid)

    def said(self) -> str:
        """What it has printed up to now."""
        return self.out.read_text("utf-8", "replace") if self.out.exists() else ""


class Lab:
    """Owns a folder and one driver; `close` ends it."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.traces = folder / "trace"
        self.traces.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "driver.log").open("w")
        self._driver = subprocess.Popen(
            [python, str(HERE / "driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._count = 0
        try:
            self._answer()
        except RuntimeError:
            self.close()
            raise

    def close(self) -> None:
        """End the driver."""
        assert self._driver.stdin is not None and self._driver.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._driver.stdin.close()
        self._driver.wait()
        self._driver.stdout.close()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if not line:
            raise RuntimeError(f"the driver is gone: {(self.folder / 'driver.log').read_text()[-2000:]}")
        told: dict[str, Any] = json.loads(line)
        return told

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._driver.stdin is not None
        self._driver.stdin.write(json.dumps(request) + "\n")
        self._driver.stdin.flush()
        return self._answer()

    def _do(self, cwd: Path, request: dict[str, Any], **more: Any) -> Ended:
        out, err = self.folder / "out.txt", self.folder / "err.txt"
        asked = {**request, "cwd": str(cwd), "stdout": str(out), "stderr": str(err), "timeout_s": STUCK_S, **more}
        told = self._send(asked)
        said = [path.read_text("utf-8", "replace") for path in (out, err)]
        return Ended(told["code"], said[0], said[1], told["stuck"], told["took_s"])

    def begin(self, cwd: Path, does: str, /, **arguments: Any) -> "Begun":
        """Start a function of acts.py and do not wait for it."""
        self._count += 1
        out = self.folder / f"begun-{self._count}.txt"
        places = {"cwd": str(cwd), "stdout": str(out), "stderr": str(out.with_suffix(".err"))}
        told = self._send({"call": does, "with": arguments, "background": True, **places})
        return Begun(self, told["pid"], out)

    def wait(self, pid: int) -> int:
        """Wait for what was begun, and return its exit code."""
        return int(self._send({"wait": pid})["code"])

    def lw(self, project: Path, *words: str, how: How | None = None) -> Ended:
        """Run a command line in a project, under strace or up to a power cut when `how` says so."""
        return self._do(project, {"lw": list(words)}, **(how or {}))

    def call(self, project: Path, does: str, /, how: How | None = None, **arguments: Any) -> Ended:
        """Run a function of acts.py in a project."""
        return self._do(project, {"call": does, "with": arguments}, **(how or {}))

    def must(self, ended: Ended) -> Any:
        """What a command said that had to end well."""
        assert ended.code == 0, f"exit {ended.code}\n{ended.out}\n{ended.err}"
        with contextlib.suppress(ValueError):
            return json.loads(ended.out)
        return ended.out

    def ask(self, project: Path, does: str, /, **arguments: Any) -> Any:
        """What a function of acts.py returns."""
        return self.must(self.call(project, does, **arguments))

    # --- projects ---

    def prepare(self) -> None:
        """Make the two projects that are copied: `fresh` has a model, `base` serves its second one and has a log."""
        fresh = self.folder / "fresh"
        shutil.copytree(HERE / "small", fresh, ignore=shutil.ignore_patterns("__pycache__", ".loopwright"))
        write_files(fresh)
        self.must(self.lw(fresh, "init"))
        self.must(self.lw(fresh, "run"))
        base = self.folder / "base"
        shutil.copytree(fresh, base, symlinks=True)
        self.must(self.lw(base, "deploy", "small"))
        self.must(self.lw(base, "run", "-p", "trees=4"))
        self.ask(base, "promote", version=2)
        self.ask(base, "register", name="notes", text="the first")
        self.ask(base, "spools", first=0, rows=20)
        self.ask(base, "seal")
        self.ask(base, "spools", first=20, rows=20)
        (base / "batch.ndjson").write_text("".join(LABELS.splitlines(keepends=True)[:10]))
        self.must(self.lw(base, "api", "serving.add_labels", "endpoint=small", "body=batch.ndjson"))

    @contextlib.contextmanager
    def copy(self, name: str, into: Path | None = None) -> Iterator[Path]:
        """A copy of a prepared project, gone afterwards."""
        self._count += 1
        place = (into or self.folder) / f"p{self._count}"
        shutil.copytree(self.folder / name, place, symlinks=True)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def write_files(folder: Path, extra: int = 0) -> None:
    """The files of the small project: 15 asks a day for 20 days, the outcome known six hours later."""
    draw, first, rows = random.Random(3), datetime(2020, 1, 1), []
    for number in range(300 + extra):
        at = first + timedelta(days=number // 15, minutes=number % 15 * 80 + 60)
        x, shop = draw.random(), draw.choice(["north", "south"])
        good = int(x + draw.gauss(0, 0.3) > 0.5)
        rows.append((f"ask-{number}", at.isoformat(), round(x, 6), shop, good, (at + timedelta(hours=6)).isoformat()))
    for name, head, columns in (
        ("asks.csv", ("id", "asked_at", "x", "shop"), (0, 1, 2, 3)),
        ("outcomes.csv", ("id", "good", "known_at"), (0, 4, 5)),
    ):
        with (folder / name).open("w", newline="") as out:
            csv.writer(out).writerows([head, *([row[place] for place in columns] for row in rows)])


_FLIPPED: dict[Path, tuple[int, int]] = {}


def flip(path: Path, draw: random.Random, *, back: bool = False) -> None:
    """Turn one bit of a file round and leave its times and rights as they are, or turn it back."""
    before = path.stat()
    where, bit = _FLIPPED.pop(path) if back else (draw.randrange(before.st_size), draw.randrange(8))
    if not back:
        _FLIPPED[path] = (where, bit)
    path.chmod(0o600)
    with path.open("r+b") as stream:
        stream.seek(where)
        byte = stream.read(1)[0]
        stream.seek(where)
        stream.write(bytes([byte ^ 1 << bit]))
    path.chmod(before.st_mode & 0o777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@dataclass
class Tally:
    """What went wrong, over all points; empty lists are what is wanted."""

    attempted: int = 0
    missed: int = 0
    lost: list[str] = field(default_factory=list)
    wrong_bytes: list[str] = field(default_factory=list)
    false_success: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)

    KINDS = ("lost", "wrong_bytes", "false_success", "stuck", "leftover")

    def add(self, other: "Tally") -> None:
        """Take another tally into this one."""
        self.attempted += other.attempted
        self.missed += other.missed
        for kind in self.KINDS:
            getattr(self, kind).extend(getattr(other, kind))

    @property
    def faults(self) -> list[str]:
        """Everything that went wrong, a line each."""
        return [f"{kind}: {text}" for kind in self.KINDS for text in getattr(self, kind)]

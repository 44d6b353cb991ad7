"""Faults at the n-th file-changing system call of an operation, spread evenly over all of them, and what must hold.

After each: all that was acknowledged is there with the right bytes; the operation is done whole or not at all; success
was said only when it is done; the same command again succeeds; fsck is clean; and after gc no file is left over.
"""

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import LABELS, Ended, How, Lab, Tally, write_files

CALLS = (
    *("write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "fsync", "fdatasync", "sendfile"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "link", "linkat"),
    *("symlink", "symlinkat", "fchmod", "chmod", "fchmodat", "openat", "copy_file_range", "utimensat", "flock"),
)
# A fault once; when each call of an operation has had all three, the same from that call on.
ONCE = ("SIGKILL", "EIO", "ENOSPC")
LASTING = ("ENOSPC+", "EIO+", "EROFS+", "EDQUOT", "EROFS")
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")


@dataclass(frozen=True)
class Operation:
    """One operation: the project it starts from, what is put there first, what is run, and what a repeat may answer."""

    name: str
    base: str
    run: Callable[[Lab, Path, How | None], Ended]
    arrange: Callable[[Lab, Path], None] = lambda lab, project: None
    refusals: tuple[str, ...] = ()
    loose: tuple[str, ...] = ("runs", "served")  # told otherwise when the operation is repeated
    takes_away: bool = False  # in several steps, so that it is neither as before nor as after in between


@dataclass(frozen=True)
class Point:
    """The n-th call of a name in a thread, and what happens there."""

    call: str
    nth: int
    fault: str
    shown: str

    @property
    def arguments(self) -> list[str]:
        """What strace is told."""
        fault = self.fault.rstrip("+")
        what = f"signal={fault}" if fault == "SIGKILL" else f"error={fault}"
        when = f"{self.nth}+" if self.fault.endswith("+") else str(self.nth)
        return ["-f", "-q", "-e", f"trace={self.call}", "-e", f"inject={self.call}:{what}:when={when}"]

    def __str__(self) -> str:
        return f"{self.fault} at {self.call} {self.nth} ({self.shown})"


def traced(into: Path) -> How:
    """How to run so that all calls of interest are written down."""
    return {"strace": ["-f", "-q", "-y", "-e", f"trace={','.join(CALLS)}", "-o", str(into)]}


def command(*words: str) -> Callable[[Lab, Path, How | None], Ended]:
    """A command line as an operation."""
    return lambda lab, project, how: lab.lw(project, *words, how=how)


def function(does: str, **arguments: Any) -> Callable[[Lab, Path, How | None], Ended]:
    """A function of acts.py as an operation."""
    return lambda lab, project, how: lab.call(project, does, how, **arguments)


def _more_asks(lab: Lab, project: Path) -> None:
    write_files(project, extra=15)


def _labels(lab: Lab, project: Path) -> None:
    (project / "batch.ndjson").write_text(LABELS)


def _logged(lab: Lab, project: Path) -> None:
    lab.ask(project, "spools", first=40, rows=3, named="ask-7")
    lab.ask(project, "seal")


def _rubbish(lab: Lab, project: Path) -> None:
    lab.ask(project, "litter")


OPERATIONS = (
    Operation("add", "base", command("add", "asks.csv", "--json"), _more_asks),
    Operation("run", "base", command("run", "-p", "trees=5", "--json")),
    Operation("register", "base", function("register", name="notes", text="the second")),
    Operation("deploy", "fresh", command("deploy", "small", "--json"), refusals=("deploy.serving",)),
    Operation("labels", "base", command("api", "serving.add_labels", "endpoint=small", "body=batch.ndjson"), _labels),
    Operation("seal", "base", function("seal")),
    Operation("rollback", "base", command("rollback", "small", "--json"), refusals=("rollback.none",)),
    Operation(
        "erase",
        "base",
        command("erase", "--subject", "id=ask-7", "--json"),
        _logged,
        loose=("runs", "served", "sealed"),
        takes_away=True,
    ),
    Operation("gc", "base", command("gc", "--grace", "0s", "--json"), _rubbish, loose=("events",)),
)


class Trial:
    """One operation on a lab: the state before and after a clean run, its calls, and the points that are tried."""

    def __init__(self, lab: Lab, operation: Operation) -> None:
        self.lab, self.operation = lab, operation
        self.tally = Tally()
        with lab.copy(operation.base) as project:
            operation.arrange(lab, project)
            self.before = lab.ask(project, "state")
            self.oracle = lab.ask(project, "blobs")
            trace = lab.traces / f"{operation.name}.txt"
            done = operation.run(lab, project, traced(trace))
            lab.must(done)
            self.after = lab.ask(project, "state")
            self.oracle |= lab.ask(project, "blobs")
            self.calls = changing(trace.read_text("utf-8", "replace"), str(project))
            lab.must(lab.lw(project, "gc", "--grace", "0s"))
            self.left = set(lab.ask(project, "leftover"))

    def points(self, count: int) -> list[Point]:
        """Points spread evenly over the calls; a call that comes again gets another fault."""
        draw, used, out = random.Random(self.operation.name), dict[int, list[str]](), list[Point]()
        for number in range(count):
            place = number * len(self.calls) // count
            given = used.setdefault(place, [])
            free = [f for f in ONCE if f not in given] or [f for f in LASTING if f not in given]
            if free:
                given.append(draw.choice(free))
                out.append(Point(*self.calls[place][:2], given[-1], self.calls[place][2]))
        return out

    def run(self, count: int) -> Tally:
        """Try the points."""
        for point in self.points(count):
            self.attempt(point)
        return self.tally

    def attempt(self, point: Point) -> None:
        """Try one point on a fresh copy."""
        with self.lab.copy(self.operation.base) as project:
            self.operation.arrange(self.lab, project)
            self._try(project, point)

    def _try(self, project: Path, point: Point) -> None:
        lab, operation, tally = self.lab, self.operation, self.tally
        tally.attempted += 1
        trace = lab.traces / "point.txt"
        done = operation.run(lab, project, {"strace": [*point.arguments, "-o", str(trace)]})
        text = trace.read_text("utf-8", "replace")
        tally.missed += "(INJECTED" not in text and "killed by SIGKILL" not in text
        told = f"{operation.name}, {point}"
        if done.stuck:
            tally.stuck.append(f"{told}: it did not end in time")
        seen = self._state(project, told)
        if seen is not None:
            self._judge(seen, told, done)
        again = operation.run(lab, project, None)
        settled = seen is not None and self._differs(seen, self.after) == []
        refused = settled and any(code in again.out + again.err for code in operation.refusals)
        if again.code != 0 and not refused:
            tally.stuck.append(f"{told}: again exits {again.code}: {(again.err or again.out)[-400:]}")
        self._settle(project, told, repeated=again.code == 0 or refused)

    def _state(self, project: Path, told: str) -> dict[str, Any] | None:
        found = self.lab.call(project, "state")
        if found.code == 0:
            state: dict[str, Any] = json.loads(found.out)
            return state
        self.tally.stuck.append(f"{told}: the project cannot be read: {found.err[-400:]}")
        return None

    def _differs(self, seen: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
        return [part for part in wanted if part not in self.operation.loose and seen[part] != wanted[part]]

    def _judge(self, seen: dict[str, Any], told: str, done: Ended) -> None:
        """Whole or not at all, nothing of before gone, and success only when done."""
        old, new = self._differs(seen, self.before), self._differs(seen, self.after)
        if seen["unreadable"]:
            self.tally.wrong_bytes.append(f"{told}: registered and not there whole: {seen['unreadable'][0]}")
        if old and new and not self.operation.takes_away and not self._stage(seen):
            self.tally.lost.append(f"{told}: neither as before ({old}) nor as after ({new})")
        if any(run not in seen["runs"] for run in self.before["runs"]):
            self.tally.lost.append(f"{told}: a run is gone")
        if done.acknowledged and (new or seen["served"] != self.after["served"] or seen["runs"] != self.after["runs"]):
            self.tally.false_success.append(f"{told}: exit {done.code}, but {new or 'routes or runs'} not as told")

    def _stage(self, seen: dict[str, Any]) -> bool:
        """Operations of several transactions: each part is as before or as after, and what was there is there."""
        for part, value in seen.items():
            if part in ("runs", "served", "events"):
                continue
            if not between(value, self.before[part], self.after[part]):
                return False
        return True

    def _settle(self, project: Path, told: str, *, repeated: bool) -> None:
        """All is as after a clean run, fsck is clean, bytes are right, and after gc nothing is left over."""
        named = sorted(d for d in self.oracle if (project / ".loopwright/blobs" / d[:2] / d).exists())
        looked = self.lab.call(project, "settled", digests=named)
        if looked.code != 0:
            self.tally.stuck.append(f"{told}: the project cannot be read: {looked.err[-400:]}")
            return
        found = json.loads(looked.out)
        if repeated and (odd := self._differs(found["state"], self.after)):
            self.tally.lost.append(f"{told}: after the repeat {odd}")
        if found["fsck"][0] != 0:
            self.tally.wrong_bytes.append(f"{told}: fsck: {found['fsck'][1]}")
        handed = found["readable"]
        wrong = [digest for digest, found in handed.items() if found != self.oracle[digest]]
        if wrong:
            self.tally.wrong_bytes.append(f"{told}: {len(wrong)} blobs, such as {wrong[0]}: {handed[wrong[0]]}")
        left = sorted(set(found["leftover"]) - self.left)
        if found["gc"][0] != 0 or left:
            self.tally.leftover.append(f"{told}: {left or found['gc'][1]}")


def between(value: Any, before: Any, after: Any) -> bool:
    """Whether a part is as before, as after, or holds all of before and some of what comes: one of several steps."""
    if value in (before, after):
        return True
    return isinstance(value, list) and all(r in value for r in before) and all(r in after for r in value)


def changing(trace: str, project: str) -> list[tuple[str, int, str]]:
    """The calls of a trace that change a project: name, number within its thread, and what it was shown with."""
    counts: dict[tuple[str, str], int] = {}
    out: dict[tuple[str, int], str] = {}
    for line in trace.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, name, rest = match.groups()
        counts[thread, name] = nth = counts.get((thread, name), 0) + 1
        if project not in rest or name == "flock" or (name == "openat" and not re.search("O_CREAT|O_TRUNC", rest)):
            continue
        out.setdefault((name, nth), _short(rest, project))
    return [(name, nth, shown) for (name, nth), shown in out.items()]


def _short(rest: str, project: str) -> str:
    return re.sub(r"[0-9a-f]{50,}", "DIGEST", rest.replace(project, "."))[:90]


def have_strace() -> str:
    """Why faults cannot be injected here; empty when they can."""
    return "" if shutil.which("strace") else "strace is not installed: sh requirements/system.sh"


def sweep(lab: Lab, count: int, only: str = "") -> dict[str, Tally]:
    """All operations, `count` points each, and what came of it."""
    out = {}
    for operation in OPERATIONS:
        if only and operation.name != only:
            continue
        out[operation.name] = Trial(lab, operation).run(count)
    return out

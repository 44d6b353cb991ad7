"""Does the loop turn? The flights demo from outside: what was sent, logged and joined, what the loop won, what it let
through and what it reported, and whether it decides the same again when it is slower and killed on the way.

  .venv/bin/python bench/loop.py --json [OUT] [--only ID,..] [--list] [--seed N] [--quick] [--reps N] [--short]
                                 [--work DIR]

A replay that stands whole in the folder of --work is not played again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import contract
from contract import Bar, Bench, Result, Row, stat

ENDPOINT = "delay"
RULER = contract.ROOT / "bench" / "rulers" / "pipelines"
TRACE_LIMIT_S = 1.0


def _exactly(name: str, title: str, bar: float | None = None) -> Row:
    return Row(name, title, "", "higher", () if bar is None else (Bar("==", bar),))


def _at_most(name: str, title: str, bar: float, unit: str = "") -> Row:
    return Row(name, title, unit, "lower", (Bar("<=" if bar else "==", bar),))


def _at_least(name: str, title: str, bar: float) -> Row:
    return Row(name, title, "", "higher", (Bar(">=", bar),))


ROWS = (
    _exactly("loop.sent", "requests that the replay sent, one a flight"),
    _exactly("loop.logged", "different requests in the prediction log"),
    _exactly("loop.joined", "logged requests whose label came and was joined"),
    _at_most("loop.failed_requests", "requests without an answer", 0),
    _at_least("loop.gap_recovered", "share of the log loss between frozen and weekly won back", 0.65),
    _at_most("loop.promotions", "promotions", 7),
    _at_most("loop.promotions_worse", "promotions worse than the champion they replaced", 0),
    _exactly("loop.replay_identical", "decisions equal, byte for byte, after a kill", 1),
    _at_most("trace.p99_s", "`lw trace` of a random prediction, p99", TRACE_LIMIT_S, "s"),
    _at_most("cache.rerun_cpu_s", "cached rerun beside importing the project", 0.25, "s"),
    _at_most("start.help_ratio", "`lw --help` beside a bare interpreter", 10, "x"),
    _at_most("start.import_ratio", "`import loopwright` beside a bare interpreter", 7, "x"),
    _exactly("pipelines.stale_right", "edits that the step cache judges rightly", 8),
    # the whole year, as it was
    _exactly("year.sent", "requests that the replay of nine months sent"),
    _exactly("year.logged", "different requests in the prediction log"),
    _exactly("year.joined", "logged requests whose label came and was joined"),
    _at_most("year.failed_requests", "requests without an answer", 0),
    _at_least("year.auc", "AUC of what was served", 0.743),
    _at_least("year.gap_recovered", "share of the log loss between frozen and weekly won back", 0.70),
    _at_most("year.promotions", "promotions", 12),
    _at_most("year.promotions_worse", "promotions worse than the champion they replaced", 1),
    _at_most("year.wall_s", "the demo of the whole year, files and training included", 900, "s"),
    _at_most("year.peak_pss_mb", "memory of all its processes at its highest", 1500, "MB"),
    _at_most("alarms.false_pages", "pages in nine clean months that neither the log nor the rows bear out", 9),
    _at_most("features.cells_differ", "cells served that are not those rebuilt offline", 0),
    # the whole year, with its faults and acts
    _at_most("year.bad_promoted", "promoted models that are broken or were trained on held rows", 0),
    _exactly("alarms.faults_found", "injected faults that were reported or undone in time", 7),
    _exactly("year.replay_identical", "decisions equal: slower, killed three times, on PostgreSQL", 1),
    # parts with a file of their own
    _at_least("policy.gap_recovered", "mean share won back over four weekly phases", 0.75),
    _at_least("policy.gap_lowest", "lowest share won back of four weekly phases", 0.70),
    _at_most("elec2.gap", "largest shortfall of accuracy against the frozen model on elec2", 0.01),
    _at_most("feeds.false_episodes", "episodes on the clean feeds of a year that no incident bears out", 2),
    _at_least("drift.quiet", "share of windows without a report on days shuffled within the weekday", 0.95),
    Row("rollback.s", "`lw rollback` while 64 connections send", "s", "lower", (Bar("<=", 1),)),
    _at_most("rollback.failed", "requests that failed around a rollback", 0),
    _at_most("rollback.stale_answers", "answers of the old version after the rollback", 0),
    _at_most("erase.left_bytes", "bytes of an erased value that are left in any file", 0),
    _exactly("reproduce.equal", "models rebuilt byte for byte in a clean clone", 1),
)
# file beside this one -> the rows it measures
PARTS = {
    "policy": ("policy.", "elec2."),
    "feeds": ("feeds.",),
    "drift": ("drift.",),
    "rollback": ("rollback.",),
    "erase": ("erase.",),
    "reproduce": ("reproduce.",),
}
SHORT = ("loop.", "trace.", "cache.", "start.", "pipelines.", "rollback.", "erase.", "reproduce.")


@dataclass(frozen=True)
class Size:
    """How far the replays go."""

    until: str
    pair_until: str
    traces: int
    own_pair: bool


def size(args: argparse.Namespace) -> Size:
    """Whole: a pair of replays of its own. Short: the killed replay is compared with the main one's first months."""
    if args.quick:
        return Size("2013-04-26", "2013-04-14", 20, own_pair=False)
    return Size("2013-07-31", "2013-05-31", 200, own_pair=not args.short)


class Loop:
    """The parts of the bench; the main replay runs when the first part needs it, and once even when it breaks."""

    def __init__(self, bench: Bench, work: Path) -> None:
        from judged import Judged
        from replays import Replay

        self.bench, self.work, self.size = bench, work, size(bench.args)
        self.random = random.Random(bench.args.seed)
        self._main, self._broken = Replay(work / "main"), ""
        self._judged = Judged(bench, self._main, "loop")

    @property
    def main(self) -> Any:
        if self._broken:
            raise RuntimeError(f"no replay to look at: {self._broken}")
        if not self._main.summary:
            try:
                self._main.run(self.size.until)
            except Exception as error:
                self._broken = str(error)
                raise
            self.bench.keep("replay.json", {"wall_s": self._main.wall_s, "summary": self._main.summary})
        return self._main

    @property
    def judged(self) -> Any:
        return self.main and self._judged

    @cached_property
    def log(self) -> dict[str, Any]:
        found: dict[str, Any] = self.judged.log
        return found

    # --- the same again ---

    def identical(self) -> None:
        """A second replay, slower, its process group killed at a random moment and the command typed again."""
        from replays import Replay, days_until

        until = self.size.pair_until
        first = self.main
        if self.size.own_pair:
            first = Replay(self.work / "pair-a")
            first.run(until)
        pace = 0.9 * days_until(until if self.size.own_pair else self.size.until) / first.replay_s
        before_s, whole_s = first.wall_s - first.replay_s, days_until(until) / pace
        second = Replay(self.work / "pair-b")
        second.run(until, pace=pace, kill_after_s=[before_s + whole_s * self.random.uniform(0.1, 0.9)])
        left, right = first.stable(), second.stable()
        if not self.size.own_pair:
            left, right = before(left, until), before(right, until)
        why = f"killed after {second.kills[0]:.0f} s, {second.wall_s:.0f} s in all"
        self.bench.put("loop.replay_identical", same(self.bench, "loop", left, right, len(second.survivors), why))

    # --- asking back ---

    def traces(self) -> None:
        """Trace random predictions by the command itself, and hold each answer against the log."""
        rows = self.random.sample(range(len(self.log["id"])), self.size.traces)
        times, wrong = [], []
        for row in rows:
            start = time.perf_counter()
            answer = self.main.document("trace", str(self.log["id"][row]))
            times.append(time.perf_counter() - start)
            wrong += [f"{self.log['id'][row]}: {what}" for what in self._untrue(answer, row)]
            if times[-1] >= TRACE_LIMIT_S:
                wrong.append(f"{self.log['id'][row]}: took {times[-1]:.2f} s")
        self.bench.keep("traces.json", {"seconds": times, "wrong": wrong})
        found = stat(times, "wall") | {"median": contract.percentile(times, 0.99)}
        counts = {"attempted": len(rows), "checked": len(times), "wrong": len(wrong)}
        self.bench.put("trace.p99_s", Result(found, counts=counts, reason=wrong[0] if wrong else ""))

    def _untrue(self, answer: dict[str, Any], row: int) -> Iterator[str]:
        version = int(self.log["version"][row])
        label, told = float(self.log["label"][row]), answer["label"]
        for what, right in {
            "schema": answer["schema"] == "lw.trace/1",
            "request": answer["request_id"] == self.log["request_id"][row],
            "version": answer["version"] == f"{ENDPOINT}@{version}",
            "score": math.isclose(answer["score"], self.judged.scores[version][row], rel_tol=1e-12),
            "label": (told is None) if math.isnan(label) else told == label,
            "model bytes": answer["model"]["bytes_ok"] is True,
            "data bytes": bool(answer["data"]) and all(d["bytes_ok"] is True for d in answer["data"]),
            "inputs": bool(answer["inputs"]),
            "run": bool(answer["run"]) and bool(answer["run"]["commit"]),
            "decisions": bool(answer["decisions"]),
        }.items():
            if not right:
                yield what

    # --- costs ---

    def rerun(self) -> None:
        """Run the project's file again with nothing changed, beside importing it alone."""
        from replays import PYTHON

        entry = sorted(self.main.folder.glob("flights.py"))[0]

        def cpu(*args: str) -> float:
            used, _, code = contract.run_cpu([str(PYTHON), *args], cwd=self.main.folder)
            if code:
                raise RuntimeError(f"python {' '.join(args)} ended with {code}")
            return used

        tasks = {"rerun": lambda: cpu(entry.name), "import": lambda: cpu("-c", f"import {entry.stem}")}
        found = contract.interleave(tasks, max(3, self.bench.args.reps))
        self.bench.keep("rerun.json", found)
        extra = [again - alone for again, alone in zip(found["rerun"], found["import"], strict=True)]
        why = f"rerun {min(found['rerun']):.2f} s, import {min(found['import']):.2f} s"
        self.bench.put("cache.rerun_cpu_s", Result(stat(extra, "cpu"), reason=why))

    def start(self) -> None:
        """CPU of the two ways in, in turn with a bare interpreter."""
        from weight import ratios

        ratios(self.bench)

    def stale(self) -> None:
        """The ruler that edits a project in eight ways and looks whether the step runs again."""
        from replays import PYTHON

        tool = f"ours={PYTHON},{RULER / 'ours_stale.py'}"
        command = [str(PYTHON), str(RULER / "stale.py"), "--tool", tool]
        ran = subprocess.run(command, cwd=self.work, capture_output=True, text=True, check=True)
        [answer] = [json.loads(line) for line in ran.stdout.splitlines()]
        self.bench.keep("stale.json", answer)
        edits = {name: verdict for name, verdict in answer.items() if name != "tool"}
        wrong = [f"{name}: {verdict}" for name, verdict in edits.items() if verdict != "ok"]
        counts = {"attempted": len(edits), "checked": len(edits), "wrong": len(wrong)}
        right = stat([len(edits) - len(wrong)], "count")
        self.bench.put("pipelines.stale_right", Result(right, counts=counts, reason="; ".join(wrong)))


def before(document: bytes, until: str) -> bytes:
    """The decisions of the days up to `until`; those after it may rest on requests that a shorter replay never sent."""
    items = [item for item in json.loads(document)["items"] if item["at"][:10] <= until]
    return (json.dumps({"items": items}, sort_keys=True) + "\n").encode()


def differing(left: bytes, right: bytes) -> int:
    """How many decisions are not the same in both; at least one when the bytes differ."""
    a, b = json.loads(left)["items"], json.loads(right)["items"]
    unlike = sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))
    return max(unlike, int(left != right))


def same(bench: Bench, name: str, left: bytes, right: bytes, survivors: int, why: str) -> Result:
    """Two logs of decisions, compared byte for byte and kept."""
    (bench.evidence / f"{name}-decisions-a.json").write_bytes(left)
    (bench.evidence / f"{name}-decisions-b.json").write_bytes(right)
    lines = len(json.loads(right)["items"])
    counts = {"attempted": lines, "checked": lines, "wrong": differing(left, right), "failed": survivors}
    equal = stat([int(left == right and lines > 0)], "count")
    return Result(equal, counts=counts, reason=f"{lines} decisions; {why}")


def measure(bench: Bench) -> None:
    """Every part whose rows are wanted; the replays first, while nothing else runs."""
    work = Path(bench.args.work).resolve() if bench.args.work else bench.evidence / "work"
    work.mkdir(parents=True, exist_ok=True)
    loop = Loop(bench, work)
    try:
        bench.part(loop.start, "start.")
        bench.part(loop.stale, "pipelines.")
        counted = ("loop.sent", "loop.logged", "loop.joined", "loop.failed_requests")
        bench.part(lambda: loop.judged.counts(), *counted)
        bench.part(lambda: loop.judged.recovered(), "loop.gap_recovered")
        bench.part(lambda: loop.judged.promotions(), "loop.promotions")
        bench.part(loop.traces, "trace.")
        bench.part(loop.identical, "loop.replay_identical")
        bench.part(loop.rerun, "cache.")
        if bench.wants("year.", "alarms.", "features."):
            import_module("year").measure(bench, work)
        for name, prefixes in PARTS.items():
            bench.part(lambda name=name: import_module(name).measure(bench), *prefixes)  # type: ignore[misc]
    finally:
        if not bench.args.work:
            with contextlib.suppress(OSError):
                shutil.rmtree(work)


def main() -> int:
    parser = contract.parser(__doc__)
    parser.add_argument(
        "--short", action="store_true", help="no replay of the whole year: see README.md beside this file"
    )
    parser.add_argument("--work", metavar="DIR", help="keep the demo projects here, and use those that are here")
    args = parser.parse_args()
    if not args.list:
        contract.use_venv()
    rows = [row for row in ROWS if row.id.startswith(SHORT)] if args.short or args.quick else ROWS
    return contract.main("loop", rows, args, measure)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())

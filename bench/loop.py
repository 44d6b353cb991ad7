"""Does the loop turn? The flights demo from outside: what was sent, logged and joined, what the loop won, and whether
it decides the same again when it is slower and its whole process group is killed on the way.

  .venv/bin/python bench/loop.py --json [OUT] [--only ID,..] [--list] [--seed N] [--quick] [--reps N] [--short] [--keep]
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
from pathlib import Path
from typing import Any

import contract
from contract import Bar, Bench, Result, Row, stat

ENDPOINT = "delay"
LANDED = {"2013-07-31": (114_794, 111_060)}
RULER = contract.ROOT / "bench" / "rulers" / "pipelines"
WORSE, WITHIN_DAYS = -0.002, 14
TRACE_LIMIT_S = 1.0

ROWS = (
    Row("loop.sent", "requests that the replay sent, one a flight", "", "higher", ()),
    Row("loop.logged", "different requests in the prediction log", "", "higher", ()),
    Row("loop.joined", "logged requests whose label came and was joined", "", "higher", ()),
    Row("loop.failed_requests", "requests without an answer", "", "lower", (Bar("==", 0),)),
    Row(
        "loop.gap_recovered",
        "share of the log loss between frozen and weekly won back",
        "",
        "higher",
        (Bar(">=", 0.65),),
    ),
    Row("loop.promotions", "promotions", "", "lower", (Bar("<=", 7),)),
    Row("loop.promotions_worse", "promotions worse than the champion they replaced", "", "lower", (Bar("==", 0),)),
    Row("loop.replay_identical", "decisions equal, byte for byte, after a kill", "", "higher", (Bar("==", 1),)),
    Row("trace.p99_s", "`lw trace` of a random prediction, p99", "s", "lower", (Bar("<=", TRACE_LIMIT_S),)),
    Row("cache.rerun_cpu_s", "cached rerun beside importing the project", "s", "lower", (Bar("<=", 0.25),)),
    Row("start.help_ratio", "`lw --help` beside a bare interpreter", "x", "lower", (Bar("<=", 10),)),
    Row("start.import_ratio", "`import loopwright` beside a bare interpreter", "x", "lower", (Bar("<=", 7),)),
    Row("pipelines.stale_right", "edits that the step cache judges rightly", "", "higher", (Bar("==", 8),)),
)


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
        from replays import Replay

        self.bench, self.work, self.size = bench, work, size(bench.args)
        self.random = random.Random(bench.args.seed)
        self._main, self._broken = Replay(work / "main"), ""

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

    @cached_property
    def log(self) -> dict[str, Any]:
        found: dict[str, Any] = self.main.predictions(ENDPOINT)
        return found

    @cached_property
    def scores(self) -> dict[int, Any]:
        found = {int(name[6:]): values for name, values in self.log.items() if name.startswith("score_")}
        return dict(sorted(found.items()))

    @cached_property
    def decisions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.main.decisions()
        self.bench.keep("decisions.json", found)
        return found

    def kinds(self, noun: str) -> list[dict[str, Any]]:
        return [event for event in self.decisions if event["kind"].startswith(noun)]

    # --- counts ---

    def counts(self) -> None:
        """Sent, logged and joined against what the published file holds."""
        from replays import world

        truth = world(self.size.until)
        asked, landed = truth.asked, truth.landed
        if (asked, landed) != LANDED.get(self.size.until, (asked, landed)):
            raise contract.CannotRun(
                f"the published file has {asked} flights and {landed} landings, not those promised"
            )
        told, took = self.main.summary, f"replayed in {self.main.wall_s:.0f} s"
        logged = len(set(self.log["request_id"].tolist()))
        repeated = len(self.log["request_id"]) - logged
        labels = dict(zip(self.log["request_id"].tolist(), self.log["label"].astype(float).tolist(), strict=True))
        joined = sum(not math.isnan(label) for label in labels.values())
        untrue = sum(labels.get(name) != late for name, late in truth.late.items())
        failed = max(int(told["failed"]), int(told["sent"]) - int(told["answered"]))
        for name, got, want, wrong, why in (
            ("loop.sent", int(told["sent"]), asked, 0, took),
            ("loop.logged", logged, asked, repeated, ""),
            ("loop.joined", joined, landed, untrue, ""),
        ):
            counts = {"attempted": want, "checked": got, "lost": max(0, want - got), "wrong": wrong}
            self.bench.put(name, Result(stat([got], "count"), bars=(Bar("==", want),), counts=counts, reason=why))
        tally = {"attempted": asked, "checked": asked, "failed": failed}
        self.bench.put("loop.failed_requests", Result(stat([failed], "count"), counts=tally))

    # --- what was won ---

    def recovered(self) -> None:
        """Pool the loss of the frozen model, of each week's challenger and of what was served, over the same rows."""
        import numpy as np
        import scoring

        starts = {int(e["data"]["version"]): micros(e["at"]) for e in self.kinds("challenger.")}
        weekly = scoring.newest_since(self.log["at_us"], starts)
        strangers = int((weekly != scoring.newest(self.scores)).sum())
        served = scoring.choose(self.scores, self.log["version"])
        both = scoring.choose(self.scores, weekly)
        found = scoring.pooled(self.log["label"].astype(float), self.scores[1], both, served)
        gaps = int(np.isnan(self.scores[1]).sum() + np.isnan(both).sum() + np.isnan(served).sum())
        why = f"frozen {found.frozen:.4f}, weekly {found.weekly:.4f}, served {found.served:.4f}, {found.rows} rows"
        counts = {"attempted": len(weekly), "checked": found.rows, "wrong": strangers, "lost": gaps}
        value = stat([round(found.recovered, 4)], "score") if not math.isnan(found.recovered) else None
        self.bench.keep("challengers.json", starts)
        self.bench.put("loop.gap_recovered", Result(value, counts=counts, reason=why))

    def promotions(self) -> None:
        """Count the promotions, and score each against the champion it replaced on the logged requests after it."""
        import scoring

        made = [
            scoring.Promotion(micros(e["at"]), int(e["data"]["replaced"]), int(e["data"]["version"]))
            for e in self.kinds("version.promoted@")
        ]
        labels, at, end = self.log["label"].astype(float), self.log["at_us"], int(self.log["at_us"].max()) + 1
        whole = {v: self._whole(v) for v in sorted({v for p in made for v in (p.old, p.new)})}
        unlike = sum(wrong for _, wrong in whole.values())
        scores = {v: filled for v, (filled, _) in whole.items()}
        gains = [scoring.gain(p, at, labels, scores, days=WITHIN_DAYS, end_us=end) for p in made]
        worse = [g for g in gains if not g.mean >= WORSE]
        shown = ", ".join(
            f"{g.promotion.old}>{g.promotion.new} {g.mean:+.4f} ({g.rows} rows, {g.days:g} d)" for g in gains
        )
        self.bench.keep("promotions.json", [vars(g) | {"promotion": vars(g.promotion)} for g in gains])
        count = Result(stat([len(made)], "count"), counts={"attempted": len(made)}, reason=shown)
        self.bench.put("loop.promotions", count)
        lost = sum(g.missing for g in gains)
        counts = {"attempted": len(made), "checked": len(gains), "wrong": unlike, "lost": lost}
        self.bench.put("loop.promotions_worse", Result(stat([len(worse)], "count"), counts=counts))

    def _whole(self, version: int) -> tuple[Any, int]:
        """A version's score of every request: as logged, else as the version scores the logged inputs now.

        Where both are there they must agree; returns how often they do not.
        """
        import numpy as np

        logged = self.scores.get(version, np.full(len(self.log["at_us"]), np.nan))
        again = self.main.rescored(f"{ENDPOINT}@{version}", ENDPOINT)
        there = ~np.isnan(logged)
        return np.where(there, logged, again), int((logged[there] != again[there]).sum())

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
        killed = second.run(until, pace=pace, kill_after_s=before_s + whole_s * self.random.uniform(0.1, 0.9))
        assert killed is not None
        left, right = first.stable(), second.stable()
        if not self.size.own_pair:
            left, right = before(left, until), before(right, until)
        (self.bench.evidence / "decisions-a.json").write_bytes(left)
        (self.bench.evidence / "decisions-b.json").write_bytes(right)
        lines = len(json.loads(right)["items"])
        counts = {
            "attempted": lines,
            "checked": lines,
            "wrong": differing(left, right),
            "failed": len(killed.survivors),
        }
        why = f"{lines} decisions; killed after {killed.after_s:.0f} s, {second.wall_s:.0f} s in all"
        self.bench.put(
            "loop.replay_identical",
            Result(stat([int(left == right and lines > 0)], "count"), counts=counts, reason=why),
        )

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
            "score": math.isclose(answer["score"], self.scores[version][row], rel_tol=1e-12),
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


def micros(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time."""
    from datetime import UTC, datetime, timedelta

    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def before(document: bytes, until: str) -> bytes:
    """The decisions of the days up to `until`; those after it may rest on requests that a shorter replay never sent."""
    items = [item for item in json.loads(document)["items"] if item["at"][:10] <= until]
    return (json.dumps({"items": items}, sort_keys=True) + "\n").encode()


def differing(left: bytes, right: bytes) -> int:
    """How many decisions are not the same in both; at least one when the bytes differ."""
    a, b = json.loads(left)["items"], json.loads(right)["items"]
    unlike = sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))
    return max(unlike, int(left != right))


def measure(bench: Bench) -> None:
    """Every part whose rows are wanted; the replays first, while nothing else runs."""
    work = bench.evidence / "work"
    work.mkdir()
    loop = Loop(bench, work)
    try:
        bench.part(loop.start, "start.")
        bench.part(loop.stale, "pipelines.")
        bench.part(loop.counts, "loop.sent", "loop.logged", "loop.joined", "loop.failed_requests")
        bench.part(loop.recovered, "loop.gap_recovered")
        bench.part(loop.promotions, "loop.promotions")
        bench.part(loop.traces, "trace.")
        bench.part(loop.identical, "loop.replay_identical")
        bench.part(loop.rerun, "cache.")
    finally:
        if not bench.args.keep:
            with contextlib.suppress(OSError):
                shutil.rmtree(work)


def main() -> int:
    parser = contract.parser(__doc__)
    parser.add_argument("--short", action="store_true", help="one replay less: see README.md beside this file")
    parser.add_argument("--keep", action="store_true", help="keep the demo projects in the evidence folder")
    args = parser.parse_args()
    if not args.list:
        contract.use_venv()
    return contract.main("loop", ROWS, args, measure)


if __name__ == "__main__":
    sys.exit(main())

"""A replay of the flights demo judged from outside: its log against the published file, and what its decisions won."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import contract
import scoring
from contract import Bar, Bench, Result, stat
from replays import Replay, world

ENDPOINT = "delay"
# a fact about the published file: flights asked about and landed, up to a day
LANDED = {"2013-07-31": (114_794, 111_060), "2013-12-31": (255_987, 249_435)}
WORSE, WITHIN_DAYS = -0.002, 14
LEFT_OUT = "2013-12-31T00:00:00Z"  # a day without any weather


class Judged:
    """One replay, judged for the rows that begin with a prefix."""

    def __init__(self, bench: Bench, replay: Replay, prefix: str) -> None:
        self.bench, self.replay, self.prefix = bench, replay, prefix

    @cached_property
    def log(self) -> dict[str, Any]:
        return self.replay.predictions(ENDPOINT)

    @cached_property
    def scores(self) -> dict[int, Any]:
        found = {int(name[6:]): values for name, values in self.log.items() if name.startswith("score_")}
        return dict(sorted(found.items()))

    @cached_property
    def decisions(self) -> list[dict[str, Any]]:
        found = self.replay.decisions()
        self.bench.keep(f"{self.prefix}-decisions.json", found)
        return found

    def kinds(self, *nouns: str) -> list[dict[str, Any]]:
        return [event for event in self.decisions if event["kind"].startswith(nouns)]

    def put(self, name: str, result: Result) -> None:
        self.bench.put(f"{self.prefix}.{name}", result)

    def counts(self) -> None:
        """Sent, logged and joined against what the published file holds."""
        truth = world(self.replay.until)
        asked, landed = truth.asked, truth.landed
        if (asked, landed) != LANDED.get(self.replay.until, (asked, landed)):
            raise contract.CannotRun(
                f"the published file has {asked} flights and {landed} landings, not those promised"
            )
        told, took = self.replay.summary, f"replayed in {self.replay.wall_s:.0f} s"
        ids, values = self.log["request_id"].tolist(), self.log["label"].astype(float).tolist()
        labels = dict(zip(ids, values, strict=True))
        joined = sum(not math.isnan(label) for label in labels.values())
        untrue = sum(labels.get(name) != late for name, late in truth.late.items())
        for name, got, want, wrong, why in (
            ("sent", int(told["sent"]), asked, 0, took),
            ("logged", len(labels), asked, len(ids) - len(labels), ""),
            ("joined", joined, landed, untrue, ""),
        ):
            counts = {"attempted": want, "checked": got, "lost": max(0, want - got), "wrong": wrong}
            self.put(name, Result(stat([got], "count"), bars=(Bar("==", want),), counts=counts, reason=why))
        failed = self.replay.failed
        tally = {"attempted": asked, "checked": asked, "failed": failed}
        self.put("failed_requests", Result(stat([failed], "count"), counts=tally))

    def recovered(self) -> None:
        """Pool the loss of the frozen model, of each week's challenger and of what was served, over the same rows."""
        import numpy as np

        starts = {int(e["data"]["version"]): micros(e["at"]) for e in self.kinds("challenger.")}
        weekly = scoring.newest_since(self.log["at_us"], starts)
        strangers = int((weekly != scoring.newest(self.scores)).sum())
        labels, served = self.log["label"].astype(float), scoring.choose(self.scores, self.log["version"])
        both = scoring.choose(self.scores, weekly)
        found = scoring.pooled(labels, self.scores[1], both, served)
        gaps = int(np.isnan(self.scores[1]).sum() + np.isnan(both).sum() + np.isnan(served).sum())
        why = f"frozen {found.frozen:.4f}, weekly {found.weekly:.4f}, served {found.served:.4f}, {found.rows} rows"
        counts = {"attempted": len(weekly), "checked": found.rows, "wrong": strangers, "lost": gaps}
        value = stat([round(found.recovered, 4)], "score") if not math.isnan(found.recovered) else None
        self.bench.keep(f"{self.prefix}-challengers.json", starts)
        self.put("gap_recovered", Result(value, counts=counts, reason=why))
        has = ~np.isnan(labels)
        ranked = [round(scoring.auc(labels[has], scores[has]), 4) for scores in (served, self.scores[1], both)]
        why = f"frozen {ranked[1]:.4f}, weekly {ranked[2]:.4f}"
        self.put("auc", Result(stat([ranked[0]], "score"), counts={"checked": found.rows, "lost": gaps}, reason=why))

    def promotions(self) -> None:
        """Count the promotions, and score each against the champion it replaced on the logged requests after it."""
        made = [
            scoring.Promotion(micros(e["at"]), int(e["data"]["replaced"]), int(e["data"]["version"]))
            for e in self.kinds("version.promoted@")
        ]
        labels, at = self.log["label"].astype(float), self.log["at_us"]
        end = min(int(at.max()) + 1, micros(LEFT_OUT))
        whole = {v: self._whole(v) for v in sorted({v for p in made for v in (p.old, p.new)})}
        unlike = sum(wrong for _, wrong in whole.values())
        scores = {v: filled for v, (filled, _) in whole.items()}
        gains = [scoring.gain(p, at, labels, scores, days=WITHIN_DAYS, end_us=end) for p in made if p.at_us < end]
        worse = [g for g in gains if not g.mean >= WORSE]
        shown = ", ".join(
            f"{g.promotion.old}>{g.promotion.new} {g.mean:+.4f} ({g.rows} rows, {g.days:g} d)" for g in gains
        )
        self.bench.keep(f"{self.prefix}-promotions.json", [vars(g) | {"promotion": vars(g.promotion)} for g in gains])
        self.put("promotions", Result(stat([len(made)], "count"), counts={"attempted": len(made)}, reason=shown))
        lost = sum(g.missing for g in gains)
        counts = {"attempted": len(made), "checked": len(gains), "wrong": unlike, "lost": lost}
        self.put("promotions_worse", Result(stat([len(worse)], "count"), counts=counts, reason=shown))

    def _whole(self, version: int) -> tuple[Any, int]:
        """A version's score of every request: as logged, else as the version scores the logged inputs now.

        Where both are there they must agree; returns how often they do not.
        """
        import numpy as np

        logged = self.scores.get(version, np.full(len(self.log["at_us"]), np.nan))
        again = self.replay.rescored(f"{ENDPOINT}@{version}", ENDPOINT)
        there = ~np.isnan(logged)
        return np.where(there, logged, again), int((logged[there] != again[there]).sum())


def micros(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time."""
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

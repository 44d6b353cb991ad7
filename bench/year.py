"""The whole year: as it was, and with its faults and acts; what was paged, what was let through, and the same again.

The story is played twice: at full speed on SQLite, and slower, killed three times, on PostgreSQL with an S3 store.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import contract
from contract import Bench, Result, stat
from judged import Judged, micros
from loop import same
from replays import Replay, days_until

UNTIL = "2013-12-31"
FEATURES = "delay_features"
KILLS = 3
HOUR_US = 3_600_000_000
# true incidents of the published weather: a jump of 44 degrees and back, hours without a row, the end of all rows
INCIDENTS = (
    ("2013-05-08T22:00:00Z", "2013-05-08T23:00:00Z"),
    ("2013-08-22T19:00:00Z", "2013-08-22T22:00:00Z"),
    ("2013-10-23T05:00:00Z", "2013-10-23T08:00:00Z"),
    ("2013-10-25T19:00:00Z", "2013-10-26T01:00:00Z"),
    ("2013-11-01T02:00:00Z", "2013-11-01T05:00:00Z"),
    ("2013-11-02T19:00:00Z", "2013-11-03T01:00:00Z"),
    ("2013-12-30T18:00:00Z", "2014-01-09T00:00:00Z"),
)
WIND, CELSIUS, FLIPPED, SILENT = (
    "2013-08-20T14:00:00Z", "2013-09-01T00:00:00Z", "2013-11-12T00:00:00Z", "2013-12-30T18:00:00Z",
)  # fmt: skip
MENDED = {CELSIUS: "2013-09-08T00:00:00Z", FLIPPED: "2013-11-19T00:00:00Z"}
FAULTY_WEEKS, FORCED = ("2013-07-22", "2013-07-29", "2013-08-05"), "2013-08-08T16:00:00Z"
AT_MOST_REQUESTS, AT_MOST_DAYS = 500, 3
LEVEL_SD = 1.645  # of the normal, for the statement of a page as the log shows it


class Year:
    """The replays of the year; each is played when the first part needs it, and once even when it breaks."""

    def __init__(self, bench: Bench, work: Path) -> None:
        self.bench = bench
        self.random = random.Random(bench.args.seed)
        self._clean, self._story = Replay(work / "year-clean"), Replay(work / "year-story", "story")
        self._again = Replay(work / "year-again", "story")
        self._broken: dict[str, str] = {}
        self._judged = Judged(bench, self._clean, "year")

    def _played(self, replay: Replay) -> Replay:
        name = replay.folder.name
        if name in self._broken:
            raise RuntimeError(f"no replay to look at: {self._broken[name]}")
        if not replay.summary:
            try:
                replay.run(UNTIL)
            except Exception as error:
                self._broken[name] = str(error)
                raise
            told = {"wall_s": replay.wall_s, "peak_mb": replay.peak_mb, "summary": replay.summary}
            self.bench.keep(f"{name}.json", told)
        return replay

    @property
    def clean(self) -> Judged:
        self._played(self._clean)
        return self._judged

    @cached_property
    def story(self) -> Judged:
        return Judged(self.bench, self._played(self._story), "story")

    # --- as it was ---

    def costs(self) -> None:
        """How long it took and what memory it had."""
        replay = self.clean.replay
        parts = f"{replay.replay_s:.0f} s of it the replay"
        self.bench.put("year.wall_s", Result(stat([replay.wall_s], "wall"), reason=parts))
        self.bench.put("year.peak_pss_mb", Result(stat([replay.peak_mb], "bytes"), reason="sampled every 2 s"))

    def pages(self) -> None:
        """Each page of the clean year, borne out by the log or by the rows, or false."""
        told = [self._page(event) for event in self.clean.kinds("alarm.opened@", "feed.broke@")]
        false = [page for page in told if not page["true"]]
        self.bench.keep("pages.json", told)
        why = "; ".join(f"{page['at'][:10]} {page['what']}" for page in false)
        counts = {"attempted": len(told), "checked": len(told)}
        why = f"{len(told)} pages; false: {why or 'none'}"
        self.bench.put("alarms.false_pages", Result(stat([len(false)], "count"), counts=counts, reason=why))

    def _page(self, event: dict[str, Any]) -> dict[str, Any]:
        data, at = event["data"], micros(event["at"])
        kind = str(data.get("alarm", "feed"))
        out = {"at": event["at"], "what": data.get("reason", kind), "true": False}
        if event["kind"].startswith("feed.broke@") or kind.startswith("feed"):
            weather = data.get("source", "weather") == "weather" and "weather" in str(data)
            near = any(micros(a) <= at <= micros(b) + 24 * HOUR_US for a, b in INCIDENTS)
            return out | {"true": weather and near}
        return out | {"true": kind == "quality" and self._shown(data)}

    def _shown(self, data: dict[str, Any]) -> bool:
        """Whether the log shows what a page on quality states: the figures, and more than is allowed beyond chance."""
        import numpy as np
        import scoring

        log, told, days = self.clean.log, data["figures"], data["days"]
        label = log["label"].astype(float)
        score = scoring.choose(self.clean.scores, log["version"])
        day = (log["at_us"] // (24 * HOUR_US)).astype(int)
        has = ~np.isnan(label) & ~np.isnan(score)
        within = has & np.isin(day, [micros(f"{text}T00:00:00Z") // (24 * HOUR_US) for text in days])
        rate, mean = float(label[within].mean()), float(score[within].mean())
        loss = scoring.row_loss(label, score)
        if max(abs(rate - told["label_rate"]), abs(mean - told["mean_score"])) > 0.01:
            return False
        if told.get("claim") == "bias":
            excess, over = np.sign(mean - rate) * (score - label), told["limit"]
        else:
            plain = scoring.row_loss(label, np.full(len(label), rate))
            excess, over = loss - (1 - told["reference"]) * plain, told["limit"]
        sums = [float(excess[has & (day == one)].mean()) for one in np.unique(day[has])]
        effect = float(excess[within].mean())
        return effect - LEVEL_SD * float(np.std(sums)) / len(days) ** 0.5 > over

    def cells(self) -> None:
        """Every cell that was served from a look-up, rebuilt offline."""
        told = json.loads(self.clean.replay.lw("features", "check", FEATURES, "--json", check=False))
        rows, cells, differ = (int(told[name]) for name in ("rows", "cells", "differ"))
        self.bench.keep("cells.json", told)
        counts = {"attempted": len(self.clean.log["request_id"]), "checked": rows}
        counts["lost"] = max(0, counts["attempted"] - rows)
        why = f"{rows:,} rows, {cells:,} cells"
        self.bench.put("features.cells_differ", Result(stat([differ], "count"), counts=counts, reason=why))

    # --- with its faults and acts ---

    def bad(self) -> None:
        """Versions that served all requests through the gate and must not have."""
        promoted = {int(e["data"]["version"]): e["at"] for e in self.story.kinds("version.promoted@")}
        forced = {int(e["data"]["version"]) for e in self.story.kinds("release.overridden@")}
        refused = {int(e["data"]["candidate"]) for e in self.story.kinds("gate.refused@", "rollout.aborted@")}
        trained = {int(e["data"]["version"]): e["at"] for e in self.story.kinds("challenger.trained@")}
        wrong = {}
        for version, at in promoted.items():
            if version in forced or version not in trained:
                wrong[version] = "not by the loop's own training"
            elif version in refused or trained[version][:10] in FAULTY_WEEKS:
                wrong[version] = f"promoted {at} though it was refused or cannot answer"
            elif any(since < trained[version] < until for since, until in MENDED.items()):
                wrong[version] = f"trained {trained[version]}, on held rows"
        held = {int(e["data"]["version"]): e["at"] for e in self.story.kinds("challenger.trained@")}
        during = [f"@{v} {at}" for v, at in held.items() if any(a < at < b for a, b in MENDED.items())]
        why = "; ".join(f"@{version}: {text}" for version, text in wrong.items())
        why += f"; trained while a feed was broken: {', '.join(during) or 'none'}"
        counts = {"attempted": len(promoted), "checked": len(promoted)}
        self.bench.put("year.bad_promoted", Result(stat([len(wrong)], "count"), counts=counts, reason=why))

    def faults(self) -> None:
        """Each fault and how it was met."""
        pages = self.story.kinds("alarm.opened@", "feed.broke@")
        found: dict[str, Callable[[], str]] = {
            "wind of 1048 mph": lambda: self._within(pages, WIND, 24, "wind_speed"),
            "Celsius": lambda: self._within(pages, CELSIUS, 24, "temp"),
            "labels flipped": lambda: self._within(pages, FLIPPED, 24, "label"),
            "silent feed": lambda: self._within(pages, SILENT, 24, "weather"),
            "2 % of requests fail": self._aborted,
            "a worse model forced in": self._rolled_back,
            "models made by hand": self._refused,
        }
        told = {name: look() for name, look in found.items()}
        self.bench.keep("faults.json", told)
        met = [name for name, text in told.items() if not text.startswith("NO")]
        why = "; ".join(f"{name}: {text}" for name, text in told.items())
        self.bench.put("alarms.faults_found", Result(stat([len(met)], "count"), counts={"checked": 7}, reason=why))

    @staticmethod
    def _within(pages: list[dict[str, Any]], since: str, hours: int, word: str) -> str:
        start = micros(since)
        for event in pages:
            late = (micros(event["at"]) - start) / HOUR_US
            if 0 <= late <= hours and word in str(event["data"]):
                return f"after {late:g} h"
        return "NOT reported"

    def _aborted(self) -> str:
        weeks = self.story.kinds("challenger.trained@")
        trained = [e["data"]["version"] for e in weeks if e["at"][:10] in FAULTY_WEEKS]
        steps = [e for e in self.story.kinds("canary.stepped@") if e["data"]["candidate"] in trained]
        ends = self.story.kinds("rollout.aborted@", "version.rolled-back@")
        ended = [e for e in ends if {e["data"].get("candidate"), e["data"].get("version")} & set(trained)]
        if not trained or not steps or not ended:
            return f"NOT met: {len(trained)} trained, {len(steps)} canary steps, {len(ended)} ends"
        since, until = micros(steps[0]["at"]), micros(ended[0]["at"])
        at = self.story.log["at_us"]
        seen = int(((at >= since) & (at < until)).sum())
        text = f"rolled back after {seen} of its requests"
        return text if seen <= AT_MOST_REQUESTS else f"NO, {text}"

    def _rolled_back(self) -> str:
        forced = self.story.kinds("release.overridden@")
        back = [e for e in self.story.kinds("version.rolled-back@") if e["at"] > FORCED]
        if not forced or not back:
            return f"NOT met: {len(forced)} forced, {len(back)} rolled back"
        days = (micros(back[0]["at"]) - micros(forced[0]["at"])) / HOUR_US / 24
        text = f"rolled back after {days:.1f} days"
        return text if days <= AT_MOST_DAYS else f"NO, {text}"

    def _refused(self) -> str:
        refused = [e for e in self.story.kinds("gate.refused@") if e["at"][:10] == "2013-08-08"]
        reasons = [str(e["data"].get("reason")) for e in refused]
        named = any("dep_delay" in reason and "known" in reason for reason in reasons)
        text = f"{len(refused)} of 4 refused" + (", dep_delay by name" if named else "")
        return text if len(refused) == 4 and named else f"NO, {text}"

    # --- the same again ---

    def identical(self) -> None:
        """The story slower, killed three times at random moments, on another database and store."""
        sys.path.insert(0, str(contract.ROOT / "tests"))
        import servers

        first, second = self.story.replay, self._again
        pace = 0.9 * days_until(UNTIL) / first.replay_s
        before_s, whole_s = first.wall_s - first.replay_s, days_until(UNTIL) / pace
        moments = sorted(before_s + whole_s * self.random.uniform(0.05, 0.9) for _ in range(KILLS))
        waits = [b - a for a, b in zip([0.0, *moments], moments, strict=False)]
        try:
            with servers.postgres() as address, servers.object_store() as store:
                second.place = {**store, "LOOPWRIGHT_DATABASE": address}
                second.run(UNTIL, pace=pace, kill_after_s=waits)
                left, right = first.stable(), second.stable()
        except servers.Missing as missing:
            raise contract.CannotRun(str(missing)) from None
        killed = ", ".join(f"{wait:.0f}" for wait in second.kills)
        why = f"killed after {killed} s, {second.wall_s:.0f} s in all"
        self.bench.put("year.replay_identical", same(self.bench, "year", left, right, len(second.survivors), why))


def measure(bench: Bench, work: Path) -> None:
    """The rows of the year."""
    year = Year(bench, work)
    bench.part(lambda: year.clean.counts(), "year.sent", "year.logged", "year.joined", "year.failed_requests")
    bench.part(lambda: year.clean.recovered(), "year.auc", "year.gap_recovered")
    bench.part(lambda: year.clean.promotions(), "year.promotions")
    bench.part(year.costs, "year.wall_s", "year.peak_pss_mb")
    bench.part(year.pages, "alarms.false_pages")
    bench.part(year.cells, "features.cells_differ")
    bench.part(year.bad, "year.bad_promoted")
    bench.part(year.faults, "alarms.faults_found")
    bench.part(year.identical, "year.replay_identical")

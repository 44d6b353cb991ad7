"""What the policy that an endpoint has by default wins and costs, over several streams, decided by the package itself.

Streams: the flights of the demo in four weekly phases, elec2, and made-up ones of known truth. See bench/drive.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

WORSE = -0.002
AFTER_DAYS = 14
YEAR = "2014-01-01T00:00:00Z"


@dataclass
class Figures:
    """What one life of a stream came to."""

    stream: str
    rows: int
    frozen: float
    weekly: float
    served: float
    recovered: float
    auc: float
    promotions: list[tuple[str, int, int, float]]
    worse: int
    rolled_back: int
    refused: int
    seconds: float
    shortfall: float = 0.0
    measured: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)


def figures(drive: Any, since: str, seconds: float) -> Figures:
    """Score a life by the bench's own means: pooled losses, and each promotion's next two weeks."""
    import numpy as np
    import scoring

    from loopwright.checks.scores import auc
    from loopwright.kernel.times import DAY, format_time, parse_time

    rows, stream = drive.rows, drive.stream
    span = rows.between(parse_time(since), parse_time(stream.until))
    at, label = rows.at_us[span], np.where(rows.known_us[span] < 1 << 61, rows.label[span], np.nan)
    frozen = drive.score(1, span)
    starts = {version: until for until, version in drive.trained.items()}
    weekly_version = scoring.newest_since(at, starts)
    weekly = np.full(len(at), np.nan)
    for version in sorted(set(weekly_version.tolist())):
        mine = np.flatnonzero(weekly_version == version)
        part = slice(span.start + int(mine[0]), span.start + int(mine[-1]) + 1)
        weekly[mine] = drive.score(version, part)[mine - mine[0]]
    served = scoring.choose({v: s[span] for v, s in rows.scores.items()}, rows.version[span])
    pooled = scoring.pooled(label, frozen, weekly, served)
    promotions = []
    last = parse_time(stream.until)
    if stream.name == "flights":
        last = min(last, parse_time("2013-12-31T00:00:00Z"))  # a day without any weather
    for event in drive.events("version.promoted@"):
        new, old = int(event.data["version"]), int(event.data["replaced"])
        part = rows.between(event.at_us, min(last, event.at_us + AFTER_DAYS * DAY))
        a, b = drive.score(old, part), drive.score(new, part)
        y = rows.label[part]
        gain = float(np.nanmean(scoring.row_loss(y, a) - scoring.row_loss(y, b))) if part.stop > part.start else 0.0
        promotions.append((format_time(event.at_us)[:10], old, new, round(gain, 4)))
    has = ~np.isnan(label)
    right = np.cumsum((served[has] > 0.5) == (label[has] > 0.5)) - np.cumsum((frozen[has] > 0.5) == (label[has] > 0.5))
    short = -right[999:] / np.arange(1000, len(right) + 1) if len(right) >= 1000 else np.zeros(1)
    return Figures(
        stream=f"{stream.name} {stream.start[:10]}", rows=pooled.rows, frozen=round(pooled.frozen, 5),
        weekly=round(pooled.weekly, 5), served=round(pooled.served, 5), recovered=round(pooled.recovered, 4),
        auc=round(auc(label[has], served[has]) or 0.0, 4), promotions=promotions,
        worse=sum(p[3] < WORSE for p in promotions), rolled_back=len(drive.events("version.rolled-back@")),
        refused=len(drive.events("gate.refused@", "shadow.refused@", "rollout.aborted@")), seconds=round(seconds, 1),
        shortfall=round(float(short.max()), 4), measured=_measured(drive), policy=stream.policy,
    )  # fmt: skip


def _measured(drive: Any) -> dict[str, Any]:
    """What the settings that nobody named came to at the end."""
    from loopwright.releases import desk

    with drive.space.read() as tx:
        recipe = desk.find(tx, drive.stream.endpoint).recipe
    return {name: getattr(recipe, name) for name in ("close_minutes", "past_sd", "harm_limit", "min_labels")}


def live(stream: Any, cache: Path, since: str = "", keep: Path | None = None) -> Figures:
    """Live through a stream once and score it."""
    from drive import Drive

    begun = time.perf_counter()
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lw-policy-", dir=fast) as folder:
        drive = Drive(stream, Path(folder), cache)
        try:
            drive.run()
            found = figures(drive, since or stream.start, time.perf_counter() - begun)
            if keep is not None:
                keep.write_text(json.dumps(drive.decisions(), indent=1))
        finally:
            drive.close()
    return found


def measure(bench: Any) -> None:
    """The rows of bench/loop.py that need whole streams: four weekly phases of the flights, and elec2."""
    import contract
    import streams

    cache = contract.OUT / "policy-cache"
    cache.mkdir(parents=True, exist_ok=True)

    def lives(name: str) -> list[Figures]:
        found = [live(s, cache, since) for s, since in streams.of(name, cache, list(streams.PHASES), YEAR, {})]
        bench.keep(f"policy-{name}.json", [asdict(one) for one in found])
        return found

    def phases() -> None:
        found = lives("flights")
        won = [one.recovered for one in found]
        told = "; ".join(
            f"{f.stream}: {f.recovered:.3f}, AUC {f.auc}, {len(f.promotions)} promotions, {f.worse} worse"
            for f in found
        )
        counts = {"attempted": len(found), "checked": sum(one.rows > 0 for one in found)}
        mean = contract.stat([round(sum(won) / len(won), 4)], "score")
        bench.put("policy.gap_recovered", contract.Result(mean, counts=counts, reason=told))
        lowest = contract.stat([min(won)], "score")
        bench.put("policy.gap_lowest", contract.Result(lowest, counts=counts, reason=told))

    def humble() -> None:
        [found] = lives("elec2")
        told = f"{len(found.promotions)} promotions, log loss {found.frozen} frozen, {found.served} served"
        counts = {"attempted": found.rows, "checked": found.rows}
        bench.put("elec2.gap", contract.Result(contract.stat([found.shortfall], "score"), counts=counts, reason=told))

    bench.part(phases, "policy.")
    bench.part(humble, "elec2.")


def main() -> int:
    import streams

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="flights", help="flights, elec2, or a made-up one by name; comma")
    parser.add_argument("--phases", default="0,2,4,6")
    parser.add_argument("--until", default=YEAR)
    parser.add_argument("--set", action="append", default=[], help="a setting of lw.warm, NAME=JSON")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "loopwright-policy")
    parser.add_argument("--decisions", type=Path, help="write the decisions of the last life here")
    parser.add_argument("--against", type=Path, help="compare with `lw events --kind decision --json --stable`")
    args = parser.parse_args()
    policy = {name: json.loads(value) for name, _, value in (text.partition("=") for text in args.set)}
    for name in args.streams.split(","):
        for stream, since in streams.of(name, args.cache, args.phases.split(","), args.until, policy):
            found = live(stream, args.cache, since, args.decisions)
            print(json.dumps(asdict(found)), flush=True)
    if args.against and args.decisions:
        alike, unlike = compared(json.loads(args.decisions.read_text()), json.loads(args.against.read_text())["items"])
        print(json.dumps({"decisions": alike + unlike, "differing": unlike}))
    return 0


LEFT_OUT = ("feed.", "drift.", "contract.", "alarm.", "work.held")


def compared(mine: list[dict[str, Any]], real: list[dict[str, Any]]) -> tuple[int, int]:
    """How many decisions of a real replay this bench made just so, and how many not, up to the replay's last."""

    def flat(event: dict[str, Any]) -> str:
        return json.dumps({**{k: v for k, v in event.items() if k != "data"}, **event.get("data", {})}, sort_keys=True)

    last = max(event["at"] for event in real)
    left = [flat(event) for event in mine if event["at"] <= last and not event["kind"].startswith(LEFT_OUT)]
    right = [flat(event) for event in real if not event["kind"].startswith(LEFT_OUT)]
    same = sum(a == b for a, b in zip(left, right, strict=False))
    return same, max(len(left), len(right)) - same


if __name__ == "__main__":
    sys.exit(main())

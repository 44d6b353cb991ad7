"""The guards of a roll-out on made-up calls of known truth: what they stop wrongly, and after how many calls rightly.

Drives releases.guards.operations as the loop does: a shadow of a day, a canary looked at every hour, a watch of a week.
Prints a table; `--runs` sets the roll-outs a row.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass

from loopwright.monitors.model import Block
from loopwright.releases import guards
from loopwright.releases.model import GuardLook, Phase
from loopwright.releases.policy import WarmRecipe

HOUR_CALLS = 40  # about 930 a day, as the flights
# phase, hours since the look before: one day of shadow, 24 hours of canary, two days every four hours, five days
LOOKS: list[tuple[Phase, int]] = (
    [("shadow", 24)] + [("canary", 1)] * 24 + [("watch", 4)] * 12 + [("watch", 24)] * 5  # type: ignore[operator]
)


@dataclass
class Truth:
    """How both fail and how long they take, in microseconds; `begins` is the look at which the candidate turns bad."""

    name: str
    base: float = 0.0
    fault: float = 0.0
    slower: float = 1.0
    begins: int = 1
    bursts: float = 0.0
    days: int = 7


def took(draw: random.Random, truth: Truth) -> float:
    """One call: a log-normal time, now and then held up ten to a hundred times as long by a busy machine."""
    plain = draw.lognormvariate(5.0, 0.5)
    return plain * draw.uniform(10, 100) if draw.random() < truth.bursts else plain


def past_of(draw: random.Random, truth: Truth) -> list[Block]:
    """The champion's own days before the roll-out."""
    out = []
    for day in range(truth.days):
        failed = sum(draw.random() < truth.base for _ in range(24 * HOUR_CALLS)) if truth.base else 0
        times = sorted(took(draw, truth) for _ in range(200))
        spare = dict.fromkeys(("n_labelled", "loss_sum", "score_sum", "label_sum", "label_square_sum"), 0)
        n = 24 * HOUR_CALLS - failed
        out.append(Block(day=f"{day}", version=1, n=n, errors=failed, p95_us=int(times[189]), **spare))  # type: ignore[arg-type]
    return out


def run(draw: random.Random, truth: Truth) -> int | None:
    """After how many calls of the turned candidate it is stopped; None when it never is."""
    past, recipe = past_of(draw, truth), WarmRecipe()
    slow_us = guards.slow_above(past)
    looks: list[GuardLook] = []
    bad_calls = 0
    for place, (phase, hours) in enumerate(LOOKS):
        bad = place >= truth.begins
        calls = hours * HOUR_CALLS
        alone = slow = 0
        for _ in range(calls):
            mine, theirs = took(draw, truth) * (truth.slower if bad else 1), took(draw, truth)
            slow += mine > slow_us and mine > guards.TIMES * theirs
            fails = draw.random() < (truth.base + truth.fault if bad else truth.base)
            alone += fails and not draw.random() < truth.base
        bad_calls += calls if bad else 0
        looks.append(
            GuardLook(rollout="r", until_us=place + 1, phase=phase, calls=calls, alone=alone, paired=calls, slow=slow)
        )
        if guards.operations(recipe, looks, past, place).outcome == "fail":
            return bad_calls
    return None


TRUTHS = [
    Truth("equal, neither fails"),
    Truth("equal, both fail 0.1 %", base=0.001),
    Truth("equal, both fail 1 %", base=0.01),
    Truth("equal, both fail 5 %", base=0.05),
    Truth("equal, one day of the champion known", base=0.002, days=1),
    Truth("equal, a busy machine holds up 3 % of the calls", bursts=0.03),
    Truth("fails 2 % from the canary on", fault=0.02),
    Truth("fails 2 %, one day of the champion known", fault=0.02, days=1),
    Truth("fails 5 % from the canary on", fault=0.05),
    Truth("fails 2 % from the third day of the watch on", fault=0.02, begins=33),
    Truth("takes five times as long from the canary on", slower=5.0),
    Truth("takes five times as long on a busy machine", slower=5.0, bursts=0.03),
]


def row(truth: Truth, runs: int, seed: int) -> str:
    """One line of the table."""
    draw = random.Random(f"{seed} {truth.name}")
    found = sorted(calls for _ in range(runs) if (calls := run(draw, truth)) is not None)
    within = sum(calls <= 500 for calls in found)
    middle = f"{found[len(found) // 2]}" if found else "-"
    return f"| {truth.name} | {100 * len(found) / runs:.1f} % | {100 * within / runs:.1f} % | {middle} |"


def main(show: Callable[[str], None] = print) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    show("| truth | stopped | within 500 calls | calls until then (median) |")
    show("| --- | --- | --- | --- |")
    for truth in TRUTHS:
        show(row(truth, args.runs, args.seed))


if __name__ == "__main__":
    main()

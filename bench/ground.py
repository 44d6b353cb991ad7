"""Does the ground hold? Faults and power cuts, kills under load, the audit, the door, two databases, speed and weight.

  .venv/bin/python bench/ground.py --json [OUT] [--only ID,..] [--list] [--seed N] [--quick] [--reps N] [--short]

Each part is a file of its own beside this one; the rows and their limits stand here, together.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

import contract
from contract import Bar, Bench, Row


def _none(name: str, title: str) -> Row:
    return Row(name, title, "", "lower", (Bar("==", 0),))


def _at_most(name: str, title: str, unit: str, bar: float) -> Row:
    return Row(name, title, unit, "lower", (Bar("<=", bar),))


ROWS = (
    _none("faults.lost", "acknowledged acts that are gone after a fault"),
    _none("faults.wrong_bytes", "stored bytes that are not what was stored"),
    _none("faults.false_success", "commands that said done and had not done it"),
    _none("faults.stuck", "commands that do not succeed when typed again"),
    _none("faults.leftover", "files that stay behind after gc"),
    _none("power.lost", "acknowledged acts that are gone after a power cut"),
    _none("kill.failed_requests", "requests without an answer while processes are killed"),
    _none("kill.doubled", "predictions and labels lost, doubled or answered in two ways"),
    _at_most("kill.ready_s", "ready again after a kill", "s", 2),
    _at_most("writer.p99_ms", "a writer beside three busy ones, p99 of its acknowledgements", "ms", 100),
    _at_most("audit.verify_20k_cpu_ms", "20,000 events verified", "ms", 100),
    _at_most("authorize.us", "one decision of authorize", "us", 1),
    _at_most("start.help_ratio", "`lw --help` beside a bare interpreter", "x", 10),
    _at_most("start.import_ratio", "`import loopwright` beside a bare interpreter", "x", 7),
    _at_most("start.add_cpu_s", "`lw add` on a small project", "s", 0.25),
    _at_most("start.status_cpu_s", "`lw status` on a small project", "s", 0.25),
    _at_most("up.idle_pss_mb", "idle `lw up` with two workers, memory of all its processes", "MB", 250),
    _at_most("up.ready_s", "from `lw up` to ready", "s", 2),
    _at_most("install.mb", "base install", "MB", 220),
    _at_most("install.dists", "distributions of the base install", "", 24),
    _none("fuzz.crashes", "inputs that crash, hang or bloat a parser"),
    Row(
        "serving.gb.c16.fastapi_ratio",
        "answers a second beside FastAPI with scikit-learn, 16 connections, logging on",
        "1/s",
        "higher",
        (Bar(">=", 15, on="ratio"),),
    ),
    Row(
        "ground.demo_identical_pg",
        "decisions equal, byte for byte, on PostgreSQL with an S3 store",
        "",
        "higher",
        (Bar("==", 1),),
    ),
)

# file beside this one -> the rows it measures
PARTS = {
    "weight": ("start.", "up.", "install."),
    "access": ("authorize.",),
    "audit": ("audit.",),
    "pg": ("ground.", "writer."),
    "kill": ("kill.",),
    "faults": ("faults.", "power."),
    "fuzz": ("fuzz.",),
    "serving": ("serving.",),
}


def measure(bench: Bench) -> None:
    """Every part with a wanted row; one that breaks fails its own rows only."""
    for name, prefixes in PARTS.items():
        bench.part(lambda name=name: import_module(name).measure(bench), *prefixes)  # type: ignore[misc]


def arguments() -> argparse.Namespace:
    parser = contract.parser(__doc__)
    parser.add_argument("--short", action="store_true", help="fewer points and inputs, the same limits")
    return parser.parse_args()


if __name__ == "__main__":
    contract.use_venv()
    sys.path.insert(0, str(contract.ROOT / "bench"))
    given = arguments()
    sys.exit(contract.main("ground", ROWS, given, measure))

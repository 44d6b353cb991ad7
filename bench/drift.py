"""Does the drift test keep its budget and find faults, and does the quality alarm: streams and days of known truth.

The streams and the scoring are `rulers/monitoring`, which also judges other tools. The check is called as by the loop.

    .venv/bin/python bench/drift.py --json bench/out/drift.json      # about 10 CPU minutes; --reps 1 is a look
"""

from __future__ import annotations

import importlib
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import contract
from contract import Bar, Result, Row, stat

RULER = Path(__file__).parent / "rulers" / "monitoring"
NULLS = ("null_iid", "null_iid_n5000", "null_iid_n100", "null_window_effects", "null_ar_windows", "null_weekly",
         "null_row_autocorr")  # fmt: skip
FAULTS = ("shift_small", "shift_medium", "scale_medium", "gradual_medium", "new_level_2pct", "missing_1_to_5pct",
          "unit_x100_all", "unit_x100_10pct")  # fmt: skip
HARD = ("shift_small_window_effects", "shift_medium_window_effects", "shift_medium_weekly")
REAL = ("real_delay_plus_5min", "real_distance_km", "real_airtime_missing_10pct", "real_new_carrier_3pct",
        "real_temp_celsius")  # fmt: skip
ROWS = [
    Row("drift.quiet", "real days shuffled within the weekday: windows in which no column is named", "share", "higher",
        (Bar(">=", 0.95),)),
    Row("drift.false", "made-up windows without drift, independent or not, in which a column is named", "share",
        "lower", (Bar("<=", 0.01),)),
    Row("drift.power", "eight faults in independent rows: windows in which a broken column is named", "share", "higher",
        (Bar(">=", 0.9),)),
    Row("drift.power_dependent", "three faults among windows that hang together", "share", "higher",
        (Bar(">=", 0.55),)),
    Row("drift.power_real", "five faults in real days", "share", "higher", (Bar(">=", 0.75),)),
    Row("drift.precision", "named columns that are broken, over the eight faults", "share", "higher",
        (Bar(">=", 0.95),)),
    Row("drift.joint", "a correlation that turns round: windows in which correlations are named", "share", "higher",
        (Bar(">=", 0.9),)),
    Row("drift.window_ms", "CPU to judge one window of 50 columns against 28", "ms", "lower", (Bar("<=", 100),)),
    Row("quality.false_pages", "pages a year of an unbiased model in stormy days that hang together", "pages", "lower",
        (Bar("<=", 1),)),
    Row("quality.found", "a bias of 0.25 found within seven days", "share", "higher", (Bar(">=", 0.6),)),
    Row("quality.found_gross", "labels turned round found within three days", "share", "higher", (Bar(">=", 0.95),)),
]  # fmt: skip


def ours(stream: Any) -> list[dict[str, Any]]:
    """The adapter that `rulers/monitoring/run.py` calls: the flagged columns of each test window."""
    tools = importlib.import_module("tools")
    from loopwright.checks import drift, profiles

    reference = [_table(part) for _, part in stream.ref.groupby("w", sort=True)]
    whole = _table(stream.ref)
    scheme = profiles.Scheme(columns=tuple(profiles.column(name, values) for name, values in whole.items()))
    known = [profiles.profile(scheme, table) for table in reference]
    old, recent, out = drift.Windows(range(len(known)), known), [], []
    for window in tools.windows(stream):
        recent.append(profiles.profile(scheme, _table(window)))
        days = range(len(known), len(known) + len(recent))
        found = [moved.column for moved in drift.drifted(scheme, old, drift.Windows(days, recent))]
        out.append(tools.row([name for name in found if name != drift.JOINT], bool(found), None))
    return out


def _table(frame: Any) -> dict[str, Any]:
    import numpy as np

    streams = importlib.import_module("streams")  # of the ruler, which has imported it
    out = {name: frame[name].to_numpy(float) for name in streams.NUMS}
    for name in streams.CATS:
        values = [None if value is None or value != value else str(value) for value in frame[name]]
        out[name] = np.array(values, dtype=object)
    return out


def _ruler(folder: Path, scenarios: Sequence[str], reps: int) -> dict[str, list[dict[str, Any]]]:
    """Run the ruler on scenarios; lines by scenario."""
    words = [sys.executable, "run.py", f"{Path(__file__).resolve()}:ours", "--out", str(folder)]
    command = [*words, "--reps", str(reps), "--scenarios", ",".join(scenarios)]
    subprocess.run(command, cwd=RULER, check=True)
    lines = [json.loads(line) for line in (folder / "ours.jsonl").read_text().splitlines()]
    return {name: [line for line in lines if line["scenario"] == name] for name in scenarios}


def _score(lines: list[dict[str, Any]], key: str) -> float:
    sys.path.insert(0, str(RULER))
    score = importlib.import_module("score")
    errors = [line["error"] for line in lines if line["error"]]
    if errors:
        raise RuntimeError(errors[0])
    return float(score.stats(lines)[key])


def measure(bench: contract.Bench) -> None:
    """Run the ruler and the days of known truth."""
    reps = 1 if bench.args.quick else max(2, min(bench.args.reps, 4))
    with tempfile.TemporaryDirectory(dir=contract.OUT) as folder:
        made, real = Path(folder) / "made", Path(folder) / "real"
        bench.part(lambda: _false(bench, made, reps), "drift.false")
        bench.part(lambda: _powers(bench, made, reps), "drift.power", "drift.joint", "drift.precision")
        bench.part(lambda: _real(bench, real, 2 * reps), "drift.quiet", "drift.power_real")
    bench.part(lambda: _cost(bench), "drift.window_ms")
    bench.part(lambda: _quality(bench), "quality")


def _put(bench: contract.Bench, row: str, by_name: dict[str, list[dict[str, Any]]], key: str) -> None:
    found = {name: _score(lines, key) for name, lines in by_name.items()}
    bench.keep(f"{row}.json", found)
    mean = sum(found.values()) / len(found)
    told = "; ".join(f"{name} {value:.3f}" for name, value in found.items())
    count = sum(len(line["windows"]) for lines in by_name.values() for line in lines)
    bench.put(row, Result(stat([mean], "score"), counts={"attempted": count, "checked": count}, reason=told))


def _false(bench: contract.Bench, folder: Path, reps: int) -> None:
    _put(bench, "drift.false", _ruler(folder, NULLS, reps), "fa_window")


def _powers(bench: contract.Bench, folder: Path, reps: int) -> None:
    faults = _ruler(folder, FAULTS, reps)
    _put(bench, "drift.power", faults, "power")
    _put(bench, "drift.precision", faults, "precision")
    _put(bench, "drift.power_dependent", _ruler(folder, HARD, reps), "power")
    _put(bench, "drift.joint", _ruler(folder, ("joint_only",), reps), "verdict_power")


def _cost(bench: contract.Bench) -> None:
    """CPU of one judged window: 50 columns, 500 rows, 28 windows before it and 16 of them judged together."""
    import numpy as np

    from loopwright.checks import drift, profiles

    draw = np.random.default_rng(bench.args.seed)

    def table(rows: int) -> dict[str, Any]:
        made: dict[str, Any] = {f"n{number:02d}": draw.normal(size=rows) for number in range(35)}
        texts = {f"c{number:02d}": draw.integers(0, 12, rows).astype(str).astype(object) for number in range(15)}
        return made | texts

    scheme = profiles.Scheme(columns=tuple(profiles.column(name, values) for name, values in table(14000).items()))
    old, late = ([profiles.profile(scheme, table(500)) for _ in range(count)] for count in (28, 16))
    samples = []
    for _ in range(9):
        now, start = table(500), time.process_time()
        recent = [*late[1:], profiles.profile(scheme, now)]
        drift.drifted(scheme, drift.Windows(range(28), old), drift.Windows(range(28, 44), recent))
        samples.append((time.process_time() - start) * 1000)
    bench.put("drift.window_ms", Result(stat(samples, "cpu"), reason="its profile included"))


def _real(bench: contract.Bench, folder: Path, reps: int) -> None:
    lines = _ruler(folder, ("real_null",), reps)["real_null"]
    quiet = 1 - _score(lines, "fa_window")
    count = sum(len(line["windows"]) for line in lines)
    counts = {"attempted": count, "checked": count}
    bench.put("drift.quiet", Result(stat([quiet], "score"), counts=counts, reason=f"{count} days"))
    _put(bench, "drift.power_real", _ruler(folder, REAL, max(2, reps // 2)), "power")


# --- the quality alarm ----------------------------------------------------------------------------------------------


def _days(rng: random.Random, count: int, *, bias: float = 0.0, turned: bool = False) -> list[Any]:
    """Days of a model of skill 0.15: errors that hang together (0.5 from day to day), and one day in ten a storm."""
    from loopwright.monitors.model import SERVED, Block

    out, weather = [], 0.0
    for day in range(count):
        storm = rng.gauss(0, 1) * (2.5 if rng.random() < 0.1 else 0.8)
        weather = 0.5 * weather + 0.07 * storm
        came = min(max(0.24 + weather, 0.03), 0.9)
        came = 1 - came if turned else came
        loss = 0.85 * -(came * math.log(came) + (1 - came) * math.log(1 - came)) + (0.5 if turned else 0)
        n = rng.randint(700, 1000)
        out.append(
            Block(
                day=f"{day:04d}", version=SERVED, n=n, n_labelled=n, errors=0, loss_sum=loss * n,
                score_sum=(0.24 + bias) * n, label_sum=came * n, label_square_sum=came * n, histogram=b"",
            )
        )  # fmt: skip
    return out


def _quality(bench: contract.Bench) -> None:
    from loopwright.monitors import alarms
    from loopwright.monitors.model import Limits

    rng, limits, ground = random.Random(bench.args.seed), Limits(), alarms.Ground("log_loss", True, 0.15)
    years = 4 if bench.args.quick else 40

    def fails(days: list[Any]) -> str:
        return alarms.verdict(days[-84:], ground, limits).outcome

    pages = []
    for _ in range(years):
        days, open_, count = _days(rng, 365), False, 0
        for until in range(3, len(days) + 1):
            outcome = fails(days[:until])
            count += outcome == "fail" and not open_
            open_ = outcome == "fail" or (open_ and outcome != "pass")
        pages.append(count)
    mean = sum(pages) / years
    bench.put("quality.false_pages", Result(stat([mean], "count"), reason=f"{years} years: {sorted(pages)}"))
    for row, days_after, kind in (("quality.found", 7, {"bias": 0.25}), ("quality.found_gross", 3, {"turned": True})):
        found, tries = 0, years * 5
        for _ in range(tries):
            days = _days(rng, 60) + _days(rng, days_after, **kind)
            found += any(fails(days[:until]) == "fail" for until in range(61, len(days) + 1))
        bench.put(row, Result(stat([found / tries], "score"), reason=f"{found} of {tries}"))


if __name__ == "__main__":
    contract.use_venv()
    raise SystemExit(contract.main("drift", ROWS, contract.parser(__doc__).parse_args(), measure))

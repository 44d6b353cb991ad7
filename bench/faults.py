"""Faults at every file-changing call of eight operations, full disks, and power cuts at the acknowledgement.

The workshop is that of the tests, `tests/faults`: 200 points an operation here, 30 there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import contract
from contract import Bench, Result, stat

sys.path.insert(0, str(contract.ROOT / "tests" / "faults"))

POINTS, FEW_POINTS = 200, 30
CUTS, FEW_CUTS = 40, 7
ROOMS_KB = (0, 8, 40, 100, 200, 400)
# On memory: what a fault leaves behind does not depend on the disk, and fsyncs of thousands of projects do.
_MEMORY = "/dev/shm"


def measure(bench: Bench) -> None:
    """Both parts, in folders that go afterwards."""
    few = bench.args.quick or bench.args.short
    if bench.wants("faults."):
        _points(bench, FEW_POINTS if few else POINTS)
    if bench.wants("power."):
        _cuts(bench, FEW_CUTS if few else CUTS)


def _points(bench: Bench, count: int) -> None:
    from lab import Tally
    from points import OPERATIONS, have_strace

    if why := have_strace():
        raise contract.CannotRun(why)
    waiting, tallies, broken = list(OPERATIONS), dict[str, Tally](), list[str]()
    # the longest first, so that the two ends meet
    waiting.sort(key=lambda operation: operation.name == "run")
    threads = [
        threading.Thread(target=_work, args=(waiting, tallies, broken, count))
        for _ in range(min(2, os.cpu_count() or 1))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise RuntimeError(broken[0])
    whole = Tally()
    for tally in tallies.values():
        whole.add(tally)
    disks, told = _full(few=count == FEW_POINTS)
    whole.add(disks)
    each = ", ".join(f"{name} {tally.attempted}" for name, tally in sorted(tallies.items()))
    bench.keep("faults.json", {"points": each, "missed": whole.missed, "found": whole.faults, "disks": told})
    for kind in Tally.KINDS:
        found: list[str] = getattr(whole, kind)
        tally_of = {"attempted": whole.attempted, "checked": whole.attempted - whole.missed, "lost": len(found)}
        reason = f"{each}; {told}" if not found else found[0][:300]
        bench.put(f"faults.{kind}", Result(stat([len(found)], "count"), counts=tally_of, reason=reason))


def _work(waiting: list[Any], tallies: dict[str, Any], broken: list[str], count: int) -> None:
    """Take operations from the end of the list until there is none."""
    from lab import Lab
    from points import Trial

    try:
        with _folder(_MEMORY) as folder, contextlib.closing(Lab(folder, str(contract.VENV / "bin" / "python"))) as lab:
            lab.prepare()
            while waiting and not broken:
                operation = waiting.pop()
                start = time.monotonic()
                tallies[operation.name] = tally = Trial(lab, operation).run(count)
                took_s = time.monotonic() - start
                print(
                    f"  {operation.name:9} {tally.attempted} points, {len(tally.faults)} faults, {took_s:.0f} s",
                    file=sys.stderr,
                )
    except Exception as error:  # noqa: BLE001 - told by the thread that waits
        broken.append(f"{type(error).__name__}: {error}")


def _full(*, few: bool) -> tuple[Any, str]:
    """Operations on disks with little room, where mounts can be had."""
    from disks import NoMount, full, own_mounts, why_no_mounts
    from lab import Lab, Tally

    if why := why_no_mounts():
        return Tally(), f"full disks SKIPPED({why})"
    try:
        own_mounts()
        with _folder(_MEMORY) as folder, contextlib.closing(Lab(folder, str(contract.VENV / "bin" / "python"))) as lab:
            lab.prepare()
            tally = full(lab, ROOMS_KB[::3] if few else ROOMS_KB)
            return tally, f"full disks {tally.attempted}"
    except NoMount as error:
        return Tally(), f"full disks SKIPPED({error})"


def _cuts(bench: Bench, count: int) -> None:
    from disks import NoMount, own_mounts, power, why_no_mounts
    from lab import Lab

    why = why_no_mounts()
    if not why:
        try:
            own_mounts()
            with _folder() as folder, contextlib.closing(Lab(folder, str(contract.VENV / "bin" / "python"))) as lab:
                lab.prepare()
                cuts = power(lab, count)
        except NoMount as error:
            why = str(error)
    if why:
        bench.put("power.lost", Result(skipped=why))
        return
    tally = cuts.tally
    bench.keep("power.json", {"cuts": tally.attempted, "rows": cuts.rows, "found": tally.faults})
    counts = {"attempted": tally.attempted, "checked": tally.attempted, "lost": len(tally.faults)}
    said = f"{cuts.rows} predictions older than a second were there" if not tally.faults else tally.faults[0][:300]
    bench.put("power.lost", Result(stat([len(tally.faults)], "count"), counts=counts, reason=said))


@contextlib.contextmanager
def _folder(wanted: str = "") -> Any:
    """A folder of its own, on memory when that is asked for and can be had."""
    place = wanted if wanted and os.access(wanted, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="loopwright-faults-") as name:
        yield Path(name)

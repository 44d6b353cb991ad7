"""What verifying the events costs: 20,000 of them, sealed, read again and held against their seals.

CPU time of the verifying process alone, from the call to the report; the Space and its events are made before.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import contract
from contract import Result, stat

EVENTS = 20_000
ACTOR = "loop"


def measure(bench: contract.Bench) -> None:
    """Fill a Space with events of the size that registering a version writes, and verify them."""
    from loopwright import house
    from loopwright.audit import service
    from loopwright.kernel.event import EventKind
    from loopwright.store import ledger

    kind = EventKind("version.registered@1", "{subject} was registered")
    reps = 3 if bench.args.quick else 7
    with tempfile.TemporaryDirectory(dir=contract.OUT) as folder:
        space = house.init(Path(folder) / "audit")
        try:
            for start in range(0, EVENTS, 2000):
                numbers = range(start, start + 2000)
                space.write(
                    lambda tx, numbers=numbers: [  # type: ignore[misc]
                        ledger.append(tx, ACTOR, kind, f"model@{n}", _data(n), cause=n or None) for n in numbers
                    ]
                )
            service.seal(space, ACTOR)
            samples, wrong = [], 0
            for _ in range(reps):
                before = time.process_time()
                report = service.verify(space, ACTOR)
                samples.append((time.process_time() - before) * 1000)
                wrong += not report.ok or report.sealed != EVENTS
            space.write(lambda tx: tx.execute("UPDATE events SET actor = 'other' WHERE seq = 777"))
            found = service.verify(space, ACTOR).findings
            wrong += [(f.what, f.first_seq, f.last_seq) for f in found] != [("edited", 777, 777)]
        finally:
            space.close()
    counts = {"attempted": reps + 1, "checked": reps + 1, "wrong": wrong}
    bench.put("audit.verify_20k_cpu_ms", Result(stat(samples, "cpu"), counts=counts, reason=f"{EVENTS} events"))


def _data(number: int) -> dict[str, object]:
    return {"digest": f"{number:064x}", "version": number, "run": f"run_{number:026d}", "kind": "model", "score": 0.5}

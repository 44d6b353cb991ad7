"""What one decision of authorize costs, among a thousand grants and as many tokens: CPU, the process's own.

Each kind of asker is timed by itself, allowed and refused, over subjects that change with every call; the row holds
the slowest kind.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import contract
from contract import Result, stat

PEOPLE, GRANTS, SUBJECTS = 100, 10, 1000
ME = "local:0"


def measure(bench: contract.Bench) -> None:
    """Fill a Space with people, grants and tokens, and ask."""
    from loopwright import house
    from loopwright.access import service

    calls, reps = (20_000, 3) if bench.args.quick else (200_000, 7)
    with tempfile.TemporaryDirectory(dir=contract.OUT) as folder:
        space = house.init(Path(folder) / "access")
        try:
            user, token = _fill(space)
            kinds = _kinds(user, token, service.local_actor())
            wrong = checked = 0
            samples: list[float] = []
            parts = {}
            for name, (actor, action, subjects, allowed) in kinds.items():
                spent = []
                for _ in range(reps):
                    asked = list(islice(cycle(subjects), calls))
                    begun = time.process_time()
                    for subject in asked:
                        service.authorize(space, actor, action, subject)
                    spent.append((time.process_time() - begun) / calls * 1e6)
                for subject in subjects:
                    verdict = service.authorize(space, actor, action, subject)
                    checked += 1
                    wrong += verdict.passed is not allowed or not verdict.reason
                parts[name] = sorted(spent)[len(spent) // 2]
                if parts[name] == max(parts.values()):
                    samples = spent
        finally:
            space.close()
    told = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
    counts = {"attempted": checked, "checked": checked, "wrong": wrong}
    reason = f"the slowest of: {told}; {PEOPLE * GRANTS} grants, {PEOPLE} tokens"
    bench.put("authorize.us", Result(stat(samples, "cpu"), counts=counts, reason=reason))


def _fill(space: Any) -> tuple[str, str]:
    """People with grants of all three forms and a token each; returns one of the users and one of the tokens."""
    from loopwright.access import queries, tokens, users

    for n in range(PEOPLE):
        users.invite(space, ME, f"person{n}", role="viewer", scope=f"endpoint:e{n}", hours=1)

    def grant(tx: Any) -> None:
        tx.execute("UPDATE users SET state = 'enabled'")
        for row in tx.query("SELECT id FROM users"):
            for g in range(GRANTS):
                scope = f"endpoint:e{g}*" if g % 2 else f"endpoint:x{g}"
                tx.execute(
                    "INSERT INTO grants(principal, role, scope, given_us, given_by) VALUES (?, 'operator', ?, 0, ?)",
                    (f"user:{row['id']}", scope, ME),
                )
        queries.changed(tx)

    space.write(grant)
    made = [tokens.create(space, ME, role="operator", scope=f"endpoint:e{n}*", days=1) for n in range(PEOPLE)]
    return f"user:{users.get(space, 'person7').id}", f"token:{made[7].id}"


def _kinds(user: str, token: str, owner: str) -> dict[str, tuple[str, str, list[str], bool]]:
    action = "endpoints.rollback"
    held = [f"endpoint:e{n}" for n in range(7, 7000) if str(n).startswith("7")][:SUBJECTS]
    exact = ["endpoint:x2", "endpoint:x4", "endpoint:x6", "endpoint:x8"]
    foreign = [f"endpoint:z{n}" for n in range(SUBJECTS)]
    return {
        "user by prefix": (user, action, held, True),
        "user by name": (user, action, exact, True),
        "user refused": (user, action, foreign, False),
        "token": (token, action, held, True),
        "token refused": (token, action, foreign, False),
        "owner": (owner, action, foreign, True),
    }

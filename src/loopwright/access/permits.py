"""Permits: the rooms that move a guarded thing verify them here; releases gives them.

A permit holds for one subject, one from-state and one to-state, once, until it expires.
"""

from typing import Any

import msgspec

from loopwright.access.model import PERMIT_ISSUED, Permit
from loopwright.kernel.errors import Forbidden
from loopwright.kernel.ids import new_id
from loopwright.kernel.times import format_time
from loopwright.store import ledger
from loopwright.store.database import Tx, as_struct

MIGRATIONS = [
    """
    CREATE TABLE permits(
      id TEXT PRIMARY KEY, subject TEXT NOT NULL, from_state TEXT NOT NULL, to_state TEXT NOT NULL,
      evidence TEXT NOT NULL, verdict TEXT NOT NULL, at_us BIGINT NOT NULL, expires_us BIGINT NOT NULL)
    """,
]


def issue(
    tx: Tx,
    actor: str,
    subject: str,
    states: tuple[str, str],
    *,
    evidence: list[str],
    verdict: dict[str, Any],
    ttl_us: int,
    cause: int | None = None,
) -> str:
    """Give leave to move `subject` from `states[0]` to `states[1]` for `ttl_us`; returns the permit's id.

    Raises:
        Forbidden: the verdict does not pass.
    """
    if verdict.get("outcome") not in ("pass", "warn"):
        raise Forbidden(f"no permit without a passing verdict: {verdict.get('reason', '')}", code="permit.verdict")
    permit, now = new_id("permit"), tx.now_us()
    encode = msgspec.json.encode
    tx.execute(
        "INSERT INTO permits(id, subject, from_state, to_state, evidence, verdict, at_us, expires_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (permit, subject, *states, encode(evidence).decode(), encode(verdict).decode(), now, now + ttl_us),
    )
    data = {"from_state": states[0], "to_state": states[1], "evidence": evidence}
    ledger.append(tx, actor, PERMIT_ISSUED, subject, data, cause=cause)
    return permit


def use(tx: Tx, permit: str | None, subject: str, from_state: str, to_state: str) -> Permit:
    """The permit, when it allows exactly this move now; it is used up by that, in this transaction.

    Raises:
        Forbidden: there is none, or it is for another move, was used, or has expired.
    """
    move = f"{subject}: {from_state or 'nothing'} -> {to_state or 'nothing'}"
    row = None if permit is None else tx.one("SELECT * FROM permits WHERE id = ?", (permit,))
    if row is None:
        raise Forbidden(
            f"{move} is guarded by a gate and needs a permit", code="permit.missing", hint="lw check, then lw deploy"
        )
    if (row["subject"], row["from_state"], row["to_state"]) != (subject, from_state, to_state):
        raise Forbidden(f"the permit is for another move than {move}", code="permit.other", hint="lw check")
    if row["expires_us"] < tx.now_us():
        raise Forbidden(
            f"the permit for {move} expired at {format_time(row['expires_us'])}", code="permit.expired", hint="lw check"
        )
    used = tx.one(
        "UPDATE permits SET used_us = ? WHERE id = ? AND used_us IS NULL RETURNING id", (tx.now_us(), row["id"])
    )
    if used is None:
        raise Forbidden(f"the permit for {move} was used", code="permit.used", hint="lw check")
    read = {name: msgspec.json.decode(row[name]) for name in ("evidence", "verdict")}
    return as_struct(Permit, row, **read)

"""Approval requests: what waits for a person, bound to the evidence it was asked on, and what was answered.

Knows no model and no endpoint: what is asked for is an address, and whoever asks knows what an answer lets happen.
"""

from typing import Literal

import msgspec

from loopwright.kernel.errors import Conflict, NotFound
from loopwright.store.database import Tx, as_struct, as_text

MIGRATIONS = [
    """
    CREATE TABLE approvals(
      id TEXT PRIMARY KEY, subject TEXT NOT NULL, address TEXT NOT NULL, bound TEXT NOT NULL, role TEXT NOT NULL,
      askers TEXT NOT NULL, reason TEXT NOT NULL, at_us BIGINT NOT NULL, expires_us BIGINT NOT NULL,
      state TEXT NOT NULL, actor TEXT NOT NULL, answered_us BIGINT, note TEXT NOT NULL, seq BIGINT);
    CREATE INDEX approvals_subject ON approvals(subject, state)
    """,
]

State = Literal["waiting", "given", "denied", "expired", "void"]


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A request for leave.

    Args:
        subject: what it is about, such as `endpoint:delay`; `address`, what shall be let, such as `delay@3`.
        bound: digest of the very bytes and evidence that it holds for.
        role: who may answer; not one of the `askers`.
        actor: who answered; `note` is the digest of the reason that was typed.
    """

    id: str
    subject: str
    address: str
    bound: str
    role: str
    askers: list[str]
    reason: str
    at_us: int
    expires_us: int
    state: State = "waiting"
    actor: str = ""
    answered_us: int | None = None
    note: str = ""
    seq: int | None = None


_FIELDS = Approval.__struct_fields__


def put(tx: Tx, approval: Approval) -> None:
    """Write a request as it stands now."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in ("state", "actor", "answered_us", "note", "seq"))
    values = [as_text(v) if isinstance(v, list) else v for v in msgspec.structs.astuple(approval)]
    tx.execute(
        f"INSERT INTO approvals({', '.join(_FIELDS)}) VALUES (?{', ?' * (len(_FIELDS) - 1)})"
        f" ON CONFLICT (id) DO UPDATE SET {changes}",
        values,
    )


def listed(tx: Tx, *, subject: str | None = None, waiting: bool = False) -> list[Approval]:
    """Requests, oldest first."""
    limits = [("subject = ?", subject)] * (subject is not None) + [("state = ?", "waiting")] * waiting
    where = " AND ".join(sql for sql, _ in limits) or "1 = 1"
    rows = tx.query(f"SELECT * FROM approvals WHERE {where} ORDER BY at_us, id", [value for _, value in limits])
    return [as_struct(Approval, row, askers=msgspec.json.decode(row["askers"])) for row in rows]


def find(tx: Tx, request: str) -> Approval:
    """A request by its id (`delay@ask-1a2b3c4d`), by the beginning of one, or by what one alone waits for.

    Raises:
        NotFound: there is none.
        Conflict: several are meant.
    """
    every = listed(tx)
    found = [a for a in every if a.id == request] or [
        a for a in every if "@ask-" in request and a.id.startswith(request)
    ]
    if not found:
        asked = (request, f"endpoint:{request}")
        found = [a for a in every if a.state == "waiting" and (a.subject in asked or a.address in asked)]
    if not found:
        raise NotFound(
            f"no approval request {request!r}", code="approval.missing", field="request", hint="lw approvals"
        )
    if len(found) > 1:
        named = ", ".join(a.id for a in found[:5])
        raise Conflict(f"{request!r} means {named}", code="approval.many", field="request", hint="lw approvals")
    return found[0]

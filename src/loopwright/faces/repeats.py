"""Idempotency keys: a command that comes again with its key is not done again, and gets the first answer.

Answers are kept for 24 hours of machine time. A key whose first request never came to its end is told as such: what
became of it is not known here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Conflict, Invalid, LoopwrightError, Timeout, Unavailable, Unsupported
from loopwright.kernel.op import Op
from loopwright.kernel.times import SECOND
from loopwright.store.database import Tx
from loopwright.store.space import Space

MIGRATIONS = [
    """
    CREATE TABLE repeats(
      actor TEXT NOT NULL, request_key TEXT NOT NULL, asked TEXT NOT NULL, process TEXT NOT NULL, status BIGINT,
      answer TEXT, at_us BIGINT NOT NULL, PRIMARY KEY (actor, request_key));
    CREATE INDEX repeats_at ON repeats(at_us)
    """,
]
KEPT_US = 24 * 3600 * SECOND
_KEY = re.compile(r"[!-~]{1,200}")
_PROCESS = os.urandom(8).hex()

Answer = tuple[int, bytes]


class Who(NamedTuple):
    """Whose key it is, a digest of what is asked under it, and whether it may be done again in doubt."""

    actor: str
    key: str
    asked: str
    repeatable: bool = False


def who(op: Op, actor: str, text: str, form: str) -> Who:
    """Who asks what under a key.

    Raises:
        Invalid: it is not.
        Unsupported: the op's answer is a secret, which nobody keeps.
    """
    if not _KEY.fullmatch(text):
        raise Invalid("a key is 1 to 200 printable characters", code="request.key-form", field="Idempotency-Key")
    if op.secret:
        raise Unsupported(
            f"{op.name} takes no key: its answer is a secret, and none is kept", code="request.key-secret",
            field="Idempotency-Key",
        )  # fmt: skip
    return Who(actor, text, form, op.repeatable)


def asked(op: Op, args: dict[str, Any], body_sha256: str) -> str:
    """A digest of what is asked, to tell a repeat from another request under the same key."""
    plain = {name: value for name, value in args.items() if not callable(value) and name != op.reads}
    form = msgspec.json.encode([op.name, plain, body_sha256], enc_hook=str, order="deterministic")
    return sha256(form).hexdigest()


def once(
    space: Space,
    who: Who,
    act: Callable[[], Answer],
    failed: Callable[[Exception], Answer] = lambda error: (500, b"{}"),
) -> tuple[Answer, bool]:
    """Act, or give the first answer to the same (actor, key, asked) again; says which.

    What was refused changed nothing, and its key is as if it had not come. An error after which something may have been
    done is an answer like any other: `failed` says how it is told.

    Raises:
        Conflict: the first request is under way, or its outcome is not known.
        Invalid: the key stood for another request.
    """
    actor, key = who.actor, sha256(who.key.encode()).hexdigest()
    found = space.write(lambda tx: _begin(tx, who, key))
    if found is not None:
        return found, True
    try:
        answer = act()
    except Exception as error:
        if _changed_nothing(error):
            space.write(lambda tx: tx.execute(_FORGET, (actor, key)))
        else:
            _keep(space, actor, key, failed(error))
        raise
    _keep(space, actor, key, answer)
    return answer, False


def _changed_nothing(error: Exception) -> bool:
    unclear = isinstance(error, Timeout | Unavailable) and error.code != "store.write"
    return isinstance(error, LoopwrightError) and not unclear


def _keep(space: Space, actor: str, key: str, answer: Answer) -> None:
    told = (answer[0], answer[1].decode(), actor, key)
    space.write(
        lambda tx: tx.execute("UPDATE repeats SET status = ?, answer = ? WHERE actor = ? AND request_key = ?", told)
    )


_FORGET = "DELETE FROM repeats WHERE actor = ? AND request_key = ?"


def _begin(tx: Tx, who: Who, key: str) -> Answer | None:
    now, actor = machine_us(), who.actor
    tx.execute("DELETE FROM repeats WHERE at_us < ?", (now - KEPT_US,))
    row = tx.one("SELECT * FROM repeats WHERE actor = ? AND request_key = ?", (actor, key))
    if row is None:
        tx.execute(
            "INSERT INTO repeats(actor, request_key, asked, process, at_us) VALUES (?, ?, ?, ?, ?)",
            (actor, key, who.asked, _PROCESS, now),
        )
        return None
    if row["asked"] != who.asked:
        raise Invalid("this key stood for another request", code="request.key-reused", field="Idempotency-Key",
                      hint="send a fresh key")  # fmt: skip
    if row["status"] is not None:
        return int(row["status"]), str(row["answer"]).encode()
    if row["process"] == _PROCESS:
        raise Conflict("the first request with this key is under way", code="request.under-way",
                       field="Idempotency-Key")  # fmt: skip
    if who.repeatable:
        tx.execute("UPDATE repeats SET process = ? WHERE actor = ? AND request_key = ?", (_PROCESS, actor, key))
        return None
    raise Conflict(
        "a request with this key began and its outcome is not known: the server ended meanwhile",
        code="request.outcome-unknown", field="Idempotency-Key", hint="look what was done, then send a fresh key",
    )  # fmt: skip

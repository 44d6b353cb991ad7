"""The durable queue of jobs: a row a job, unique by its action, claimed by one process at a time.

The job server holds a lock, so there are no leases: what it finds running when it starts was cut off, and runs again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Conflict, Invalid
from loopwright.kernel.ids import new_id
from loopwright.pipelines.model import Job, JobState
from loopwright.store.database import Row, Tx, as_struct, as_text
from loopwright.store.locks import is_held
from loopwright.store.roots import Leftover, Root, digests_in
from loopwright.store.space import Space

MAX_RETRIES = 2
MIGRATIONS = [
    """
    CREATE TABLE jobs(
      seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, action_id TEXT NOT NULL UNIQUE,
      kind TEXT NOT NULL, args TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL, result TEXT, error TEXT,
      cause BIGINT, queued_us BIGINT NOT NULL, started_us BIGINT, finished_us BIGINT);
    CREATE INDEX jobs_state ON jobs(state, seq);
    CREATE TABLE step_cache(run_key TEXT PRIMARY KEY, run TEXT NOT NULL);
    CREATE TABLE step_actions(action_id TEXT PRIMARY KEY, run TEXT NOT NULL)
    """,
    "ALTER TABLE jobs ADD COLUMN host TEXT; ALTER TABLE jobs ADD COLUMN runner TEXT",
    "ALTER TABLE jobs ADD COLUMN failure TEXT",
]


def enqueue(
    tx: Tx, action_id: str, kind: str, args: dict[str, Any], *, cause: int | None = None, host: str | None = None
) -> str:
    """Put a job into the queue and return its id; an action that is known already keeps the job that it has.

    Args:
        host: the only one that can do it; any when not said.

    Raises:
        Conflict: the action is known and asked for a job of another kind.
        Invalid: the arguments are no JSON.
    """
    if not action_id:
        raise Invalid("a job needs the id of its action", code="job.action", field="action_id")
    text = _text(args)
    tx.execute(
        "INSERT INTO jobs(id, action_id, kind, args, state, attempt, cause, queued_us, host)"
        " VALUES (?, ?, ?, ?, 'queued', 0, ?, ?, ?) ON CONFLICT (action_id) DO NOTHING",
        (new_id("job"), action_id, kind, text, cause, machine_us(), host),
    )
    row = tx.one("SELECT id, kind FROM jobs WHERE action_id = ?", (action_id,))
    assert row is not None
    if row["kind"] != kind:
        raise Conflict(f"the action {action_id} is known and asked for {row['kind']}", code="job.differs", field="kind")
    return str(row["id"])


_WAITS = "state = 'queued' AND COALESCE(host, ?) = ?"


def next_kind(space: Space) -> str | None:
    """The kind of the oldest job that waits for this host, or None."""
    with space.read() as tx:
        found = tx.value(f"SELECT kind FROM jobs WHERE {_WAITS} ORDER BY seq LIMIT 1", (space.host, space.host))
    return None if found is None else str(found)


def is_queued(space: Space, kind: str) -> bool:
    """Whether a job of a kind waits that this host may take."""
    with space.read() as tx:
        sql = f"SELECT 1 FROM jobs WHERE {_WAITS} AND kind = ? LIMIT 1"
        return tx.one(sql, (space.host, space.host, kind)) is not None


def claim(space: Space) -> Job | None:
    """Take the oldest job that waits for this host, or None; it is the caller's until it is finished or given back."""
    if next_kind(space) is None:
        return None
    mine = (space.host, space.host)

    def take(tx: Tx) -> Job | None:
        row = tx.one(
            "UPDATE jobs SET state = 'running', attempt = attempt + 1, started_us = ?, runner = ? WHERE seq ="
            f" (SELECT MIN(seq) FROM jobs WHERE {_WAITS}) RETURNING *",
            (machine_us(), space.host, *mine),
        )
        return None if row is None else _job(row)

    return space.write(take)


def finish(
    space: Space,
    job: Job,
    result: dict[str, Any] | None = None,
    error: str | None = None,
    *,
    failure: dict[str, Any] | None = None,
    final: bool = False,
) -> Job:
    """Say how an attempt ended: with a result, or with an error, after which the job waits again, at most twice.

    Args:
        failure: the document of the error.
        final: whether trying again is of no use.

    Raises:
        Conflict: the attempt is not the job's current one.
    """
    again = error is not None and not final and job.attempt <= MAX_RETRIES
    state: JobState = "queued" if again else "finished" if error is None else "failed"

    def end(tx: Tx) -> Job:
        row = tx.one(
            "UPDATE jobs SET state = ?, result = ?, error = ?, failure = ?, finished_us = ?"
            " WHERE id = ? AND state = 'running' AND attempt = ? RETURNING *",
            (state, _maybe(result), error, _maybe(failure), machine_us(), job.id, job.attempt),
        )
        if row is None:
            raise Conflict(
                f"attempt {job.attempt} of job {job.id} is not under way any more", code="job.stale", field="attempt"
            )
        return _job(row)

    return space.write(end)


def retry(tx: Tx, action_id: str) -> bool:
    """Let a job that gave up wait again, with all its attempts; whether there was one."""
    fresh = "UPDATE jobs SET state = 'queued', attempt = 0, error = NULL, failure = NULL"
    return tx.execute(fresh + " WHERE action_id = ? AND state = 'failed'", (action_id,)) > 0


def get(space: Space, action_id: str) -> Job | None:
    """The job of an action, or None."""
    with space.read() as tx:
        row = tx.one("SELECT * FROM jobs WHERE action_id = ?", (action_id,))
    return None if row is None else _job(row)


def listed(
    space: Space, state: JobState | None = None, limit: int = 100, *, before: str | None = None
) -> Sequence[Job]:
    """Jobs, newest first; of one state when asked, and before the job of an id.

    Raises:
        Invalid: there is no job of that id.
    """
    sql, args = "SELECT * FROM jobs WHERE state = COALESCE(?, state)", [state]
    with space.read() as tx:
        if before is not None:
            seq = tx.value("SELECT seq FROM jobs WHERE id = ?", (before,))
            if seq is None:
                raise Invalid(f"{before[:100]!r} is no `next` of this list", code="page.after", field="before")
            sql, args = sql + " AND seq < ?", [*args, seq]
        rows = tx.query(sql + " ORDER BY seq DESC LIMIT ?", [*args, limit])
    return [_job(row) for row in rows]


def tally(tx: Tx) -> tuple[dict[str, int], int | None]:
    """How many jobs are in each state, and when the oldest that waits was queued."""
    counts = {str(row[0]): int(row[1]) for row in tx.query("SELECT state, COUNT(*) FROM jobs GROUP BY state")}
    oldest = tx.value("SELECT MIN(queued_us) FROM jobs WHERE state = 'queued'")
    return counts, None if oldest is None else int(oldest)


def requeue_running(space: Space, *, blame: bool = True, runner: str | None = None) -> list[str]:
    """Let the jobs that were cut off wait again, or fail those that were cut off too often; returns their ids.

    Only for the job server, at its start or when none of its children lives: nothing may be under way.

    Args:
        blame: whether the attempt counts; not when the job's server was ended with it.
        runner: the host that they were cut off on; this one when not said.
    """
    cut, whose = "state = 'running' AND COALESCE(runner, ?) = ?", (space.host, runner or space.host)

    def back(tx: Tx) -> list[str]:
        if not blame:
            tx.execute(f"UPDATE jobs SET attempt = attempt - 1 WHERE {cut}", whose)
        rows = tx.query(
            "UPDATE jobs SET state = CASE WHEN attempt <= ? THEN 'queued' ELSE 'failed' END,"
            " error = CASE WHEN attempt <= ? THEN NULL ELSE ? END, finished_us = ?"
            f" WHERE {cut} RETURNING id",
            (MAX_RETRIES, MAX_RETRIES, f"the process ended {MAX_RETRIES + 1} times while it ran", machine_us(), *whose),
        )
        return [str(row["id"]) for row in rows]

    with space.read() as tx:
        if tx.one(f"SELECT 1 FROM jobs WHERE {cut} LIMIT 1", whose) is None:
            return []
    return space.write(back)


def forsake(space: Space, known: Sequence[str]) -> None:
    """Let what only hosts that are none of `known` could do, or were doing, be done by any; they are no more here.

    Such are the jobs of a project that was restored or moved.
    """
    among = f"({','.join('?' * len(known))})"
    bound = f"state = 'queued' AND host NOT IN {among}"
    with space.read() as tx:
        cut = tx.query(f"SELECT DISTINCT runner FROM jobs WHERE state = 'running' AND runner NOT IN {among}", known)
    for row in cut:
        requeue_running(space, blame=False, runner=row["runner"])
    with space.read() as tx:
        waits = tx.one(f"SELECT 1 FROM jobs WHERE {bound} LIMIT 1", known) is not None
    if waits:
        space.write(lambda tx: tx.execute(f"UPDATE jobs SET host = NULL WHERE {bound}", known))


def _maybe(value: dict[str, Any] | None) -> str | None:
    return None if value is None else _text(value)


def _text(value: dict[str, Any]) -> str:
    try:
        return as_text(value)
    except (TypeError, ValueError) as error:
        raise Invalid(f"a job's arguments and result are JSON: {error}", code="job.form", field="args") from None


def _job(row: Row) -> Job:
    read = {name: msgspec.json.decode(row[name] or "null") for name in ("args", "result", "failure")}
    return as_struct(Job, row, **read)


def adopt(tx: Tx) -> None:
    """After a move: what waits for hosts that are not here, or was cut off on them, is anybody's."""
    tx.execute("UPDATE jobs SET host = NULL, runner = NULL WHERE state IN ('queued', 'running')")


def roots(space: Space, tx: Tx) -> Iterator[Root]:
    """What jobs were asked for with, and what they answered."""
    for row in tx.query("SELECT id, args, result FROM jobs"):
        for digest in digests_in(f"{row['args']} {row['result']}"):
            yield Root(digest, "job", row["id"])


def leftovers(space: Space) -> Iterator[Leftover]:
    """The folders of jobs that ended and printed nothing, and the locks of steps that nobody runs."""
    with space.read() as tx:
        busy = {row["id"] for row in tx.query("SELECT id FROM jobs WHERE state IN ('queued', 'running')")}
    for folder in (space.home / "runs").glob("job_*"):
        if folder.name not in busy and not any(path.stat().st_size for path in folder.iterdir()):
            yield Leftover(folder, "a job that printed nothing")
    for path in (space.home / "run").glob("step-*.lock"):
        if not is_held(path):
            yield Leftover(path, "the lock of a step that ended")


ROOTS, LEFTOVERS = roots, leftovers

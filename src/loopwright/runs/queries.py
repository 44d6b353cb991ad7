"""The table of runs: its SQL and its rows as structs."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from loopwright.kernel.errors import NotFound
from loopwright.runs.model import Code, Failure, Output, Run
from loopwright.store.database import Row, Tx, as_struct, as_text
from loopwright.store.roots import Root, digests_in
from loopwright.store.space import Space

MIGRATIONS = [
    """
    CREATE TABLE runs(
      id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL, actor TEXT NOT NULL,
      started_us BIGINT NOT NULL, finished_us BIGINT, took_us BIGINT, started_machine_us BIGINT NOT NULL, run_key TEXT,
      params TEXT NOT NULL, inputs TEXT NOT NULL, outputs TEXT NOT NULL, metrics TEXT NOT NULL, files TEXT NOT NULL,
      sealed TEXT NOT NULL, environment TEXT NOT NULL, code TEXT NOT NULL, failure TEXT, parent TEXT, cause BIGINT);
    CREATE INDEX runs_name ON runs(name, id);
    CREATE INDEX runs_state ON runs(state, id);
    CREATE INDEX runs_parent ON runs(parent, id)
    """,
]


def insert(tx: Tx, run: Run, started_machine_us: int) -> None:
    """Write the row of a run that starts."""
    tx.execute(
        "INSERT INTO runs(id, kind, name, state, actor, started_us, started_machine_us, run_key, params, inputs,"
        " outputs, metrics, files, sealed, environment, code, parent, cause)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{}', '{}', '{}', '{}', ?, ?, ?, ?)",
        (
            run.id,
            run.kind,
            run.name,
            run.state,
            run.actor,
            run.started_us,
            started_machine_us,
            run.key,
            as_text(run.params),
            as_text(run.inputs),
            as_text(run.environment),
            as_text(run.code),
            run.parent,
            run.cause,
        ),
    )


def close(tx: Tx, run: Run) -> bool:
    """Write how a run ended; False when it had ended already."""
    changed = tx.execute(
        "UPDATE runs SET state = ?, finished_us = ?, took_us = ?, outputs = ?, metrics = ?, files = ?, sealed = ?,"
        " failure = ? WHERE id = ? AND state = 'running'",
        (
            run.state,
            run.finished_us,
            run.took_us,
            as_text(run.outputs),
            json.dumps(run.metrics, sort_keys=True),  # a metric may be NaN, which msgspec would write as null
            as_text(run.files),
            as_text(run.sealed),
            None if run.failure is None else as_text(run.failure),
            run.id,
        ),
    )
    return changed == 1


def enter(tx: Tx, run: Run) -> bool:
    """Write a run that was made and ended elsewhere; False when it is here."""
    if tx.one("SELECT 1 FROM runs WHERE id = ?", (run.id,)) is not None:
        return False
    insert(tx, msgspec.structs.replace(run, state="running"), run.started_us)
    return close(tx, run)


def set_outputs(tx: Tx, run_id: str, outputs: dict[str, Output]) -> None:
    """Write the outputs of a run anew."""
    tx.execute("UPDATE runs SET outputs = ? WHERE id = ?", (as_text(outputs), run_id))


def find(tx: Tx, run_id: str) -> Run:
    """One run.

    Raises:
        NotFound: there is none.
    """
    row = tx.one("SELECT * FROM runs WHERE id = ?", (run_id,))
    if row is None:
        raise NotFound(f"no run {run_id}", code="run.missing", field="run", hint="lw show")
    return read(row)


def started_machine_us(tx: Tx, run_id: str) -> int:
    """When a run started, by the machine's clock."""
    return int(tx.value("SELECT started_machine_us FROM runs WHERE id = ?", (run_id,)))


def running(tx: Tx) -> list[str]:
    """The ids of the runs that have not ended."""
    return [row["id"] for row in tx.query("SELECT id FROM runs WHERE state = 'running' ORDER BY id")]


def select(tx: Tx, where: dict[str, str], before: str | None, limit: int) -> list[Run]:
    """Runs whose columns have the given values, newest first."""
    terms = [f"{column} = ?" for column in where]
    args: list[Any] = list(where.values())
    if before is not None:
        terms.append("id < ?")
        args.append(before)
    condition = f" WHERE {' AND '.join(terms)}" if terms else ""
    return [read(row) for row in tx.query(f"SELECT * FROM runs{condition} ORDER BY id DESC LIMIT ?", [*args, limit])]


def read(row: Row) -> Run:
    """A row as a run."""
    decode = msgspec.json.decode
    return as_struct(
        Run,
        row,
        key=row["run_key"],
        params=decode(row["params"]),
        inputs=decode(row["inputs"]),
        outputs=decode(row["outputs"], type=dict[str, Output]),
        metrics=json.loads(row["metrics"]),
        files=decode(row["files"]),
        sealed=decode(row["sealed"]),
        environment=decode(row["environment"]),
        code=decode(row["code"], type=Code),
        failure=None if row["failure"] is None else decode(row["failure"], type=Failure),
    )


def roots(space: Space, tx: Tx) -> Iterator[Root]:
    """What runs were made from and made."""
    for row in tx.query("SELECT id, inputs, outputs, files, sealed, code, params FROM runs"):
        for digest in digests_in(" ".join(row[number] for number in range(1, 7))):
            yield Root(digest, "run", row["id"])


ROOTS = roots

"""The tables of monitors, and reading them."""

from typing import Any

import msgspec

from loopwright.monitors.model import Alarm, Block, BlockPair, ClosedDay, DriftReport, Flag
from loopwright.store.database import Row, Tx, as_struct

MIGRATIONS = [
    """
    CREATE TABLE closed_days(
      endpoint TEXT NOT NULL, day TEXT NOT NULL, close_us BIGINT NOT NULL, n INTEGER NOT NULL,
      n_labelled INTEGER NOT NULL, n_late INTEGER NOT NULL, labels_seen BIGINT NOT NULL,
      champion INTEGER NOT NULL, seq BIGINT NOT NULL,
      PRIMARY KEY (endpoint, day));
    CREATE TABLE blocks(
      endpoint TEXT NOT NULL, day TEXT NOT NULL, version INTEGER NOT NULL, n INTEGER NOT NULL,
      n_labelled INTEGER NOT NULL, errors INTEGER NOT NULL, loss_sum DOUBLE PRECISION NOT NULL,
      score_sum DOUBLE PRECISION NOT NULL, label_sum DOUBLE PRECISION NOT NULL,
      label_square_sum DOUBLE PRECISION NOT NULL, loss_low DOUBLE PRECISION, loss_high DOUBLE PRECISION,
      histogram BLOB, p95_us BIGINT, PRIMARY KEY (endpoint, day, version));
    CREATE TABLE block_pairs(
      endpoint TEXT NOT NULL, day TEXT NOT NULL, a INTEGER NOT NULL, b INTEGER NOT NULL, n INTEGER NOT NULL,
      loss_a DOUBLE PRECISION NOT NULL, loss_b DOUBLE PRECISION NOT NULL, PRIMARY KEY (endpoint, day, a, b));
    CREATE TABLE contract_flags(
      endpoint TEXT NOT NULL, day TEXT NOT NULL, column_name TEXT NOT NULL, what TEXT NOT NULL, n INTEGER NOT NULL,
      examples TEXT NOT NULL, PRIMARY KEY (endpoint, day, column_name, what));
    CREATE TABLE alarms(
      id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, kind TEXT NOT NULL, opened_us BIGINT NOT NULL, closed_us BIGINT,
      reason TEXT NOT NULL, explanation TEXT NOT NULL, clean INTEGER NOT NULL, seq BIGINT NOT NULL);
    CREATE TABLE quality_references(
      endpoint TEXT PRIMARY KEY, skill DOUBLE PRECISION, detail TEXT NOT NULL, at_us BIGINT NOT NULL);
    CREATE TABLE guard_windows(action_id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, result TEXT NOT NULL)
    """,
    """
    CREATE TABLE feed_looks(endpoint TEXT PRIMARY KEY, looked_us BIGINT NOT NULL);
    CREATE TABLE feed_states(
      endpoint TEXT NOT NULL, source TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (endpoint, source));
    CREATE TABLE feed_episodes(
      id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, source TEXT NOT NULL, column_name TEXT NOT NULL,
      what TEXT NOT NULL, opened_us BIGINT NOT NULL, closed_us BIGINT, since_us BIGINT NOT NULL, until_us BIGINT,
      holds INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, seq BIGINT NOT NULL);
    CREATE INDEX feed_episodes_endpoint ON feed_episodes(endpoint, opened_us)
    """,
    """
    CREATE TABLE drift_schemes(
      endpoint TEXT NOT NULL, scheme TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (endpoint, scheme));
    CREATE TABLE drift_profiles(
      endpoint TEXT NOT NULL, scheme TEXT NOT NULL, day TEXT NOT NULL, body BLOB NOT NULL,
      PRIMARY KEY (endpoint, scheme, day));
    CREATE TABLE drift_reports(
      endpoint TEXT NOT NULL, day TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (endpoint, day))
    """,
]

_BLOCK_FIELDS, _DAY_FIELDS, _PAIR_FIELDS = (kind.__struct_fields__ for kind in (Block, ClosedDay, BlockPair))


def put_blocks(tx: Tx, endpoint: str, blocks: list[Block], pairs: list[BlockPair]) -> None:
    """Write the blocks and pairs of a day."""
    tx.executemany(
        f"INSERT INTO blocks(endpoint, {', '.join(_BLOCK_FIELDS)}) VALUES (?{', ?' * len(_BLOCK_FIELDS)})",
        [(endpoint, *msgspec.structs.astuple(block)) for block in blocks],
    )
    tx.executemany(
        f"INSERT INTO block_pairs(endpoint, {', '.join(_PAIR_FIELDS)}) VALUES (?{', ?' * len(_PAIR_FIELDS)})",
        [(endpoint, *msgspec.structs.astuple(pair)) for pair in pairs],
    )


def put_flags(tx: Tx, endpoint: str, flags: list[Flag]) -> None:
    """Write the contract flags of a day."""
    tx.executemany(
        "INSERT INTO contract_flags(endpoint, day, column_name, what, n, examples) VALUES (?, ?, ?, ?, ?, ?)",
        [(endpoint, f.day, f.column, f.what, f.n, msgspec.json.encode(f.examples).decode()) for f in flags],
    )


def put_day(tx: Tx, endpoint: str, day: ClosedDay, seq: int) -> None:
    """Write that a day is closed."""
    tx.execute(
        f"INSERT INTO closed_days(endpoint, {', '.join(_DAY_FIELDS)}, seq) VALUES (?{', ?' * len(_DAY_FIELDS)}, ?)",
        (endpoint, *msgspec.structs.astuple(day), seq),
    )


def blocks(tx: Tx, endpoint: str, *, since: str = "", until: str = "~", version: int | None = None) -> list[Block]:
    """Blocks of days in [since, until], in order of day and version."""
    sql = "SELECT * FROM blocks WHERE endpoint = ? AND day >= ? AND day <= ?"
    args: list[Any] = [endpoint, since, until]
    if version is not None:
        sql, args = sql + " AND version = ?", [*args, version]
    rows = tx.query(sql + " ORDER BY day, version", args)
    return [as_struct(Block, row) for row in rows]


def pairs(tx: Tx, endpoint: str, *, since: str = "", until: str = "~") -> list[BlockPair]:
    """Pairs of days in [since, until], in order of day and versions."""
    rows = tx.query(
        "SELECT * FROM block_pairs WHERE endpoint = ? AND day >= ? AND day <= ? ORDER BY day, a, b",
        (endpoint, since, until),
    )
    return [as_struct(BlockPair, row) for row in rows]


def closed_days(tx: Tx, endpoint: str, *, since: str = "", until: str = "~") -> list[ClosedDay]:
    """Closed days in [since, until], oldest first."""
    rows = tx.query(
        "SELECT * FROM closed_days WHERE endpoint = ? AND day >= ? AND day <= ? ORDER BY day", (endpoint, since, until)
    )
    return [as_struct(ClosedDay, row) for row in rows]


def last_closed(tx: Tx, endpoint: str) -> ClosedDay | None:
    """The newest closed day of an endpoint."""
    row = tx.one("SELECT * FROM closed_days WHERE endpoint = ? ORDER BY day DESC LIMIT 1", (endpoint,))
    return None if row is None else as_struct(ClosedDay, row)


def flags(tx: Tx, endpoint: str, *, since: str = "", until: str = "~") -> list[Flag]:
    """Contract flags of days in [since, until]."""
    rows = tx.query(
        "SELECT * FROM contract_flags WHERE endpoint = ? AND day >= ? AND day <= ? ORDER BY day, column_name, what",
        (endpoint, since, until),
    )
    return [
        as_struct(Flag, row, column=row["column_name"], examples=msgspec.json.decode(row["examples"])) for row in rows
    ]


def open_alarm(tx: Tx, endpoint: str, kind: str) -> Row | None:
    """The row of the alarm of a kind that is open."""
    return tx.one("SELECT * FROM alarms WHERE endpoint = ? AND kind = ? AND closed_us IS NULL", (endpoint, kind))


def alarms(tx: Tx, endpoint: str, *, still_open: bool = False) -> list[Alarm]:
    """Alarms of an endpoint, oldest first."""
    more = " AND closed_us IS NULL" if still_open else ""
    rows = tx.query(f"SELECT * FROM alarms WHERE endpoint = ?{more} ORDER BY opened_us, id", (endpoint,))
    return [as_struct(Alarm, row, explanation=msgspec.json.decode(row["explanation"])) for row in rows]


def reference(tx: Tx, endpoint: str) -> float | None:
    """The skill that the endpoint's quality is measured against."""
    skill = tx.value("SELECT skill FROM quality_references WHERE endpoint = ?", (endpoint,))
    return None if skill is None else float(skill)


def reference_detail(tx: Tx, endpoint: str) -> dict[str, Any]:
    """What the first gate's twin was measured to be; empty without one."""
    detail = tx.value("SELECT detail FROM quality_references WHERE endpoint = ?", (endpoint,))
    return {} if detail is None else dict(msgspec.json.decode(detail))


def set_reference(tx: Tx, endpoint: str, skill: float | None, detail: dict[str, Any]) -> None:
    """Keep the skill of the first gate's twin as the endpoint's reference; a later call changes nothing."""
    tx.execute(
        "INSERT INTO quality_references(endpoint, skill, detail, at_us) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (endpoint) DO NOTHING",
        (endpoint, skill, msgspec.json.encode(detail).decode(), tx.now_us()),
    )


def guard_window(tx: Tx, action_id: str) -> dict[str, Any] | None:
    """The result of a guard window, when it has been measured."""
    result = tx.value("SELECT result FROM guard_windows WHERE action_id = ?", (action_id,))
    return None if result is None else dict(msgspec.json.decode(result))


def drift_scheme(tx: Tx, endpoint: str, scheme: str) -> str | None:
    """How the columns of an endpoint's profiles are binned."""
    body = tx.value("SELECT body FROM drift_schemes WHERE endpoint = ? AND scheme = ?", (endpoint, scheme))
    return None if body is None else str(body)


def drift_profiles(tx: Tx, endpoint: str, scheme: str) -> dict[str, bytes]:
    """The profiles of a scheme by day."""
    rows = tx.query("SELECT day, body FROM drift_profiles WHERE endpoint = ? AND scheme = ?", (endpoint, scheme))
    return {row["day"]: bytes(row["body"]) for row in rows}


def put_drift(
    tx: Tx, endpoint: str, schemes: dict[str, str], profiles: list[tuple[str, str, bytes]], report: DriftReport
) -> None:
    """Write a day's schemes, profiles and report."""
    tx.executemany(
        "INSERT INTO drift_schemes(endpoint, scheme, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(endpoint, scheme, body) for scheme, body in schemes.items()],
    )
    tx.executemany(
        "INSERT INTO drift_profiles(endpoint, scheme, day, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(endpoint, *part) for part in profiles],
    )
    text = msgspec.json.encode(report).decode()
    tx.execute("INSERT INTO drift_reports(endpoint, day, body) VALUES (?, ?, ?)", (endpoint, report.day, text))


def drift_reports(tx: Tx, endpoint: str, *, since: str = "", until: str = "~") -> list[DriftReport]:
    """Drift reports of days in [since, until], oldest first."""
    rows = tx.query(
        "SELECT body FROM drift_reports WHERE endpoint = ? AND day >= ? AND day <= ? ORDER BY day",
        (endpoint, since, until),
    )
    return [msgspec.json.decode(row["body"], type=DriftReport) for row in rows]

"""The tables of releases, and reading and writing them."""

import msgspec

from loopwright.kernel import canonical
from loopwright.kernel.verdict import Verdict
from loopwright.monitors import feed_queries
from loopwright.releases.model import GuardLook, Hold, Quarantined, Reign, Rollout, Training
from loopwright.store.database import Row, Tx, as_struct, as_text

MIGRATIONS = [
    """
    CREATE TABLE verdicts(
      seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, version INTEGER NOT NULL, champion INTEGER,
      check_name TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, evidence TEXT NOT NULL,
      digest TEXT NOT NULL, at_us BIGINT NOT NULL);
    CREATE INDEX verdicts_version ON verdicts(endpoint, version, seq);
    CREATE TABLE reigns(
      seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, version INTEGER NOT NULL,
      since_us BIGINT NOT NULL, until_us BIGINT, ended TEXT NOT NULL);
    CREATE INDEX reigns_endpoint ON reigns(endpoint, seq);
    CREATE TABLE trainings(
      endpoint TEXT NOT NULL, version INTEGER NOT NULL, trained_us BIGINT NOT NULL, at_us BIGINT NOT NULL,
      refit INTEGER NOT NULL, PRIMARY KEY (endpoint, version));
    CREATE TABLE rollouts(
      id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, champion INTEGER NOT NULL, candidate INTEGER NOT NULL,
      phase TEXT NOT NULL, step INTEGER NOT NULL, since_us BIGINT NOT NULL, next_us BIGINT, first_day TEXT NOT NULL,
      opened_us BIGINT NOT NULL, cause BIGINT, outcome TEXT NOT NULL);
    CREATE INDEX rollouts_endpoint ON rollouts(endpoint, phase);
    CREATE TABLE holds(
      seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, kind TEXT NOT NULL, actor TEXT NOT NULL,
      placed_us BIGINT NOT NULL, lifted_us BIGINT, note TEXT NOT NULL);
    CREATE TABLE shadows(endpoint TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (endpoint, version));
    CREATE TABLE decisions(
      action_id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, kind TEXT NOT NULL, at_us BIGINT NOT NULL)
    """,
    """
    ALTER TABLE rollouts ADD COLUMN request TEXT NOT NULL DEFAULT '';
    ALTER TABLE rollouts ADD COLUMN actor TEXT NOT NULL DEFAULT 'loop';
    CREATE TABLE guard_looks(
      rollout TEXT NOT NULL, until_us BIGINT NOT NULL, phase TEXT NOT NULL, calls INTEGER NOT NULL,
      alone INTEGER NOT NULL, paired INTEGER NOT NULL, slow INTEGER NOT NULL, PRIMARY KEY (rollout, until_us));
    CREATE TABLE quarantine(
      endpoint TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL, at_us BIGINT NOT NULL,
      reason TEXT NOT NULL, PRIMARY KEY (endpoint, version))
    """,
    """
    CREATE TABLE measured(
      endpoint TEXT PRIMARY KEY, close_minutes INTEGER, loss DOUBLE PRECISION, sd DOUBLE PRECISION,
      blocks INTEGER NOT NULL, labels INTEGER NOT NULL)
    """,
]

_ROLLOUT_FIELDS, _LOOK_FIELDS = Rollout.__struct_fields__, GuardLook.__struct_fields__


def once(tx: Tx, action_id: str, endpoint: str, kind: str) -> bool:
    """Take an action: True the first time, False when it was done before."""
    found = tx.one(
        "INSERT INTO decisions(action_id, endpoint, kind, at_us) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (action_id) DO NOTHING RETURNING action_id",
        (action_id, endpoint, kind, tx.now_us()),
    )
    return found is not None


def put_verdict(tx: Tx, endpoint: str, versions: tuple[int, int | None], verdict: Verdict, at_us: int) -> str:
    """Keep what a check said of (version, champion); returns the digest of its evidence."""
    digest = canonical.digest({"check": verdict.check, "outcome": verdict.outcome, "evidence": verdict.evidence})
    tx.execute(
        "INSERT INTO verdicts(endpoint, version, champion, check_name, outcome, reason, evidence, digest, at_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            endpoint,
            *versions,
            verdict.check,
            verdict.outcome,
            verdict.reason,
            as_text(verdict.evidence),
            digest,
            at_us,
        ),
    )
    return digest


def verdicts(tx: Tx, endpoint: str, version: int) -> list[Verdict]:
    """What was said of a version, oldest first."""
    rows = tx.query("SELECT * FROM verdicts WHERE endpoint = ? AND version = ? ORDER BY seq", (endpoint, version))
    return [
        as_struct(Verdict, row, check=row["check_name"], evidence=msgspec.json.decode(row["evidence"])) for row in rows
    ]


def evidence(tx: Tx, endpoint: str, versions: tuple[int, int | None], at_us: int) -> list[str]:
    """The digest of what the last gate until a moment said of (version, champion), alone in a list; none = no gate."""
    rows = tx.query(
        "SELECT digest, champion FROM verdicts WHERE endpoint = ? AND version = ? AND check_name = 'gate'"
        " AND at_us <= ? ORDER BY seq",
        (endpoint, versions[0], at_us),
    )
    return [str(row["digest"]) for row in rows if row["champion"] == versions[1]][-1:]


def reigns(tx: Tx, endpoint: str) -> list[Reign]:
    """The versions that served 100 %, oldest first."""
    rows = tx.query("SELECT * FROM reigns WHERE endpoint = ? ORDER BY seq", (endpoint,))
    return [as_struct(Reign, row) for row in rows]


def endpoints(tx: Tx) -> list[str]:
    """The endpoints that serve something, by name."""
    return [str(row["endpoint"]) for row in tx.query("SELECT DISTINCT endpoint FROM reigns ORDER BY endpoint")]


def champion(tx: Tx, endpoint: str) -> int | None:
    """The version that holds the place, or None before the first deploy."""
    row = tx.one("SELECT version FROM reigns WHERE endpoint = ? AND until_us IS NULL", (endpoint,))
    return None if row is None else int(row["version"])


def pool(tx: Tx, endpoint: str, size: int) -> list[int]:
    """The versions that held the place last before the champion, the latest first; none that was rolled back."""
    back = {found.version for found in quarantine(tx, endpoint)} if size else set()
    held = [reign.version for reign in reversed(reigns(tx, endpoint))] if size else []
    return [version for version in dict.fromkeys(held) if version != held[0] and version not in back][:size]


def first_reign(tx: Tx, endpoint: str) -> Reign | None:
    """The first deploy of an endpoint; its rhythm is counted from there."""
    found = reigns(tx, endpoint)
    return found[0] if found else None


def crown(tx: Tx, endpoint: str, version: int, at_us: int, ended: str = "") -> None:
    """Let a version hold the place from a moment on; `ended` says how the one before lost it."""
    tx.execute(
        "UPDATE reigns SET until_us = ?, ended = ? WHERE endpoint = ? AND until_us IS NULL", (at_us, ended, endpoint)
    )
    tx.execute(
        "INSERT INTO reigns(endpoint, version, since_us, ended) VALUES (?, ?, ?, '')", (endpoint, version, at_us)
    )


def put_training(tx: Tx, endpoint: str, version: int, trained_us: int, *, refit: bool) -> None:
    """Keep up to when a version was trained; `refit` = by the recipe, so that it may stand for it in a gate."""
    tx.execute(
        "INSERT INTO trainings(endpoint, version, trained_us, at_us, refit) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (endpoint, version) DO NOTHING",
        (endpoint, version, trained_us, tx.now_us(), int(refit)),
    )


def trainings(tx: Tx, endpoint: str) -> list[Training]:
    """The versions of an endpoint whose training is known, oldest first."""
    rows = tx.query("SELECT * FROM trainings WHERE endpoint = ? ORDER BY trained_us, version", (endpoint,))
    return [as_struct(Training, row, refit=bool(row["refit"])) for row in rows]


def put_rollout(tx: Tx, rollout: Rollout) -> None:
    """Write a roll-out as it stands now."""
    names = ", ".join(_ROLLOUT_FIELDS)
    marks = ", ".join("?" * len(_ROLLOUT_FIELDS))
    changes = ", ".join(f"{field} = excluded.{field}" for field in _ROLLOUT_FIELDS if field != "id")
    tx.execute(
        f"INSERT INTO rollouts({names}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {changes}",
        msgspec.structs.astuple(rollout),
    )


def open_rollouts(tx: Tx, endpoint: str) -> list[Rollout]:
    """The roll-outs that are not done, watches included, in the order of their opening."""
    rows = tx.query("SELECT * FROM rollouts WHERE endpoint = ? AND phase <> 'done' ORDER BY opened_us, id", (endpoint,))
    return [_rollout(row) for row in rows]


def rollout(tx: Tx, rollout_id: str) -> Rollout | None:
    """One roll-out as it stands."""
    row = tx.one("SELECT * FROM rollouts WHERE id = ?", (rollout_id,))
    return None if row is None else _rollout(row)


def under_way(tx: Tx, endpoint: str) -> Rollout | None:
    """The roll-out whose candidate is in shadow or canary; there is one at most."""
    return next((r for r in open_rollouts(tx, endpoint) if r.phase in ("shadow", "canary")), None)


def put_guard_look(tx: Tx, look: GuardLook) -> None:
    """Keep what a look counted; counted again, it is left as it is."""
    tx.execute(
        f"INSERT INTO guard_looks({', '.join(_LOOK_FIELDS)}) VALUES (?{', ?' * (len(_LOOK_FIELDS) - 1)})"
        " ON CONFLICT (rollout, until_us) DO NOTHING",
        msgspec.structs.astuple(look),
    )


def guard_looks(tx: Tx, rollout_id: str) -> list[GuardLook]:
    """What was counted of a roll-out, oldest first."""
    rows = tx.query("SELECT * FROM guard_looks WHERE rollout = ? ORDER BY until_us", (rollout_id,))
    return [as_struct(GuardLook, row) for row in rows]


def put_quarantined(tx: Tx, found: Quarantined) -> bool:
    """Put a version in quarantine; False when it is there already."""
    row = tx.one(
        "INSERT INTO quarantine(endpoint, version, digest, at_us, reason) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (endpoint, version) DO NOTHING RETURNING version",
        msgspec.structs.astuple(found),
    )
    return row is not None


def quarantine(tx: Tx, endpoint: str) -> list[Quarantined]:
    """The versions that were rolled back."""
    rows = tx.query("SELECT * FROM quarantine WHERE endpoint = ? ORDER BY version", (endpoint,))
    return [as_struct(Quarantined, row) for row in rows]


def quarantined(tx: Tx, endpoint: str, version: int, digest: str) -> Quarantined | None:
    """The quarantine that stands against a version, or against its bytes."""
    return next((q for q in quarantine(tx, endpoint) if q.version == version or q.digest == digest), None)


def holds(tx: Tx, endpoint: str) -> list[Hold]:
    """The holds that are in force."""
    rows = tx.query("SELECT * FROM holds WHERE endpoint = ? AND lifted_us IS NULL ORDER BY seq", (endpoint,))
    placed = [
        Hold(endpoint=endpoint, kind=r["kind"], actor=r["actor"], placed_us=r["placed_us"], note=r["note"])
        for r in rows
    ]
    broken = [episode for episode in feed_queries.episodes(tx, endpoint, still_open=True) if episode.holds]
    return placed + [
        Hold(endpoint=endpoint, kind="feed", actor="loop", placed_us=e.opened_us, note="", reason=e.reason)
        for e in broken
    ]


def shadows(tx: Tx, endpoint: str) -> list[int]:
    """The versions that somebody asked to go along in shadow."""
    rows = tx.query("SELECT version FROM shadows WHERE endpoint = ? ORDER BY version", (endpoint,))
    return [int(row["version"]) for row in rows]


def _rollout(row: Row) -> Rollout:
    return as_struct(Rollout, row)

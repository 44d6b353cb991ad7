"""The tables of the data room: what each version was found to be, what was declared, and a stat cache of files."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from loopwright.data.model import Contract, DataSpec, FeaturesSpec, Finding
from loopwright.store.database import Tx, as_text

MIGRATIONS = [
    """
    CREATE TABLE data_versions(
      name TEXT NOT NULL, number INTEGER NOT NULL, path TEXT NOT NULL, declaration TEXT NOT NULL,
      contract TEXT NOT NULL, findings TEXT NOT NULL, PRIMARY KEY (name, number));
    CREATE TABLE data_stats(
      path TEXT PRIMARY KEY, size_bytes BIGINT NOT NULL, modified_ns BIGINT NOT NULL, changed_ns BIGINT NOT NULL,
      inode BIGINT NOT NULL, digest TEXT NOT NULL, hashed_at_us BIGINT NOT NULL);
    CREATE TABLE feature_sets(name TEXT PRIMARY KEY, declaration TEXT NOT NULL)
    """,
    """
    CREATE TABLE facts(
      seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, known_us BIGINT NOT NULL, time_us BIGINT,
      about TEXT NOT NULL, body TEXT NOT NULL, digest TEXT NOT NULL);
    CREATE UNIQUE INDEX facts_once ON facts(name, digest);
    CREATE INDEX facts_known ON facts(name, known_us, seq);
    CREATE INDEX facts_about ON facts(name, about, seq)
    """,
    "CREATE TABLE facts_taken_back(name TEXT PRIMARY KEY, times INTEGER NOT NULL)",
]


class Stat(msgspec.Struct, frozen=True):
    """What tells an untouched file: size, times of change, inode."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


class Known(msgspec.Struct, frozen=True):
    """What is kept of one version."""

    path: str
    declaration: DataSpec | None
    contract: Contract
    findings: tuple[Finding, ...]


def put_version(tx: Tx, name: str, number: int, known: Known) -> None:
    """Keep what was found of a version, in place of what was kept before."""
    tx.execute(
        "INSERT INTO data_versions(name, number, path, declaration, contract, findings) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name, number) DO UPDATE SET path = excluded.path, declaration = excluded.declaration,"
        " contract = excluded.contract, findings = excluded.findings",
        (
            name,
            number,
            known.path,
            as_text(known.declaration),
            as_text(known.contract),
            as_text(known.findings),
        ),
    )


def find_version(tx: Tx, name: str, number: int) -> Known | None:
    """What is kept of a version, or None."""
    row = tx.one("SELECT * FROM data_versions WHERE name = ? AND number = ?", (name, number))
    if row is None:
        return None
    return Known(
        row["path"],
        msgspec.json.decode(row["declaration"], type=DataSpec | None),
        msgspec.json.decode(row["contract"], type=Contract),
        msgspec.json.decode(row["findings"], type=tuple[Finding, ...]),
    )


def newest_declaration(tx: Tx, name: str) -> DataSpec | None:
    """The declaration that a source's newest version was added with, or None."""
    text = tx.value("SELECT declaration FROM data_versions WHERE name = ? ORDER BY number DESC LIMIT 1", (name,))
    return None if text is None else msgspec.json.decode(text, type=DataSpec | None)


def facts_state(tx: Tx, name: str, until_us: int) -> list[int]:
    """What tells two states of a source's facts known before a moment apart: how many they are, and the last."""
    row = tx.one(
        "SELECT COUNT(*) AS n, COALESCE(MAX(seq), 0) AS last FROM facts WHERE name = ? AND known_us < ?",
        (name, until_us),
    )
    return [0, 0] if row is None else [row["n"], row["last"]]


def put_stat(tx: Tx, path: str, stat: Stat, digest: str, hashed_at_us: int) -> None:
    """Remember the digest of a file as it stands."""
    tx.execute(
        "INSERT INTO data_stats(path, size_bytes, modified_ns, changed_ns, inode, digest, hashed_at_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET size_bytes = excluded.size_bytes,"
        " modified_ns = excluded.modified_ns, changed_ns = excluded.changed_ns, inode = excluded.inode,"
        " digest = excluded.digest, hashed_at_us = excluded.hashed_at_us",
        (path, stat.size_bytes, stat.modified_ns, stat.changed_ns, stat.inode, digest, hashed_at_us),
    )


def find_stat(tx: Tx, path: str) -> tuple[Stat, str, int] | None:
    """The remembered state of a file, its digest, and when it was hashed; None when it was never seen."""
    row = tx.one("SELECT * FROM data_stats WHERE path = ?", (path,))
    if row is None:
        return None
    stat = Stat(row["size_bytes"], row["modified_ns"], row["changed_ns"], row["inode"])
    return stat, row["digest"], row["hashed_at_us"]


def put_features(tx: Tx, spec: FeaturesSpec) -> bool:
    """Keep a declaration of features; True when it is new or has changed."""
    text = as_text(spec)
    if tx.value("SELECT declaration FROM feature_sets WHERE name = ?", (spec.name,)) == text:
        return False
    tx.execute(
        "INSERT INTO feature_sets(name, declaration) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET declaration = excluded.declaration",
        (spec.name, text),
    )
    return True


def find_features(tx: Tx, name: str) -> FeaturesSpec | None:
    """The declaration of features of a name, or None."""
    text = tx.value("SELECT declaration FROM feature_sets WHERE name = ?", (name,))
    return None if text is None else msgspec.json.decode(text, type=FeaturesSpec)


def all_features(tx: Tx) -> list[str]:
    """The names of the features that were declared."""
    return [row["name"] for row in tx.query("SELECT name FROM feature_sets ORDER BY name")]


def facts_before(tx: Tx, name: str, until_us: int) -> list[tuple[Any, ...]]:
    """The facts of a source that count as known before a moment, as they are kept: by seq."""
    rows = tx.query(
        "SELECT seq, known_us, time_us, about, body, digest FROM facts WHERE name = ? AND known_us < ? ORDER BY seq",
        (name, until_us),
    )
    return [tuple(row) for row in rows]


def put_facts(tx: Tx, name: str, rows: Iterable[Sequence[Any]]) -> None:
    """Enter facts as they were kept elsewhere; those that are here stay."""
    tx.executemany(
        "INSERT INTO facts(name, seq, known_us, time_us, about, body, digest) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name, digest) DO NOTHING",
        [(name, *row) for row in rows],
    )

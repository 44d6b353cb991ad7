"""The tables of access and how they are read; a row of `access` counts every change of who may what."""

import msgspec

from loopwright.access import permits
from loopwright.access.model import Grant, Token, User
from loopwright.store.database import Row, Tx, as_struct

MIGRATIONS = [
    *permits.MIGRATIONS,
    """
    ALTER TABLE permits ADD COLUMN used_us BIGINT;
    CREATE TABLE access(id BIGINT PRIMARY KEY, generation BIGINT NOT NULL);
    INSERT INTO access(id, generation) VALUES (1, 1);
    CREATE TABLE users(
      id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, password TEXT, created_us BIGINT NOT NULL);
    CREATE TABLE invitations(
      sha256 TEXT PRIMARY KEY, user_id TEXT NOT NULL, expires_us BIGINT NOT NULL, used_us BIGINT);
    CREATE TABLE grants(
      principal TEXT NOT NULL, role TEXT NOT NULL, scope TEXT NOT NULL, given_us BIGINT NOT NULL,
      given_by TEXT NOT NULL, PRIMARY KEY (principal, role, scope));
    CREATE TABLE tokens(
      id TEXT PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, shown TEXT NOT NULL, owner TEXT NOT NULL, role TEXT NOT NULL,
      scope TEXT NOT NULL, created_us BIGINT NOT NULL, expires_us BIGINT, revoked_us BIGINT);
    CREATE TABLE sessions(
      sha256 TEXT PRIMARY KEY, user_id TEXT NOT NULL, opened_us BIGINT NOT NULL, seen_us BIGINT NOT NULL);
    CREATE TABLE login_failures(
      key TEXT PRIMARY KEY, failures BIGINT NOT NULL, last_us BIGINT NOT NULL, until_us BIGINT NOT NULL)
    """,
]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """An open session of a user, by the digest of its cookie."""

    sha256: str
    user_id: str
    opened_us: int
    seen_us: int


def generation(tx: Tx) -> int:
    """Which state of access this is."""
    return int(tx.value("SELECT generation FROM access WHERE id = 1"))


def changed(tx: Tx) -> None:
    """Count a change, so that every process builds its table anew."""
    tx.execute("UPDATE access SET generation = generation + 1 WHERE id = 1")


def user_by_name(tx: Tx, name: str) -> Row | None:
    """The row of a user, or None."""
    return tx.one("SELECT * FROM users WHERE name = ?", (name,))


def user_by_id(tx: Tx, user_id: str) -> Row | None:
    """The row of a user, or None."""
    return tx.one("SELECT * FROM users WHERE id = ?", (user_id,))


def grants_of(tx: Tx, principal: str) -> list[Grant]:
    """The grants of a principal such as `user:<id>`."""
    rows = tx.query("SELECT role, scope FROM grants WHERE principal = ? ORDER BY role, scope", (principal,))
    return [Grant(role=row["role"], scope=row["scope"]) for row in rows]


def users(tx: Tx) -> list[User]:
    """Every user with grants, by name."""
    rows = tx.query("SELECT * FROM users ORDER BY name")
    return [user_of(tx, row) for row in rows]


def user_of(tx: Tx, row: Row) -> User:
    """A row as a User."""
    return as_struct(User, row, grants=grants_of(tx, f"user:{row['id']}"))


def tokens(tx: Tx) -> list[tuple[str, Token]]:
    """Every token with its digest, newest first."""
    rows = tx.query("SELECT * FROM tokens ORDER BY created_us DESC, id")
    return [(row["sha256"], token_of(row)) for row in rows]


def token_of(row: Row) -> Token:
    """A row as a Token."""
    return as_struct(Token, row)


def sessions(tx: Tx) -> list[Session]:
    """Every open session."""
    return [as_struct(Session, row) for row in tx.query("SELECT * FROM sessions")]

"""The table of seals, and the hashes of a range of events. The chain is only ever added to."""

import struct
from collections.abc import Sequence
from hashlib import sha256

from loopwright.audit.model import Seal
from loopwright.store.database import Row, Tx

MIGRATIONS = [
    """
    CREATE TABLE seals(
      number BIGINT PRIMARY KEY, after_seq BIGINT NOT NULL, last_seq BIGINT NOT NULL, events BIGINT NOT NULL,
      rows_hash TEXT NOT NULL, marks BLOB NOT NULL, sealed_us BIGINT NOT NULL, previous TEXT NOT NULL,
      hash TEXT NOT NULL);
    CREATE TABLE audit_keys(public TEXT PRIMARY KEY, at_us BIGINT NOT NULL)
    """,
]
BEFORE_ALL = -(2**63)  # so that an event put in front of the first is seen
_MARK = struct.Struct(">q8s")


def rows_hash(lines: Sequence[str]) -> str:
    """SHA-256 of canonical lines, each ended by a newline."""
    return sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def marks(seqs: Sequence[int], lines: Sequence[str]) -> bytes:
    """The number of each event and a short hash of what its line says behind the number."""
    return b"".join(
        _MARK.pack(seq, sha256(line.partition(",")[2].encode()).digest()[:8])
        for seq, line in zip(seqs, lines, strict=True)
    )


def read_marks(data: bytes) -> dict[int, bytes]:
    """Marks by the number of their event."""
    return dict(_MARK.iter_unpack(data[: len(data) // _MARK.size * _MARK.size]))


def chained(seal: Seal) -> str:
    """The hash that a seal must have."""
    fields = (
        "loopwright seal 1",
        seal.number,
        seal.previous,
        seal.after,
        seal.last_seq,
        seal.events,
        seal.rows,
        sha256(seal.marks).hexdigest(),
        seal.sealed_us,
    )
    return sha256("".join(f"{field}\n" for field in fields).encode()).hexdigest()


def last(tx: Tx) -> Seal | None:
    """The newest seal, or None."""
    row = tx.one("SELECT * FROM seals ORDER BY number DESC LIMIT 1")
    return None if row is None else _seal(row)


def every(tx: Tx) -> list[Seal]:
    """All seals, oldest first."""
    return [_seal(row) for row in tx.query("SELECT * FROM seals ORDER BY number")]


def insert(tx: Tx, seal: Seal) -> bool:
    """Add a seal behind the one that it names; False when another one stands there already."""
    found = last(tx)
    if (found.hash if found else "") != seal.previous:
        return False
    tx.execute(
        "INSERT INTO seals(number, after_seq, last_seq, events, rows_hash, marks, sealed_us, previous, hash)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            seal.number,
            seal.after,
            seal.last_seq,
            seal.events,
            seal.rows,
            seal.marks,
            seal.sealed_us,
            seal.previous,
            seal.hash,
        ),
    )
    return True


def keys(tx: Tx) -> list[str]:
    """The public keys that have signed here, oldest first."""
    return [str(row["public"]) for row in tx.query("SELECT public FROM audit_keys ORDER BY at_us, public")]


def keep_key(tx: Tx, public: str, at_us: int) -> None:
    """Remember a public key."""
    tx.execute("INSERT INTO audit_keys(public, at_us) VALUES (?, ?) ON CONFLICT DO NOTHING", (public, at_us))


def _seal(row: Row) -> Seal:
    return Seal(
        number=_whole(row["number"]),
        after=_whole(row["after_seq"]),
        last_seq=_whole(row["last_seq"]),
        events=_whole(row["events"]),
        rows=str(row["rows_hash"]),
        marks=row["marks"] if isinstance(row["marks"], bytes) else bytes(str(row["marks"]), "utf-8"),
        sealed_us=_whole(row["sealed_us"]),
        previous=str(row["previous"]),
        hash=str(row["hash"]),
    )


def _whole(value: object) -> int:
    """A number of a seal; what somebody has put in its place is one that no seal has."""
    return value if isinstance(value, int) else -1

"""Reading and writing what is kept of feeds."""

import msgspec

from loopwright.monitors.feed_model import Episode
from loopwright.monitors.feed_rules import State
from loopwright.store.database import Row, Tx, as_struct, as_text

_FIELDS = tuple("column_name" if f == "column" else f for f in Episode.__struct_fields__)


def looked_us(tx: Tx, endpoint: str) -> int | None:
    """When the feeds of an endpoint were last looked at."""
    found = tx.value("SELECT looked_us FROM feed_looks WHERE endpoint = ?", (endpoint,))
    return None if found is None else int(found)


def put_look(tx: Tx, endpoint: str, at_us: int) -> None:
    """Write that the feeds were looked at."""
    tx.execute(
        "INSERT INTO feed_looks(endpoint, looked_us) VALUES (?, ?)"
        " ON CONFLICT (endpoint) DO UPDATE SET looked_us = excluded.looked_us",
        (endpoint, at_us),
    )


def put_episode(tx: Tx, episode: Episode) -> None:
    """Write an episode as it stands now."""
    changes = ", ".join(f"{field} = excluded.{field}" for field in _FIELDS if field != "id")
    values = msgspec.structs.replace(episode, holds=int(episode.holds), detail=as_text(episode.detail))
    tx.execute(
        f"INSERT INTO feed_episodes({', '.join(_FIELDS)}) VALUES ({', '.join('?' * len(_FIELDS))})"
        f" ON CONFLICT (id) DO UPDATE SET {changes}",
        msgspec.structs.astuple(values),
    )


def episodes(tx: Tx, endpoint: str, *, still_open: bool = False) -> list[Episode]:
    """The episodes of an endpoint, oldest first."""
    more = " AND closed_us IS NULL" if still_open else ""
    rows = tx.query(f"SELECT * FROM feed_episodes WHERE endpoint = ?{more} ORDER BY opened_us, id", (endpoint,))
    return [_episode(row) for row in rows]


def _episode(row: Row) -> Episode:
    return as_struct(
        Episode, row, column=row["column_name"], holds=bool(row["holds"]), detail=msgspec.json.decode(row["detail"])
    )


def states(tx: Tx, endpoint: str) -> dict[str, State]:
    """What is kept of each feed of an endpoint between two looks."""
    rows = tx.query("SELECT source, state FROM feed_states WHERE endpoint = ? ORDER BY source", (endpoint,))
    return {row["source"]: msgspec.json.decode(row["state"], type=State) for row in rows}


def put_state(tx: Tx, endpoint: str, source: str, state: State) -> None:
    """Keep a feed's state until the next look."""
    tx.execute(
        "INSERT INTO feed_states(endpoint, source, state) VALUES (?, ?, ?)"
        " ON CONFLICT (endpoint, source) DO UPDATE SET state = excluded.state",
        (endpoint, source, msgspec.json.encode(state).decode()),
    )

"""Every table has one owner: the room whose migration makes it, and no other room names it in SQL."""

import re
from collections import defaultdict

import house_rules as rules
import pytest
from house_rules import Source

from loopwright import house
from loopwright.store.space import Space

MADE = re.compile(r"(?i)\bCREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)")
USED = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)")
# DuckDB tables that a room lays out for the rooms above it, by decision; they live in one connection's memory.
OFFERED = {"predictions", "labels", "logged"}


def owners(sources: list[Source]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        for table in MADE.findall(source.text):
            found[table.lower()].add(source.room)
    return dict(found)


def strangers(sources: list[Source]) -> list[str]:
    """Uses of a table in SQL outside the room that owns it."""
    owned = owners(sources)
    return [
        f"{source.path}: {table} belongs to {'/'.join(sorted(owned[table.lower()]))}"
        for source in sources
        for table in USED.findall(source.text)
        if table.lower() in owned and source.room not in owned[table.lower()] and table.lower() not in OFFERED
    ]


@pytest.fixture(scope="module")
def package() -> list[Source]:
    return rules.package_sources()


def test_every_table_of_a_fresh_space_is_made_by_one_room(space: Space, package: list[Source]) -> None:
    with space.read() as tx:
        tables = set(tx.tables())
    assert len(tables) > 10
    made = owners(package)
    for table in sorted(tables):
        assert len(made.get(table, ())) == 1, f"{table}: made by {sorted(made.get(table, ()))}"


def test_no_room_reads_or_writes_the_table_of_another(package: list[Source]) -> None:
    assert strangers(package) == []


def test_a_stranger_is_found() -> None:
    sources = [
        Source("src/loopwright/runs/queries.py", 'M = ["CREATE TABLE runs (id TEXT)"]', "loopwright.runs.queries"),
        Source("src/loopwright/loop/service.py", 'tx.query("SELECT id FROM runs")', "loopwright.loop.service"),
        Source("src/loopwright/runs/service.py", 'tx.query("SELECT id FROM runs")', "loopwright.runs.service"),
    ]
    assert strangers(sources) == ["src/loopwright/loop/service.py: runs belongs to runs"]


def test_a_room_answers_for_every_table_when_a_subject_is_erased(space: Space) -> None:
    with space.read() as tx:
        tables = set(tx.tables())
    rooms = house.holdings()
    answered = [table for room in rooms for table in room.tables]
    assert sorted(answered) == sorted(set(answered)), "two rooms answer for one table"
    assert set(answered) == tables
    assert len({room.room for room in rooms}) == len(rooms)


def test_a_room_answers_for_its_own_tables_only(package: list[Source]) -> None:
    owned = owners(package)
    for room in house.holdings():
        for table in room.tables:
            assert owned[table] == {room.room}, f"{room.room} answers for {table}"

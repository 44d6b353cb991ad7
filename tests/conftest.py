"""Fixtures for all tests: a fresh Space on a replay clock, and one on the wall clock, on both grounds.

A ground is where a Space is kept: a SQLite file and a folder, or a PostgreSQL schema and an S3 store.
"""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import servers

from loopwright import house
from loopwright.kernel.settings import ENVIRONMENT, Settings
from loopwright.store.space import Space, bind

START = "2013-04-01T04:00:00Z"
T = TypeVar("T")


class Servers:
    """The servers of a session, each started when a test first asks for it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[str, object] = {}

    def _run(self, name: str, start: Callable[[], AbstractContextManager[T]]) -> T:
        if name not in self._running:
            try:
                self._running[name] = self._stack.enter_context(start())
            except servers.Missing as missing:
                self._running[name] = missing
        found = self._running[name]
        if isinstance(found, servers.Missing):
            pytest.skip(f"SKIPPED({found})")
        return found  # type: ignore[return-value]

    def postgres(self) -> str:
        """The address of a PostgreSQL database."""
        return self._run("postgres", servers.postgres)

    def object_store(self) -> dict[str, str]:
        """The environment that names an S3 store."""
        return self._run("object store", servers.object_store)


@pytest.fixture(scope="session")
def session_servers() -> Iterator[Servers]:
    """PostgreSQL and an S3 store for all tests of a process."""
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture(params=["sqlite", "postgres"])
def ground(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the Spaces of a test are kept, for its child processes too: `sqlite` + folder, `postgres` + S3."""
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    if request.param == "sqlite":
        yield "sqlite"
        return
    running: Servers = request.getfixturevalue("session_servers")
    address, store, own = running.postgres(), running.object_store(), f"t_{uuid.uuid4().hex}"
    monkeypatch.setenv("LOOPWRIGHT_DATABASE", address)
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    _place(monkeypatch, own)
    yield "postgres"
    for schema in (own, f"{own}_wall"):
        servers.drop_schema(address, schema)


def _place(monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    monkeypatch.setenv("LOOPWRIGHT_SCHEMA", own)
    bucket = "/".join(os.environ["LOOPWRIGHT_BLOBS"].split("/")[:3])
    monkeypatch.setenv("LOOPWRIGHT_BLOBS", f"{bucket}/{own}")


@pytest.fixture
def space(tmp_path: Path, ground: str) -> Iterator[Space]:
    """A Space that a replay drives, at 2013-04-01T04:00:00Z, bound to this process."""
    made = house.init(tmp_path / "project", Settings(clock="replay", start=START))
    bind(made)
    yield made
    bind(None)
    made.close()


@pytest.fixture
def wall_space(
    tmp_path: Path, ground: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Space]:
    """A Space on the wall clock, bound to this process."""
    if ground == "postgres" and "space" in request.fixturenames:  # two Spaces are two schemas
        _place(monkeypatch, f"{os.environ['LOOPWRIGHT_SCHEMA']}_wall")
    made = house.init(tmp_path / "wall project")
    bind(made)
    yield made
    bind(None)
    made.close()

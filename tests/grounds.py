"""Grounds to bring a project to: a SQLite file and a folder, or a PostgreSQL schema and an S3 store."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import servers

from loopwright.kernel.settings import ENVIRONMENT
from loopwright.project.restore import Ground


@contextmanager
def shared_ground(session_servers: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """A schema and a prefix of their own, in the servers of the session; named by settings, not by the environment."""
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    address, store, own = session_servers.postgres(), session_servers.object_store(), f"m_{uuid.uuid4().hex}"
    for name, value in store.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    yield Ground(
        database=address,
        schema=own,
        blobs=f"{store['LOOPWRIGHT_BLOBS']}/{own}",
        blobs_endpoint=store["LOOPWRIGHT_BLOBS_ENDPOINT"],
    )
    servers.drop_schema(address, own)

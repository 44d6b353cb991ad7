"""Hearing of others' commits: one connection a process that listens, and a count that grows."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg


class Notices:
    """Counts the notices of a channel; a connection that was lost counts as one, for some may have been missed."""

    def __init__(self, connect: Callable[[], "psycopg.Connection[Any]"], channel: str) -> None:
        self._connect = connect
        self._channel = channel
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._count = 0

    def count(self) -> int:
        """A number that has grown when a notice came.

        Raises:
            Unavailable: the server does not answer.
        """
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.execute(f"LISTEN {self._channel}")
                self._count += 1
            try:
                self._count += sum(1 for _ in self._connection.notifies(timeout=0))
            except psycopg.Error:
                self._drop()
                self._count += 1
            return self._count

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._drop()

"""The HTTP server of control: uvicorn on a socket that outlives it, which leaves without breaking anything off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from loopwright.kernel.clock import monotonic_s

LAME_S = 1.5  # how long a control that gives way answers those who are connected to it
_LOOK_S = 0.02


class Server(uvicorn.Server):
    """uvicorn that says on every connection that it leaves, and lets who asks next go to who follows."""

    def __init__(self, config: uvicorn.Config, leaving: Callable[[], None]) -> None:
        super().__init__(config)
        self._leaving = leaving
        self._parent = os.getppid()
        self._lame_s = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """SIGTERM ends it; after SIGUSR2 another control takes over its socket."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._told)
        yield

    def _told(self, number: int, frame: Any) -> None:
        if os.getppid() != self._parent:
            os._exit(0)  # the next `lw up` wants the port; what was acknowledged is kept
        self._lame_s = LAME_S if number == signal.SIGUSR2 else 0.0
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, answer what is under way, end."""
        for server in self.servers:
            server.close()
        self._leaving()
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        until = monotonic_s() + self._lame_s
        while state.connections and monotonic_s() < until:
            await asyncio.sleep(_LOOK_S)
        await super().shutdown(sockets)

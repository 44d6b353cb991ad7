"""Processes that belong together: children that die with their parent, exclusive locks, listening sockets."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Unavailable
from loopwright.store.locks import try_take

LOOPBACK = "127.0.0.1"
BACKLOG = 1024
_PR_SET_PDEATHSIG = 1
_PORTS_TRIED = 200
_TRY_AGAIN_S = 0.02


def tied() -> Callable[[], None]:
    """A `preexec_fn` for a child that gets SIGTERM when this process dies, and leaves Ctrl-C to its parent."""
    parent = os.getpid()
    tie = _death_signal()

    def before_exec() -> None:
        tie(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    return before_exec


def tie_to_parent(parent: int) -> None:
    """Let this forked process die when its parent does."""
    _death_signal()(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _death_signal() -> Callable[[int], None]:
    if sys.platform != "linux":
        return lambda number: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda number: prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def alive(pid: int) -> bool:
    """Whether a process of this user is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def lock(path: Path, *, wait_s: float) -> int | None:
    """Take an exclusive lock that the kernel lets go when this process dies; None when it stays taken.

    Returns:
        the descriptor to keep open.
    """
    until = monotonic_s() + wait_s
    while (fd := try_take(path)) is None and monotonic_s() < until:
        time.sleep(_TRY_AGAIN_S)
    return fd


def command_line(pid: int) -> bytes:
    """The words of a process's command, or nothing when it is gone or is not to be seen."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def listen(port: int, count: int = 1, *, host: str = LOOPBACK) -> tuple[list[socket.socket], list[socket.socket]]:
    """Listening sockets on one port of an address, `port` or the next free; several share it, one for each process.

    Returns:
        the sockets, and guards to be kept open beside them: they stop another project's `lw up` from sharing the port.

    Raises:
        Unavailable: no port is free.
    """
    for number in [0] if port == 0 else range(port, min(port + _PORTS_TRIED, 65536)):
        try:
            return _bind(host, number, count)
        except OSError:
            continue
    raise Unavailable(f"no free port from {port} on", code="up.port", hint=f"lw up --port {max(1024, port - 1000)}")


def _bind(host: str, port: int, count: int) -> tuple[list[socket.socket], list[socket.socket]]:
    sockets: list[socket.socket] = []
    guards: list[socket.socket] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        probe = socket.socket(family)
        guards.append(probe)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        port = probe.getsockname()[1]
        if count == 1:
            probe.listen(BACKLOG)
            return [guards.pop()], []
        if sys.platform == "linux":
            guard = socket.socket(socket.AF_UNIX)
            guards.append(guard)
            guard.bind(f"\0loopwright-port-{port}")
        probe.close()
        for _ in range(count):
            shared = socket.socket(family)
            sockets.append(shared)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shared.bind((host, port))
            shared.listen(BACKLOG)
        return sockets, guards[1:]
    except OSError:
        for opened in [*sockets, *guards]:
            opened.close()
        raise

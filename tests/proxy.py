"""A line to a server that can be cut in either direction, or flip a bit on the way back."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Takes connections and hands their bytes on; each entry of a list spoils one connection."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._to = (host, int(port))
        self.cut_requests_after: list[int] = []
        self.cut_answers_after: list[int] = []
        self.flip_answers_at: list[int] = []
        self.answered = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            _end(one)
        for thread in self._threads:
            thread.join()

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._to)
            self._open += [client, server]
            self._start(self._requests, client, server)
            self._start(self._answers, server, client)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        while piece := _received(client):
            passed += len(piece)
            if self.cut_requests_after and passed > self.cut_requests_after[0]:
                self.cut_requests_after.pop(0)
                break
            if not _sent(server, piece):
                break
        _end(client)
        _end(server)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        while piece := _received(server):
            self.answered += len(piece)
            if self.cut_answers_after and passed + len(piece) > self.cut_answers_after[0]:
                _sent(client, piece[: self.cut_answers_after.pop(0) - passed])
                break
            if self.flip_answers_at and passed + len(piece) > self.flip_answers_at[0]:
                at = self.flip_answers_at.pop(0) - passed
                piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
            passed += len(piece)
            if not _sent(client, piece):
                break
        _end(client)
        _end(server)


def _received(one: socket.socket) -> bytes:
    try:
        return one.recv(1 << 16)
    except OSError:
        return b""


def _sent(one: socket.socket, data: bytes) -> bool:
    try:
        one.sendall(data)
    except OSError:
        return False
    return True


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()

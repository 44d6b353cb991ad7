"""A real server for an ASGI application, in a thread."""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
import uvicorn

from loopwright.faces import processes


class Got:
    """An answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Site:
    """A served application."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(
        self, verb: str, path: str, body: bytes | Iterable[bytes] | None = None, headers: dict[str, str] | None = None
    ) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            with contextlib.suppress(ConnectionError):  # a refused body may be cut off while it is sent
                connection.request(verb, path, body, headers or {})
            return Got(connection.getresponse())


Serve = Callable[[Callable[[int], Any]], Site]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve what a function makes of a port."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(make: Callable[[int], Any]) -> Site:
        [listening], _ = processes.listen(0)
        port = listening.getsockname()[1]
        config = uvicorn.Config(make(port), lifespan="off", log_level="critical", http="httptools", loop="uvloop")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        running.append((server, thread))
        return Site(port)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()

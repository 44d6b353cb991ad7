"""The small HTTP client of a replay: keep-alive, order of pieces, one repeat after a reset."""

import asyncio

import pytest
import uvloop

from loopwright.faces.sender import Sender
from loopwright.kernel.errors import Unavailable


class Server:
    """Answers with the body it got, and resets a connection once for every body in `resets`."""

    def __init__(self) -> None:
        self.resets: set[bytes] = set()
        self.connections = 0
        self.seen: list[bytes] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(size)
                self.seen.append(body)
                if body in self.resets:
                    self.resets.discard(body)
                    writer.transport.abort()
                    return
                answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
                writer.write(answer[:9])
                await asyncio.sleep(0)
                writer.write(answer[9:] + body)
        except asyncio.IncompleteReadError:
            writer.close()

    async def send(self, bodies: list[bytes]) -> tuple[dict[bytes, tuple[int, bytes]], Sender]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sender, found = Sender(f"http://127.0.0.1:{port}", 4), {}
        head = sender.head("POST", "/x")
        items = [(body, sender.payload(head, body)) for body in bodies]
        try:
            await sender.run(items, lambda key, status, body: found.__setitem__(key, (status, body)))
        finally:
            sender.close()
            server.close()
            await asyncio.sleep(0.01)
        return found, sender


def test_every_request_is_answered_over_few_connections() -> None:
    server, bodies = Server(), [b"%d" % n for n in range(500)]
    found, sender = uvloop.run(server.send(bodies))
    assert found == {body: (200, body) for body in bodies}
    assert server.connections == 4
    assert sender.repeated == 0


def test_a_reset_connection_repeats_its_request_once() -> None:
    server = Server()
    server.resets = {b"7", b"11"}
    bodies = [b"%d" % n for n in range(20)]
    found, sender = uvloop.run(server.send(bodies))
    assert found == {body: (200, body) for body in bodies}
    assert sender.repeated == 2
    assert sorted(server.seen) == sorted([*bodies, b"7", b"11"])


def test_nobody_there() -> None:
    async def call() -> None:
        sender = Sender("http://127.0.0.1:9", 2)
        await sender.run([(b"", sender.payload(sender.head("GET", "/"), b""))], lambda key, status, body: None)

    with pytest.raises(Unavailable):
        uvloop.run(call())

"""The remote client: what was lost on the way is done once, tokens go where they may, answers come back as typed."""

import contextlib
import math
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn

import loopwright
from loopwright import house
from loopwright.faces import client, door, http, processes, remote, restore
from loopwright.kernel import errors
from loopwright.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from loopwright.kernel.op import Op
from loopwright.store.space import Space

Serve = Callable[[Callable[[int], Any]], Any]  # the fixture of conftest.py, and what it gives
CALLS: list[str] = []
SEEN: list[dict[str, str]] = []


class Figures(msgspec.Struct, frozen=True):
    """Numbers of which some are none."""

    loss: float
    by_day: dict[str, float]
    note: str | None
    best: float | None
    pairs: tuple[tuple[str, float], ...]


def count(space: Space, actor: str, *, what: str = "") -> dict[str, int]:
    """Count the calls."""
    CALLS.append(what)
    if what == "held":
        raise Conflict("it is held", code="thing.held", field="what", hint="lw resume thing")
    return {"calls": len(CALLS)}


def secret(space: Space, actor: str) -> dict[str, int]:
    """Count, in secret."""
    return count(space, actor)


def look(space: Space, actor: str) -> Figures:
    """Look at numbers."""
    return Figures(math.nan, {"a": math.nan, "b": 0.5}, None, None, (("x", math.nan), ("y", math.inf)))


def pour(space: Space, actor: str, *, count: int) -> Iterator[bytes]:
    """Give rows."""
    return (b"%d\n" % n for n in range(count))


def make(space: Space, actor: str, *, out: Path, columns: int) -> dict[str, Any]:
    """Make a file with many columns."""
    out.write_bytes(b"x" * columns)
    return {"path": str(out), "columns": [f"column ü, {number}" for number in range(columns)]}


OPS = [
    Op(fn=count, http="POST /api/v1/counts", action="labels.add"),
    Op(fn=secret, http="POST /api/v1/secrets", action="tokens.create", secret=True),
    Op(fn=look, http="GET /api/v1/figures", action="runs.read"),
    Op(fn=pour, http="GET /api/v1/rows", action="runs.read", shape="stream"),
    Op(fn=make, http="POST /api/v1/made", action="features.rows", writes="out"),
]
COUNT, SECRET, LOOK, POUR, MAKE = OPS


class Noted(door.Gate):
    """A gate that notes what it is shown."""

    async def actor(self, scope: Any, headers: Any) -> str:
        SEEN.append(dict(headers))
        return "jobs"


@pytest.fixture
def site(serve: Serve, space: Space) -> Any:
    CALLS.clear()
    SEEN.clear()
    wires = [http.op_wire(op, space) for op in OPS]
    return serve(lambda port: door.application(space, wires, Noted(space, hosts=door.loopback_hosts(port))))


OPENED: list[remote.Caller] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close what a test opened."""
    yield
    close_all()


def close_all() -> None:
    while OPENED:
        OPENED.pop().close()


def caller(url: str, **how: Any) -> remote.Caller:
    OPENED.append(remote.Caller(client.Client(url, timeout_s=10.0, **how)))
    return OPENED[-1]


@pytest.fixture
def lossy(site: Any) -> Iterator[tuple[str, list[int]]]:
    """A way to the site that loses as many answers as the list says, after the site has given them."""
    losing: list[int] = []
    listening = socket.create_server(("127.0.0.1", 0))
    own = listening.getsockname()[1]

    def relay() -> None:
        while True:
            try:
                inward, _ = listening.accept()
            except OSError:
                return
            with inward, socket.create_connection(("127.0.0.1", site.port)) as outward:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += inward.recv(65536)
                head, _, body = asked.partition(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line[:15] == b"Content-Length:"), 0)
                while len(body) < length:
                    body += inward.recv(65536)
                outward.sendall(
                    head.replace(b":%d" % own, b":%d" % site.port) + b"\r\nconnection: close\r\n\r\n" + body
                )
                answer = b""
                while piece := outward.recv(65536):
                    answer += piece
                if losing:
                    losing.pop()
                else:
                    inward.sendall(answer)

    thread = threading.Thread(target=relay)
    thread.start()
    yield f"http://127.0.0.1:{own}", losing
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def test_a_command_whose_answer_was_lost_is_done_once(lossy: tuple[str, list[int]]) -> None:
    url, losing = lossy
    losing.append(1)
    assert caller(url).call(COUNT, {"what": "a"}) == {"calls": 1}
    assert CALLS == ["a"] and len(SEEN) == 2
    assert SEEN[0]["idempotency-key"] == SEEN[1]["idempotency-key"]
    assert caller(url).call(COUNT, {"what": "a"}) == {"calls": 2}, "another call is another command"


def test_a_query_is_asked_again(lossy: tuple[str, list[int]]) -> None:
    url, losing = lossy
    losing.append(1)
    assert caller(url).call(LOOK, {}).note is None


def test_what_takes_no_key_is_not_sent_again(lossy: tuple[str, list[int]]) -> None:
    url, losing = lossy
    losing.append(1)
    with pytest.raises(Unavailable):
        caller(url).call(SECRET, {})
    assert len(SEEN) == 1


def test_what_is_lost_twice_is_told(lossy: tuple[str, list[int]]) -> None:
    url, losing = lossy
    losing.extend([1, 1])
    with pytest.raises(Unavailable) as caught:
        caller(url).call(COUNT, {"what": "a"})
    assert caught.value.code == "up.silent"


def test_an_error_comes_back_as_itself(site: Any) -> None:
    with pytest.raises(Conflict) as caught:
        caller(f"http://127.0.0.1:{site.port}").call(COUNT, {"what": "held"})
    told = Conflict("it is held", code="thing.held", field="what", hint="lw resume thing").to_dict()
    assert caught.value.to_dict() == told
    with pytest.raises(Invalid) as wrong:
        caller(f"http://127.0.0.1:{site.port}").call(COUNT, {"what": 3})
    assert wrong.value.field == "what" and len(SEEN) == 1, "what has not its form is not sent"


def test_numbers_that_are_none_come_back(site: Any) -> None:
    found = caller(f"http://127.0.0.1:{site.port}").call(LOOK, {})
    assert isinstance(found, Figures)
    assert math.isnan(found.loss) and math.isnan(found.by_day["a"]) and found.by_day["b"] == 0.5
    assert found.note is None and found.best is None
    assert found.pairs[0][0] == "x" and math.isnan(found.pairs[0][1]) and isinstance(found.pairs, tuple)


def test_a_stream_comes_in_pieces(site: Any) -> None:
    pieces = caller(f"http://127.0.0.1:{site.port}").call(POUR, {"count": 1000})
    assert b"".join(pieces) == b"".join(b"%d\n" % n for n in range(1000))


@pytest.mark.parametrize("columns", [0, 3, 5000])
def test_a_file_comes_with_its_result(site: Any, tmp_path: Path, columns: int) -> None:
    out = tmp_path / "some file.bin"
    args = {"out": out, "columns": columns}
    found = caller(f"http://127.0.0.1:{site.port}").call(MAKE, args)
    assert out.read_bytes() == b"x" * columns
    assert found == {"path": str(out), "columns": [f"column ü, {number}" for number in range(columns)]}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("answered", [b"{}", b"[1]", b"null", b"<html>", b'{"loss": "x"}'])
def test_an_answer_of_another_form_is_told(answered: bytes) -> None:
    with pytest.raises(Unavailable) as caught:
        restore.typed(answered, Figures)
    assert caught.value.code == "answer.form"


def test_the_token_is_shown_and_never_printed(site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{site.port}"
    with remote.connect(house, url, token="lw_planted") as found:  # type: ignore[arg-type]
        found.call(COUNT, {})
        assert "lw_planted" not in repr(found) + repr(found._client) + str(vars(found._client).keys())
    assert SEEN[-1]["authorization"] == "Bearer lw_planted"
    monkeypatch.setenv("LOOPWRIGHT_URL", url)
    monkeypatch.setenv("LOOPWRIGHT_TOKEN", "lw_of_environment")
    with loopwright.connect() as found:
        found.call(COUNT, {})
    assert SEEN[-1]["authorization"] == "Bearer lw_of_environment"
    place = tmp_path / "token"
    place.write_text("lw_of_file\n")
    monkeypatch.delenv("LOOPWRIGHT_TOKEN")
    monkeypatch.setenv("LOOPWRIGHT_TOKEN_FILE", str(place))
    place.chmod(0o644)
    with pytest.raises(Invalid) as caught:
        loopwright.connect()
    assert caught.value.code == "token.mode" and "lw_of_file" not in str(caught.value)
    place.chmod(0o600)
    with loopwright.connect() as found:
        found.call(COUNT, {})
    assert SEEN[-1]["authorization"] == "Bearer lw_of_file"


def test_a_token_is_not_sent_in_the_open() -> None:
    for host in ("example.org", "127.0.0.1.example.org", "127.example.org", "localhost.example.org", "0.0.0.0"):
        with pytest.raises(Invalid) as caught:
            client.Client(f"http://{host}:4600", token="lw_planted")
        assert caught.value.code == "url.plain" and "lw_planted" not in str(caught.value.to_dict())
    for host in ("127.0.0.1", "127.1.2.3", "localhost", "[::1]"):
        client.Client(f"http://{host}:4600", token="lw_planted")


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://x", "http://", "http://u:p@x", "http://x/y", "http://x?y", "http://x:99999", "http://x:0"]
)
def test_what_is_no_address_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPWRIGHT_URL", raising=False)
    with pytest.raises(Invalid) as caught:
        remote.connect(house, url)  # type: ignore[arg-type]
    assert caught.value.field == "url"


def test_who_refuses_before_all_is_sent_is_heard(tmp_path: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        for _ in range(2):
            inward, _ = listening.accept()
            with inward:
                inward.recv(10)
                inward.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                inward.shutdown(socket.SHUT_WR)
                while inward.recv(1 << 20):
                    pass

    thread = threading.Thread(target=refuse)
    thread.start()
    large = tmp_path / "large.csv"
    large.write_bytes(b"x" * (32 << 20))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        for _ in range(2):
            with pytest.raises(Forbidden):
                caller(url).call(house.ops()["data.add"], {"path": str(large)})
            close_all()
    finally:
        thread.join()
        listening.close()


def test_loopback_goes_by_no_proxy(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert caller(f"http://127.0.0.1:{site.port}").call(COUNT, {}) == {"calls": 1}


def test_rooms_and_operations_are_found_by_name() -> None:
    found = remote.connect(house, "http://127.0.0.1:9")  # type: ignore[arg-type]
    assert {"artifacts", "runs", "audit"} <= set(dir(found))
    assert "list_names" in dir(found.artifacts)
    assert (found.runs.get_run.__doc__ or "").startswith("Get one run")
    with pytest.raises(AttributeError, match="no room"):
        _ = found.nothing
    with pytest.raises(AttributeError, match="no operation"):
        _ = found.runs.nothing


def test_no_file_to_send_is_told(tmp_path: Path) -> None:
    found = remote.connect(house, "http://127.0.0.1:9")  # type: ignore[arg-type]
    with pytest.raises(NotFound) as caught:
        found.data.add(path=str(tmp_path / "missing.csv"))
    assert caught.value.field == "path"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (403, Forbidden),
        (409, Conflict),
        (418, Invalid),
        (503, Unavailable),
        (500, errors.LoopwrightError),
    ],
)
def test_an_answer_without_a_document_is_an_error_of_its_status(status: int, kind: type[Exception]) -> None:
    for body in (b"", b"<html>no</html>", b"[]", b'{"detail": "x"}'):
        error = client.error_of(status, body)
        assert type(error) is kind and error.message


@pytest.fixture
def secured(space: Space, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A site with TLS, and the certificate that vouches for it."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("SKIPPED(no openssl that makes a certificate)")
    [listening], _ = processes.listen(0)
    port = listening.getsockname()[1]
    wires = [http.op_wire(op, space) for op in OPS]
    app = door.application(space, wires, Noted(space, hosts=door.loopback_hosts(port), secure=True))
    config = uvicorn.Config(app, lifespan="off", log_level="critical", ssl_keyfile=str(key), ssl_certfile=str(cert))
    made_server = uvicorn.Server(config)
    thread = threading.Thread(target=made_server.run, args=([listening],))
    thread.start()
    yield f"https://localhost:{port}", cert
    close_all()  # or the server waits for them
    made_server.should_exit = True
    thread.join()


def test_https_is_verified(secured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, cert = secured
    CALLS.clear()
    with pytest.raises(Unavailable) as caught:
        caller(url, token="lw_planted").call(COUNT, {})
    assert "certificate" in caught.value.message.lower() and "lw_planted" not in caught.value.message
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    assert caller(url, token="lw_planted").call(COUNT, {}) == {"calls": 1}
    with contextlib.closing(client.Client(url.replace("localhost", "127.0.0.1"))) as other, pytest.raises(Unavailable):
        other.send("GET", "/api/v1/figures")
    assert isinstance(ssl.create_default_context(), ssl.SSLContext)

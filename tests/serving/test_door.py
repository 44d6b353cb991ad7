"""The door of a worker: who is at the other end of a connection, what tokens open, and what a path asks for."""

import base64
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopwright.access import published
from loopwright.access.published import Published, PublishedToken
from loopwright.kernel.errors import Invalid
from loopwright.kernel.settings import Settings
from loopwright.serving.protocols import door, peers, tls
from loopwright.serving.protocols.door import OWNER, Gatekeeper, Guest, Refusal, asked, bearer
from loopwright.serving.protocols.peers import FOREIGN, Peer

MINE = Peer(True, os.geteuid())
OTHERS = Peer(True, os.geteuid() + 1)
HOST = {b"host": b"127.0.0.1:4601"}
SECRET = "lw_" + "0" * 64


def told(folder: Path, **change: object) -> Gatekeeper:
    """A gatekeeper whom control has told of one token, for `delay` alone."""
    token = PublishedToken(
        sha256=published.digest(SECRET), actor="token:a", expires_us=None,
        scopes={published.PREDICT: ["endpoint:delay"], published.READ: ["endpoint:del*"]},
    )  # fmt: skip
    published.write(folder, Published(**{"generation": 1, "tokens": [token], **change}))  # type: ignore[arg-type]
    return Gatekeeper(folder)


def status(gate: Gatekeeper, peer: Peer, endpoint: str | None = "delay", **headers: bytes) -> int:
    refused = gate.refuse(peer, {**HOST, **{name.encode(): value for name, value in headers.items()}}, endpoint)
    return 200 if refused is None else refused.status


def test_only_the_own_user_comes_in_where_nothing_is_published(tmp_path: Path) -> None:
    gate = Gatekeeper(tmp_path)
    assert status(gate, MINE) == 200
    for peer in (OTHERS, FOREIGN, Peer(True, None), Peer(False, os.geteuid())):
        assert status(gate, peer) == 401, peer
    assert status(gate, MINE, authorization=b"Bearer " + SECRET.encode()) == 401


def test_a_token_opens_what_it_is_for_from_anywhere(tmp_path: Path) -> None:
    gate = told(tmp_path)
    shown = b"Bearer " + SECRET.encode()
    for peer in (MINE, OTHERS, FOREIGN):
        assert status(gate, peer, authorization=shown) == 200
        assert status(gate, peer, "delta", authorization=shown) == 403
        assert status(gate, peer, None, authorization=shown) == 403
    assert gate.refuse(FOREIGN, {**HOST, b"authorization": shown}, "delta", published.READ) is None
    basic = b"Basic " + base64.b64encode(b"me:" + SECRET.encode())
    assert status(gate, FOREIGN, authorization=basic) == 200


def test_a_wrong_credential_is_not_overlooked(tmp_path: Path) -> None:
    gate = told(tmp_path)
    for shown in (
        b"",
        b"Bearer",
        b"Bearer x",
        b"Basic x",
        b"Digest " + SECRET.encode(),
        SECRET.encode(),
        b"\xff" * 9000,
    ):
        assert status(gate, MINE, authorization=shown) == 401, shown


def test_tokens_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = PublishedToken(
        sha256=published.digest(SECRET), actor="token:a", expires_us=1000, scopes={published.PREDICT: ["*"]}
    )
    gate, shown = told(tmp_path, tokens=[token]), b"Bearer " + SECRET.encode()
    monkeypatch.setattr(door, "machine_us", lambda: 999)
    assert status(gate, FOREIGN, authorization=shown) == 200
    monkeypatch.setattr(door, "machine_us", lambda: 1000)
    assert status(gate, FOREIGN, authorization=shown) == 401


def test_what_control_publishes_is_taken_and_nonsense_is_not(tmp_path: Path) -> None:
    gate, shown = told(tmp_path), b"Bearer " + SECRET.encode()
    before = gate.state
    (tmp_path / published.FILE).write_bytes(b"{")
    gate.refresh()
    assert (gate.state, status(gate, FOREIGN, authorization=shown)) == (before, 200)
    published.write(tmp_path, Published(generation=2))
    gate.refresh()
    assert gate.state == before + 1
    assert status(gate, FOREIGN, authorization=shown) == 401


def test_a_token_that_is_new_works_at_once(tmp_path: Path) -> None:
    gate = Gatekeeper(tmp_path)
    told(tmp_path)
    assert status(gate, FOREIGN, authorization=b"Bearer " + SECRET.encode()) == 200


def test_behind_a_proxy_loopback_opens_nothing(tmp_path: Path) -> None:
    local = "lwl_" + "1" * 64
    gate = told(tmp_path, behind_proxy=True, local=published.digest(local))
    assert status(gate, MINE) == 401
    assert status(gate, MINE, authorization=b"Bearer " + local.encode()) == 200
    assert status(gate, FOREIGN, authorization=b"Bearer " + local.encode()) == 401


def test_what_a_proxy_hands_on_is_not_the_owners(tmp_path: Path) -> None:
    gate = told(tmp_path)
    for name in peers.FORWARDED:
        assert gate.enter(MINE, {**HOST, name: b""}) != OWNER
        assert isinstance(gate.enter(MINE, {**HOST, name: b"", b"authorization": b"Bearer " + SECRET.encode()}), Guest)


@pytest.mark.parametrize(
    ("headers", "inside"),
    [
        ({b"host": b"loop.example.org"}, True), ({b"host": b"LOOP.example.org:4601"}, True),
        ({b"host": b"[::1]:1"}, True),
        ({b"host": b"evil.example.org"}, False), ({b"host": b"loop.example.org.evil"}, False),
        ({b"host": b"loop.example.org:x"}, False), ({b"host": b"x@loop.example.org"}, False),
        ({b"host": b"127.0.0.1.evil"}, False), ({b"host": b"localhost", b"origin": b"http://localhost"}, True),
        ({b"host": b"localhost", b"origin": b"http://evil"}, False),
        ({b"host": b"localhost", b"origin": b"null"}, False),
        ({b"host": b"localhost", b"sec-fetch-site": b"cross-site"}, False),
        ({b"host": b"localhost", b"sec-fetch-site": b"same-site"}, False), ({}, True),
    ],
)  # fmt: skip
def test_hosts_and_sites(tmp_path: Path, headers: dict[bytes, bytes], inside: bool) -> None:
    gate = told(tmp_path, hosts=["loop.example.org"])
    found = gate.enter(MINE, {**headers, b"authorization": b"Bearer " + SECRET.encode()})
    assert isinstance(found, Guest if inside else Refusal)


def test_a_public_name_is_not_the_owners(tmp_path: Path) -> None:
    gate = told(tmp_path, hosts=["loop.example.org"])
    assert isinstance(gate.enter(MINE, {b"host": b"loop.example.org"}), Refusal)
    assert gate.enter(MINE, HOST) is OWNER


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        (b"GET", "/v2", ("endpoints.read", None)), (b"GET", "/v2/health/live", None),
        (b"HEAD", "/v2/health/ready", None),
        (b"POST", "/v2/health/live", ("endpoints.predict", None)),
        (b"GET", "/v2/models/delay", ("endpoints.read", "delay")),
        (b"POST", "/v2/models/delay/infer", ("endpoints.predict", "delay")),
        (b"POST", "/v2/models/delay/versions/3/infer?x=/v2/health/live", ("endpoints.predict", "delay")),
        (b"POST", "/v2/models/%64elay/infer", ("endpoints.predict", "delay")),
        (b"POST", "/v2/models/%2564elay/infer", ("endpoints.predict", "%64elay")),
        (b"POST", "/v2/models/a%2Fdelay/infer", ("endpoints.predict", "a/delay")),
        (b"POST", "/v2/repository/index", ("endpoints.read", None)),
        (b"GET", "//v2/health/live", ("endpoints.read", None)),
        (b"GET", "/v2/health/live/", None), (b"GET", "/v2/health/live/x", ("endpoints.read", None)),
        (b"GET", "", ("endpoints.read", None)),
    ],
)  # fmt: skip
def test_what_a_path_asks_for(method: bytes, path: str, wanted: tuple[str, str | None] | None) -> None:
    assert asked(method, path) == wanted


def test_a_key_that_everybody_reads_is_refused(tmp_path: Path) -> None:
    wanted = Settings(tls_cert="cert.pem", tls_key="key.pem")
    for mode, code in ((None, "bind.cert"), (0o644, "bind.key-mode"), (0o604, "bind.key-mode"), (0o640, "bind.cert")):
        if mode is not None:
            (tmp_path / "key.pem").write_text("no key")
            (tmp_path / "key.pem").chmod(mode)
        with pytest.raises(Invalid) as caught:
            tls.context(wanted, tmp_path)
        assert caught.value.code == code


def test_credentials() -> None:
    assert bearer(b"Bearer  x ") == "x"
    assert bearer(b"bEaReR x") == "x"
    assert bearer(b"Basic " + base64.b64encode(b":x:y")) == "x:y"
    for wrong in (b"", b"Bearer", b"Bearer ", b"Basic", b"Basic ==", b"Basic " + base64.b64encode(b"xy"), b"x y"):
        assert bearer(wrong) is None, wrong


@contextlib.contextmanager
def connected(family: int, host: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    try:
        listening = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"SKIPPED(no {host} here)")
    with listening, socket.socket(family) as caller:
        caller.connect(listening.getsockname()[:2])
        answering, _ = listening.accept()
        with answering:
            yield caller, answering


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_says_whose_a_socket_is(family: int, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(family, host) as (caller, answering):
        ends = answering.getpeername(), answering.getsockname()
        assert peers.of_addresses(*ends) == MINE
        caller.shutdown(socket.SHUT_WR)
        assert peers.of_addresses(*ends) == MINE
        with monkeypatch.context() as without:
            without.delattr(socket, "AF_NETLINK")
            assert peers.of_addresses(*ends) == MINE
        assert peers.of_addresses(ends[1], ends[0]) == MINE  # our own end
        assert peers.of_addresses((host, 1), ends[1]).uid is None


@pytest.mark.parametrize("netlink", [True, False])
def test_a_socket_that_was_let_go_is_nobodys(netlink: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel counts it as root's, and a client that closes before it is asked must not become root."""
    if not netlink:
        monkeypatch.delattr(socket, "AF_NETLINK")
    with connected(socket.AF_INET, "127.0.0.1") as (caller, answering):
        ends = answering.getpeername(), answering.getsockname()
        caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
        caller.close()
        assert peers.of_addresses(*ends) == Peer(True, None)
        assert not peers.of_addresses(*ends).own


def test_a_listener_is_not_taken_for_a_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert peers.of_addresses(("127.0.0.1", port), ("127.0.0.1", 9)).uid is None


def test_other_machines_are_foreign() -> None:
    for client, server in (
        (("10.0.0.1", 5), ("10.0.0.2", 6)), (("10.0.0.1", 5), ("127.0.0.1", 6)), (("::1", 5), ("127.0.0.1", 6)),
        (None, ("127.0.0.1", 6)), (("", 0), ("", 0)), (("/a/socket", 0), ("127.0.0.1", 6)),
        (("127.0.0.1",), ("127.0.0.1",)),
    ):  # fmt: skip
        assert peers.of_addresses(client, server) == FOREIGN

"""Files and repeats over HTTP: a caller's paths are names and no places, and a key is answered once."""

import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loopwright.faces import bind, door, files, http, repeats
from loopwright.kernel.errors import Invalid, Timeout
from loopwright.kernel.op import Op
from loopwright.store.space import Space

Serve = Callable[[Callable[[int], Any]], Any]  # the fixture of conftest.py, and what it gives
Site = Any
CALLS: list[str] = []
WAITING, GO_ON = threading.Event(), threading.Event()


class Made(msgspec.Struct):
    path: str
    rows: int


def size(space: Space, actor: str, *, path: str, times: int = 1) -> Made:
    """Measure a file."""
    data = Path(path).read_bytes()
    if data == b"bad":
        raise Invalid(f"{path} is bad", field="path", hint=f"mend {path}")
    return Made(Path(path).name, len(data) * times)


def make(space: Space, actor: str, *, out: Path, rows: int, fail: bool = False) -> Made:
    """Make a file."""
    out.write_bytes(b"row\n" * rows)
    if fail:
        raise Invalid(f"{out} came to nothing", field="out")
    return Made(str(out), rows)


def count(space: Space, actor: str, *, what: str) -> dict[str, int]:
    """Count the calls."""
    CALLS.append(what)
    if what == "bad":
        raise Invalid("bad", field="what")
    if what == "late":
        raise Timeout("the workers do not follow", code="routes.late")
    if what == "broken":
        raise ZeroDivisionError
    if what == "slow":
        WAITING.set()
        GO_ON.wait(30)
    return {"calls": len(CALLS)}


def tell(space: Space, actor: str) -> dict[str, str]:
    """Tell a secret."""
    return {"token": "x"}


OPS = [
    Op(fn=size, http="POST /api/v1/sizes", action="data.add", reads="path", repeatable=True),
    Op(fn=make, http="POST /api/v1/made", action="features.rows", writes="out"),
    Op(fn=count, http="POST /api/v1/counts", action="labels.add"),
    Op(fn=tell, http="POST /api/v1/secrets", action="tokens.create", secret=True),
]


class Known(door.Gate):
    """A gate that takes everybody for the one named in a header."""

    async def actor(self, scope: Any, headers: Any) -> str:
        return str(headers.get("x-actor", "jobs"))


@pytest.fixture
def site(serve: Serve, space: Space) -> Site:
    CALLS.clear()
    wires = [http.op_wire(op, space) for op in OPS]
    return serve(lambda port: door.application(space, wires, Known(space, hosts=door.loopback_hosts(port))))


def lying(space: Space) -> list[Path]:
    return list((space.home / "tmp").iterdir())


def test_a_caller_s_file_comes_as_the_body(site: Site, space: Space) -> None:
    got = site.call("POST", "/api/v1/sizes?path=a%20b.csv&times=2", b"12345")
    assert (got.status, got.json) == (200, {"path": "a b.csv", "rows": 10})
    large = b"x" * (http.LIMIT_BYTES + 1)
    assert site.call("POST", "/api/v1/sizes?path=large.csv", large).json["rows"] == len(large)
    assert lying(space) == []


def test_what_is_wrong_with_it_is_told_by_its_name(site: Site, space: Space) -> None:
    got = site.call("POST", "/api/v1/sizes?path=a.csv", b"bad")
    assert (got.status, got.json["message"], got.json["hint"]) == (422, "a.csv is bad", "mend a.csv")
    assert site.call("POST", "/api/v1/sizes", b"x").json["code"] == "request.missing-field"
    assert lying(space) == []


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../a.csv", "a/b.csv", "a\\b.csv", ".hidden", "..", "a\0b", "a\nb", "x" * 300, "ü" * 190],
)
@pytest.mark.parametrize("verb", ["sizes", "made"])
def test_a_path_is_no_name(site: Site, space: Space, name: str, verb: str) -> None:
    if verb == "sizes":
        got = site.call("POST", f"/api/v1/sizes?path={urllib.parse.quote(name, safe='')}", b"12345")
    else:
        got = site.call("POST", "/api/v1/made", msgspec.json.encode({"out": name, "rows": 1}))
    assert (got.status, got.json["code"]) == (422, "file.name"), got.json
    assert lying(space) == []


def test_a_file_for_the_caller_is_the_answer(site: Site, space: Space) -> None:
    got = site.call("POST", "/api/v1/made", b'{"out": "some rows.txt", "rows": 3}')
    assert (got.status, got.body) == (200, b"row\n" * 3)
    assert got.headers["content-disposition"] == "attachment; filename*=UTF-8''some%20rows.txt"
    told = files.read_header([got.headers[files.RESULT_HEADER.lower()]])
    assert msgspec.json.decode(told) == {"path": "some rows.txt", "rows": 3}
    got = site.call("POST", "/api/v1/made", b'{"out": "some.txt", "rows": 3, "fail": true}')
    assert (got.status, got.json["message"]) == (422, "some.txt came to nothing")
    assert lying(space) == []


def counted(site: Site, what: str, key: str, actor: str = "jobs") -> Any:
    body, headers = bind.to_json({"what": what}), {"idempotency-key": key, "x-actor": actor}
    return site.call("POST", "/api/v1/counts", body, headers)


def test_a_key_is_answered_once(site: Site) -> None:
    first, again = counted(site, "a", "k1"), counted(site, "a", "k1")
    assert first.json == again.json == {"calls": 1}
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    assert counted(site, "a", "k2").json == {"calls": 2}
    assert counted(site, "a", "k1", actor="loop").json == {"calls": 3}, "another's key is another key"
    other = counted(site, "b", "k1")
    assert (other.status, other.json["code"]) == (422, "request.key-reused")
    assert site.call("POST", "/api/v1/counts", b'{"what": "a"}').json == {"calls": 4}


def test_what_was_refused_may_come_again(site: Site) -> None:
    for _ in range(2):
        assert counted(site, "bad", "k1").status == 422
    assert CALLS == ["bad", "bad"]


@pytest.mark.parametrize(("what", "status"), [("late", 504), ("broken", 500)])
def test_what_may_have_been_done_is_not_done_again(site: Site, what: str, status: int) -> None:
    first, again = counted(site, what, "k1"), counted(site, what, "k1")
    assert (first.status, again.status) == (status, status)
    assert first.json == again.json and len(CALLS) == 1


def test_a_key_under_way_is_told(site: Site) -> None:
    WAITING.clear()
    GO_ON.clear()
    found: list[Any] = []
    caller = threading.Thread(target=lambda: found.append(counted(site, "slow", "k1")))
    caller.start()
    assert WAITING.wait(30)
    try:
        got = counted(site, "slow", "k1")
    finally:
        GO_ON.set()
        caller.join()
    assert (got.status, got.json["code"]) == (409, "request.under-way")
    assert found[0].json == counted(site, "slow", "k1").json == {"calls": 1}


def test_a_key_whose_server_ended_is_told(site: Site, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(site, "a", "k1").status == 200
    space.write(lambda tx: tx.execute("UPDATE repeats SET status = NULL, process = 'gone'"))
    got = counted(site, "a", "k1")
    assert (got.status, got.json["code"]) == (409, "request.outcome-unknown")


def test_what_may_be_done_twice_is_done_again_in_doubt(site: Site, space: Space) -> None:
    headers = {"idempotency-key": "k1"}
    assert site.call("POST", "/api/v1/sizes?path=a.csv", b"12345", headers).json["rows"] == 5
    space.write(lambda tx: tx.execute("UPDATE repeats SET status = NULL, process = 'gone'"))
    for _ in range(2):
        assert site.call("POST", "/api/v1/sizes?path=a.csv", b"12345", headers).json["rows"] == 5
    assert site.call("POST", "/api/v1/sizes?path=a.csv", b"123456", headers).json["code"] == "request.key-reused"


def test_keys_are_kept_for_a_day(site: Site, space: Space) -> None:
    counted(site, "a", "k1")
    space.write(lambda tx: tx.execute("UPDATE repeats SET at_us = at_us - ?", (repeats.KEPT_US + 1,)))
    assert counted(site, "a", "k1").json == {"calls": 2}
    with space.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM repeats") == 1


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 201])
def test_a_key_has_a_form(site: Site, key: str) -> None:
    got = site.call("POST", "/api/v1/counts", b'{"what": "a"}', {"idempotency-key": key.encode().decode("latin-1")})
    assert (got.status, got.json["code"]) == (422, "request.key-form")


def test_a_secret_is_kept_by_no_key(site: Site, space: Space) -> None:
    got = site.call("POST", "/api/v1/secrets", None, {"idempotency-key": "k1"})
    assert (got.status, got.json["code"]) == (501, "request.key-secret")
    assert site.call("POST", "/api/v1/secrets").json == {"token": "x"}
    with space.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM repeats") == 0

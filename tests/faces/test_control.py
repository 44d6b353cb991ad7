"""A served project from outside: bad input changes nothing, long polls, the clock, jobs by HTTP, one base URL."""

import contextlib
import hashlib
import http.client
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import pytest

from loopwright.faces import client
from loopwright.faces.http import LIMIT_BYTES
from loopwright.kernel.errors import Invalid
from loopwright.project import server

Served = tuple[Any, server.Running]
INFER, LABELS = "/v2/models/tiny/infer", "/api/v1/endpoints/tiny/labels"


def raw(
    url: str, verb: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(verb, path, body, headers or {})
        response = connection.getresponse()
        return response.status, msgspec.json.decode(response.read())


def tensors(**values: Any) -> list[dict[str, Any]]:
    kinds = {"x": "FP64", "shop": "BYTES"}
    return [
        {"name": name, "shape": [len(data)], "datatype": kinds.get(name, "FP64"), "data": data}
        for name, data in values.items()
    ]


def infer(request_id: str = "bad", **values: Any) -> bytes:
    fields = {"id": request_id, "parameters": {"time": "2020-01-25T05:00:00Z"}, "inputs": tensors(**values)}
    return msgspec.json.encode(fields)


OF_ITSELF = tuple(f'INSERT INTO "{table}"' for table in ("seals", "leases", "hosts", "outbox_cursor"))


def digest(folder: Path) -> str:
    """Of every row of every table, every blob and every spool; but what control writes by itself once in a while."""
    seen = hashlib.sha256()
    home = folder / ".loopwright"
    with contextlib.closing(sqlite3.connect(f"file:{home / 'space.db'}?mode=ro", uri=True)) as db:
        for line in db.iterdump():
            if not line.startswith(OF_ITSELF):
                seen.update(line.encode())
    for part in ("blobs", "spool"):
        for path in sorted((home / part).rglob("*")):
            seen.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return seen.hexdigest()


GOOD = infer("good", x=[0.5], shop=["north"])
BAD: list[tuple[str, str, bytes | None, dict[str, str], int, str]] = [
    # verb, path, body, headers, status, a word of the answer
    ("POST", "/v2/models/nobody/infer", GOOD, {}, 404, "endpoint"),
    ("GET", "/v2/models/nobody", None, {}, 404, "endpoint"),
    ("GET", "/api/v1/endpoints/nobody", None, {}, 404, "nobody"),
    ("POST", "/api/v1/endpoints/nobody/labels", b'{"id": "a", "label": 1}', {}, 404, "nobody"),
    ("GET", "/api/v1/names/tiny/versions/99", None, {}, 404, "99"),
    ("POST", INFER, infer(x=["high"], shop=["north"]), {}, 422, "x"),
    ("POST", INFER, infer(x=[None], shop=["north"]), {}, 422, "x"),
    ("POST", INFER, infer(x=[0.5]), {}, 422, "shop"),
    ("POST", INFER, infer(x=[0.5, None], shop=["north", "south"]), {}, 422, "1"),
    ("POST", INFER, b"{", {}, 400, ""),
    ("POST", LABELS, b'{"id": "a", "label": "yes"}', {}, 422, "line 1"),
    ("POST", LABELS, b'{"id": "a", "label": 1}\n{"id": "b"}', {}, 422, "line 2"),
    ("POST", LABELS, b'{"id": "a", "label": 1, "known_at": "soon"}', {}, 422, "known_at"),
    ("POST", "/api/v1/deploys", b'{"ref": 7}', {}, 422, "ref"),
    ("POST", "/api/v1/deploys", b'{"rfe": "tiny"}', {}, 422, "rfe"),
    ("POST", "/api/v1/clock/advance", b'{"to": "soon"}', {}, 422, "to"),
    ("POST", "/api/v1/clock/advance", b"{}", {}, 422, "to"),
    ("POST", "/api/v1/clock/advance", b'{"to": "2019-01-01"}', {}, 409, "clock"),
    ("GET", "/api/v1/events?wait_s=long", None, {}, 422, "wait_s"),
    ("GET", "/api/v1/jobs/nothing", None, {}, 404, "nothing"),
    ("POST", LABELS, None, {"content-length": str(LIMIT_BYTES + 1)}, 413, "16 MiB"),
    ("POST", INFER, None, {"content-length": str(LIMIT_BYTES + 1)}, 413, ""),
    ("POST", LABELS, b'{"id": "a", "label": 1}', {"host": "example.org"}, 403, "example.org"),
    ("POST", LABELS, b'{"id": "a", "label": 1}', {"origin": "http://example.org"}, 403, "example.org"),
    ("POST", LABELS, b'{"id": "a", "label": 1}', {"sec-fetch-site": "cross-site"}, 403, "site"),
    ("POST", INFER, GOOD, {"host": "example.org"}, 403, ""),
    ("POST", INFER, GOOD, {"origin": "http://example.org"}, 403, ""),
    ("POST", INFER, GOOD, {"sec-fetch-site": "cross-site"}, 403, ""),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_input_is_refused_and_changes_nothing(served: Served, number: int) -> None:
    project, where = served
    verb, path, body, headers, status, word = BAD[number]
    before = digest(project.folder)
    for url in [where.control_url, where.data_url] if path.startswith("/v2/") else [where.control_url]:
        found, document = raw(url, verb, path, body, headers)
        assert found == status, document
        assert {"code", "message", "field", "hint"} <= set(document)
        assert word in str(document)
    assert digest(project.folder) == before


@pytest.mark.parametrize(
    "words",
    [
        ("deplyo", "tiny"),
        ("deploy",),
        ("pause",),
        ("pause", "tiny", "--reson"),
        ("events", "--limit", "some"),
        ("replay", "tiny", "--requests", "requests.parquet"),
        ("api", "serving.add_labels", "endpoint=tiny", "body=nowhere"),
    ],
)
def test_misuse_of_commands_changes_nothing(served: Served, words: tuple[str, ...]) -> None:
    project, _ = served
    before = digest(project.folder)
    document = project.json(*words, code=2)
    assert document["schema"] == "lw.error/1"
    assert document["hint"] is None or document["hint"].startswith("lw ")
    assert digest(project.folder) == before


def test_one_base_url_does_everything(served: Served) -> None:
    _, where = served
    assert raw(where.control_url, "GET", "/v2/models/tiny/ready")[0] == 200
    assert raw(where.control_url, "GET", "/v2/models/tiny")[1] == raw(where.data_url, "GET", "/v2/models/tiny")[1]
    status, answer = raw(where.control_url, "POST", INFER, infer("by-control", x=[0.5], shop=["north"]))
    assert (status, answer["id"], answer["outputs"][0]["datatype"]) == (200, "by-control", "FP64")
    again = raw(where.data_url, "POST", INFER, infer("by-control", x=[0.5], shop=["north"]))
    assert again == (status, answer)
    health = raw(where.control_url, "GET", "/health")[1]
    assert (health["ready"], health["state"], health["problem"]) == (True, "ok", None)


def test_a_long_poll_ends_with_the_event_it_waits_for(served: Served) -> None:
    project, where = served
    with contextlib.closing(client.Client(where.control_url)) as caller:
        seq = caller.json("GET", "/api/v1/events", query={"limit": 0})[-1]["seq"]
        started = time.monotonic()
        assert caller.json("GET", "/api/v1/events", query={"after": seq, "wait_s": 0.2}) == []
        assert time.monotonic() - started >= 0.2
        found: list[Any] = []

        def wait() -> None:
            with contextlib.closing(client.Client(where.control_url, timeout_s=None)) as other:
                found.extend(other.json("GET", "/api/v1/events", query={"after": seq, "wait_s": 60}))

        thread = threading.Thread(target=wait)
        thread.start()
        project.lw("pause", "tiny", "--reason", "to see an event")
        thread.join()
        assert [event["kind"] for event in found] == ["endpoint.paused@1"]
        project.lw("resume", "tiny")


def test_work_that_is_long_is_taken_as_a_job(served: Served) -> None:
    project, where = served
    with contextlib.closing(client.Client(where.control_url)) as caller:
        status, body = caller.request("POST", "/api/v1/checks", b'{"ref": "tiny@1"}')
        taken = msgspec.json.decode(body)
        assert (status, taken["state"]) == (202, "queued")
        while (job := caller.json("GET", taken["at"]))["state"] in ("queued", "running"):
            time.sleep(0.05)
        assert job["state"] == "finished"
        document = project.json("check", "tiny@1", code=3)
        document.pop("schema")
        assert job["result"]["result"] == document
        refused = caller.json("POST", "/api/v1/checks", {"ref": "nothing"})
        while (job := caller.json("GET", refused["at"]))["state"] in ("queued", "running"):
            time.sleep(0.05)
        assert (job["state"], "nothing" in job["error"]) == ("failed", True)


def test_the_clock_moves_in_stops_and_settles(served: Served) -> None:
    project, where = served
    with contextlib.closing(client.Client(where.control_url, timeout_s=None)) as caller:
        clock = caller.json("GET", "/api/v1/clock")
        assert (clock["mode"], clock["now"], clock["settled"]) == ("replay", "2020-01-25T04:00:00Z", True)
        assert clock["next"] == "2020-01-25T08:00:00Z"  # feeds are looked at every four hours
        moved = caller.json("POST", "/api/v1/clock/advance", {"to": "2020-01-28T05:00:00Z"})
        assert (moved["now"], moved["next"], moved["settled"]) == ("2020-01-28T05:00:00Z", "2020-01-28T08:00:00Z", True)
        again = caller.json("POST", "/api/v1/clock/advance", {"to": "2020-01-28T05:00:00Z"})
        assert again == moved
        events = project.json("events", "--limit", "0")["items"]
        stops = [event["data"]["to"] for event in events if event["kind"] == "clock.advanced@1"]
        looks = [f"2020-01-{day}T{hour:02}:00:00Z" for day in (25, 26, 27, 28) for hour in range(0, 24, 4)]
        assert stops == [look for look in looks if clock["now"] < look <= "2020-01-28T04:00:00Z"] + [moved["now"]]
        closed = [event["at"] for event in events if event["kind"] == "block.closed@1"]
        assert closed == [f"2020-01-{day}T04:00:00Z" for day in (26, 27, 28)]


def test_the_scheduler_outlives_a_moment_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from loopwright.faces import scheduler

    def broken(space: Any) -> int:
        raise Invalid("the stored policy is not readable")

    monkeypatch.setattr(scheduler.loop, "next_moment", broken)
    assert scheduler.Scheduler(cast("Any", None), lambda: None)._wait() is None

"""The door of control in one process: each class of attack that peers were found open to is turned away."""

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loopwright import house
from loopwright.access import passwords, publishing, service, tokens, users
from loopwright.faces import bind, control, depth, door, jobs
from loopwright.kernel.errors import Forbidden, LoopwrightError, Unavailable
from loopwright.store.space import Space

Serve = Callable[[Callable[[int], Any]], Any]
ME = service.local_actor()
PASSWORD = "a quiet morning in may"
JSON = {"content-type": "application/json"}


class Site:
    """A control without its scheduler, and callers of several kinds."""

    def __init__(self, space: Space, serve: Serve) -> None:
        self.space = space
        self.control = control.Control(house, space, "http://127.0.0.1:1")
        self.served = serve(self.control.application)
        self.port = self.served.port

    def call(self, verb: str, path: str, fields: Any = None, **headers: str) -> Any:
        body = None if fields is None else fields if isinstance(fields, bytes) else msgspec.json.encode(fields)
        told = {name.replace("_", "-"): value.replace("PORT", str(self.port)) for name, value in headers.items()}
        return self.served.call(verb, path, body, {**(JSON if body is not None else {}), **told})

    def trust_nobody(self) -> None:
        """From now on loopback says nothing of a caller."""
        assert self.control.gate is not None
        self.control.gate.behind_proxy = self.control.gate.secure = True


@pytest.fixture
def site(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(passwords, "_N", 1 << 10)
    made = house.init(tmp_path / "project")
    yield Site(made, serve)
    made.close()


def token(space: Space, role: str, scope: str = "*") -> str:
    return "Bearer " + tokens.create(space, ME, role=role, scope=scope, days=1).secret


def log_in(site: Site, name: str, role: str) -> str:
    """The cookie of a user who accepts an invitation over HTTP."""
    invited = users.invite(site.space, ME, name, role=role, scope="*", hours=1).secret
    fields = {"token": invited, "password": PASSWORD}
    got = site.call("POST", "/api/v1/session/invitation", fields)
    assert got.status == 200, got.body
    return str(got.headers["set-cookie"].partition(";")[0])


# who asks


def test_only_a_short_list_of_routes_is_open(site: Site) -> None:
    site.trust_nobody()
    wires = site.control.wires()
    opened = set()
    for wire in wires:
        path = re.sub(r"{[^}]*}", "x", wire.path)
        got = site.call(wire.verb, path, {} if wire.verb == "POST" else None)
        if got.status != 401:
            opened.add(f"{wire.verb} {wire.path}")
        else:
            assert got.headers["www-authenticate"].startswith("Bearer")
            assert got.json["code"] == "access.unknown"
    assert len(wires) > 50
    assert opened == {
        "GET /health/live", "GET /health/ready", "GET /login", "GET /login.js", "GET /login.css",
        "POST /api/v1/session", "POST /api/v1/session/invitation",
    }  # fmt: skip
    for path in ("/", "/nothing", "/api", "/.git/config", "/docs", "/metrics", "/openapi.json", "/api/v1/names"):
        assert site.call("GET", path).status == 401, path
    for verb in ("OPTIONS", "PUT", "PATCH", "TRACE", "DELETE"):
        assert site.call(verb, "/api/v1/names").status == 401, verb


def test_a_token_opens_what_its_role_may(site: Site) -> None:
    viewer = token(site.space, "viewer")
    assert site.call("GET", "/api/v1/names", authorization=viewer).json == []
    got = site.call("POST", "/api/v1/users", {"name": "eve", "role": "admin"}, authorization=viewer)
    assert (got.status, got.json["code"]) == (403, "access.refused")
    assert site.call("GET", "/api/v1/me", authorization=viewer).json["grants"] == [{"role": "viewer", "scope": "*"}]
    assert users.listed(site.space) == []


def test_a_file_is_refused_before_a_byte_of_it_is_taken(site: Site) -> None:
    shown = {"authorization": token(site.space, "steward", "name:orders"), "content-type": "application/octet-stream",
             "content-length": "1000000"}  # fmt: skip
    got = site.served.call("POST", "/api/v1/data?path=x.csv&as_=others", [b"the rest never comes"], shown)
    assert (got.status, got.json["code"]) == (403, "access.refused")


def test_no_verb_shows_a_viewer_a_prediction(site: Site) -> None:
    for role, status in (("viewer", 403), ("operator", 404)):
        for path in ("/api/v1/show?ref=pred_00", "/api/v1/trace/pred_00", "/api/v1/endpoints/x/predictions/pred_00"):
            assert site.call("GET", path, authorization=token(site.space, role)).status == status, (role, path)


def test_who_asked_for_a_job_is_told_of_it_and_no_other_part_is(site: Site) -> None:
    mine, other = token(site.space, "developer", "endpoint:x"), token(site.space, "operator", "endpoint:x")
    taken = site.call("POST", "/api/v1/checks", {"ref": "x@1"}, authorization=mine)
    assert taken.status == 202
    assert site.call("GET", taken.json["at"], authorization=mine).json["state"] == "queued"
    assert site.call("GET", taken.json["at"], authorization=token(site.space, "viewer")).status == 200
    for shown in (other, token(site.space, "admin")):
        for at in (taken.json["at"], "/api/v1/jobs/nothing"):
            assert site.call("GET", at, authorization=shown).status == 403, at
    assert site.call("GET", "/api/v1/jobs", authorization=mine).status == 403


def test_a_job_is_not_done_for_who_may_it_no_more(site: Site) -> None:
    made = tokens.create(site.space, ME, role="operator", scope="*", days=1)
    told = {"op": "artifacts.gc", "actor": f"token:{made.id}", "args": {"dry_run": True}}
    assert jobs.run_op(house, site.space, told)["result"]["removed"] == []
    tokens.revoke(site.space, ME, made.id)
    with pytest.raises(Forbidden):
        jobs.run_op(house, site.space, told)


def test_the_token_is_taken_as_the_password_of_basic(site: Site) -> None:
    import base64

    site.trust_nobody()
    secret = token(site.space, "viewer").removeprefix("Bearer ")
    for name in ("", "anyone", "token"):
        shown = "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()
        assert site.call("GET", "/api/v1/me", authorization=shown).status == 200


WRONG = ["Bearer", "Bearer ", "Bearer x", "bearer lw_00", "Basic", "Basic !!", "Basic Og==", "Digest x", "",
         "Bearer \xff"]  # fmt: skip


def test_a_credential_that_does_not_hold_is_refused_even_from_here(site: Site) -> None:
    for shown in WRONG:
        got = site.call("GET", "/api/v1/names", authorization=shown)
        assert (got.status, got.json["code"]) == (401, "access.unknown")


def test_revoked_and_expired_tokens_open_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens.create(site.space, ME, role="viewer", scope="*", days=1)
    shown = f"Bearer {made.secret}"
    assert site.call("GET", "/api/v1/me", authorization=shown).status == 200
    tokens.revoke(site.space, ME, made.id)
    assert site.call("GET", "/api/v1/me", authorization=shown).status == 401


def test_the_local_token_stands_for_the_owner_on_this_machine(site: Site) -> None:
    folder = site.space.home / "run"
    secret = publishing.local_token(folder)
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    site.trust_nobody()
    assert site.call("GET", "/api/v1/me", authorization=f"Bearer {secret}").json["actor"] == ME
    (folder / "token").chmod(0o644)
    assert publishing.local_token(folder) != secret


def test_what_a_proxy_hands_on_is_not_the_owners(site: Site) -> None:
    assert site.call("GET", "/api/v1/me").json["actor"] == ME
    for name in ("forwarded", "via", "x_forwarded_for", "x_forwarded_host", "X_Forwarded_Proto", "x_real_ip"):
        assert site.call("GET", "/api/v1/me", **{name: ""}).status == 401, name
        assert site.call("GET", "/api/v1/me", **{name: "127.0.0.1"}).status == 401, name
    shown = token(site.space, "viewer")
    assert site.call("GET", "/api/v1/me", authorization=shown, via="1.1 x").status == 200


def test_a_path_too_many_slashes_is_not_sent_elsewhere(site: Site) -> None:
    for path in ("/api/v1/names/", "/api/v1/endpoints/x/", "/login/", "//evil.example/", "/health/live/"):
        got = site.call("GET", path)
        assert (got.status, got.headers.get("location")) == (404, None), path


def test_head_changes_nothing_and_reads_no_body(site: Site) -> None:
    def asked(verb: str, body: bytes | None = None, **headers: str) -> int:
        return int(site.call(verb, "/api/v1/events", body, **headers).status)

    assert asked("HEAD") == asked("HEAD", b"{", idempotency_key="one") == asked("GET", idempotency_key="one") == 200
    with site.space.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM repeats") == 0


# sessions


def test_who_has_a_part_only_can_still_go_out(site: Site) -> None:
    invited = users.invite(site.space, ME, "ana", role="viewer", scope="endpoint:x", hours=1).secret
    got = site.call("POST", "/api/v1/session/invitation", {"token": invited, "password": PASSWORD})
    own = {"cookie": str(got.headers["set-cookie"].partition(";")[0]), "origin": "http://127.0.0.1:PORT"}
    assert site.call("GET", "/api/v1/me", **own).json["name"] == "ana"
    assert site.call("GET", "/api/v1/names", **own).status == 403
    users.revoke(site.space, ME, "ana", role="viewer", scope="endpoint:x")
    assert site.call("DELETE", "/api/v1/session", **own).json == {"closed": True}


def test_an_invitation_becomes_a_session_and_logging_out_ends_it(site: Site) -> None:
    site.trust_nobody()
    invited = users.invite(site.space, ME, "ana", role="viewer", scope="*", hours=1)
    got = site.call("POST", "/api/v1/session/invitation", {"token": invited.secret, "password": PASSWORD})
    cookie = got.headers["set-cookie"]
    assert got.status == 200
    assert {part.strip().lower() for part in cookie.split(";")[1:]} >= {
        "httponly", "path=/", "samesite=strict", "secure",
    }  # fmt: skip
    shown = cookie.partition(";")[0]
    assert site.call("GET", "/api/v1/me", cookie=shown).json["name"] == "ana"
    planted = shown.removeprefix("__Host-")  # as a page of a sibling host, or one of plain http, could have set it
    assert planted != shown and site.call("GET", "/api/v1/me", cookie=planted).status == 401
    assert (
        site.call("POST", "/api/v1/session/invitation", {"token": invited.secret, "password": PASSWORD}).status == 401
    )
    own = {"cookie": shown, "origin": "http://127.0.0.1:PORT"}
    assert site.call("DELETE", "/api/v1/session", **own).json == {"closed": True}
    assert site.call("GET", "/api/v1/me", cookie=shown).status == 401
    again = site.call("POST", "/api/v1/session", {"name": "ana", "password": PASSWORD})
    assert again.status == 200


def test_what_changes_something_by_a_cookie_names_its_origin(site: Site) -> None:
    cookie = log_in(site, "ana", "developer")
    fields = {"role": "developer"}
    for headers in ({}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}):
        got = site.call("POST", "/api/v1/tokens", fields, cookie=cookie, **headers)
        assert (got.status, got.json["code"]) == (403, "door.origin"), headers
    assert tokens.listed(site.space, ME) == []
    assert site.call("POST", "/api/v1/tokens", fields, cookie=cookie, origin="http://127.0.0.1:PORT").status == 200


def test_a_wrong_name_and_a_wrong_password_are_answered_alike(site: Site) -> None:
    log_in(site, "ana", "viewer")
    answers = [
        site.call("POST", "/api/v1/session", {"name": name, "password": "wrong wrong wrong"})
        for name in ("ana", "nobody", "Robert'); DROP TABLE users;--", "x" * 1000)
    ]
    assert len({(got.status, got.body) for got in answers}) == 1
    assert answers[0].status == 401


def test_guessing_is_slowed_down(site: Site) -> None:
    for _ in range(5):
        site.call("POST", "/api/v1/session", {"name": "ana", "password": "wrong wrong wrong"})
    got = site.call("POST", "/api/v1/session", {"name": "ana", "password": "wrong wrong wrong"})
    assert (got.status, got.json["code"]) == (429, "login.slow")
    assert int(got.headers["retry-after"]) >= 1


def test_many_who_log_in_at_a_time_keep_nobody_waiting(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def slow(*args: Any) -> None:
        let_go.wait(20)
        raise Unavailable("enough")

    monkeypatch.setattr("loopwright.access.sessions.log_in", slow)
    fields = {"name": "ana", "password": "wrong wrong wrong"}
    with ThreadPoolExecutor(12) as callers:
        told = [callers.submit(site.call, "POST", "/api/v1/session", fields) for _ in range(12)]
        first = {done.result().status for done in itertools.islice(as_completed(told), 8)}
        assert first == {429}
        assert site.call("GET", "/api/v1/names").status == 200
        let_go.set()
        assert sorted(done.result().status for done in told) == [429] * 8 + [503] * 4


def test_strangers_send_little(site: Site) -> None:
    for path in ("/api/v1/session", "/api/v1/session/invitation"):
        got = site.call("POST", path, b" " * 40_000)
        assert (got.status, got.json["message"]) == (413, "the body is over 32 KiB")
    longest = {"name": "\U0001f600" * 512, "password": "\U0001f600" * 512}
    assert site.call("POST", "/api/v1/session", longest).status == 401


def test_a_login_takes_its_two_fields_and_no_others(site: Site) -> None:
    cookie = log_in(site, "ana", "viewer")
    for fields in (
        {"name": "ana", "password": PASSWORD, "role": "admin"}, {"name": "ana"}, {"name": [1], "password": PASSWORD},
        {"name": {"$ne": 1}, "password": {"$ne": 1}}, {}, {"name": "ana", "password": ""},
    ):  # fmt: skip
        assert site.call("POST", "/api/v1/session", fields).status == 422, fields
    assert site.call("GET", "/api/v1/me", cookie=cookie).json["grants"] == [{"role": "viewer", "scope": "*"}]


def test_fields_that_a_row_does_not_take_are_refused(site: Site) -> None:
    for field in ("state", "id", "password", "actor", "space", "grants"):
        got = site.call("POST", "/api/v1/users", {"name": "eve", "role": "viewer", field: "enabled"})
        assert (got.status, got.json["code"], got.json["field"]) == (422, "request.unknown-field", field)
    assert users.listed(site.space) == []


def test_the_login_page_runs_no_script_but_its_own(site: Site) -> None:
    page = site.call("GET", "/login")
    text = page.body.decode()
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"<script(?![^>]*src=\"/login.js\")|\bon\w+=|javascript:|style=", text)
    script = site.call("GET", "/login.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "innerHTML" not in script.body.decode()


# where from


FOREIGN = [
    {"host": "evil.example"}, {"host": "evil.example:PORT"}, {"host": "127.0.0.1:PORT.evil.example"},
    {"host": "localhost.evil.example:PORT"}, {"host": "127.1:PORT"}, {"host": "0.0.0.0:PORT"},
    {"host": "2130706433:PORT"}, {"host": "[::ffff:127.0.0.1]:PORT"}, {"host": "localhost.:PORT"},
    {"host": "user@localhost:PORT"}, {"origin": "http://evil.example"}, {"origin": "null"},
    {"origin": "http://localhost:PORT"}, {"origin": "http://127.0.0.1:PORT.evil.example"}, {"origin": "file://"},
    {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}, {"sec_fetch_site": "x"},
]  # fmt: skip


def test_pages_of_other_sites_reach_nothing(site: Site) -> None:
    for verb in ("GET", "POST", "DELETE", "OPTIONS"):
        for headers in FOREIGN:
            got = site.call(verb, "/api/v1/names", **headers)
            assert got.status == 403
            assert not [name for name in got.headers if name.startswith("access-control")]


def test_nothing_is_shared_with_other_origins(site: Site) -> None:
    for headers in ({}, {"origin": "http://127.0.0.1:PORT"}):
        got = site.call("GET", "/api/v1/names", **headers)
        assert not [name for name in got.headers if name.startswith("access-control")]
    preflight = {"access_control_request_method": "POST", "origin": "http://evil.example"}
    assert site.call("OPTIONS", "/api/v1/data", **preflight).status == 403


FORMS = [
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain;application/json",
    "TEXT/PLAIN", "text/html", "application/xml", "application/x-python-pickle", "application/json-not",
]  # fmt: skip


def test_a_form_of_another_page_is_not_read(site: Site) -> None:
    for kind in FORMS:
        got = site.call("POST", "/api/v1/users", b'{"name": "eve", "role": "admin"}', content_type=kind)
        assert got.status == 415
        assert users.listed(site.space) == []


# what


TRAVERSALS = [
    "../x", "..", "..%2fx", "%2e%2e%2fx", "%2e%2e/x", "..%5cx", "%2e%2e%5cx", "..\\x", "%252e%252e%252fx", "..%252fx",
    "%c0%ae%c0%ae/x", "....//x", "..;/x", "/etc/passwd", "%2fetc%2fpasswd", "x/../../y", "x%00.json",
    "file:%2f%2f%2fetc",
    "C:%5cx", "~root", "x%0d%0ay",
]  # fmt: skip


def test_no_spelling_leaves_a_name(site: Site) -> None:
    for spelling in TRAVERSALS:
        paths = [
            f"/api/v1/names/{spelling}/versions", f"/api/v1/names/x/labels/{spelling}", f"/api/v1/features/{spelling}",
            f"/api/v1/endpoints/{spelling}", f"/api/v1/runs/{spelling}", f"/api/v1/runs/{spelling}/console",
            f"/api/v1/data/{spelling}", f"/api/v1/models/{spelling}/versions/1", f"/api/v1/jobs/{spelling}",
        ]  # fmt: skip
        for path in paths:
            got = site.call("GET", path)
            assert got.status in (400, 404, 422), (path, got.status, got.body)
            assert b"root:" not in got.body
            assert str(site.space.home).encode() not in got.body


def test_no_argument_of_a_route_is_a_path_or_an_address(site: Site) -> None:
    for op in house.ops().values():
        if not op.http:
            continue
        for param in bind.params(op):
            taken = param.name in (op.reads, op.writes)
            assert taken or param.name not in ("path", "out", "file", "url", "source", "folder", "root", "into"), (
                op.name
            )


def test_a_path_that_is_there_and_one_that_is_not_are_answered_alike(site: Site) -> None:
    def asked(path: str) -> tuple[int, bytes]:
        got = site.call("GET", f"/api/v1/show?ref={path}")
        return got.status, got.body.replace(path.encode(), b"")

    assert asked("%2Fetc%2Fpasswd")[0] == asked("%2Fetc%2Fnothing-here")[0]


HEADS = [
    ({"content_encoding": "gzip"}, 415), ({"content_encoding": "br"}, 415), ({"content_length": "999999999999"}, 413),
    ({"x_a": "1" * 70_000}, 400),
]  # fmt: skip


def test_heads_that_are_not_read(site: Site) -> None:
    for headers, status in HEADS:
        got = site.call("POST", "/api/v1/users", b"{}", **headers)
        assert (got.status, got.headers["connection"]) == (status, "close")


def test_too_many_of_anything_is_refused_unread(site: Site) -> None:
    assert site.served.call("GET", "/api/v1/names", None, {f"x-{n}": "1" for n in range(200)}).status in (400, 431)
    assert site.call("GET", "/api/v1/names?" + "x" * 9000).status == 414
    assert site.call("GET", "/api/v1/names?" + "a=1&" * 200).status == 414
    assert site.call("GET", "/api/v1/names/" + "x" * 9000).status == 414


BODIES = [
    b"[" * 20_000, b'{"a":' * 20_000, b'{"name":' + b"[" * 100 + b"]" * 100 + b"}", b"[" + b"1," * 300_000 + b"1]",
    b'{"name": "\xff"}', b"[]", b"1", b"null", b'"x"', b"{", b"", b"{}{}",
]  # fmt: skip


def test_bodies_are_measured_before_they_are_parsed(site: Site) -> None:
    for body in BODIES:
        got = site.call("POST", "/api/v1/users", body)
        assert got.status in (400, 422)
        assert set(got.json) >= {"code", "message", "field", "hint"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b'{"a": [1, "[[[[", {}]}', None), (b"[" * 64 + b"]" * 64, None), (b"[" * 65, "more than 64 levels"),
        (b'"' + b"[" * 100 + b'"', None), (rb'"\"[["', None),
        (b"[" + b"1," * 200_000 + b"1]", "more than 200000 values"),
        (b"]" * 100, None), (b'"unclosed [[[[', None),
    ],
)  # fmt: skip
def test_depth_is_counted_outside_of_texts(text: bytes, fault: str | None) -> None:
    assert depth.fault(text) == fault


def test_answers_are_no_pages(site: Site) -> None:
    for path in ("/api/v1/names", "/api/v1/nothing", "/api/v1/names/<script>/versions", "/health/live"):
        got = site.call("GET", path)
        assert got.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in got.headers["content-security-policy"]
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["cache-control"] == "no-store"
        assert got.headers["content-type"] == "application/json"
        assert got.headers["x-frame-options"] == "DENY"
        assert "server" not in got.headers or "uvicorn" in got.headers["server"]


def test_bytes_of_others_are_attachments() -> None:
    made = dict(door._safe_headers([(b"content-type", b"application/octet-stream")]))
    assert made[b"content-disposition"] == b"attachment"
    assert b"content-disposition" not in dict(door._safe_headers([(b"content-type", b"application/json")]))


def test_a_header_that_stands_twice_is_refused() -> None:
    for name in (b"host", b"Host", b"authorization", b"content-length", b"origin"):
        with pytest.raises(LoopwrightError):
            door.read_headers([(b"host", b"a"), (name, b"x"), (name.lower(), b"y")])
    assert door.read_headers([(b"cookie", b"a=1"), (b"cookie", b"b=2")])["cookie"] == "a=1; b=2"


def test_names_that_would_collide_once_decoded_are_refused(site: Site) -> None:
    for name in ("a%2eb%20", "A", "a%252Eb", "a\u0301", "\uff41", "a%20", "%61%2f%62"):
        got = site.call("GET", f"/api/v1/names/{msgspec_quoted(name)}/versions")
        assert got.status in (400, 404, 422), name


def msgspec_quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="%")


def test_a_fault_of_the_server_tells_nothing_of_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from loopwright.artifacts import names

    def broken(space: Space) -> None:
        raise RuntimeError("secret: the key of the house")

    monkeypatch.setattr(names, "all_names", broken)
    got = site.call("GET", "/api/v1/names")
    assert got.status == 500
    assert b"secret" not in got.body
    assert b"Traceback" not in got.body

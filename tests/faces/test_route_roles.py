"""Every route of both planes asked as every role on a running server; and no secret stays anywhere."""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import write_roles

from loopwright import house
from loopwright.access import publishing, service, tokens, users
from loopwright.access.roles import OPEN, ROLES
from loopwright.faces import client
from loopwright.kernel.errors import Unavailable
from loopwright.project import server

Project = Any
ME = service.local_actor()
PASSWORD = "a-planted-secret-that-must-not-stay"


class Guarded(NamedTuple):
    """A served project behind a proxy, so that loopback opens nothing, and a token of each role."""

    project: Project
    where: server.Running
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def guarded(
    deployed: Path, tmp_path_factory: pytest.TempPathFactory, project_at: Callable[[Path], Project]
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded") / "tiny"
    shutil.copytree(deployed, folder, symlinks=True)
    made = project_at(folder)
    space = house.open(folder)
    known = {role: tokens.create(space, ME, role=role, scope="*", days=1).secret for role in ROLES}
    known["elsewhere"] = tokens.create(space, ME, role="developer", scope="endpoint:other", days=1).secret
    known["here"] = tokens.create(space, ME, role="developer", scope="endpoint:ti*", days=1).secret
    space.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOPWRIGHT_BEHIND_PROXY", "true")
        where = made.start()
    yield Guarded(made, where, known)
    made.stop()


def ask(url: str, verb: str, path: str, token: str | None, fields: Any = None, **headers: str) -> tuple[int, Any]:
    parts = urllib.parse.urlsplit(url)
    told = {"content-type": "application/json", **headers} if fields is not None else dict(headers)
    if token is not None:
        told["authorization"] = f"Bearer {token}"
    body = None if fields is None else msgspec.json.encode(fields)
    with contextlib.closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
        connection.request(verb, path, body, told)
        answer = connection.getresponse()
        data = answer.read()
    try:
        return answer.status, msgspec.json.decode(data)
    except msgspec.DecodeError:
        return answer.status, data


def filled(path: str) -> str:
    return re.sub(r"{[^}]*}", "tiny", path)


def test_the_page_of_roles_is_as_the_rows_say() -> None:
    assert write_roles.FILE.read_text("utf-8") == write_roles.page(), "run tests/docs/write_roles.py"


@pytest.mark.parametrize("role", [*ROLES, "nobody"])
def test_every_cell_is_as_the_table_says(guarded: Guarded, role: str) -> None:
    """A field that no row takes stops what is allowed before it is done: 422 says that the door was passed."""
    wrong = []
    rows = write_roles.rows()
    for row in rows:
        url = guarded.where.control_url if row.plane == "control" else guarded.where.data_url
        fields = {"no such field": 1} if row.verb == "POST" else None
        query = "?no_such_field=1" if row.verb != "POST" and row.path.startswith("/api/v1/") else ""
        status, document = ask(url, row.verb, filled(row.path) + query, guarded.tokens.get(role), fields)
        code = document.get("code", "") if isinstance(document, dict) else ""
        told = "no" if status == 401 and code == "access.unknown" else "no" if code == "access.refused" else "yes"
        wanted = "yes" if row.action in OPEN or (role != "nobody" and write_roles.may(role, row.action)) else "no"
        if told != wanted:
            wrong.append((row.verb, row.path, status, code, wanted))
    assert wrong == []
    assert len(rows) > 60


def test_a_scope_opens_its_own_endpoint_on_both_planes(guarded: Guarded) -> None:
    control, data = guarded.where.control_url, guarded.where.data_url
    infer = {"inputs": [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [0.25]},
        {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["south"]},
    ], "parameters": {"time": "2020-01-25T05:00:00Z"}}  # fmt: skip
    asked = [
        (control, "GET", "/api/v1/endpoints/tiny", None), (control, "GET", "/api/v1/endpoints/tiny/quality", None),
        (control, "GET", "/v2/models/tiny", None), (control, "POST", "/v2/models/tiny/infer", infer),
        (data, "GET", "/v2/models/tiny", None), (data, "POST", "/v2/models/tiny/infer", infer),
        (data, "POST", "/v2/models/%74iny/infer", infer),
    ]  # fmt: skip
    for url, verb, path, fields in asked:
        assert ask(url, verb, path, guarded.tokens["here"], fields)[0] == 200, path
        status, document = ask(url, verb, path, guarded.tokens["elsewhere"], fields)
        assert (status, document["code"]) == (403, "access.refused"), path
    for path in ("/api/v1/endpoints", "/api/v1/events", "/api/v1/names/tiny/versions", "/v2"):
        assert ask(control, "GET", path, guarded.tokens["here"])[0] == 403, path
    check = ask(control, "POST", "/api/v1/checks", guarded.tokens["elsewhere"], {"ref": "tiny@1"})
    assert (check[0], check[1]["code"]) == (403, "access.refused")
    labels = ask(control, "POST", "/api/v1/endpoints/tiny/labels", guarded.tokens["elsewhere"], {"id": "x"})
    assert labels[0] == 403


def test_a_path_is_read_by_both_planes_in_the_same_way(guarded: Guarded) -> None:
    for path in (
        "/v2/models/other/../tiny", "/v2/models/other%2F..%2Ftiny", "/v2//models/tiny", "/v2/models/other%00/../tiny",
        "/v2/models/%2574iny", "/v2/models/other;/tiny", "/v2/models/other?/tiny/infer", "//v2/models/tiny",
    ):  # fmt: skip
        for url in (guarded.where.control_url, guarded.where.data_url):
            status, document = ask(url, "GET", path, guarded.tokens["elsewhere"])
            assert status in (400, 401, 403, 404), (url, path, status)
            assert "tiny" not in str(document.get("name")) if isinstance(document, dict) else True


def test_a_revoked_token_opens_nothing_on_either_plane(guarded: Guarded) -> None:
    space = house.open(guarded.project.folder)
    made = tokens.create(space, ME, role="developer", scope="*", days=1)
    urls = (guarded.where.control_url, guarded.where.data_url)
    waited(lambda: all(ask(url, "GET", "/v2/models/tiny", made.secret)[0] == 200 for url in urls))
    tokens.revoke(space, ME, made.id)
    space.close()
    waited(lambda: all(ask(url, "GET", "/v2/models/tiny", made.secret)[0] == 401 for url in urls))


def waited(holds: Callable[[], bool], tries: int = 400) -> None:
    """Ask again until it holds: what is published is seen within a second or so."""
    for _ in range(tries):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it does not come to hold")


def test_the_local_token_opens_both_planes_from_this_machine(guarded: Guarded) -> None:
    local = publishing.local_token(guarded.project.folder / ".loopwright" / "run")
    for url in (guarded.where.control_url, guarded.where.data_url):
        assert ask(url, "GET", "/v2/models/tiny", local)[0] == 200


def test_no_secret_stays_anywhere(guarded: Guarded) -> None:
    """Every secret that went through is looked for in the whole project, in the logs and in the process list."""
    space = house.open(guarded.project.folder)
    invited = users.invite(space, ME, "planted@example.org", role="viewer", scope="*", hours=1).secret
    space.close()
    url, origin = guarded.where.control_url, {"origin": guarded.where.control_url}
    parts = urllib.parse.urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
        body = msgspec.json.encode({"token": invited, "password": PASSWORD})
        connection.request("POST", "/api/v1/session/invitation", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    assert answer.status == 200
    cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
    made = ask(url, "POST", "/api/v1/tokens", None, {"role": "viewer"}, cookie=cookie, **origin)[1]
    assert ask(url, "GET", "/api/v1/me", made["secret"])[0] == 200
    ask(url, "POST", "/api/v1/session", None, {"name": "planted@example.org", "password": PASSWORD + "wrong"})
    ask(url, "POST", "/api/v1/session", None, {"name": "planted@example.org", "password": PASSWORD, "x": PASSWORD})
    ask(url, "GET", "/api/v1/names", "lw_" + PASSWORD)
    secrets = [invited, PASSWORD, cookie.partition("=")[2], made["secret"], *guarded.tokens.values()]
    planted = [secret.encode() for secret in secrets]
    assert all(len(secret) > 20 for secret in planted)
    looked = 0
    for path in sorted(guarded.project.folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            looked += 1
            assert not [secret[:8] for secret in planted if secret in data], path
    assert looked > 20
    for process in Path("/proc").iterdir():
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                told = (process / name).read_bytes() if process.name.isdigit() else b""
                assert not [secret[:8] for secret in planted if secret in told], process
    events = guarded.project.lw("events", "--json")
    assert "planted@example.org" not in re.sub(r'"sentence": ?"[^"]*"', "", events)


def test_what_a_server_writes_is_its_owners_alone(guarded: Guarded) -> None:
    home = guarded.project.folder / ".loopwright"
    assert home.stat().st_mode & 0o077 == 0
    for name in ("access.json", "token", "routes.json"):
        assert (home / "run" / name).stat().st_mode & 0o077 == 0, name


SCRIPT = """
import http.client, json, sys
out = []
for port, path in json.loads(sys.argv[1]):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    out.append(connection.getresponse().status)
print(json.dumps(out))
"""


def test_another_user_of_this_machine_needs_a_token(served: tuple[Project, server.Running]) -> None:
    if os.geteuid() != 0:
        pytest.skip("SKIPPED(only root can ask as another user)")
    where = served[1]
    ports = [urllib.parse.urlsplit(url).port for url in (where.control_url, where.data_url)]
    paths = ("/api/v1/names", "/health", "/health/live")
    wanted = [(ports[0], path) for path in paths] + [(ports[1], "/v2/models/tiny"), (ports[1], "/v2/health/live")]
    argv = [sys.executable, "-I", "-S", "-c", SCRIPT, msgspec.json.encode(wanted).decode()]
    mine = subprocess.run(argv, capture_output=True, check=True, cwd="/").stdout
    assert msgspec.json.decode(mine) == [200] * 5
    argv[0] = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else argv[0]
    try:
        ran = subprocess.run(argv, capture_output=True, check=True, cwd="/", user=65534, group=65534, extra_groups=[])
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"SKIPPED(no Python that nobody may run: {error})")
    assert msgspec.json.decode(ran.stdout) == [401, 401, 200, 401, 200]


def test_public_addresses_need_users_and_tls(project: Project) -> None:
    def refused(*flags: str) -> tuple[str, str]:
        told = project.json("up", "--port", "0", "--data-port", "0", *flags, code=2)
        return told["code"], told["hint"]

    for host in ("0.0.0.0", "::", "10.1.2.3", "example.org"):
        assert refused("--host", host) == ("bind.users", "lw users invite NAME --role admin")
    assert "/login#lwi_" in project.lw("users", "invite", "boss", "--role", "admin")
    code, hint = refused("--host", "0.0.0.0")
    assert code == "bind.tls"
    assert "--tls-cert" in hint
    assert "--behind-proxy" in hint
    assert refused("--host", "0.0.0.0", "--tls-cert", "nothing.pem", "--tls-key", "nothing.key")[0] == "bind.cert"


def test_both_planes_speak_tls(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = project.folder / "cert.pem", project.folder / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=loopwright.test", "-keyout", str(key), "-out", str(cert)],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip("SKIPPED(no openssl command)")
    monkeypatch.setenv("LOOPWRIGHT_TLS_CERT", "cert.pem")
    monkeypatch.setenv("LOOPWRIGHT_TLS_KEY", "key.pem")
    monkeypatch.setenv("LOOPWRIGHT_HOST", "0.0.0.0")
    project.lw("users", "invite", "boss", "--role", "admin")
    where = project.start()
    assert where.control_url.startswith("https://127.0.0.1:")
    for url in (where.control_url, where.data_url):
        with contextlib.closing(client.Client(url, pin=str(cert))) as caller:
            assert caller.json("GET", "/v2/models/tiny/ready")["ready"] is True
        with contextlib.closing(client.Client(url)) as caller, pytest.raises(Unavailable):
            caller.json("GET", "/v2/models/tiny/ready")  # nobody vouches for it

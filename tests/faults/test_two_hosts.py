"""Two hosts, each in a network of its own, with one PostgreSQL and one object store between them.

Requests go to both, labels to one; the host that runs the loop is pulled out; nothing is lost and nothing doubled.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers
from waiting import until

from loopwright import house
from loopwright.kernel.settings import ENVIRONMENT
from loopwright.serving import labels, predictions, seal, subjects
from loopwright.store.space import Space, bind

TINY = Path(__file__).parents[1] / "faces" / "tiny"
ROUNDS = 60
CLIENT = """
import http.client, json, sys, time
host, count, labels = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "labels"
for number in range(count):
    one = f"{host}-{number}"
    body = {"id": one, "parameters": {"subject": f"person={number}"}, "inputs": [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [number % 10 / 10]},
        {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["north"]}]}
    label = json.dumps({"id": one, "label": number % 2})
    calls = [(4601, "/v2/models/tiny/infer", json.dumps(body)), (4600, "/api/v1/endpoints/tiny/labels", label)]
    for port, path, text in calls[:1 + labels]:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            kind = "application/json" if port == 4601 else "application/x-ndjson"
            connection.request("POST", path, text, {"content-type": kind})
            answer = connection.getresponse()
            told = json.loads(answer.read())
            print(json.dumps([port, answer.status, one, told]), flush=True)
        except OSError:
            print(json.dumps([port, 0, one, None]), flush=True)
    time.sleep(0.01)
"""


class Host:
    """A network namespace with its own project folder and `lw up`."""

    def __init__(self, name: str, folder: Path, network: int, place: dict[str, str]) -> None:
        self.name, self.folder, self.environment = name, folder, {**os.environ, **place}
        self.space_name = f"lw{name}{uuid.uuid4().hex[:6]}"
        self.outside, self.inside = f"10.213.{network}.1", f"10.213.{network}.2"
        ours, theirs = f"v{self.space_name}", f"w{self.space_name}"
        for words in (
            f"netns add {self.space_name}",
            f"link add {ours} type veth peer name {theirs}",
            f"link set {theirs} netns {self.space_name}",
            f"addr add {self.outside}/30 dev {ours}",
            f"link set {ours} up",
            f"-n {self.space_name} addr add {self.inside}/30 dev {theirs}",
            f"-n {self.space_name} link set {theirs} up",
            f"-n {self.space_name} link set lo up",
        ):
            ip(words)

    def reach(self, url: str) -> str:
        """An address on this machine as this host sees it."""
        return url.replace("0.0.0.0", self.outside).replace("127.0.0.1", self.outside)

    def command(self, *words: str) -> list[str]:
        """A command in this host's network."""
        return ["ip", "netns", "exec", self.space_name, *words]

    def lw(self, *words: str) -> str:
        """What `lw` prints on this host."""
        run = self.command(sys.executable, "-m", "loopwright", *words)
        ran = subprocess.run(run, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{self.name}: lw {' '.join(words)}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def up(self) -> None:
        """Serve, as a session of its own, and wait until it is ready."""
        run = self.command(sys.executable, "-m", "loopwright", "up", "--workers", "1")
        with (self.folder / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                run, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        until(lambda: self.process.poll() is None and "ready" in self.ask("/health"), self.log)

    def identity(self) -> str:
        """Its name among the hosts."""
        return (self.folder / ".loopwright" / "host").read_text().split()[0]

    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def ask(self, path: str) -> str:
        """What control answers, or nothing."""
        code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:4600{path}', timeout=5).read().decode())"
        run = self.command(sys.executable, "-c", code)
        ran = subprocess.run(run, capture_output=True, text=True, check=False)
        found = json.loads(ran.stdout) if ran.returncode == 0 else {}
        return "ready" if found.get("ready") else ""

    def part(self, name: str) -> str:
        """What status says of a part."""
        return next(part["detail"] for part in json.loads(self.lw("status", "--json"))["parts"] if part["name"] == name)

    def client(self, count: int, *, label: bool) -> subprocess.Popen[str]:
        """Somebody on this host who asks, and says what came of it."""
        run = self.command(sys.executable, "-c", CLIENT, self.name, str(count), "labels" if label else "no")
        return subprocess.Popen(run, stdout=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """Pull the plug of all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def gone(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(ProcessLookupError, AttributeError):
            self.kill()
        ip(f"netns del {self.space_name}")


def ip(words: str) -> None:
    """Configure the network; skips where that may not be done."""
    try:
        ran = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("SKIPPED(iproute2 is not installed)")
    if ran.returncode != 0:
        pytest.skip(f"SKIPPED(no network namespaces here: {ran.stderr.strip()})")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Host, Host, dict[str, str]]]:
    """Two hosts with the same project, and where this process finds their database and store."""
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(servers.postgres("0.0.0.0"))
            store = stack.enter_context(servers.object_store(listen="0.0.0.0"))
        except servers.Missing as missing:
            pytest.skip(f"SKIPPED({missing})")
        network, made = random.randrange(0, 250, 2), []
        for place, name in enumerate("ab"):
            folder = tmp_path / name
            shutil.copytree(TINY, folder)
            host = Host(name, folder, network + place, store)
            stack.callback(host.gone)
            host.environment["LOOPWRIGHT_DATABASE"] = host.reach(address)
            host.environment["LOOPWRIGHT_BLOBS_ENDPOINT"] = host.reach(store["LOOPWRIGHT_BLOBS_ENDPOINT"])
            _recent(folder)
            made.append(host)
        here = {**store, "LOOPWRIGHT_DATABASE": address.replace("0.0.0.0", "127.0.0.1")}
        yield made[0], made[1], here


def _recent(folder: Path) -> None:
    """The tiny project on the wall clock, with what happened in the last forty days."""
    first = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=39)
    script = folder / "make_files.py"
    script.write_text(
        script.read_text().replace("datetime(2020, 1, 1)", f"datetime{first.year, first.month, first.day}")
    )
    subprocess.run([sys.executable, script.name], cwd=folder, check=True)
    (folder / "loopwright.toml").write_text('entry = "project.py"\n')


def test_the_host_that_runs_the_loop_is_pulled_out(
    pair: tuple[Host, Host, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, here = pair
    for name in ENVIRONMENT.values():
        monkeypatch.delenv(name, raising=False)
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    a.lw("init")
    a.lw("run")
    b.lw("init")
    a.up()
    b.up()
    a.lw("deploy", "tiny")  # returns when the workers of both hosts have the routes
    clients = [a.client(ROUNDS, label=False), b.client(ROUNDS, label=True)]
    told = [json.loads(line) for client in clients for line in client.communicate()[0].splitlines()]
    assert {status for _, status, _, _ in told} == {200}, told[:3]
    leader, other = (a, b) if _holder(here) == a.identity() else (b, a)
    clients = [host.client(ROUNDS, label=host is b) for host in (leader, other)]
    assert clients[0].stdout is not None
    first = [clients[0].stdout.readline() for _ in range(20)]
    leader.kill()
    rest = [client.communicate()[0] for client in clients]
    more = [json.loads(line) for text in ("".join(first), *rest) for line in text.splitlines()]
    assert all(status == 200 for _, status, one, _ in more if one.startswith(other.name))
    mine = other.identity()
    until(lambda: _holder(here) == mine, lambda: other.log())
    until(lambda: "is silent" in other.part("hosts"), lambda: other.part("hosts"))  # its report may outlive its lease
    leader.up()
    for host in pair[:2]:
        host.lw("down")
    assert not list((a.folder / ".loopwright" / "spool").glob("*/*.spool")), "lw down leaves nothing unsealed"
    asked = {
        (one, answer["parameters"]["prediction_id"])
        for port, status, one, answer in [*told, *more]
        if status == 200 and port == 4601
    }
    labelled = {one for port, status, one, _ in [*told, *more] if status == 200 and port == 4600}
    _check(a.folder, b.folder, asked, labelled)


def _holder(here: dict[str, str]) -> str:
    with psycopg.connect(here["LOOPWRIGHT_DATABASE"], options="-c search_path=loopwright") as connection:
        row = connection.execute("SELECT holder FROM leases WHERE name = 'loop'").fetchone()
    return "" if row is None else str(row[0])


def _check(one: Path, two: Path, asked: set[tuple[str, str]], labelled: set[str]) -> None:
    """Each acknowledged answer and label is there once, whoever gave it, and both hosts hash a person to the same."""
    keys = set()
    for folder in (one, two):
        opened = house.open(folder)
        bind(opened)
        seal.seal(opened)
        keys.add(subjects.key_path(opened).read_bytes())
        found = _logged(opened)
        bind(None)
        opened.close()
    assert len(keys) == 1
    assert len(found) == len(set(found)), "none is doubled"
    assert {prediction for _, prediction in asked} <= {row[1] for row in found}, "none is lost"
    assert len({request for request, _ in asked}) >= 2 * ROUNDS
    with contextlib.closing(house.open(one)) as space, space.read() as tx:
        assert labelled <= {row[0] for row in labels.known(tx, "tiny", space.clock.now_us() + 1, None)}
        assert tx.value("SELECT COUNT(*) FROM labels") == len(labelled)


def _logged(space: Space) -> list[Any]:
    """Every row of the log, repeats included: the same request is asked again after the other host has answered it."""
    with predictions.connect() as con:
        places = ", ".join(f"'{space.blobs.path(part.digest)}'" for part in predictions.segments(space, "tiny"))
        return list(con.execute(f"SELECT request_id, id FROM read_parquet([{places}])").fetchall())

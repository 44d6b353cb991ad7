"""Routes: guarded by permits, published whole, taken by running workers without a failed request."""

import subprocess
import sys
import threading

import httpx
import pytest
from waiting import until
from worker_harness import ME, Running, ask, change, make_model, prepare

from loopwright.access import permits
from loopwright.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from loopwright.models import service as models
from loopwright.serving import publish, routes
from loopwright.serving.model import EndpointSpec, Route
from loopwright.store import clock, ledger
from loopwright.store.space import Space

LIVE = Route(1, 1.0, "live")


def permit(space: Space, before: str, after: str, subject: str = "endpoint:delay", ttl_us: int = 1) -> str:
    verdict = {"outcome": "pass", "check": "test", "reason": ""}
    return space.write(
        lambda tx: permits.issue(tx, ME, subject, (before, after), evidence=[], verdict=verdict, ttl_us=ttl_us)
    )


def put(space: Space, wanted: list[Route], leave: str | None = None) -> int:
    return space.write(lambda tx: routes.set(tx, ME, "delay", wanted, permit=leave))


def test_a_change_of_live_weights_needs_its_permit(space: Space) -> None:
    prepare(space)
    for wrong in (None, "permit_none", permit(space, "", "v2=1"), permit(space, "v1=1", "v1=1"),
                  permit(space, "", "v1=1", "endpoint:other")):  # fmt: skip
        with pytest.raises(Forbidden):
            put(space, [LIVE], wrong)
    assert routes.current(space, "delay") == []
    put(space, [LIVE], permit(space, "", "v1=1"))
    number = put(space, [LIVE, Route(2)])
    assert put(space, [LIVE, Route(2)]) == number
    with pytest.raises(Forbidden):
        put(space, [Route(1, 0.95, "live"), Route(2, 0.05, "live")])
    with pytest.raises(Forbidden, match="expired"):
        late = permit(space, "v1=1", "v2=1", ttl_us=-1)
        put(space, [Route(2, 1.0, "live")], late)
    assert [routes.state_of(s.routes) for s in routes.history(space, "delay")] == ["v1=1", "v1=1"]
    with space.read() as tx:
        events = ledger.read(tx, kinds=["routes.changed@1"])
    assert [e.data["shadow"] for e in events] == ["nothing", "v2"]


@pytest.mark.parametrize(
    "wanted",
    [
        [LIVE, LIVE],
        [Route(1, 0.5, "live")],
        [Route(1, 0.7, "live"), Route(2, 0.7, "live")],
        [Route(1, 0.0, "live"), Route(2, 1.0, "live")],
        [Route(2)],
    ],
)
def test_routes_that_contradict_themselves(space: Space, wanted: list[Route]) -> None:
    prepare(space)
    with pytest.raises(Invalid):
        put(space, wanted, permit(space, "", routes.state_of(wanted)))


def test_unknown_versions_and_endpoints(space: Space) -> None:
    prepare(space)
    with pytest.raises(NotFound, match="delay@9"):
        put(space, [Route(9, 1.0, "live")], permit(space, "", "v9=1"))
    with pytest.raises(NotFound, match="nobody"):
        routes.current(space, "nobody")
    with pytest.raises(Invalid):
        space.write(lambda tx: routes.declare(tx, ME, EndpointSpec(name="No!", model="delay")))
    with pytest.raises(Invalid):
        space.write(lambda tx: routes.declare(tx, ME, EndpointSpec(name="x", model="delay", timezone="Mars/Base")))


def test_declaring_again_changes_nothing(space: Space) -> None:
    prepare(space)
    spec = routes.endpoint(space, "delay")
    assert space.write(lambda tx: routes.declare(tx, ME, spec)) is False
    change(space, [LIVE])
    with pytest.raises(Conflict):
        space.write(lambda tx: routes.declare(tx, ME, EndpointSpec(name="delay", model="other")))


def test_no_worker_is_no_error(space: Space) -> None:
    prepare(space)
    assert publish.wait_applied(space, change(space, [LIVE])) == 0


def test_a_switch_of_routes_fails_no_request(worker: Running, ready: Space) -> None:
    stored = [models.store(ready, make_model(seed)) for seed in range(3, 7)]
    for package in stored:
        ready.write(lambda tx, package=package: models.register(tx, ME, "delay", package))
    stop = threading.Event()
    statuses: list[int] = []
    versions: set[str] = set()

    def send(name: str) -> None:
        with httpx.Client(base_url=worker.http.base_url, trust_env=False, timeout=20) as client:
            n = 0
            while not stop.is_set():
                n += 1
                answer = client.post("/v2/models/delay/infer", json=ask(id=f"{name}{n}"))
                statuses.append(answer.status_code)
                versions.add(answer.json().get("model_version", ""))

    senders = [threading.Thread(target=send, args=(name,)) for name in "ab"]
    for sender in senders:
        sender.start()
    try:
        for version in range(1, 7):
            shadows = [Route(v) for v in range(1, 7) if v != version]
            generation = change(ready, [Route(version, 1.0, "live"), *shadows])
            assert publish.wait_applied(ready, generation) == 1
            assert worker.infer(ask()).json()["model_version"] == str(version)
            until(lambda version=version: str(version) in versions)
    finally:
        stop.set()
        for sender in senders:
            sender.join()
    assert {*statuses} == {200} and len(versions) == 6


def test_the_clock_reaches_the_workers(worker: Running, ready: Space) -> None:
    later = ready.clock.now_us() + 3_600_000_000
    ready.write(lambda tx: clock.advance(tx, ME, later))
    assert publish.wait_applied(ready, publish.publish(ready), clock_us=later) == 1


def test_a_worker_stops_when_told(worker: Running, ready: Space) -> None:
    worker.infer(ask(id="last"))
    worker.kill(15)
    assert worker.process.returncode == 0, worker.said()
    assert publish.workers(ready) == [] and worker.said() == ""


def test_the_worker_imports_nothing_heavy() -> None:
    code = "import loopwright.serving.worker, uvloop, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "pandas", "duckdb", "lightgbm", "starlette", "sqlite3"} & set(loaded)

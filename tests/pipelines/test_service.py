"""Steps run once while nothing that they need changes; failures leave a failed run and no result."""

import importlib
import os
import sys
from collections import UserList
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import loopwright as lw
from loopwright.artifacts import codecs, names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.codecs import Codec, Encoded
from loopwright.artifacts.model import Artifact, Version
from loopwright.kernel.errors import Conflict, Forbidden, Invalid, Unsupported
from loopwright.kernel.times import HOUR, parse_time
from loopwright.pipelines import environment, hooks, keys, service
from loopwright.pipelines.model import StepFailed
from loopwright.runs import service as runs
from loopwright.runs.model import Code
from loopwright.store import clock, ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space, bound

ME = "local:me"
CALLS: UserList[str] = UserList()  # not a list: what a plain collection holds is a part of the key


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@lw.step
def numbers(count: int = 3, until: str = "now") -> list[int]:
    CALLS.append(f"numbers until {until}")
    return list(range(count))


@lw.step
def total(data: Any = numbers, scale: float = 1.0) -> dict[str, Any]:
    CALLS.append("total")
    lw.log(total=sum(data), rows=len(data))
    return {"total": sum(data) * scale, "pair": (1, "a")}


@lw.step
def broken(x: int) -> int:
    return 1 // x


def run(space: Space, step: Any, **params: Any) -> Any:
    return service.run_step(space, ME, step, params)


def count_events(space: Space, kind: str) -> int:
    with space.read() as tx:
        return len(ledger.read(tx, kinds=[kind]))


def test_a_step_and_what_leads_to_it_run_once(space: Space) -> None:
    first = run(space, total)
    assert list(CALLS) == ["numbers until 2013-04-01T04:00:00Z", "total"]
    assert first.result == {"total": 3.0, "pair": (1, "a")} and not first.cached
    assert first.run.metrics == {"total": 3.0, "rows": 3.0}
    assert first.run.inputs["steps"][0]["step"] == "numbers"
    assert first.run.params == {"scale": 1.0}
    before = count_events(space, "run.started@1")
    again = run(space, total)
    assert again.cached and again.run.id == first.run.id and again.result == first.result
    assert count_events(space, "run.started@1") == before and len(CALLS) == 2


def test_a_hit_decodes_nothing(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    run(space, total)
    monkeypatch.setattr(codecs, "load", lambda *_: pytest.fail("a hit must not decode"))
    assert run(space, total).cached


def test_parameters_reach_every_step_that_has_them(space: Space) -> None:
    assert run(space, total, count=5, scale=2).result["total"] == 20.0
    assert run(space, total, scale=3.0, **{"numbers.count": 4}).result["total"] == 18.0
    assert run(space, total, data=[1, 1]).result["total"] == 2.0
    assert run(space, total, data=[1, 1]).cached
    with bound(space):
        assert total([4]) == {"total": 4.0, "pair": (1, "a")}, "called plainly it is the function"
        assert total()["total"] == 3.0, "and computes what is wired to it"


def test_another_step_may_be_wired_in(space: Space) -> None:
    @lw.step
    def others() -> list[int]:
        return [7]

    assert run(space, total, data=others).result["total"] == 7.0
    assert list(CALLS) == ["total"]


@pytest.mark.parametrize(
    ("params", "field", "told"),
    [
        ({"seeed": 1}, "seeed", "no parameter 'seeed'"),
        ({"count": "3"}, "count", "must be of type int"),
        ({"count": True}, "count", "must be of type int"),
        ({"until": "soon"}, "until", "must be a time"),
        ({"others.count": 3}, "others.count", "no parameter"),
    ],
)
def test_a_wrong_parameter_is_named(space: Space, params: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(Invalid, match=told) as caught:
        run(space, total, **params)
    assert caught.value.field == field
    assert runs.search(space).items == []


def test_a_missing_parameter_is_named(space: Space) -> None:
    with pytest.raises(Invalid, match="needs the parameter 'x'"):
        run(space, broken)


def test_until_is_a_moment_before_the_key_is_made(space: Space) -> None:
    first = run(space, numbers)
    assert first.run.params["until"] == "2013-04-01T04:00:00Z"
    assert run(space, numbers, until="2013-04-01T00:00:00-04:00").cached, "the same moment by another spelling"
    space.write(lambda tx: clock.advance(tx, ME, parse_time("2013-04-01T04:00:01Z")))
    assert not run(space, numbers).cached


def test_until_on_the_wall_is_the_last_full_hour(wall_space: Space) -> None:
    found = run(wall_space, numbers)
    until = parse_time(found.run.params["until"])
    assert until % HOUR == 0 and 0 <= wall_space.clock.now_us() - until < 2 * HOUR


def test_a_failure_leaves_a_failed_run_and_nothing_cached(space: Space) -> None:
    for _ in range(2):
        with pytest.raises(StepFailed, match="step broken failed: ZeroDivisionError") as caught:
            run(space, broken, x=0)
    assert "return 1 // x" in caught.value.traceback and "boundary" not in caught.value.traceback
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    failed = runs.search(space, state="failed").items
    assert len(failed) == 2 and failed[0].failure is not None and failed[0].failure.type == "ZeroDivisionError"
    assert count_events(space, "run.failed@1") == 2
    with space.read() as tx:
        told = ledger.read(tx, kinds=["run.failed@1"])[0].data
    assert told == {"name": "broken", "kind": "step", "error": "ZeroDivisionError"}, "no free text in the ledger"
    assert list((space.home / "runs").iterdir()) == []


def test_our_own_errors_pass_the_boundary_as_they_are(space: Space) -> None:
    @lw.step
    def refused() -> None:
        raise Conflict("the table is being moved", hint="wait")

    with pytest.raises(Conflict, match="being moved"):
        run(space, refused)
    assert [r.state for r in runs.search(space).items] == ["failed"]


def test_an_interrupted_step_is_a_failed_run(space: Space) -> None:
    @lw.step
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(space, stopped)
    assert [r.state for r in runs.search(space).items] == ["failed"]


def test_a_result_that_cannot_be_kept_is_a_failed_run(space: Space) -> None:
    @lw.step
    def opaque() -> object:
        return object()

    with pytest.raises(Unsupported, match="step opaque: a step cannot return a value of type object"):
        run(space, opaque)
    assert [r.state for r in runs.search(space).items] == ["failed"]


def test_only_an_actor_who_may_runs_a_step(space: Space) -> None:
    with pytest.raises(Forbidden):
        service.run_step(space, "somebody", numbers)


def test_an_action_counts_once(space: Space) -> None:
    first = service.run_step(space, ME, total, {"count": 5}, action_id="train at four")
    again = service.run_step(space, ME, total, {"count": 6}, action_id="train at four")
    assert again.cached and again.run.id == first.run.id
    other = service.run_step(space, ME, total, {"count": 5}, action_id="train at five")
    assert other.cached and other.run.id == first.run.id
    assert service.run_step(space, ME, total, {"count": 9}, action_id="train at five").run.id == first.run.id


def test_a_step_fed_with_equal_bytes_does_not_run_again(space: Space) -> None:
    run(space, total)
    assert run(space, total, **{"numbers.until": "2013-03-01"}).cached
    assert list(CALLS) == ["numbers until 2013-04-01T04:00:00Z", "total", "numbers until 2013-03-01T00:00:00Z"]


SEEN: dict[str, int] = {}


@lw.step
def filling() -> int:
    SEEN["rows"] = 3
    return 1


@lw.step
def using(data: Any = filling) -> int:
    return data + len(SEEN)


def test_what_a_step_leaves_in_a_module_is_no_input_of_the_next(space: Space) -> None:
    assert not run(space, using).cached
    SEEN.clear()  # as in a process that has just begun
    assert run(space, using).cached


def test_another_version_of_a_package_is_another_environment(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run(space, numbers).cached
    assert run(space, numbers).cached
    real = environment.environment
    monkeypatch.setattr(keys.environment, "environment", lambda modules: {**real(modules), "pytest": "0"})
    assert not run(space, numbers).cached
    assert run(space, numbers).run.environment["pytest"] == "0"


def test_the_environment_is_python_and_what_is_imported() -> None:
    found = environment.environment(["numpy", "sklearn", "os", "json", "loopwright", "no_such_module"])
    assert set(found) == {"python", "numpy", "scikit_learn", "loopwright", "no_such_module"}
    import numpy

    assert found["numpy"] == numpy.__version__ and found["no_such_module"] == "missing"


class Source:
    """Stands for a declared source: a fingerprint that the test moves."""


Source.__module__ = "loopwright.data.declare"


def test_declared_data_enters_the_key_by_its_fingerprint(space: Space, tmp_path: Path) -> None:
    artifact = artifacts.put_blob(space, b"a,b\n1,2\n", kind="data", meta={})
    space.write(lambda tx: names.register(tx, ME, "flights", artifact))
    declared = _declared()
    state: dict[str, Any] = {"digests": {"flights": artifact.digest}, "log": {"count": 3}}
    seen: list[int] = []

    def fingerprint(self: Any, space: Space, until_us: int) -> dict[str, Any]:
        seen.append(until_us)
        return dict(state)

    type(declared).fingerprint = fingerprint  # type: ignore[attr-defined]

    @lw.step
    def reading(until: str = "2013-03-01") -> int:
        return 1 if declared else 0

    first = run(space, reading)
    assert first.run.inputs["data"] == {"flights@1": artifact.digest}
    assert first.run.inputs["declared"]["source:flights"]["log"] == {"count": 3}
    assert set(seen) == {parse_time("2013-03-01T00:00:00Z")}
    assert run(space, reading).cached
    state["log"] = {"count": 4}
    assert not run(space, reading).cached


def test_data_that_changes_while_a_step_runs_is_not_cached(space: Space) -> None:
    declared = _declared()
    count = iter(range(10))
    type(declared).fingerprint = lambda self, space, until: {"log": {"count": next(count)}}  # type: ignore[attr-defined]

    @lw.step
    def reading() -> bool:
        return declared is not None

    first = run(space, reading)
    count = iter([0] * 10)
    assert not first.cached and not run(space, reading).cached
    assert run(space, reading).cached


def _declared() -> Any:
    kind = type("Source", (), {"__module__": "loopwright.data.declare", "name": "flights"})
    return kind()


class Fitted:
    """Stands for the model of a room above."""

    def __init__(self, weight: int) -> None:
        self.weight = weight


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    def register(tx: Tx, actor: str, artifact: Artifact, run_id: str) -> Version:
        return names.register(tx, actor, artifact.meta["name"], artifact, run=run_id, always=False)

    monkeypatch.setattr(codecs, "_codecs", {})
    monkeypatch.setattr(hooks, "_on_finish", {})
    hooks.on_finish("fitted-model", register)
    codecs.register(
        Codec(
            name="fitted",
            kind="fitted-model",
            accepts=lambda value: isinstance(value, Fitted),
            encode=lambda value, _: Encoded(files={"w": b"%d" % value.weight}, meta={"name": "delay"}),
            decode=lambda stored: Fitted(int(stored.read("w"))),
        )
    )


@lw.step
def train(weight: int = 1, noise: int = 0) -> Any:
    return Fitted(weight)


@pytest.mark.usefixtures("models")
def test_equal_bytes_make_no_new_version(space: Space) -> None:
    first = run(space, train)
    assert first.run.versions == ["delay@1"] and first.result.weight == 1
    assert names.newest(space, "delay").run == first.run.id  # type: ignore[union-attr]
    assert run(space, train).run.versions == ["delay@1"]
    assert run(space, train, noise=1).run.versions == ["delay@1"], "another run, the same bytes"
    assert run(space, train, weight=2).run.versions == ["delay@2"]
    back = run(space, train)
    assert back.cached and back.run.versions == ["delay@3"], "the newest bytes were others: a version again"
    assert len(names.versions(space, "delay")) == 3


@pytest.mark.usefixtures("models")
def test_a_twin_becomes_a_version_when_it_is_asked_for(space: Space) -> None:
    with hooks.unregistered():
        twin = run(space, train)
        assert twin.run.versions == [] and twin.result.weight == 1
        assert run(space, train).cached
    assert names.newest(space, "delay") is None
    found = run(space, train)
    assert found.cached and found.run.versions == ["delay@1"]
    assert runs.get(space, twin.run.id).versions == ["delay@1"]
    run(space, train, weight=2)
    with hooks.unregistered():
        assert run(space, train).cached
    assert len(names.versions(space, "delay")) == 2


@pytest.mark.usefixtures("models")
def test_a_model_inside_a_result_is_registered_too(space: Space) -> None:
    @lw.step
    def both() -> Any:
        return {"model": Fitted(3), "auc": 0.7}

    found = run(space, both)
    assert found.run.versions == ["delay@1"] and found.result["model"].weight == 3


def test_what_a_job_prints_is_kept_with_its_run(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_code", [lambda space: Code(commit="abc", project="def")])

    @lw.step
    def talking() -> None:
        os.write(1, b"two rows dropped\n")

    with bound(space, job=True):
        found = run(space, talking)
    assert (found.run.code.commit, found.run.code.project) == ("abc", "def"), "a job runs a stored project"
    assert runs.console(space, found.run.id) == "two rows dropped\n"


def test_the_code_that_ran_is_kept(space: Space) -> None:
    found = run(space, numbers)
    assert found.run.code.commit is None and found.run.code.files is not None
    kept = artifacts.files(space, found.run.code.files)
    assert list(kept) == ["test_service.py"]
    assert artifacts.read(space, found.run.code.files, "test_service.py") == Path(__file__).read_bytes()
    assert any(label.endswith(":numbers") for label in found.run.code.parts)


# files that change while a process that has loaded them runs


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    (tmp_path / "near.py").write_text(
        "import loopwright as lw\nimport far\n@lw.step\ndef step(x: int):\n    return far.f(x)\n"
    )
    (tmp_path / "far.py").write_text("def f(v):\n    return v + 1\n")
    sys.path.insert(0, str(tmp_path))
    yield importlib.import_module("near")
    sys.path.remove(str(tmp_path))
    for name in ("near", "far"):
        sys.modules.pop(name, None)


def test_a_file_edited_after_it_was_loaded_is_not_cached(space: Space, module: ModuleType, tmp_path: Path) -> None:
    assert not run(space, module.step, x=1).cached
    assert run(space, module.step, x=1).cached
    (tmp_path / "far.py").write_text("def f(v):\n    return v + 1000\n")
    for _ in range(2):
        found = run(space, module.step, x=1)
        assert not found.cached and found.result == 2, "what runs is the old code, so its result is nobody else's"
    importlib.reload(sys.modules["far"])
    found = run(space, module.step, x=1)
    assert not found.cached and found.result == 1001
    assert run(space, module.step, x=1).cached

"""Versions made by hand before the gate: held against what was really served, on days that they have not seen."""

from collections.abc import Iterator

import pytest
from world import World, make

from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.kernel.errors import GateFailed
from loopwright.kernel.verdict import Verdict
from loopwright.models import service as models
from loopwright.models.value import Model
from loopwright.pipelines import service as pipelines
from loopwright.releases import desk as desks
from loopwright.releases import measured, service
from loopwright.releases.model import GateResult

ME = "local:me"


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose truth moved on 3 April, on 12 April; the first version serves all the time."""
    made = World(tmp_path_factory.mktemp("served") / "project", make("2013-04-03T00:00:00Z"))
    made.deploy()
    made.run("2013-04-12T05:00:00Z")
    yield made
    made.close()


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose truth stays, on 9 April."""
    made = World(tmp_path_factory.mktemp("still") / "project", make(None))
    made.deploy()
    made.run("2013-04-09T05:00:00Z")
    yield made
    made.close()


def _by_step(world: World, until: str) -> str:
    """A version that a person made with the project's own step."""
    made = pipelines.run_step(world.space, ME, world.module.train, {"until": until})
    package = artifacts.get(world.space, made.value.digest)
    version = world.space.write(lambda tx: models.register(tx, ME, "demo", package, run=made.run.id))
    return str(version.ref)


def _by_hand(world: World, rows: slice, *, flipped: bool = False, until: str) -> str:
    """A version that a script made of some of the rows, perhaps with the labels turned round."""
    import lightgbm as lgb

    import loopwright as lw

    x, y = world.module.seen.training(labels=world.module.truth, target="y", until=until)
    kept, label = x.iloc[rows], y.iloc[rows]
    kept.attrs.update(x.attrs)
    params = {"objective": "binary", "num_leaves": 7, "num_threads": 1, "verbose": -1, "deterministic": True}
    booster = lgb.train(params, lgb.Dataset(kept, 1 - label if flipped else label), 20)
    made: Model = lw.model("demo", booster, sample=kept)
    package = models.store(world.space, made)
    version = world.space.write(lambda tx: names.register(tx, ME, "demo", package))
    return str(version.ref)


def _better(result: GateResult) -> Verdict:
    return next(verdict for verdict in result.checks if verdict.check == "better")


def test_a_better_model_passes_on_days_that_it_has_not_seen(lived: World) -> None:
    verdict = _better(service.check(lived.space, _by_step(lived, "2013-04-07T00:00:00Z"), submit=lived.submit))
    assert verdict.passed, verdict.reason
    assert "lower log loss than what was served over 5 days" in verdict.reason
    assert verdict.evidence["days"] == [f"2013-04-{day:02d}" for day in range(7, 12)]


def test_a_model_that_knows_the_days_is_stood_for_by_a_twin_without_them(lived: World) -> None:
    verdict = _better(service.check(lived.space, _by_step(lived, "2013-04-12T04:00:00Z"), submit=lived.submit))
    assert "than what was served over 7 days" in verdict.reason
    assert verdict.evidence["days"][0] == "2013-04-05"


def test_turned_labels_and_a_model_of_long_ago_are_refused_by_the_pairs(still: World) -> None:
    turned = _by_hand(still, slice(-360, None), flipped=True, until="2013-04-04T00:00:00Z")
    old = _by_hand(still, slice(0, 60), until="2013-03-01T00:00:00Z")
    for ref in (turned, old):
        with pytest.raises(GateFailed, match="higher log loss than what was served over"):
            service.deploy(still.space, ME, ref, submit=still.submit)


def test_a_script_that_used_the_days_is_told_how_to_collect_others(lived: World) -> None:
    ref = _by_hand(lived, slice(-360, None), until="2013-04-12T04:00:00Z")
    with pytest.raises(GateFailed, match=rf"at least 5 are needed .*lw deploy {ref} --shadow lets it collect days"):
        service.deploy(lived.space, ME, ref, submit=lived.submit)


def test_the_settings_follow_the_endpoint(lived: World) -> None:
    with lived.space.read() as tx:
        found, recipe = measured.find(tx, "demo"), desks.find(tx, "demo").recipe
    assert found.close_minutes == 240
    assert (found.labels, recipe.min_labels) == (60, 20)  # the project names 20
    assert found.sd is not None
    assert recipe.past_sd == pytest.approx(5 / 3 * found.sd, abs=1e-6)
    assert recipe.harm_limit == pytest.approx(3 * found.sd, abs=1e-6)

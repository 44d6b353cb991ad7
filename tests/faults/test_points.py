"""Thirty faults an operation: nothing acknowledged is lost, no wrong bytes, no false success, nobody stuck."""

import contextlib
import random
from collections.abc import Iterator

import pytest
from lab import Lab
from points import OPERATIONS, Operation, Trial, function, have_strace

POINTS = 30


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if why := have_strace():
        pytest.skip(why)
    with contextlib.closing(Lab(tmp_path_factory.mktemp("lab"))) as made:
        made.prepare()
        yield made


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_a_fault_at_any_call_does_no_harm(lab: Lab, operation: Operation) -> None:
    trial = Trial(lab, operation)
    assert len(trial.calls) >= 15, "the calls of the operation were not seen"
    points = POINTS // 3 if operation.takes_away else POINTS  # one that looks everywhere takes its time
    tally = trial.run(points)
    assert tally.faults == []
    assert tally.attempted == points and tally.missed <= points // 10


WRONG = {"lies": "false_success", "tears": "wrong_bytes", "litters": "leftover", "forgets": "lost"}


@pytest.mark.parametrize("does", WRONG)
def test_what_is_wrong_on_purpose_is_seen(lab: Lab, does: str) -> None:
    trial = Trial(lab, Operation(does, "base", function(does, name="notes", text="the second")))
    if does == "litters":
        trial.left -= {"half-made"}
    points = trial.points(len(trial.calls) * 3)
    random.Random(5).shuffle(points)
    for point in points:
        trial.attempt(point)
        if getattr(trial.tally, WRONG[does]):
            return
    pytest.fail(f"{does}: {len(points)} faults and none was seen; {trial.tally}")

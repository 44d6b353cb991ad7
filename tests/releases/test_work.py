"""A job by action id: done once, given up by the loop for good, tried again when a person asks."""

import pytest

from loopwright.pipelines import queue
from loopwright.releases import work
from loopwright.store.space import Space

TASK = work.Task(action_id="a", kind="releases.twin", args={})


def worker(space: Space, outcomes: list[str | None]) -> work.Submit:
    def submit(space: Space, action_id: str) -> None:
        job = queue.claim(space)
        if job is not None:
            error = outcomes.pop(0)
            result = {"n": 1} if error is None else None
            queue.finish(space, job, result, error, final=True)

    return submit


def test_the_loop_does_not_try_again_what_gave_up(space: Space) -> None:
    outcomes: list[str | None] = ["disk full", None]
    submit = worker(space, outcomes)
    for _ in range(2):
        with pytest.raises(work.JobFailed, match="disk full"):
            work.do(space, TASK, submit)
    assert outcomes == [None]


def test_a_person_who_asks_again_is_heard(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[str | None] = ["disk full", None]
    monkeypatch.setattr(work, "_here", worker(space, outcomes))
    with pytest.raises(work.JobFailed):
        work.do(space, TASK)
    assert work.do(space, TASK) == {"n": 1} == work.do(space, TASK)
    assert outcomes == []

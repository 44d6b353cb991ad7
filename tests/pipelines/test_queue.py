"""The queue loses no job and does none twice, whoever is killed when."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from loopwright.kernel.errors import Conflict, Invalid
from loopwright.pipelines import queue
from loopwright.pipelines.model import Job
from loopwright.store.space import Space


def put(space: Space, action: str, **args: int) -> str:
    return space.write(lambda tx: queue.enqueue(tx, action, "loop.train", args))


def take(space: Space) -> Job:
    job = queue.claim(space)
    assert job is not None
    return job


def test_jobs_are_taken_in_the_order_in_which_they_came(space: Space) -> None:
    first, second = put(space, "a", seed=1), put(space, "b")
    assert put(space, "a", seed=1) == first, "an action has one job"
    one, two = take(space), take(space)
    assert (one.id, one.args, one.attempt, one.state) == (first, {"seed": 1}, 1, "running")
    assert two.id == second and queue.claim(space) is None
    done = queue.finish(space, one, {"version": 3})
    assert (done.state, done.result, done.error) == ("finished", {"version": 3}, None)
    assert queue.get(space, "a") == done and queue.get(space, "c") is None
    assert put(space, "a", seed=1) == first and queue.claim(space) is None, "and is done once"
    assert [job.action_id for job in queue.listed(space)] == ["b", "a"]
    assert [job.action_id for job in queue.listed(space, "running")] == ["b"]


def test_what_waits_is_told(space: Space) -> None:
    assert (queue.next_kind(space), queue.is_queued(space, "loop.train")) == (None, False)
    put(space, "a")
    space.write(lambda tx: queue.enqueue(tx, "b", "serving.seal", {}))
    space.write(lambda tx: queue.enqueue(tx, "c", "serving.seal", {}, host="host_of_others"))
    assert (queue.next_kind(space), queue.is_queued(space, "serving.seal")) == ("loop.train", True)
    queue.finish(space, take(space))
    take(space)
    assert (queue.next_kind(space), queue.is_queued(space, "serving.seal")) == (None, False), "it is another host's"
    with space.read() as tx:
        counts, oldest = queue.tally(tx)
    assert counts == {"finished": 1, "running": 1, "queued": 1} and oldest is not None


def test_an_action_cannot_become_another(space: Space) -> None:
    put(space, "a", seed=1)
    put(space, "a", seed=2)
    assert take(space).args == {"seed": 1}, "what was asked first stands"
    with pytest.raises(Conflict):
        space.write(lambda tx: queue.enqueue(tx, "a", "loop.check", {}))
    with pytest.raises(Invalid):
        put(space, "")
    with pytest.raises(Invalid):
        space.write(lambda tx: queue.enqueue(tx, "b", "loop.train", {"x": object()}))


def test_a_job_that_raises_is_tried_again_twice(space: Space) -> None:
    put(space, "a")
    for attempt in (1, 2):
        job = queue.finish(space, take(space), error=f"disk full {attempt}")
        assert (job.state, job.attempt, job.error) == ("queued", attempt, f"disk full {attempt}")
    job = queue.finish(space, take(space), error="disk full 3")
    assert (job.state, job.attempt, job.error) == ("failed", 3, "disk full 3")
    assert queue.claim(space) is None


def test_an_error_that_is_final_is_not_tried_again(space: Space) -> None:
    put(space, "a")
    assert queue.finish(space, take(space), error="no such column", final=True).state == "failed"


def test_an_attempt_that_was_given_up_cannot_finish(space: Space) -> None:
    put(space, "a")
    lost = take(space)
    assert queue.requeue_running(space) == [lost.id]
    again = take(space)
    assert (again.id, again.attempt) == (lost.id, 2)
    with pytest.raises(Conflict):
        queue.finish(space, lost, {"late": True})
    assert queue.finish(space, again, {"late": False}).result == {"late": False}
    with pytest.raises(Conflict):
        queue.finish(space, again, {"late": True})


def test_a_job_that_kills_its_process_thrice_has_failed(space: Space) -> None:
    put(space, "a")
    for _ in range(3):
        take(space)
        queue.requeue_running(space)
    job = queue.get(space, "a")
    assert job is not None and job.state == "failed" and "3 times" in str(job.error)
    assert queue.requeue_running(space) == []


def test_a_job_is_not_to_blame_for_the_end_of_its_server(space: Space) -> None:
    put(space, "a")
    for _ in range(5):
        assert take(space).attempt == 1
        assert len(queue.requeue_running(space, blame=False)) == 1


def test_many_take_and_none_is_taken_twice(space: Space) -> None:
    for number in range(40):
        put(space, f"action {number}")
    taken: list[str] = []

    def work() -> None:
        while (job := queue.claim(space)) is not None:
            taken.append(job.id)
            queue.finish(space, job, {})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 40


WORKER = """
import os, signal, sys
from pathlib import Path
from loopwright import house
from loopwright.pipelines import queue
space = house.open(Path(sys.argv[1]))
if sys.argv[2] == "put":
    print(space.write(lambda tx: queue.enqueue(tx, "a", "loop.train", {"seed": 1})), flush=True)
else:
    print(queue.claim(space).attempt, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(space: Space, what: str) -> str:
    command = [sys.executable, "-c", WORKER, str(space.root), what]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    return ran.stdout.strip()


def test_a_job_survives_the_death_of_those_who_put_and_take_it(space: Space) -> None:
    job_id = killed(space, "put")
    assert killed(space, "take") == "1"
    assert queue.claim(space) is None, "it is still the dead process's"
    assert queue.requeue_running(space) == [job_id]
    job = take(space)
    assert (job.id, job.attempt, job.args) == (job_id, 2, {"seed": 1})
    assert queue.finish(space, job, {"done": os.getpid()}).state == "finished"


def test_a_person_can_have_a_job_that_gave_up_tried_again(space: Space) -> None:
    put(space, "a")
    queue.finish(space, take(space), error="no", final=True)
    assert space.write(lambda tx: queue.retry(tx, "a")) is True
    job = queue.finish(space, take(space), {"version": 1})
    assert (job.state, job.attempt, job.error) == ("finished", 1, None)
    assert space.write(lambda tx: queue.retry(tx, "a")) is False, "what is done is done"

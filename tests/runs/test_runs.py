"""A run keeps what it logs, seals it at its end, and survives the death of its process as a failed one."""

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import loopwright as lw
from loopwright.artifacts import service as artifacts
from loopwright.kernel.errors import Conflict, Invalid, NotFound
from loopwright.runs import console, current, service
from loopwright.runs.model import About, Failure, Output
from loopwright.store import ledger
from loopwright.store.space import Space

ME = "local:me"


def started(space: Space, name: str = "train") -> current.Recorder:
    return service.start(space, ME, "step", name, About(params={"seed": 7}, environment={"python": "3"}))


def end(space: Space, recorder: current.Recorder, **outputs: Output) -> Any:
    logged = recorder.seal()
    run = space.write(lambda tx: service.finish(tx, ME, recorder.run_id, logged, outputs))
    recorder.close()
    return run


def test_a_run_from_start_to_finish(space: Space) -> None:
    recorder = started(space)
    going = service.get(space, recorder.run_id)
    assert (going.state, going.params, going.finished_us) == ("running", {"seed": 7}, None)
    with current.recording(recorder):
        lw.log(auc=0.7, rows=10)
        assert service.get(space, recorder.run_id).metrics == {"auc": 0.7, "rows": 10.0}, "seen while it goes on"
        lw.log(auc=0.8)
    run = end(space, recorder, value=Output(digest="0" * 64, kind="value", version="delay@1"))
    assert run == service.get(space, run.id)
    assert (run.state, run.metrics, run.versions) == ("finished", {"auc": 0.8, "rows": 10.0}, ["delay@1"])
    assert run.started_us == run.finished_us == space.clock.now_us(), "a replay's time stands still within a run"
    assert run.took_us is not None and run.took_us > 0
    points = service.points(space, run.id, "auc")
    assert [(p.value, p.step) for p in points] == [(0.7, 0), (0.8, 1)]
    assert not recorder.folder.exists()
    with space.read() as tx:
        kinds = [e.kind for e in ledger.read(tx, subject=run.id)]
    assert kinds == ["run.started@1", "run.finished@1"]


def test_points_may_say_their_step_and_may_be_no_number(space: Space) -> None:
    recorder = started(space)
    with current.recording(recorder):
        lw.log(loss=math.nan, step=10)
        lw.log(loss=-math.inf)
        lw.log(step=3, **{"val/loss": 2})
    run = end(space, recorder)
    assert run.metrics["loss"] == -math.inf
    assert [(p.name, p.step) for p in service.points(space, run.id)] == [("loss", 10), ("loss", 11), ("val/loss", 3)]
    assert math.isnan(service.points(space, run.id)[0].value)


def test_numpy_numbers_are_numbers(space: Space) -> None:
    import numpy as np

    recorder = started(space)
    with current.recording(recorder):
        lw.log(auc=np.float32(0.5), rows=np.int64(3), fine=np.bool_(True))
    assert end(space, recorder).metrics == {"auc": 0.5, "rows": 3.0, "fine": 1.0}


@pytest.mark.parametrize("value", ["0.7", None, [1], 1j])
def test_what_is_no_number_is_refused_by_name(space: Space, value: Any) -> None:
    recorder = started(space)
    with current.recording(recorder), pytest.raises(Invalid) as caught:
        lw.log(fine=1, auc=value)
    assert caught.value.field == "auc"
    assert end(space, recorder).metrics == {}, "all or nothing"


@pytest.mark.parametrize("name", ["", "a" * 251, "a\n", "né"])
def test_a_name_that_is_none_is_refused(space: Space, name: str) -> None:
    recorder = started(space)
    with current.recording(recorder), pytest.raises(Invalid):
        lw.log(**{name: 1})
    end(space, recorder)


def test_outside_a_run_nothing_is_logged() -> None:
    lw.log(auc=0.7)
    lw.log_file("no such file")


def test_files_are_a_map_that_is_sealed(space: Space, tmp_path: Path) -> None:
    recorder = started(space)
    report = tmp_path / "report.txt"
    with current.recording(recorder):
        report.write_text("one")
        lw.log_file(report)
        lw.log_file(report, "deep/first.txt")
        report.write_text("two")
        lw.log_file(str(report))
        with pytest.raises(NotFound):
            lw.log_file(tmp_path / "none")
        with pytest.raises(Invalid):
            lw.log_file(report, "../out")
    run = end(space, recorder)
    assert sorted(run.files) == ["deep/first.txt", "report.txt"]
    assert artifacts.read(space, run.sealed["files"], "report.txt") == b"two"
    assert artifacts.read(space, run.sealed["files"], "deep/first.txt") == b"one"


def test_threads_of_a_run_log_to_it(space: Space) -> None:
    recorder = started(space)
    with current.recording(recorder):
        threads = [threading.Thread(target=lambda: [lw.log(x=1) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    run = end(space, recorder)
    assert [p.step for p in service.points(space, run.id, "x")] == list(range(200))


def test_the_console_is_caught_with_that_of_children(tmp_path: Path) -> None:
    path = tmp_path / "console"
    with console.captured(path):
        os.write(1, b"out\n")
        subprocess.run([sys.executable, "-c", "import sys; print('child'); print('err', file=sys.stderr)"], check=True)
    assert sorted(path.read_text().split()) == ["child", "err", "out"]


def test_a_failed_run_keeps_what_it_logged(space: Space) -> None:
    recorder = started(space)
    with current.recording(recorder):
        lw.log(rows=3)
    logged = recorder.seal()
    failure = Failure(type="ValueError", message="no rows in May", traceback="...")
    space.write(lambda tx: service.fail(tx, ME, recorder.run_id, logged, failure))
    recorder.close()
    run = service.get(space, recorder.run_id)
    assert (run.state, run.metrics, run.failure) == ("failed", {"rows": 3.0}, failure)
    with space.read() as tx:
        told = ledger.read(tx, kinds=["run.failed@1"])[0].data
    assert "no rows in May" not in str(told), "what a person's code says is no part of the ledger"
    with pytest.raises(Conflict):
        space.write(lambda tx: service.finish(tx, ME, run.id, logged))


KILLED = """
import os, signal, sys
from pathlib import Path
import loopwright as lw
from loopwright import house
from loopwright.runs import current, service
space = house.open(Path(sys.argv[1]))
recorder = service.start(space, "local:me", "step", "train")
with current.recording(recorder):
    lw.log(rows=3)
    with open(recorder.folder / "metrics.frames", "ab") as stream:
        stream.write(b"torn")
    print(recorder.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_was_killed_is_failed_and_keeps_what_it_had_logged(space: Space) -> None:
    ran = subprocess.run([sys.executable, "-c", KILLED, str(space.root)], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    run_id = ran.stdout.strip()
    assert service.get(space, run_id).state == "running"
    mine = started(space)
    run = service.get(space, run_id)
    assert run.state == "failed" and run.failure is not None and run.failure.type == "Interrupted"
    assert run.metrics == {"rows": 3.0}
    assert [p.value for p in service.points(space, run_id)] == [3.0], "the torn tail is cut off"
    assert service.get(space, mine.run_id).state == "running", "one that is going on is left alone"
    end(space, mine)
    assert service.sweep(space) == []


def test_runs_are_listed_newest_first_in_pages(space: Space) -> None:
    ids = [end(space, started(space, name)).id for name in ("a", "b", "a", "a", "b")]
    page = service.search(space, limit=2)
    assert [r.id for r in page.items] == [ids[4], ids[3]] and page.next == ids[3]
    rest = service.search(space, limit=9, before=page.next)
    assert [r.id for r in rest.items] == ids[2::-1] and rest.next is None
    assert [r.id for r in service.search(space, name="b", state="finished", kind="step").items] == [ids[4], ids[1]]
    with pytest.raises(Invalid):
        service.search(space, limit=0)
    with pytest.raises(Invalid):
        service.search(space, before="'; DROP TABLE runs")
    with pytest.raises(NotFound):
        service.get(space, "run_" + "0" * 27)

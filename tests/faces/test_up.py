"""`lw up`: one a project, what dies is started again, what lives ends with it."""

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import small
from waiting import until

from loopwright.faces import client, processes, supervisor, up
from loopwright.kernel.errors import LoopwrightError
from loopwright.project import server

Project = Any  # of conftest.py


def family(pid: int) -> dict[int, str]:
    """The living descendants of a process and their command lines."""
    out = {}
    for child in small.family(pid)[1:]:
        try:
            out[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return out


def pid_of(pid: int, word: str) -> int | None:
    return next((child for child, line in family(pid).items() if word in line), None)


def infer(where: server.Running, request_id: str, x: float = 0.5) -> tuple[int, dict[str, Any]]:
    body = {
        "id": request_id,
        "parameters": {"time": "2020-01-25T05:00:00Z"},
        "inputs": [
            {"name": "x", "shape": [1], "datatype": "FP64", "data": [x]},
            {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["north"]},
        ],
    }
    caller = client.Client(where.control_url)
    try:
        status, answer = caller.request("POST", "/v2/models/tiny/infer", msgspec.json.encode(body))
        return status, msgspec.json.decode(answer)
    finally:
        caller.close()


def test_ports_that_are_taken_are_left_alone() -> None:
    [first], _ = processes.listen(0)
    port = first.getsockname()[1]
    [second], _ = processes.listen(port)
    assert second.getsockname()[1] > port
    shared, guards = processes.listen(0, 2)
    port = shared[0].getsockname()[1]
    assert [s.getsockname()[1] for s in shared] == [port, port]
    others, more = processes.listen(port, 2)
    assert others[0].getsockname()[1] != port
    for opened in [first, second, *shared, *guards, *others, *more]:
        opened.close()


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    held = processes.lock(tmp_path / "l", wait_s=0)
    assert held is not None
    assert processes.lock(tmp_path / "l", wait_s=0.05) is None
    os.close(held)
    again = processes.lock(tmp_path / "l", wait_s=0)
    assert again is not None
    os.close(again)


def test_one_up_a_project_and_down(project: Project) -> None:
    where = project.start()
    second = project.json("up", "--port", "0", code=1)
    assert second["code"] == "up.running"
    assert str(where.pid) in second["message"] and where.control_url in second["message"]
    assert project.json("status")["server"]["pid"] == where.pid
    until(lambda: len(family(where.pid)) >= 3)  # control, a worker, the job server
    children = family(where.pid)
    assert project.json("down") == {"schema": "lw.down/1", "stopped": True, "pid": where.pid}
    project.process.wait()
    until(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()])
    assert not (server.run_folder(project.folder) / server.UP).exists()
    assert project.json("down")["stopped"] is False


def test_the_children_die_with_a_killed_supervisor(project: Project) -> None:
    where = project.start()
    children = family(where.pid)
    os.kill(where.pid, signal.SIGKILL)
    project.process.wait()
    until(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()])
    again = project.start()
    assert again.pid != where.pid
    assert infer(again, "after")[0] == 200


def test_a_killed_worker_under_load_comes_back_and_loses_nothing(project: Project) -> None:
    where = project.start(workers=1)
    answers: dict[str, int] = {}
    stop = threading.Event()

    def load(slot: int) -> None:
        number = 0
        while not stop.is_set():
            name = f"load-{slot}-{number}"
            for _ in range(200):
                try:
                    status, _answer = infer(where, name, number / 1000)
                except LoopwrightError:
                    status = 503
                if status == 200:
                    break
                time.sleep(0.02)
            answers[name] = status
            number += 1

    threads = [threading.Thread(target=load, args=(slot,)) for slot in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 60)
    for word in ("serving.worker", "_control", "_jobs"):
        victim = pid_of(where.pid, word)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        before = len(answers)
        until(lambda word=word, victim=victim: pid_of(where.pid, word) not in (None, victim))
        until(lambda before=before: len(answers) > before + 60)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answers.values()) == {200}
    out = project.folder / "log.parquet"
    project.lw("predictions", "tiny", "--out", str(out))
    import duckdb

    logged = {row[0] for row in duckdb.sql(f"SELECT request_id FROM '{out}'").fetchall()}
    assert set(answers) <= logged


def test_a_space_that_cannot_open_is_told_at_once(project: Project) -> None:
    toml = project.folder / "loopwright.toml"
    toml.write_text(toml.read_text().replace("replay", "wall"))
    with pytest.raises(LoopwrightError) as caught:
        project.start()
    assert "clock" in caught.value.message
    assert up.stop(project.folder) is None


def test_without_a_project_the_next_command_is_init(tmp_path: Path, deployed: Path) -> None:
    shutil.copy(deployed / "loopwright.toml", tmp_path / "loopwright.toml")
    with pytest.raises(LoopwrightError) as caught:
        supervisor.supervise(up.planned(tmp_path), lambda found: None)
    assert caught.value.hint == "lw init"


def test_a_client_says_when_nobody_answers(tmp_path: Path) -> None:
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with (
        pytest.raises(LoopwrightError) as caught,
        contextlib.closing(client.Client(f"http://127.0.0.1:{port}")) as caller,
    ):
        caller.json("GET", "/health")
    assert caught.value.code == "up.silent"
    with pytest.raises(LoopwrightError) as caught:
        client.connect(tmp_path)
    assert caught.value.code == "up.missing"


def test_a_project_on_the_wall_clock(tmp_path: Path, project_at: Callable[[Path], Project]) -> None:
    made = project_at(tmp_path / "wall")
    made.folder.mkdir()
    made.lw("init")
    where = made.start()
    try:
        with contextlib.closing(client.Client(where.control_url)) as caller:
            until(lambda: caller.json("GET", "/api/v1/clock")["settled"])
            clock = caller.json("GET", "/api/v1/clock")
            assert (clock["mode"], clock["next"], clock["problem"]) == ("wall", None, None)
            with pytest.raises(LoopwrightError) as caught:
                caller.json("POST", "/api/v1/clock/advance", {"to": "2030-01-01"})
            assert caught.value.code == "clock.wall"
    finally:
        made.stop()


def test_a_changed_project_is_loaded_anew_and_routes_reach_the_workers(project: Project) -> None:
    where = project.start()
    file = project.folder / "project.py"
    file.write_text(file.read_text().replace("trees: int = 10", "trees: int = 12"))
    version = project.json("run")["versions"][0]
    number = int(version.rpartition("@")[2])
    assert number > 1
    found = project.json("deploy", version, "--shadow")
    assert found["workers"] == 1
    assert infer(where, "now")[0] == 200
    seen = project.json("api", "serving.get_prediction", "endpoint=tiny", "id=now")
    assert set(seen["scores"]) == {"1", str(number)}
    replayed = ("replay", "tiny", "--requests", "requests.parquet", "--labels", "labels.csv", "--until", "2020-02-01")
    assert project.json(*replayed)["complete"]
    newest = project.json("api", "artifacts.list_versions", "name=tiny")["items"][-1]
    assert project.json("api", "runs.get_run", f"run={newest['run']}")["params"]["trees"] == 12


def test_the_last_words_of_an_up_are_its_error_and_not_its_hint(tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    log.write_text("control ended with 1\nerror: no free port from 65535 on\n  try: lw up --port 64535\n")
    assert up.last_words(log) == "no free port from 65535 on"


def test_an_up_that_is_interrupted_before_it_answers_is_not_left_behind(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[server.Running] = []

    def interrupted(*_: Any) -> bool:
        seen.append(_[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(up, "_healthy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up.start(up.planned(project.folder, port=0, data_port=0), detached=True)
    assert seen
    assert server.running(project.folder) is None
    assert not processes.alive(seen[0].pid)

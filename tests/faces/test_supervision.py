"""`lw up` goes on as new code, gives way without breaking anything off, and tells the truth about each of its parts."""

import contextlib
import http.client
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from waiting import until

import loopwright
from loopwright import house
from loopwright.faces import children, client, processes, supervisor, takeover, up
from loopwright.kernel.errors import LoopwrightError, NotFound
from loopwright.pipelines import queue
from loopwright.project import server

Project = Any  # of conftest.py


def body(request_id: str, x: float = 0.5) -> bytes:
    tensors = [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [x]},
        {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["north"]},
    ]
    return msgspec.json.encode({"id": request_id, "parameters": {"time": "2020-01-25T05:00:00Z"}, "inputs": tensors})


class Kept:
    """A client that keeps its connection for as long as the server says, and repeats nothing."""

    def __init__(self, url: str) -> None:
        self.place = url.removeprefix("http://")
        self.connection: http.client.HTTPConnection | None = None

    def ask(self, verb: str, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.place, timeout=30)
        self.connection.request(verb, path, data, {"content-type": "application/json"})
        response = self.connection.getresponse()
        answer = response.status, response.read()
        if response.will_close:
            self.close()
        return answer

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def once(url: str, verb: str, path: str, data: bytes | None = None) -> tuple[int, Any]:
    """Status and JSON of a call on a connection of its own."""
    caller = Kept(url)
    try:
        status, answer = caller.ask(verb, path, data)
        return status, msgspec.json.decode(answer)
    finally:
        caller.close()


def part(project: Project, name: str) -> tuple[str, str]:
    found = next(part for part in project.json("status")["parts"] if part["name"] == name)
    return found["state"], found["detail"]


def pids(project: Project) -> dict[str, int]:
    return {child.name: child.pid for child in server.child_states(project.folder) if child.pid}


def test_a_restart_in_place_fails_no_request_and_replaces_every_process_but_the_supervisor(project: Project) -> None:
    where = project.start(workers=2)
    before = until(lambda: len(pids(project)) == 4 and pids(project))
    failed: list[Any] = []
    done: list[int] = []
    predicted: list[int] = []
    stop = threading.Event()

    def load(slot: int) -> None:
        data, control, number = Kept(where.data_url), Kept(where.control_url), 0
        while not stop.is_set():
            number += 1
            asked = (data, "POST", "/v2/models/tiny/infer", body(f"up-{slot}-{number}"))
            if number % 10 == 0:
                asked = (control, "GET", "/api/v1/clock", b"")
            try:
                status, answer = asked[0].ask(*asked[1:])
            except (OSError, http.client.HTTPException) as error:
                failed.append((asked[1:3], repr(error)))
                continue
            done.append(status)
            if asked[1] == "POST":
                predicted.append(number)
            if status != 200:
                failed.append((asked[1:3], status, answer))
        data.close()
        control.close()

    threads = [threading.Thread(target=load, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(done) > 100)
    told = project.json("restart")
    count = len(done)
    until(lambda: len(done) > count + 100)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (told["pid"], told["generation"], told["restart"]) == (where.pid, 2, "done")
    assert (told["control_url"], told["data_url"]) == (where.control_url, where.data_url)
    after = until(lambda: len(pids(project)) == 4 and pids(project))
    assert after["jobs"] == before["jobs"], "it goes on as new code itself, once its jobs are done"
    assert not {after[name] for name in after if name != "jobs"} & set(before.values())
    assert not [pid for name, pid in before.items() if name != "jobs" and Path(f"/proc/{pid}").exists()]
    assert project.json("restart")["generation"] == 3
    assert once(where.data_url, "POST", "/v2/models/tiny/infer", body("last"))[0] == 200
    assert project.json("predictions", "tiny", "--out", "log.parquet")["rows"] == len(predicted) + 1


def test_newly_installed_code_takes_over_when_it_can_and_else_leaves_all_as_it_is(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "installed" / "loopwright"
    shutil.copytree(Path(loopwright.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    where = project.start()
    before = until(lambda: len(pids(project)) == 3 and pids(project))

    def answers(request_id: str) -> bool:
        return once(where.data_url, "POST", "/v2/models/tiny/infer", body(request_id))[0] == 200

    said = {  # what stands in the new code's way -> what is said of it
        package / "faces" / "httpd.py": ("def broken(:\n", "SyntaxError"),
        project.folder / "loopwright.toml": ('clock = "wall"\n', "clock"),
    }
    for path, (text, word) in said.items():
        kept = path.read_text()
        path.write_text(text)
        with pytest.raises(LoopwrightError) as caught:
            up.again(project.folder)
        path.write_text(kept)
        assert caught.value.code == "restart.refused"
        assert word in caught.value.message
        assert pids(project) == before and answers(word)
    state, detail = part(project, "server")
    assert state == "degraded" and "refused" in detail
    first = package / "__init__.py"
    first.write_text(first.read_text().replace('__version__ = "', '__version__ = "9.'))
    done = up.again(project.folder)
    assert done.version.startswith("9.") and done.pid == where.pid
    assert answers("after") and not set(pids(project).values()) & {before["control"], before["worker-0"]}
    assert part(project, "server")[0] == "ok"


def test_without_an_up_there_is_nothing_to_restart_or_to_resume(project: Project) -> None:
    assert project.json("restart", code=1)["code"] == "up.missing"
    with pytest.raises(NotFound) as caught:
        takeover.read(project.folder)
    assert caught.value.code == "up.resume"


def test_ctrl_c_ends_with_one_line_and_130(project: Project) -> None:
    log = project.folder / "said.txt"
    (project.folder / "queue.py").write_text("raise SystemExit('a file of the project stands for a module')")
    words = [*children.PYTHON, "loopwright", "up", "--port", "0", "--data-port", "0", "--workers", "1"]
    with log.open("wb") as out:
        process = subprocess.Popen(words, cwd=project.folder, stdout=subprocess.DEVNULL, stderr=out)
    try:
        where = until(lambda: server.running(project.folder))
        assert until(lambda: once(where.control_url, "GET", "/health/ready")[0] == 200)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.wait()
    assert log.read_text().split() == ["interrupted:", "`lw", "up`", "has", "stopped"]
    assert server.running(project.folder) is None


def test_a_log_that_takes_no_rows_is_told_everywhere_and_passes_by_itself(project: Project) -> None:
    where = project.start(workers=1)
    caller = Kept(where.data_url)
    worker = until(lambda: pids(project).get("worker-0"))
    assert part(project, "worker-0")[0] == "ok"
    # what a full disk does, for this process alone: its files grow no more
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    number = 0

    def unlogged() -> bool:
        nonlocal number
        number += 1
        status, answer = caller.ask("POST", "/v2/models/tiny/infer", body(f"full-{number}"))
        assert status == 200
        return msgspec.json.decode(answer)["parameters"].get("logged") is False

    until(unlogged)
    until(lambda: unlogged() and part(project, "worker-0")[0] == "degraded")
    assert "THE LOG TAKES NO ROWS" in part(project, "worker-0")[1]
    health = once(where.control_url, "GET", "/health")[1]
    assert (health["state"], health["ready"]) == ("degraded", True)
    kinds = [event["kind"] for event in until(lambda: told_of_log(project))]
    assert kinds == ["prediction-log.failed@1"]
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert unlogged() is False
    until(lambda: part(project, "worker-0")[0] == "ok")
    assert "unlogged" in part(project, "worker-0")[1]
    caller.close()


def told_of_log(project: Project) -> list[Any]:
    events = project.json("events", "--limit", "0")["items"]
    return [event for event in events if event["kind"].startswith("prediction-log.")]


def test_a_process_that_is_stuck_or_gone_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from loopwright.project import health

    project.start(workers=1)
    found = until(lambda: len(pids(project)) == 3 and pids(project))
    monkeypatch.setattr(health, "_SILENT_US", 1_500_000)
    space = house.open(project.folder)
    try:

        def state(name: str) -> str:
            return next((part.state for part in health.look(space).parts if part.name == name), "")

        until(lambda: state("worker-0") == state("control") == state("scheduler") == "ok")
        assert health.look(space).ready
        os.kill(found["worker-0"], signal.SIGSTOP)
        until(lambda: state("worker-0") == "down")
        assert not health.look(space).ready
        os.kill(found["worker-0"], signal.SIGCONT)
        until(lambda: state("worker-0") == "ok")
        os.kill(found["control"], signal.SIGSTOP)
        until(lambda: state("scheduler") == "degraded")
        os.kill(found["control"], signal.SIGCONT)
    finally:
        space.close()
    project.stop()
    found = project.json("status")
    assert (found["server"], found["state"]) == (None, "off")
    assert [part["state"] for part in found["parts"] if part["name"] == "server"] == ["off"]


def test_a_version_that_cannot_be_read_stands_in_the_way_of_itself_only(project: Project) -> None:
    from loopwright.artifacts import names
    from loopwright.serving import publish

    space = house.open(project.folder)
    try:
        publish.publish(space)
        digest = names.get(space, "tiny", 1).digest
        tree = space.blobs.path(digest)
        tree.chmod(0o600)
        kept = tree.read_bytes()
        tree.write_bytes(b"not what was stored")
        publish.publish(space)
        assert "tiny@1" in publish.problems(space)["tiny"]
        assert [e.name for e in publish._published(space.home / "run" / publish.ROUTE_FILE).values()] == ["tiny"], (
            "it stays as it was published before"
        )
        with pytest.raises(LoopwrightError) as caught:
            publish.require_served(space, "tiny")
        assert caught.value.code == "routes.refused"
        tree.write_bytes(kept)
        publish.publish(space)
        publish.require_served(space, "tiny")
    finally:
        space.close()


def test_a_job_that_is_cut_off_by_the_end_of_its_server_is_not_blamed(project: Project) -> None:
    file = project.folder / "project.py"
    slow = "    import pathlib, time\n    pathlib.Path('begun').touch()\n    time.sleep(60)\n    x, y = data\n"
    file.write_text(file.read_text().replace("    x, y = data\n", slow))
    file.write_text(file.read_text().replace("trees: int = 10", "trees: int = 12"))
    where = project.start(workers=1)
    status, told = once(where.control_url, "POST", "/api/v1/project/run", b"{}")
    assert status == 202

    def job() -> Any:
        return once(where.control_url, "GET", told["at"])[1]

    until(lambda: job()["state"] == "running")
    begun = time.monotonic()
    project.stop()
    assert time.monotonic() - begun < 60
    where = project.start(workers=1)
    again = until(lambda: job()["state"] == "running" and job())
    assert again["attempt"] == 1, "the attempt that was cut off does not count"
    project.process.kill()  # nothing is left to be drained
    project.process.wait()


def test_the_job_server_imports_the_project_only_for_a_job_that_needs_it(project: Project) -> None:
    where = project.start(workers=1)
    server_pid = until(lambda: pids(project).get("jobs"))
    assert b"--at-work" not in processes.command_line(server_pid)
    space = house.open(project.folder)
    try:
        space.write(lambda tx: queue.enqueue(tx, "to-seal", "serving.seal", {}))
        until(lambda: found.state == "finished" if (found := queue.get(space, "to-seal")) else False)
    finally:
        space.close()
    assert b"--at-work\0bare" in processes.command_line(server_pid)
    _, told = once(where.control_url, "POST", "/api/v1/checks", b'{"ref": "tiny@1"}')
    until(lambda: once(where.control_url, "GET", told["at"])[1]["state"] == "finished")
    assert b"--at-work\0full" in processes.command_line(server_pid)


def test_a_child_that_dies_at_once_waits_longer_each_time_until_it_has_lived(tmp_path: Path) -> None:
    made = children.Child("false", ["/bin/false"], (), tmp_path / "false.log")
    waits = []
    for _ in range(9):
        made.start(tmp_path)
        until(lambda: made.died() is not None)
        waits.append(round(made.start_at_s - time.monotonic(), 1))
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert (made.restarts, made.last_exit) == (9, 1)
    made.start(tmp_path)
    made.started_s -= 60
    until(lambda: made.died() is not None)
    assert made.start_at_s <= time.monotonic()
    made.argv = [str(tmp_path / "nothing")]
    made.start(tmp_path)
    assert (made.pid, made.failures) == (0, 2), "what cannot be started is tried again"


def test_orphans_of_a_killed_supervisor_are_waited_for(tmp_path: Path) -> None:
    folder = server.run_folder(tmp_path)
    folder.mkdir(parents=True)
    code = "import fcntl, os, sys\nfd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
    code += "fcntl.flock(fd, fcntl.LOCK_EX)\nprint(1, flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "control.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        assert server.held_locks(folder) == ["control"]
        threading.Timer(0.2, holder.stdin.close).start()
        plan = children.Plan(root=tmp_path, port=0, data_port=0, workers=1, jobs=1)
        supervisor._outlive(plan)
        assert server.held_locks(folder) == []


def test_a_long_poll_is_answered_when_control_leaves(project: Project) -> None:
    where = project.start()
    with contextlib.closing(client.Client(where.control_url)) as caller:
        seq = caller.json("GET", "/api/v1/events", query={"limit": 0})[-1]["seq"]
    found: list[Any] = []

    def wait() -> None:
        with contextlib.closing(client.Client(where.control_url, timeout_s=60)) as other:
            found.append(other.json("GET", "/api/v1/events", query={"after": seq, "wait_s": 60}))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    os.kill(pids(project)["control"], signal.SIGTERM)
    thread.join(20)
    assert found == [[]]

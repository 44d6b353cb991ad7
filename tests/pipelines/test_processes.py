"""Steps in processes of their own: the same key at once, a kill in the middle, a script and its module."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from loopwright.artifacts import names
from loopwright.runs import service as runs
from loopwright.store.space import Space

PROJECT = """
import os
import signal
import sys
from pathlib import Path

import numpy as np

import loopwright as lw
from loopwright import house
from loopwright.artifacts import codecs, names
from loopwright.pipelines import hooks, service


class Fitted:
    def __init__(self, data):
        self.data = data


codecs.register(codecs.Codec(
    name="fitted", kind="fitted-model", accepts=lambda v: isinstance(v, Fitted),
    encode=lambda v, _: codecs.Encoded(files={"w": v.data}, meta={"name": "delay"}),
    decode=lambda stored: Fitted(stored.read("w")),
))
hooks.on_finish("fitted-model", lambda tx, actor, artifact, run: names.register(
    tx, actor, "delay", artifact, run=run, always=False))


def count(what):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(what + "\\n")


@lw.step
def table(rows: int = 3):
    count("table")
    return np.arange(rows)


@lw.step
def train(data=table, kill: bool = False):
    count("train")
    if os.environ.get("KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("MEET"):  # the other process must be waiting for this one by now
        (Path(os.environ["MEET"]) / "running").touch()
        while not (Path(os.environ["MEET"]) / "go").exists():
            os.sched_yield()
    return Fitted(os.urandom(8) + data.tobytes())


def main():
    space = house.open(Path(os.environ["ROOT"]))
    found = service.run_step(space, "local:me", train)
    print(found.cached, found.run.id, found.run.versions, flush=True)


if __name__ == "__main__":
    main()
"""


def environment(space: Space, folder: Path, **more: str) -> dict[str, str]:
    (folder / "project.py").write_text(PROJECT)
    return {**os.environ, "ROOT": str(space.root), "CALLS": str(folder / "calls"), **more}


def start(folder: Path, env: dict[str, str], *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=env, stdout=subprocess.PIPE, text=True)


def answer(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip()


def test_two_processes_that_want_the_same_key_run_it_once(space: Space, tmp_path: Path) -> None:
    env = environment(space, tmp_path, MEET=str(tmp_path))
    first = start(tmp_path, env, "project.py")
    while not (tmp_path / "running").exists():
        assert first.poll() is None
    second = start(tmp_path, env, "project.py")
    lock = next((space.home / "run").glob("step-*.lock"))
    while not _waits_for(second.pid, lock):
        assert second.poll() is None
    (tmp_path / "go").touch()
    one, two = answer(first), answer(second)
    assert one.startswith("False") and two.startswith("True")
    assert one.split(maxsplit=1)[1] == two.split(maxsplit=1)[1], "the same run and the same version"
    assert (tmp_path / "calls").read_text() == "table\ntrain\n"
    assert [v.ref for v in names.versions(space, "delay")] == ["delay@1"]
    assert list((space.home / "run").glob("step-*.lock")) == []


def _waits_for(pid: int, lock: Path) -> bool:
    """Whether a process has the lock's file open, as it does when it waits for it."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return any(os.readlink(entry) == str(lock) for entry in folder.iterdir())
    except FileNotFoundError:
        return False


def test_a_step_whose_process_was_killed_runs_again(space: Space, tmp_path: Path) -> None:
    env = environment(space, tmp_path)
    dead = start(tmp_path, {**env, "KILL": "1"}, "project.py")
    dead.communicate(timeout=60)
    assert dead.returncode == -signal.SIGKILL
    assert names.newest(space, "delay") is None
    assert answer(start(tmp_path, env, "project.py")).startswith("False")
    assert (tmp_path / "calls").read_text() == "table\ntrain\ntrain\n", "what was finished is not done again"
    assert [(r.name, r.state) for r in runs.search(space).items] == [
        ("train", "finished"),
        ("train", "failed"),
        ("table", "finished"),
    ]


def test_a_script_and_its_module_are_the_same_code(space: Space, tmp_path: Path) -> None:
    env = environment(space, tmp_path)
    assert answer(start(tmp_path, env, "project.py")).startswith("False")
    assert answer(start(tmp_path, env, "-c", "import project; project.main()")).startswith("True")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "project.py").write_text(PROJECT)
    assert answer(start(moved, env, "project.py")).startswith("True")


CELLS = """
import linecache, os, sys
from pathlib import Path
import loopwright as lw
from loopwright import house
from loopwright.pipelines import service

space = house.open(Path(os.environ["ROOT"]))
names = {"__name__": "__main__", "lw": lw}

def cell(number, text):
    name = f"<cell {os.getpid()} {number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), names)

cell(1, "K = 1\\ndef helper(v):\\n    return v + K\\n")
cell(2, "@lw.step\\ndef step(x: int):\\n    return helper(x)\\n")
told = []
def run():
    found = service.run_step(space, "local:me", names["step"], {"x": 1})
    told.append((found.cached, found.result))
run(); run()
cell(3, "K = 2\\n"); run(); run()
cell(4, "def helper(v):\\n    return v + K + 10\\n"); run(); run()
exec("K = 3", names); run()
exec("@lw.step\\ndef typed(x: int):\\n    return helper(x) * 2\\n", names)
for _ in range(2):
    found = service.run_step(space, "local:me", names["typed"], {"x": 1})
    told.append((found.cached, found.result))
print(told)
"""


def test_steps_of_a_notebook_notice_what_other_cells_change(space: Space, tmp_path: Path) -> None:
    env = environment(space, tmp_path)
    first = [
        (False, 2),
        (True, 2),
        (False, 3),
        (True, 3),
        (False, 13),
        (True, 13),
        (False, 14),
        (False, 28),
        (True, 28),
    ]
    assert answer(start(tmp_path, env, "-c", CELLS)) == str(first)
    again = answer(start(tmp_path, env, "-c", CELLS))
    assert again == str([(True, value) for _, value in first]), "a kernel that is started again finds its results"

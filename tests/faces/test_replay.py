"""A replay on a tiny project: sent = answered = logged, labels joined, resumable, the same decisions again."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from loopwright.faces.replay import Replay
from loopwright.kernel.times import parse_time
from loopwright.project import server

Project = Any  # of conftest.py
FILES = ("--requests", "requests.parquet", "--labels", "labels.csv")
ASKED_UNTIL_FEB_4 = 25 + 10 * 30  # from 04:00 of the first day on


def decisions(project: Project) -> str:
    found: str = project.lw("events", "--kind", "decision", "--limit", "0", "--json", "--stable")
    return found


def replay(project: Project, *words: str) -> Any:
    return project.json("replay", "tiny", *FILES, "--until", "2020-02-04", *words)


def logged(project: Project) -> tuple[int, int, int]:
    """Rows, different requests, and rows with a label."""
    import duckdb

    out = project.folder / "log.parquet"
    project.lw("predictions", "tiny", "--out", str(out))
    sql = f"SELECT count(*), count(DISTINCT request_id), count(label) FROM '{out}'"
    [row] = duckdb.sql(sql).fetchall()
    return row


def test_a_replay_and_the_same_killed_and_resumed(project: Project, deployed: Path, tmp_path: Path) -> None:
    found = replay(project)
    assert found["schema"] == "lw.replay/1"
    assert (found["sent"], found["answered"], found["failed"]) == (ASKED_UNTIL_FEB_4, ASKED_UNTIL_FEB_4, 0)
    assert found["complete"] and found["labels"] == ASKED_UNTIL_FEB_4
    assert found["clock"] == "2020-02-05T04:00:00Z"
    assert logged(project) == (ASKED_UNTIL_FEB_4,) * 3
    first = decisions(project)
    assert first.count('"kind"') >= 2
    assert server.running(project.folder) is None, "the server that a replay started ends with it"
    again = replay(project)
    assert (again["sent"], again["complete"], again["clock"]) == (0, True, found["clock"])
    assert decisions(project) == first
    longer = project.json("replay", "tiny", *FILES, "--until", "2020-02-05")
    assert (longer["missed"], longer["sent"], longer["failed"]) == (5, 25, 0), "05:00 is past"

    import shutil

    copy = type(project)(tmp_path / "killed")
    shutil.copytree(deployed, copy.folder, symlinks=True)
    command = [sys.executable, "-m", "loopwright", "replay", "tiny", *FILES, "--until", "2020-02-04"]
    for wait_s in (4.0, 5.0):
        process = subprocess.Popen(
            [*command, "--days-per-second", "1.5", "--seed", "7"],
            cwd=copy.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(wait_s)  # any moment will do
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    resumed = replay(copy, "--seed", "9")
    assert resumed["complete"] and resumed["failed"] == 0
    rows, requests, labels = logged(copy)
    assert (rows, requests, labels) == (ASKED_UNTIL_FEB_4,) * 3
    assert decisions(copy) == first


def test_a_replay_needs_a_replay_clock_and_an_endpoint(project: Project, tmp_path: Path) -> None:
    other = type(project)(tmp_path / "wall")
    other.folder.mkdir()
    other.lw("init")
    for name in ("requests.parquet", "labels.csv"):
        (other.folder / name).write_bytes((project.folder / name).read_bytes())
    found = other.json("replay", "tiny", *FILES, code=2)
    assert (found["code"], found["field"]) == ("replay.clock", "clock")
    assert "lw init --clock replay" in found["hint"]
    found = project.json("replay", "other", *FILES, code=1)
    assert (found["code"], found["hint"]) == ("endpoint.missing", "lw deploy other")
    found = project.json("replay", "tiny", "--requests", "requests.parquet", "--labels", "outcomes.csv", code=2)
    assert (found["field"], "outcomes.csv" in found["message"]) == ("label", True)


def test_ctrl_c_ends_with_130_and_can_go_on(project: Project) -> None:
    command = [sys.executable, "-m", "loopwright", "replay", "tiny", *FILES, "--until", "2020-01-28"]
    process = subprocess.Popen(
        [*command, "--days-per-second", "0.5"],
        cwd=project.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while server.running(project.folder) is None:
        time.sleep(0.05)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().strip().split("\n")[-1].startswith("interrupted")
    assert server.running(project.folder) is None
    found = project.json("replay", "tiny", *FILES, "--until", "2020-01-28")
    assert found["complete"] and found["failed"] == 0
    assert logged(project)[1] == 25 + 3 * 30


def test_an_advance_that_was_answered_before_all_was_done_is_waited_for() -> None:
    answers = [{"now": "2013-04-02T04:00:00Z", "settled": settled} for settled in (False, False, True)]

    class Control:
        def json(self, verb: str, path: str, fields: Any = None) -> Any:
            return answers.pop(0)

    made = Replay.__new__(Replay)
    made._control = cast("Any", Control())
    assert asyncio.run(made._advance(parse_time("2013-04-02T04:00:00Z")))["settled"]
    assert answers == []

"""A power cut, a full disk, a read-only disk: on real mounts, with a real worker that answers meanwhile."""

import contextlib
import http.client
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import (
    KEPT_S,
    Client,
    Disk,
    NoMount,
    ask,
    fill,
    full,
    own_mounts,
    power,
    power_within,
    small_disk,
    wait_for,
    why_no_mounts,
    worker,
)
from lab import Lab
from points import have_strace

CUTS = 7


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if why := why_no_mounts():
        pytest.skip(why)
    try:
        own_mounts()
        with contextlib.closing(Lab(tmp_path_factory.mktemp("lab"))) as made:
            made.prepare()
            with small_disk(made, 100), Disk(made, "base").mounted():
                pass
            yield made
    except NoMount as error:
        pytest.skip(f"disks cannot be mounted here: {error}")


def test_a_power_cut_at_the_acknowledgement_loses_nothing(lab: Lab) -> None:
    cuts = power(lab, CUTS, live_s=1.3)
    assert cuts.tally.faults == []
    assert cuts.tally.attempted == CUTS
    assert cuts.rows > 0, "no prediction was old enough to be promised"


def test_a_power_cut_within_an_operation_leaves_it_done_or_not(lab: Lab) -> None:
    cuts = power_within(lab, CUTS)
    assert cuts.tally.faults == []
    assert cuts.tally.attempted == CUTS
    assert cuts.cut_short > 0, "every cut came too late"


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_metric_points_are_kept(lab: Lab, power: bool) -> None:
    disk = Disk(lab, "base")
    with disk.mounted() as project:
        begun = lab.begin(project, "log_points")
        wait_for(lambda: begun.said().count("\n") > 400)
        cut_s = disk.cut() if power else math.inf
        begun.kill()
        if power:
            disk.again()
        run, *told = begun.said().splitlines()
        kept = [(float(number), float(at_s)) for number, at_s in (line.split() for line in told)]
        due = [number for number, at_s in kept if at_s < cut_s - KEPT_S]
        logged = lab.ask(project, "points", run=run)
        assert due and logged[: len(due)] == due


def test_a_full_disk_is_refused_by_name_and_nothing_is_lost(lab: Lab) -> None:
    tally = full(lab, (0, 100))
    assert tally.faults == []


def test_a_process_goes_on_when_a_full_disk_has_room_again(lab: Lab) -> None:
    with small_disk(lab, 6000) as place:
        project = place / "project"
        shutil.copytree(lab.folder / "base", project, symlinks=True)
        done = lab.ask(project, "endure", free=str(fill(place, 900)))
        assert (len(done["kept"]) > 1 and "No space left" in done["told"]) or "no space left" in done["told"]
        held = {number: digest for name, number, digest in lab.ask(project, "state")["versions"] if name == "filling"}
        assert held == dict(done["kept"])
        assert lab.lw(project, "fsck").code == 0


@pytest.mark.parametrize("log", ["kept", "required"])
def test_a_worker_on_a_full_disk_says_what_it_did_not_log(lab: Lab, log: str) -> None:
    with small_disk(lab, 4096) as place:
        project = place / "project"
        shutil.copytree(lab.folder / "base", project, symlinks=True)
        if log == "required":
            file = project / "project.py"
            file.write_text(
                file.read_text().replace('target="good",\n    gate', 'target="good",\n    log="required",\n    gate')
            )
            lab.must(lab.lw(project, "run"))
        with worker(lab, project) as port:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with contextlib.closing(connection):
                first = ask(connection, "before")
                assert first is not None and first["parameters"].get("logged", True)
                filler, told = fill(place, 0), first
                # what is left of the file's last block is still taken
                for number in range(200):
                    told = ask(connection, f"full-{number}")
                    if told is None or not told["parameters"].get("logged", True):
                        break
                if log == "required":
                    assert told is None, "it answered what it could not log"
                else:
                    assert told is not None and told["parameters"]["logged"] is False
                filler.unlink()
                after = ask(connection, "after")
                assert after is not None and after["parameters"].get("logged", True), "it did not recover by itself"
        logged = {row[0] for row in lab.ask(project, "state")["predictions"]}
        assert {"before", "after"} <= logged
        assert lab.must(lab.call(project, "seal"))["rows"] >= 42


def test_a_read_only_disk_is_told_and_does_no_harm(lab: Lab) -> None:
    disk = Disk(lab, "base")
    with disk.mounted() as project:
        before = lab.ask(project, "state")
        disk.read_only(True)
        for words in (("run", "-p", "trees=9"), ("rollback", "small"), ("gc", "--grace", "0s")):
            done = lab.lw(project, *words)
            assert done.code == 1 and "read-only" in done.err.lower(), done
            assert "Traceback" not in done.err
        disk.read_only(False)
        assert lab.ask(project, "state") == before
        lab.must(lab.lw(project, "run", "-p", "trees=9"))


def test_a_worker_whose_disk_takes_no_writes_any_more_answers_and_says_so(lab: Lab) -> None:
    disk = Disk(lab, "base")
    with disk.mounted() as project:
        with worker(lab, project) as port:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with contextlib.closing(connection):
                first = ask(connection, "before")
                assert first is not None and first["parameters"].get("logged", True)
                disk.cut()
                for number in range(20):
                    told = ask(connection, f"after-{number}")
                    assert told is not None and told["parameters"]["logged"] is False
        disk.again()
        lab.must(lab.lw(project, "fsck"))


def test_a_disk_that_refuses_to_sync_is_told_and_loses_no_row(lab: Lab, tmp_path: Path) -> None:
    if why := have_strace():
        pytest.skip(why)
    broken = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1..3")
    with lab.copy("base", tmp_path) as project:
        report = project / ".loopwright" / "run" / "worker-0.json"
        with worker(lab, project, broken) as port:
            client = Client(port)
            client.start()
            wait_for(lambda: report.exists() and json.loads(report.read_bytes())["failed_syncs"] >= 3)
            asked = client.stop()
        assert asked.rows and not asked.unlogged
        # what comes after a failed sync goes to another file: nobody knows what the first holds on the disk
        assert len(list((project / ".loopwright" / "spool" / "small").glob("00*.spool"))) >= 3
        lab.must(lab.call(project, "seal"))
        logged = {row[0] for row in lab.ask(project, "state")["predictions"]}
        assert [name for name, _ in asked.rows if name not in logged] == []


def test_predictions_that_were_answered_survive_kill_9(lab: Lab, tmp_path: Path) -> None:
    with lab.copy("base", tmp_path) as project:
        with worker(lab, project) as port:
            client = Client(port, 0)
            client.start()
            while len(client.asked.rows) < 300:
                assert client.is_alive(), "the client ended"
        asked = client.stop()
        logged = {row[0] for row in lab.ask(project, "state")["predictions"]}
        assert [name for name, _ in asked.rows if name not in logged] == []
        lab.must(lab.call(project, "seal"))
        sealed = {row[0] for row in lab.ask(project, "state")["predictions"]}
        assert sealed == logged
        assert json.loads(lab.lw(project, "status", "--json").out)

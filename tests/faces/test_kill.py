"""kill -9 of every process of `lw up` in turn, under load, as the bench does it at length: nothing fails or is lost."""

import shutil
from pathlib import Path

import kill
import small


def test_killed_processes_cost_no_request_and_no_row(deployed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(deployed, folder, symlinks=True)
    served = small.Served(folder)
    served.start()
    try:
        load, killer = kill.attack(served, kill.Size(rows=500, rounds=1, clients=3, pause_s=0.2), seed=3)
        wrong = kill.audit(load)
    finally:
        served.stop()
    assert load.failed == []
    assert wrong == {"lost": [], "doubled": [], "unlike": []}
    assert set(killer.killed) == set(kill.VICTIMS)
    assert len(load.answers) >= 500 and set(load.labelled) == set(load.answers)

"""A project in a folder: declared, run, accepted, found again; without git, in odd folders, with bad words."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import loopwright as lw
from loopwright import house
from loopwright.kernel.errors import Invalid, NotFound
from loopwright.kernel.settings import Settings
from loopwright.project import entry, service
from loopwright.project.declare import ENDPOINTS
from loopwright.store.space import Space

PROJECT = """
import loopwright as lw

orders = lw.data("data/orders.csv", key="id", known="asked_at")
outcomes = lw.data("data/outcomes.csv", key="id", known="known_at")
tiny_features = lw.features("tiny_features", orders, columns=["km"])


@lw.step
def table(until: str = "now"):
    x, y = tiny_features.training(labels=outcomes, target="late", until=until)
    return {"rows": len(x), "late": int(y.sum())}


@lw.step
def fit(counts=table, scale: float = 1.0):
    lw.log(share=counts["late"] / counts["rows"])
    return counts["rows"] * scale


lw.endpoint("tiny", model=fit, features=tiny_features, labels=outcomes, target="late")

if __name__ == "__main__":
    print(lw.run(fit))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project without git, in a folder whose name has a space and an umlaut."""
    made = tmp_path / "mein Projekt ü"
    (made / "data").mkdir(parents=True)
    (made / "project.py").write_text(PROJECT)
    rows = [f"o{n},2024-01-01T{n % 24:02d}:00:00Z,{n % 7}" for n in range(48)]
    (made / "data" / "orders.csv").write_text("id,asked_at,km\n" + "\n".join(rows) + "\n")
    rows = [f"o{n},{int(n % 3 == 0)},2024-01-02T{n % 24:02d}:30:00Z" for n in range(48)]
    (made / "data" / "outcomes.csv").write_text("id,late,known_at\n" + "\n".join(rows) + "\n")
    house.init(made, Settings(entry="project.py")).close()
    return made


def lw_(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "loopwright", *words], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_the_file_and_the_command_do_the_same_and_the_second_finds_it(folder: Path) -> None:
    by_file = subprocess.run(
        [sys.executable, "project.py"], cwd=folder, capture_output=True, text=True, timeout=120, check=True
    )
    assert by_file.stdout == "48.0\n" and "ran as run_" in by_file.stderr and "orders@1: 48 rows" in by_file.stderr
    by_command = lw_(folder, "run")
    assert by_command.returncode == 0 and "found again" in by_command.stdout
    other = lw_(folder, "run", "fit", "-p", "scale=2.0")
    assert other.returncode == 0 and "ran as run_" in other.stdout


def test_wrong_words_are_answered_with_what_to_type(folder: Path) -> None:
    for words, code, said in [
        (("run", "nothing"), 1, "lw run fit|table"),
        (("run", "-p", "scal=2"), 2, "scale"),
        (("run", "-p", "scale=much"), 2, "scale"),
    ]:
        done = lw_(folder, *words)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_parameters_are_read_by_the_annotations_of_the_steps(folder: Path) -> None:
    year = lw_(folder, "run", "table", "-p", "until=2025", "--json")
    assert "2025" in year.stderr + year.stdout and "must be of type str" not in year.stderr + year.stdout
    whole = lw_(folder, "run", "-p", "scale=2", "-p", "table.until=2024-01-05")
    assert whole.returncode == 0, whole.stderr


def test_a_project_that_raises_is_told_as_one(folder: Path) -> None:
    (folder / "project.py").write_text("raise RuntimeError('mine')\n")
    done = lw_(folder, "run")
    assert done.returncode != 0 and "project.py failed while it was loaded: RuntimeError: mine" in done.stderr


def test_accepting_stores_the_code_once_and_again_when_it_changes(folder: Path) -> None:
    space = house.open(folder)
    try:
        _accept(space, folder)
        first = service.accepted(space)
        _accept(space, folder)
        assert _count(space) == 1
        (folder / "helper.py").write_text("X = 1\n")
        _accept(space, folder)
        second = service.accepted(space)
        assert second.digest != first.digest and _count(space) == 2
        written = service.materialised(space, second)
        assert written.read_text() == PROJECT and (written.parent / "helper.py").exists()
        assert not (written.parent / "data").exists()
    finally:
        space.close()


def test_an_entry_outside_the_project_is_refused(folder: Path, tmp_path: Path) -> None:
    space = house.open(folder)
    try:
        with pytest.raises(Invalid, match="outside"):
            service.accept(space, "local:me", tmp_path / "elsewhere.py")
        with pytest.raises(NotFound):
            service.accepted(space)
    finally:
        space.close()


def _accept(space: Space, folder: Path) -> None:
    ENDPOINTS.clear()
    entry.load(folder / "project.py")
    service.accept(space, "local:me", folder / "project.py")


def _count(space: Space) -> int:
    with space.read() as tx:
        return int(tx.value("SELECT COUNT(*) FROM projects"))


@pytest.mark.parametrize(
    ("options", "field"),
    [({"colour": 1}, "colour"), ({"timezone": "Mars/Base"}, "timezone"), ({"keep": ("other@1",)}, "keep")],
)
def test_an_endpoint_refuses_options_by_name(options: dict[str, Any], field: str) -> None:
    orders = lw.data("orders.csv", key="id", known="asked_at")
    made = lw.features("f", orders, columns=["km"])

    @lw.step
    def fit() -> int:
        return 1

    with pytest.raises(Invalid) as caught:
        lw.endpoint("tiny2", model=fit, features=made, labels=orders, target="late", **options)
    assert caught.value.field == field
    assert "tiny2" not in ENDPOINTS


def test_a_project_that_ends_itself_while_it_is_loaded_is_told_as_one(folder: Path) -> None:
    (folder / "project.py").write_text("import sys\nsys.exit(0)\n")
    done = lw_(folder, "run")
    assert done.returncode == 2 and "SystemExit" in done.stderr


def test_a_typed_session_runs_a_step_again_and_again_with_few_files(folder: Path) -> None:
    code = """
import os
import loopwright as lw
@lw.step
def one(seed: int = 1) -> int:
    return seed
counts = []
for seed in range(5):
    assert lw.run(one, seed=seed, root=".") == seed
    counts.append(len(os.listdir("/proc/self/fd")))
assert lw.run(one) == 1
assert counts[-1] <= counts[1], counts
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_hidden_files_are_no_code_of_a_project_in_git(folder: Path) -> None:
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".streamlit").mkdir()
    for name in (".env", ".secrets.json", ".streamlit/secrets.toml"):
        (folder / name).write_text("x")
    assert set(service.code_files(folder)) == {"project.py", "loopwright.toml"}


def test_settings_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, "fsync", refuse)
        house.init(tmp_path / "full", Settings(entry="project.py"))
    house.init(tmp_path / "whole", Settings(entry="project.py")).close()
    assert [path.name for path in (tmp_path / "whole").iterdir() if "toml" in path.name] == ["loopwright.toml"]
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, "replace", refuse)
        house.init(tmp_path / "cut", Settings(entry="project.py"))
    assert not (tmp_path / "cut" / "loopwright.toml").exists()


def test_a_link_that_leads_out_of_the_project_is_no_code_of_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (folder / "linked.json").symlink_to(tmp_path / "secret.json")
    (folder / "inner.py").symlink_to(folder / "project.py")
    assert set(service.code_files(folder)) == {"project.py", "inner.py", "loopwright.toml"}


def test_init_refuses_other_settings_than_those_that_are_there(folder: Path) -> None:
    before = (folder / "loopwright.toml").read_text()
    done = lw_(folder, "init", "--clock", "replay", "--start", "2020-01-01")
    assert done.returncode == 2 and "says something else" in done.stderr
    assert (folder / "loopwright.toml").read_text() == before
    assert lw_(folder, "init", "--entry", "project.py").returncode == 0


def test_what_the_system_refuses_is_one_line(folder: Path) -> None:
    done = lw_(folder, "init", "/proc/nowhere")
    assert (done.returncode, done.stderr) == (1, "error: No such file or directory: /proc/nowhere\n")

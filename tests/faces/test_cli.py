"""The command line: every command from its row, one document with `--json`, misuse ends with 2 and the next command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loopwright import house
from loopwright.faces import cli, commands, index, text
from loopwright.kernel import errors
from loopwright.kernel.pages import Page
from loopwright.monitors.model import Alarm
from loopwright.store import space as spaces
from loopwright.store.space import Space


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(lambda: house, words)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_index_of_commands_is_up_to_date() -> None:
    assert commands.index(house) == index.COMMANDS, "run: python tests/faces/write_index.py"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for name in [*cli.VERBS, *index.COMMANDS]:
        assert f"\n  {name} " in out
    assert call(capsys)[1] == out
    assert call(capsys, "--version")[1].startswith("loopwright ")


@pytest.mark.parametrize("name", sorted([*cli.VERBS, *index.COMMANDS]))
def test_every_command_has_help_and_json(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = call(capsys, name, "--help")
    assert code == 0
    command = cli.Face(lambda: house).get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    leaves = list(getattr(command, "commands", {}).values()) or [command]
    for leaf in leaves:
        assert "as_json" in {param.name for param in leaf.params}, leaf.name
    assert out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["evnts"], "lw events"),
        (["xyzzy"], "lw --help"),
        (["events", "--knd", "decision"], "lw events --help"),
        (["events", "--kind", "sometimes"], "lw events --help"),
        (["events", "--after"], "lw events --help"),
        (["trace"], "lw trace --help"),
        (["replay", "delay"], "lw replay --help"),
        (["replay", "delay", "--requests", "r.csv", "--labels", "l.csv", "--until", "soon"], None),
        (["replay", "delay", "--requests", "r.csv", "--labels", "l.csv", "--days-per-second", "0"], None),
        (["api", "artifacts.get_version", "name"], None),
        (["api", "artifacts.get_version", "name=x", "number=y"], None),
        (["demo"], "lw demo --help"),
        (["--nonsense"], "lw --help"),
    ],
)
def test_misuse_ends_with_2(
    capsys: pytest.CaptureFixture[str],
    space: Space,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    hint: str | None,
) -> None:
    monkeypatch.chdir(space.root)
    code, out, err = call(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    if hint is not None:
        assert f"try: {hint}\n" in err
    code, out, err = call(capsys, *words, "--json")
    document = json.loads(out)
    assert (code, err, document["schema"]) == (2, "", "lw.error/1")
    assert set(document) == {"schema", "kind", "code", "message", "field", "hint"}


def test_outside_a_project_the_next_command_is_init(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spaces.bind(None)
    code, _, err = call(capsys, "events")
    assert (code, "try: lw init" in err) == (1, True)


def test_init_makes_a_project_and_finds_its_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import loopwright as lw\n")
    (tmp_path / "other.py").write_text("print()\n")
    code, out, _ = call(capsys, "init", str(tmp_path), "--json")
    made = json.loads(out)
    assert (code, made["schema"], made["entry"], made["clock"]) == (0, "lw.init/1", "mine.py", "wall")
    assert 'entry = "mine.py"' in (tmp_path / "loopwright.toml").read_text()
    assert (tmp_path / ".loopwright" / ".gitignore").read_text() == "*\n"
    assert call(capsys, "init", str(tmp_path))[0] == 0


def test_a_name_from_elsewhere_does_not_speak_to_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b]0;pwned\x07\x1b[2J\r\u202eabc\x9b1m"
    (tmp_path / "x.csv").write_text(f"id,{evil.replace(chr(13), '')},at\n1,2,2020-01-01\n")
    monkeypatch.chdir(tmp_path)
    house.init(tmp_path).close()
    for words in (("add", "x.csv"), ("show", "x"), ("show", evil), ("api", "data.get", "name=x")):
        _, out, err = call(capsys, *words)
        assert not set(out + err) & set("\x1b\x07\r\u202e\x9b"), words
    assert "\\u001b]0;pwned\\u0007" in call(capsys, "show", "x")[1]
    assert text.tame("\x1b[1mbold\x1b[0m, plain\n\tä \u4e2d") == "\x1b[1mbold\x1b[0m, plain\n\tä \u4e2d"


def test_results_are_documents_or_text(capsys: pytest.CaptureFixture[str], space: Space) -> None:
    code, out, _ = call(capsys, "fsck", "--json")
    told = json.loads(out)
    assert (code, told["schema"], told["blobs"], told["damage"]) == (0, "lw.fsck/1", 0, [])
    code, out, _ = call(capsys, "audit", "--verify")
    assert code == 0 and out.startswith("0 events")
    code, out, _ = call(capsys, "api", "artifacts.list_names", "--json")
    assert json.loads(out) == {"schema": "lw.artifacts.list_names/1", "items": []}
    code, out, _ = call(capsys, "api", "--openapi")
    assert json.loads(out)["openapi"] == "3.1.0"
    code, out, _ = call(capsys, "api")
    assert "artifacts.get_version" in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Invalid("x"), 2),
        (errors.Unsupported("x"), 2),
        (errors.GateFailed("x"), 3),
        (errors.GateFailed("x", code="approval.missing"), 5),
        (errors.NotFound("x"), 1),
        (errors.Forbidden("x"), 1),
        (errors.Corrupt("x"), 1),
    ],
)
def test_exit_codes(error: errors.LoopwrightError, code: int) -> None:
    assert cli.exit_code(error) == code


def test_a_changed_event_ends_with_1(capsys: pytest.CaptureFixture[str], space: Space) -> None:
    assert call(capsys, "audit", "checkpoint")[0] == 0
    assert call(capsys, "audit", "seal")[0] == 0
    space.write(lambda tx: tx.execute("UPDATE events SET actor = 'other'"))
    code, out, _ = call(capsys, "audit", "--verify", "--json")
    told = json.loads(out)
    assert (code, told["ok"], [finding["what"] for finding in told["findings"]]) == (1, False, ["edited"])
    assert call(capsys, "audit")[0] == 0, "without --verify nothing is read again"


def test_an_open_alarm_ends_with_4(capsys: pytest.CaptureFixture[str], space: Space) -> None:
    alarm = {"id": "a", "endpoint": "e", "kind": "quality", "opened_us": 1, "closed_us": None, "reason": "x"}
    op = house.ops()["monitors.list_alarms"]
    assert op.exit_code is not None
    for closed, code in ((None, cli.ALARM), (2, cli.OK)):
        found = Page(items=[Alarm(**{**alarm, "closed_us": closed}, explanation={})])  # type: ignore[arg-type]
        assert op.exit_code(found) == code


def test_settings_say_what_set_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loopwright.toml").write_text('port = 4711\nclock = "wall"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOPWRIGHT_HOST", "127.0.0.2")
    code, out, _ = call(capsys, "config", "--show-origin", "--json")
    rows = {row["name"]: (row["value"], row["origin"]) for row in json.loads(out)["items"]}
    assert code == 0
    assert rows["port"] == (4711, "loopwright.toml")
    assert rows["host"] == ("127.0.0.2", "LOOPWRIGHT_HOST")
    assert rows["workers"] == (0, "default")
    assert {"name": "port", "value": 4711} in json.loads(call(capsys, "config", "--json")[1])["items"]


@pytest.mark.parametrize("verb", sorted(cli.LOCAL))
def test_what_works_here_only_takes_no_address(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, _, err = call(capsys, "--url", "http://127.0.0.1:9", verb)
    assert code == 2 and "this machine only" in err


def test_nobody_elsewhere_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--url", "http://127.0.0.1:9", "status", "--json")
    assert (code, json.loads(out)["code"]) == (1, "up.silent")


def lw(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[Any]:
    run = [sys.executable, "-m", "loopwright", *words]
    return subprocess.run(run, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_a_shell_can_complete_commands(tmp_path: Path) -> None:
    ran = lw(cwd=tmp_path, _LW_COMPLETE="bash_complete", COMP_WORDS="lw ev", COMP_CWORD="1")
    assert ran.stdout.split() == ["plain,events"]


def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path) -> None:
    run = f"{sys.executable} -m loopwright --help | head -c 1"
    ran = subprocess.run(["sh", "-c", run], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stderr == ""


def test_a_file_whose_name_reads_as_a_number_is_still_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    op = house.ops()["serving.add_labels"]
    monkeypatch.chdir(tmp_path)
    Path("5").write_bytes(b"{}")
    assert commands._words(op, {"endpoint": "m", **commands.pairs(["body=5"], "fields")})["body"] == b"{}"
    with pytest.raises(errors.Invalid, match="cannot be read"):
        commands._words(op, {"endpoint": "m", **commands.pairs(["body=[1]"], "fields")})

"""Getting started is followed to the letter: every file it shows is written, every command it shows is run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pages
import pytest
import write_schemas
from pages import Block

PAGE = "docs/getting-started.md"
BIN = Path(sys.executable).parent
Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Runs one command after the other, each where the one before has left off."""
    where, start = tmp_path / ".where", tmp_path / "start"
    start.mkdir()
    where.write_text(str(start))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LOOPWRIGHT"))}
    env |= {"PATH": f"{BIN}{os.pathsep}{env['PATH']}", "WHERE": str(where), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        script = f'{command}\ncode=$?\npwd > "$WHERE"\nexit $code'
        cwd = where.read_text().strip()
        return subprocess.run(["bash", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, check=False)

    yield run
    run("lw down")


def runnable(block: Block) -> bool:
    return bool(block.file) or (block.language == "console" and "norun" not in block.options)


def test_the_page_can_be_followed(shell: Shell, tmp_path: Path) -> None:
    done = 0
    for block in filter(runnable, pages.blocks(PAGE, pages.pages()[PAGE])):
        if block.file:
            (tmp_path / "start" / block.file).write_text(block.body)
            continue
        for command in pages.commands(block):
            ran = shell(command.text)
            assert ran.returncode == 0, f"{block.name}: {command.text}\n{ran.stdout}{ran.stderr}"
            assert pages.shows(command.shown, ran.stdout), f"{block.name}: {command.text} printed\n{ran.stdout}"
            done += 1
    assert done > 10
    documents_fit(shell)


def documents_fit(shell: Shell) -> None:
    """What the commands of the followed project print with --json is what docs/schemas says."""
    asked = {
        "trace": "trace $(cat prediction.txt)", "show": "show late", "log": "log late", "events": "events",
        "check": "check late", "status": "status", "fsck": "fsck", "audit": "audit --verify",
    }  # fmt: skip
    assert set(asked) == set(write_schemas.STABLE)
    for command, words in asked.items():
        document = json.loads(shell(f"lw {words} --json").stdout)
        jsonschema.validate(document, json.loads(write_schemas.file_of(command).read_text()))
        if command == "trace":
            assert (document["request_id"], document["label"], document["version"]) == ("order-9001", 1, "late@1")
    stable = json.loads(shell("lw events --kind decision --stable --json").stdout)
    assert [item["kind"] for item in stable["items"]] == ["gate.passed@1", "endpoint.deployed@1"]


def test_the_readme_shows_the_same_project() -> None:
    told = {
        page: [b.body for b in pages.blocks(page, text) if b.file.endswith("shop.py")]
        for page, text in pages.pages().items()
    }
    assert told["README.md"] == told[PAGE] != []

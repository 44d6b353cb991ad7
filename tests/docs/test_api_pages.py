"""The list of operations is that of the rows, and the page of the audit can be followed."""

import subprocess
import sys
from pathlib import Path

import pages
import write_api

from loopwright.faces import cli

AUDIT, ELSEWHERE = "docs/guides/audit.md", "docs/guides/elsewhere.md"


def test_what_is_committed_is_what_the_rows_say() -> None:
    assert write_api.FILE.read_text() == write_api.text(), "run: python tests/docs/write_api.py"


def test_the_page_of_the_audit_can_be_followed(tmp_path: Path) -> None:
    done = 0
    for block in pages.blocks(AUDIT, pages.pages()[AUDIT]):
        for command in pages.commands(block) if block.language == "console" else ():
            words = command.text.split()
            assert words[0] == "lw"
            run = [sys.executable, "-m", "loopwright", *words[1:]]
            ran = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, f"{block.name}: {command.text}\n{ran.stdout}{ran.stderr}"
            assert pages.shows(command.shown, ran.stdout), f"{block.name}: {command.text} printed\n{ran.stdout}"
            done += 1
    assert done >= 7


def test_the_exit_codes_are_those_of_the_page() -> None:
    codes = {cli.OK, cli.FAILED, cli.WRONG_USE, cli.REFUSED, cli.ALARM, cli.NEEDS_APPROVAL, cli.INTERRUPTED}
    told = pages.pages()[ELSEWHERE]
    rows = [line for line in told.splitlines() if line.startswith("| ") and line.split("|")[1].strip().isdigit()]
    assert {int(row.split("|")[1]) for row in rows} == codes

"""The page on access is followed: its commands run one after the other in a new project."""

import os
import subprocess
import sys
from pathlib import Path

import pages

from loopwright.access.roles import ROLES

PAGE = "docs/guides/access.md"


def test_the_page_can_be_followed(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LOOPWRIGHT"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = 0
    for block in pages.blocks(PAGE, pages.pages()[PAGE]):
        if block.language != "console" or "norun" in block.options:
            continue
        for command in pages.commands(block):
            argv = ["bash", "-c", command.text]
            ran = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, f"{command.text}\n{ran.stdout}{ran.stderr}"
            assert pages.shows(command.shown, ran.stdout), f"{command.text} printed\n{ran.stdout}"
            done += 1
    assert done > 6


def test_the_page_has_the_roles_that_there_are() -> None:
    text = pages.pages()[PAGE]
    assert [role for role in ROLES if f"| {role} |" in text] == list(ROLES)

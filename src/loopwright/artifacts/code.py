"""The state of the code in git: commit, whether it differs, and the difference. Works without git."""

import os
import subprocess
from pathlib import Path

import msgspec


class CodeState(msgspec.Struct, frozen=True, kw_only=True):
    """What git says of a project's folder; `commit` is None outside a repository."""

    commit: str | None
    dirty: bool
    diff: bytes = b""


def code_state(root: Path) -> CodeState:
    """The commit checked out in `root`, and the difference of the tracked files against it."""
    commit = _git(root, "rev-parse", "--verify", "-q", "HEAD")
    if commit is None:
        return CodeState(commit=None, dirty=False)
    diff = _git(root, "diff", "HEAD", "--no-color", "--no-ext-diff", "--binary", "--", ".") or b""
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or b""
    dirty = bool(diff or untracked)
    return CodeState(commit=commit.decode().strip(), dirty=dirty, diff=diff)


def _git(root: Path, *args: str) -> bytes | None:
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, env=env, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

"""Models made again in a clean clone: pushed from a project, pulled into a clone of its code, run from the record.

By itself on a project that was replayed: `reproduce.py --project FOLDER --json`; else on a small one of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import contract
from contract import Bar, Result, Row, stat

ROWS = (Row("reproduce.equal", "models rebuilt byte for byte in a clean clone", "", "higher", (Bar("==", 1),)),)
LW = str(contract.VENV / "bin" / "lw")
MODELS = 4  # of a project with many


def _prepare(root: Path) -> None:
    """The project of the tests: a model of the files alone, and one of served requests and facts too."""
    sys.path.insert(0, str(contract.ROOT / "tests" / "lineage"))
    import remade

    from loopwright import house
    from loopwright.kernel.settings import Settings
    from loopwright.store.space import bind

    space = house.init(root, Settings(clock="replay", start=remade.START, entry="project.py"))
    bind(space)
    try:
        remade.first(space)
        remade.second(space)
    finally:
        bind(None)
        space.close()


def _lw(root: Path, remote: Path, *words: str, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LOOPWRIGHT_")}
    environ["LOOPWRIGHT_REMOTE"] = str(remote)
    done = subprocess.run([LW, *words, "--json"], cwd=root, env=environ, capture_output=True, check=False)
    if done.returncode not in allowed:
        raise RuntimeError(f"lw {' '.join(words)} ended with {done.returncode}: {done.stderr.decode()[-400:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _git(folder: Path, *words: str) -> None:
    known = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    subprocess.run(["git", *known, *words], cwd=folder, check=True, capture_output=True)


def _cloned(root: Path, clone: Path, entry: str) -> None:
    """A clone of the project's code, from a repository beside it when it lies in none."""
    source = root
    if not (root / ".git").exists():
        source = clone.with_name("code")
        source.mkdir()
        for name in (entry, "loopwright.toml"):
            (source / name).write_bytes((root / name).read_bytes())
        _git(source, "init", "-q")
        _git(source, "add", ".")
        _git(source, "commit", "-qm", "as it is")
    _git(clone.parent, "clone", "-q", str(source), str(clone))


def measure(bench: contract.Bench, project: Path | None = None) -> None:
    """Push, clone, pull, run again, compare; every model of the project, the newest of them when there are many."""
    with tempfile.TemporaryDirectory(dir=contract.OUT) as folder:
        root, remote, clone = project or Path(folder) / "small", Path(folder) / "remote", Path(folder) / "clone"
        if project is None:
            _prepare(root)
        entry = next(
            line.partition("=")[2].strip().strip('"')
            for line in (root / "loopwright.toml").read_text().splitlines()
            if line.startswith("entry")
        )
        pushed = _lw(root, remote, "push")["versions"]
        refs = pushed if len(pushed) <= MODELS else [pushed[0], *pushed[1 - MODELS :]]
        _cloned(root, clone, entry)
        _lw(clone, remote, "init")
        made, wrong, took = [], [], []
        for ref in refs:
            start = time.monotonic()
            made.append(_lw(clone, remote, "reproduce", ref, allowed=(0, 1)))
            took.append(time.monotonic() - start)
            if not made[-1]["equal"] or made[-1]["rebuilt"] != made[-1]["digest"]:
                wrong.append(f"{ref} differs: {', '.join(made[-1]['differs'])}")
        bench.keep("reproduce.json", {"made": made, "took_s": took})
        sound = _lw(clone, remote, "fsck", allowed=(0, 1))["damage"]
        wrong += [f"the clone's store: {item['what']}" for item in sound]
        counts = {"attempted": len(refs), "checked": len(made), "wrong": len(wrong)}
        reason = wrong[0] if wrong else f"{', '.join(refs)}; {max(took):.0f} s at most"
        bench.put("reproduce.equal", Result(stat([float(not wrong)], "count"), counts=counts, reason=reason))


def main() -> int:
    """Run the bench by itself."""
    parser = contract.parser(__doc__)
    parser.add_argument("--project", metavar="FOLDER", help="a project that was replayed")
    args = parser.parse_args()
    if not args.list:
        contract.use_venv()
    project = None if args.project is None else Path(args.project).resolve()
    return contract.main("reproduce", ROWS, args, lambda bench: measure(bench, project))


if __name__ == "__main__":
    sys.exit(main())

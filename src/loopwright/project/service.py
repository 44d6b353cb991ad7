"""Accept a project: store its code, and make its declarations the desired state."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loopwright.artifacts import service as artifacts
from loopwright.artifacts.code import code_state
from loopwright.data.service import declare_features
from loopwright.kernel.errors import Invalid, NotFound
from loopwright.kernel.ids import valid_name
from loopwright.project.declare import ENDPOINTS, Endpoint
from loopwright.project.model import PROJECT_ACCEPTED, AcceptedProject
from loopwright.runs.model import Code
from loopwright.serving import routes
from loopwright.serving.model import EndpointSpec
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.roots import Leftover, Root
from loopwright.store.space import Space

MIGRATIONS = [
    """
    CREATE TABLE projects(
      seq INTEGER PRIMARY KEY, digest TEXT NOT NULL, entry TEXT NOT NULL, commit_id TEXT, dirty INTEGER NOT NULL,
      diff TEXT, at_us BIGINT NOT NULL)
    """,
]
SUFFIXES = (".py", ".toml", ".txt", ".sql", ".json", ".yaml", ".yml", ".cfg")
MAX_FILE_BYTES = 1 << 20
MAX_FILES = 2000


def code_files(root: Path) -> dict[str, Path]:
    """The code of a project: small text files that git knows or would take, or all of them without git.

    Raises:
        Invalid: there are too many to be a project's code.
    """
    found, whole = {}, root.resolve()
    for path in _listed(root) or _walked(root):
        file = root / path
        inside = file.resolve().is_relative_to(whole)  # a link that leads out may lead to a secret
        if inside and file.suffix in SUFFIXES and file.is_file() and file.stat().st_size <= MAX_FILE_BYTES:
            found[path] = file
    if len(found) > MAX_FILES:
        raise Invalid(f"{root} holds {len(found)} code files; a project has at most {MAX_FILES}", code="project.size")
    return found


def _listed(root: Path) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    paths = done.stdout.decode("utf-8", "replace").split("\0")
    # what is hidden is no code, and may be a secret
    return sorted(p for p in paths if p and not any(part.startswith(".") for part in p.split("/")))


def _walked(root: Path) -> list[str]:
    out = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(d for d in inner if not d.startswith(".") and not (Path(folder) / d / "pyvenv.cfg").exists())
        out += [str((Path(folder) / name).relative_to(root)) for name in names if not name.startswith(".")]
    return sorted(out)


def accept(space: Space, actor: str, entry: Path) -> AcceptedProject:
    """Store the project's code and declare its endpoints; nothing is written when nothing changed.

    Raises:
        Invalid: the entry lies outside the project's folder.
    """
    try:
        name = str(entry.resolve().relative_to(space.root))
    except ValueError:
        raise Invalid(f"{entry} lies outside the project {space.root}", code="project.entry", field="entry") from None
    files: dict[str, Any] = dict(code_files(space.root))
    files.setdefault(name, entry.resolve())
    tree = artifacts.put_tree(space, files, kind="project", meta={"entry": name})
    specs = [spec_of(declared) for declared in ENDPOINTS.values()]
    for declared in ENDPOINTS.values():
        declare_features(space, actor, declared.features)
    state = code_state(space.root)
    code = Code(commit=state.commit, dirty=state.dirty, diff=_kept(space, state.diff), project=tree.digest)
    fresh = AcceptedProject(digest=tree.digest, entry=name, code=code, at_us=space.clock.now_us())
    with space.read() as tx:
        last = _last(tx)
        same = all(routes.declared(tx, spec) for spec in specs)
    if same and last is not None and (last.entry, last.code) == (name, code):
        return last
    return space.write(lambda tx: _write(tx, actor, fresh, specs))


def _kept(space: Space, diff: bytes) -> str | None:
    return artifacts.put_blob(space, diff, kind="diff", meta={}).digest if diff else None


def _write(tx: Tx, actor: str, fresh: AcceptedProject, specs: list[EndpointSpec]) -> AcceptedProject:
    for spec in specs:
        routes.declare(tx, actor, spec)
    last = _last(tx)
    if last is not None and (last.entry, last.code) == (fresh.entry, fresh.code):
        return last
    tx.execute(
        "INSERT INTO projects(digest, entry, commit_id, dirty, diff, at_us) VALUES (?, ?, ?, ?, ?, ?)",
        (fresh.digest, fresh.entry, fresh.code.commit, int(fresh.code.dirty), fresh.code.diff, fresh.at_us),
    )
    data = {"digest": fresh.digest, "short": fresh.digest[:12], "entry": fresh.entry}
    ledger.append(tx, actor, PROJECT_ACCEPTED, "project", data)
    return fresh


def stored_code(space: Space) -> Code:
    """The code of the accepted project, with the state of its folder when it was accepted."""
    return accepted(space).code


def spec_of(declared: Endpoint) -> EndpointSpec:
    """The stored form of an endpoint's declaration."""
    return EndpointSpec(
        name=valid_name(declared.name),
        model=declared.name,
        step=declared.model.name,
        features=declared.features.name,
        labels=declared.labels.name,
        target=declared.target,
        task=declared.task,
        timezone=declared.timezone,
        keep=declared.keep,
        gate=msgspec.to_builtins(declared.gate),
        policy=msgspec.to_builtins(declared.policy),
        log=declared.log,
        approve=declared.approve,
    )


def accepted(space: Space) -> AcceptedProject:
    """The project that triggers run.

    Raises:
        NotFound: none was accepted.
    """
    with space.read() as tx:
        last = _last(tx)
    if last is None:
        raise NotFound("no project has been accepted in this Space", code="project.none", hint="lw run")
    return last


def materialised(space: Space, project: AcceptedProject) -> Path:
    """The accepted project's file, written out under the Space's own folder."""
    folder = artifacts.materialise(space, project.digest, space.home / "projects" / project.digest)
    return folder / project.entry


def _last(tx: Tx) -> AcceptedProject | None:
    row = tx.one("SELECT * FROM projects ORDER BY seq DESC LIMIT 1")
    if row is None:
        return None
    code = Code(commit=row["commit_id"], dirty=bool(row["dirty"]), diff=row["diff"], project=row["digest"])
    return AcceptedProject(digest=row["digest"], entry=row["entry"], code=code, at_us=row["at_us"])


def roots(space: Space, tx: Tx) -> Iterator[Root]:
    """The projects that were accepted, with what differed from their commits."""
    for row in tx.query("SELECT seq, digest, diff FROM projects"):
        yield Root(row["digest"], "project", f"accepted {row['seq']}")
        if row["diff"] is not None:
            yield Root(row["diff"], "project", f"accepted {row['seq']}")


def leftovers(space: Space) -> Iterator[Leftover]:
    """The folders of projects that another has followed; they can be written out again."""
    with space.read() as tx:
        last = _last(tx)
    for folder in (space.home / "projects").iterdir():
        if last is None or folder.name != last.digest:
            yield Leftover(folder, "a project that another has followed")


ROOTS, LEFTOVERS = roots, leftovers

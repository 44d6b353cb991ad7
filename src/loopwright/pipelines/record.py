"""What a run's record says of where its result came from: parameters, inputs, code, machine. Made on a miss alone."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from loopwright.artifacts import codecs, names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.code import code_state
from loopwright.kernel import canonical
from loopwright.kernel.errors import NotFound
from loopwright.pipelines import hooks
from loopwright.pipelines.fingerprint import Fingerprint
from loopwright.pipelines.model import Outcome
from loopwright.runs.model import Code
from loopwright.store.space import Space, job_mode

_DIGEST = re.compile(r"[0-9a-f]{64}")


def params(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for the record: plain values as they are, others by what they are called."""
    return {name: value if codecs.is_plain(value) else _described(value) for name, value in arguments.items()}


def _described(value: Any) -> str:
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    kind = type(value).__name__
    return f"{kind} {name}" if isinstance(name, str) else kind


def inputs(space: Space, code: Fingerprint, fed: Mapping[str, Outcome]) -> dict[str, Any]:
    """What went in: data versions (`data`: address -> digest), the log's state, and the steps before with theirs."""
    found: dict[str, Any] = {}
    declared = {label: _declaration(content) for label, content in code.declared.items()}
    data = {ref: digest for content in code.declared.values() for ref, digest in _versions(space, content)}
    if data:
        found["data"] = dict(sorted(data.items()))
    if declared:
        found["declared"] = declared
    steps = [
        {
            "param": name,
            "step": outcome.run.name,
            "run": outcome.run.id,
            "digest": outcome.value.digest,
            "inputs": outcome.run.inputs,
        }
        for name, outcome in fed.items()
    ]
    return {**found, "steps": steps} if steps else found


def _declaration(content: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"digest": canonical.digest(content)}
    if isinstance(content, Mapping):
        declaration = content.get("declaration")
        if isinstance(declaration, Mapping) and "name" in declaration:
            about["name"] = declaration["name"]
        about.update({field: content[field] for field in ("log", "facts") if content.get(field)})
    return about


def _versions(space: Space, content: Any) -> Iterator[tuple[str, str]]:
    for name, digest in _digests(content, None):
        held = names.by_digest(space, digest)
        named = [version for version in held if version.name == name] or held
        if named:
            yield named[-1].ref, digest


def _digests(content: Any, name: str | None) -> Iterator[tuple[str | None, str]]:
    """Every digest in a fingerprint, with the key that it stands under."""
    if isinstance(content, str) and _DIGEST.fullmatch(content):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _digests(value, key)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _digests(value, name)


def code(space: Space, traced: Fingerprint) -> Code:
    """The code that runs: git's state of the folder, or the stored project; and the files that were reached."""
    reached = _files(space, traced)
    files = artifacts.put_tree(space, reached, kind="code", meta={}).digest if traced.files else None
    if job_mode():
        stored = hooks.stored_code(space)
        return Code(
            commit=stored.commit,
            dirty=stored.dirty,
            diff=stored.diff,
            project=stored.project,
            files=files,
            parts=traced.parts,
        )
    state = code_state(space.root)
    diff = artifacts.put_blob(space, state.diff, kind="diff", meta={}).digest if state.diff else None
    project = _project(space, reached)
    return Code(commit=state.commit, dirty=state.dirty, diff=diff, project=project, files=files, parts=traced.parts)


def _project(space: Space, reached: Mapping[str, bytes]) -> str | None:
    """The accepted project, when the files that run are its own."""
    try:
        project = hooks.stored_code(space).project
    except NotFound:
        return None
    held = {} if project is None else artifacts.files(space, project)
    same = all(held.get(path) == canonical.digest_bytes(text) for path, text in reached.items())
    return project if held and same else None


def _files(space: Space, traced: Fingerprint) -> dict[str, bytes]:
    """The files under their paths in the project; those from elsewhere under their names."""
    found: dict[str, bytes] = {}
    root = str(space.root) + os.sep
    for path, text in traced.files:
        real = os.path.realpath(path)
        name = os.path.relpath(real, root) if real.startswith(root) else os.path.basename(path)
        name = re.sub(r"[\x00-\x1f\\]", "_", name).replace(os.sep, "/").strip("/") or "cell"
        taken, number = name, 1
        while taken in found:
            number += 1
            taken = f"{name}.{number}"
        found[taken] = text
    return found

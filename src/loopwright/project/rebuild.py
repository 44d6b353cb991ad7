"""The process that makes a version again: in a scratch Space, from the code, the data and the extracts it is given."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from loopwright.access.service import local_actor
from loopwright.artifacts import codecs
from loopwright.artifacts.transfer import Remote
from loopwright.data import extracts, logged
from loopwright.kernel.errors import LoopwrightError, NotFound
from loopwright.kernel.files import replace_file
from loopwright.lineage import bundles
from loopwright.lineage.bundles import Bundle
from loopwright.lineage.reproduce import PARTS, RESULT, Rebuilt, Request
from loopwright.pipelines import environment, hooks
from loopwright.pipelines import service as pipelines
from loopwright.pipelines.step import ABSENT, Step, chain
from loopwright.project import entry
from loopwright.project.declare import ENDPOINTS
from loopwright.runs.model import Code, Run
from loopwright.store import space as spaces
from loopwright.store.space import Space


def main(opener: Callable[..., Space]) -> None:
    """Do what the standard input asks for, in the working folder, and leave the answer beside it."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    root = Path.cwd()
    try:
        made = again(opener(root, create=True), root, request)
    except LoopwrightError as error:
        made = Rebuilt(error=msgspec.to_builtins(error.to_dict()))
    replace_file(root.parent / RESULT, msgspec.json.encode(made))


def again(space: Space, root: Path, request: Request) -> Rebuilt:
    """Run the recorded steps with the recorded parameters, and say what came of it.

    Raises:
        NotFound: the code declares no such step.
        StepFailed: a step's own code raised.
    """
    bundle = request.bundle
    Remote(root.parent / PARTS).fetch(space, request.artifacts)
    space.write(lambda tx: bundles.enter(tx, msgspec.structs.replace(bundle, runs=[])))
    for part in bundle.facts:
        extracts.put_back(space, part)
    logged.set_log_reader(extracts.Extracted({part.name: part for part in bundle.logs}))
    hooks.set_code(lambda _: Code())
    environment.fix_seeds({run.name: int(start) for run in bundle.runs if (start := _start(run)) is not None})
    with spaces.bound(space, job=True), hooks.unregistered():
        step = _step(root / (bundle.entry or ""), bundle.run.name)
        outcome = pipelines.run_step(space, local_actor(), step, _params(bundle, step))
    done = list(bundles.chain_of(space, outcome.run.id))
    return Rebuilt(
        outputs={label: output.digest for label, output in outcome.run.outputs.items()},
        environment={run.name: run.environment for run in done},
        parts={run.name: run.code.parts for run in done},
    )


def _start(run: Run) -> str | None:
    return run.environment.get(f"{environment.SEED}random")


def _step(file: Path, name: str) -> "Step[..., Any]":
    module = entry.load(file)
    known = [*vars(module).values(), *(declared.model for declared in ENDPOINTS.values())]
    for value in known:
        if isinstance(value, Step):
            for step in chain(value):
                if step.name == name:
                    return step
    raise NotFound(f"{os.path.basename(file)} declares no step {name}", code="step.missing", field="ref")


def _params(bundle: Bundle, step: "Step[..., Any]") -> dict[str, Any]:
    """The recorded parameters, each of its own step; one that JSON cannot hold is the default of the code."""
    found = {}
    steps = {one.name: one for one in chain(step)}
    for run in bundle.runs:
        for name, value in run.params.items():
            parameter = steps[run.name].parameters.get(name) if run.name in steps else None
            if parameter is not None and (parameter.default is ABSENT or codecs.is_plain(parameter.default)):
                found[f"{run.name}.{name}"] = value
    return found

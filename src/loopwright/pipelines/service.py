"""run_step: a step's result from the cache, or by running it and all that leads to it.

A hit reads a row or two and decodes nothing. Two processes that want the same key run it once.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from loopwright.access.service import require
from loopwright.artifacts import codecs, names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Artifact
from loopwright.kernel.errors import Conflict, Unsupported
from loopwright.pipelines import boundary, environment, hooks, queries, record
from loopwright.pipelines.keys import Plan, Traced, traced
from loopwright.pipelines.model import Outcome, Value
from loopwright.pipelines.step import Step
from loopwright.runs import console, current
from loopwright.runs import service as runs
from loopwright.runs.current import Recorder
from loopwright.runs.model import About, Output, Run
from loopwright.store.database import Tx
from loopwright.store.locks import take
from loopwright.store.space import Space, job_mode

KIND = "step"
VALUE = "value"


def run_step(
    space: Space,
    actor: str,
    step: Step[..., Any],
    params: Mapping[str, Any] | None = None,
    *,
    action_id: str | None = None,
) -> Outcome:
    """Give a step's result: found in the cache, or made by running it and the steps that lead to it.

    Args:
        params: parameters by name, for every step of the chain that has one; `step.name` for one step's alone.
        action_id: an action that is asked for again gets the run that it got before, and nothing else happens.

    Raises:
        Invalid: a parameter is unknown, mistyped or missing.
        StepFailed: the step's code raised; the run is kept as failed and nothing is cached.
        Unsupported: a result is of a type that is not kept.
    """
    require(space, actor, "runs.start", step.name)
    if action_id is not None:
        with space.read() as tx:
            done = queries.run_of_action(tx, action_id)
        if done is not None:
            return _outcome(space, runs.get(space, done), cached=True)
    return _Execution(space, actor, Plan(space, step, params or {}), action_id).run()


def _outcome(space: Space, run: Run, *, cached: bool) -> Outcome:
    return Outcome(Value(space, run.outputs[VALUE]), run, cached)


class _Execution:
    """One call of run_step: the steps of its plan, each settled once."""

    def __init__(self, space: Space, actor: str, plan: Plan, action_id: str | None) -> None:
        self.space = space
        self.actor = actor
        self.plan = plan
        self.action_id = action_id
        self._traced: dict[str, Traced] = {}
        self._made: dict[str, Outcome] = {}

    def run(self) -> Outcome:
        """Settle the steps in their order; the action is the last one's."""
        # all of it before any step runs: what one leaves behind in a module is no input of the next
        self._traced = {step.name: traced(self.plan, step) for step in self.plan.steps}
        for step in self.plan.steps:
            self._made[step.name] = self._settle(step)
        return self._made[self.plan.target.name]

    def _settle(self, step: Step[..., Any]) -> Outcome:
        fed = {name: self._made[upstream.name] for name, upstream in self.plan.inputs(step).items()}
        key = self._traced[step.name].key({name: outcome.value.digest for name, outcome in fed.items()})
        if self._traced[step.name].code.edited:
            return self._run(step, key, fed)
        found = self._cached(step, key)
        if found is not None:
            return found
        with _alone(self.space, key):
            return self._cached(step, key) or self._run(step, key, fed)

    def _cached(self, step: Step[..., Any], key: str) -> Outcome | None:
        with self.space.read() as tx:
            run_id = queries.run_of_key(tx, key)
        if run_id is None:
            return None
        run = runs.get(self.space, run_id)
        if not all(self.space.blobs.has(output.digest) for output in run.outputs.values()):
            self.space.write(lambda tx: queries.drop_key(tx, key, run.id))
            return None
        action_id = self.action_id if step is self.plan.target else None
        due = [label for label, output in run.outputs.items() if self._due(output)]
        if due or action_id is not None:

            def write(tx: Tx) -> dict[str, Output]:
                if action_id is not None:
                    queries.keep_action(tx, action_id, run.id)
                made = {label: self._registered(tx, run.outputs[label], run.id) for label in due}
                runs.add_versions(tx, run.id, made)
                return made

            outputs = {**run.outputs, **self.space.write(write)}
            run = msgspec.structs.replace(run, outputs=outputs)
        return _outcome(self.space, run, cached=True)

    def _due(self, output: Output) -> bool:
        """Whether a hit must register the output: it never was, or its name has moved on to other bytes since."""
        if hooks.finisher(output.kind) is None:
            return False
        if output.version is None:
            return True
        newest = names.newest(self.space, output.version.rpartition("@")[0])
        return newest is None or newest.digest != output.digest

    def _registered(self, tx: Tx, output: Output, run_id: str) -> Output:
        hook = hooks.finisher(output.kind)
        if hook is None:
            return output
        artifact = artifacts.find(tx, output.digest, output.kind)
        version = hook(tx, self.actor, msgspec.structs.replace(artifact, meta=output.meta), run_id)
        return msgspec.structs.replace(output, version=None if version is None else version.ref)

    def _run(self, step: Step[..., Any], key: str, fed: Mapping[str, Outcome]) -> Outcome:
        found = self._traced[step.name]
        seeds = environment.seeds(step.name, key)
        about = About(
            key=key,
            params=record.params(self.plan.arguments(step)),
            inputs=record.inputs(self.space, found.code, fed),
            environment={**environment.needed(found.environment), **environment.machine(), **seeds},
            code=record.code(self.space, found.code),
        )
        recorder = runs.start(self.space, self.actor, KIND, step.name, about)
        try:
            with environment.seeded(int(seeds["seed:random"]), arrays=_has_arrays(found.environment)):
                kept = self._called(step, fed, recorder)
            cache = not found.code.edited and self._unmoved(step)
            run, first = self._finish(step, key, recorder, kept, cache=cache)
        except BaseException as error:  # whatever ended the run is its failure, and is raised on
            self._fail(recorder, error)
            raise
        finally:
            recorder.close()
        earlier = None if first else self._cached(step, key)
        return earlier or _outcome(self.space, run, cached=False)

    def _called(self, step: Step[..., Any], fed: Mapping[str, Outcome], recorder: Recorder) -> codecs.Kept:
        arguments = self.plan.arguments(step)
        arguments.update({name: outcome.value.load() for name, outcome in fed.items()})
        caught = console.captured(recorder.folder / current.CONSOLE) if job_mode() else contextlib.nullcontext()
        with caught, current.recording(recorder):
            result = boundary.call(step, arguments)
        try:
            return codecs.keep(self.space, result)
        except Unsupported as error:
            told = f"step {step.name}: {error.message}"
            raise Unsupported(told, code=error.code, field=error.field, hint=error.hint) from None

    def _unmoved(self, step: Step[..., Any]) -> bool:
        """Whether the declared data is what it was before the step ran."""
        before = self._traced[step.name].code.declared
        return not before or traced(self.plan, step).code.declared == before

    def _finish(
        self, step: Step[..., Any], key: str, recorder: Recorder, kept: codecs.Kept, *, cache: bool
    ) -> tuple[Run, bool]:
        """End the run; False when another process has put its result under the key before."""
        logged = recorder.seal()
        action_id = self.action_id if step is self.plan.target else None

        def end(tx: Tx) -> tuple[Run, bool]:
            first = not cache or queries.keep_key(tx, key, recorder.run_id)
            outputs = {
                label: self._registered(tx, output, recorder.run_id) if first else output
                for label, output in _outputs(kept).items()
            }
            if action_id is not None and first:
                queries.keep_action(tx, action_id, recorder.run_id)
            return runs.finish(tx, self.actor, recorder.run_id, logged, outputs), first

        return self.space.write(end)

    def _fail(self, recorder: Recorder, error: BaseException) -> None:
        failure = boundary.failure_of(error)
        logged = recorder.seal()
        with contextlib.suppress(Conflict):  # it had ended, and the error came after
            self.space.write(lambda tx: runs.fail(tx, self.actor, recorder.run_id, logged, failure))


def _has_arrays(direct: Mapping[str, str]) -> bool:
    return "numpy" in environment.needed({name: known for name, known in direct.items() if name != "loopwright"})


def _outputs(kept: codecs.Kept) -> dict[str, Output]:
    """The value, and apart from it what in it is an artifact of its own."""
    found = {VALUE: _output(kept.artifact)}
    apart = (part for part in kept.parts if part.digest != kept.artifact.digest)
    found.update({f"{part.kind}:{number}": _output(part) for number, part in enumerate(apart)})
    return found


def _output(artifact: Artifact) -> Output:
    return Output(digest=artifact.digest, kind=artifact.kind, meta=artifact.meta)


@contextlib.contextmanager
def _alone(space: Space, key: str) -> Iterator[None]:
    """One process at a time for a key; the others wait, and then find its result."""
    path = space.home / "run" / f"step-{key[:32]}.lock"
    fd = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _locked(path: Path) -> int:
    while True:
        fd = take(path)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == os.stat(path).st_ino:
                return fd
        os.close(fd)  # its holder has removed it meanwhile: the lock is another file now

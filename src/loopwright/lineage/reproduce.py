"""reproduce: make a version again from what was recorded of it, and say whether the bytes are the same, or why not.

The code as it was stored runs in the recorded environment, in a scratch Space that holds the recorded data and nothing
else; its steps find no earlier results. No model is loaded, so nothing is unpickled.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

import msgspec

from loopwright.access import service as access
from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.code import code_state
from loopwright.artifacts.model import Artifact, Version
from loopwright.artifacts.transfer import Remote
from loopwright.kernel import canonical, errors
from loopwright.kernel import settings as config
from loopwright.kernel.errors import Erased, Invalid, NotFound, Unavailable
from loopwright.kernel.op import Progress, silent
from loopwright.kernel.times import format_time
from loopwright.lineage import bundles, environments
from loopwright.lineage.bundles import Bundle
from loopwright.lineage.model import VERSION_REBUILT
from loopwright.pipelines.environment import MACHINE, SEED
from loopwright.store import erasure, ledger
from loopwright.store.space import Space

What = Literal["data", "code", "environment", "seed", "hardware"]
ORDER: tuple[What, ...] = ("data", "code", "environment", "seed", "hardware")
PROJECT, PARTS, REQUEST, RESULT = "project", "parts", "request.json", "result.json"
_MAIN = "from loopwright import house\nfrom loopwright.project import rebuild\nrebuild.main(house.open)"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not what was recorded, with both values."""

    what: What
    name: str
    recorded: str
    here: str


class Reproduced(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was made again.

    Args:
        digest: of the recorded bytes; `rebuilt` of those made now, None when nothing could be made.
        differs: of data, code, environment, seed and hardware what differs, when the bytes do.
        differences: all that is not as it was recorded, also where the bytes are the same.
        environment: where the steps ran.
        folder: how the code in this folder stands to that of the run.
    """

    ref: str
    digest: str
    rebuilt: str | None
    equal: bool
    differs: list[What]
    differences: list[Difference]
    run: str
    environment: str
    folder: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is asked that makes a version again."""

    bundle: Bundle
    artifacts: list[Artifact]


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What such a process answers: digests of the outputs by label, and what its run was made from, by step."""

    outputs: dict[str, str] = {}
    environment: dict[str, dict[str, str]] = {}
    parts: dict[str, dict[str, str]] = {}
    error: dict[str, Any] | None = None


def reproduce(space: Space, actor: str, *, ref: str, here: bool = False, progress: Progress = silent) -> Reproduced:
    """Make a version again from its record, and compare the bytes; what is not here is pulled from the remote.

    Args:
        ref: a version that a run made, such as `delay@2`.
        here: run the code of this folder under this Python instead of what was recorded.

    Raises:
        NotFound: there is no such version, here or in the remote, or no run made it.
        Unavailable: the recorded environment cannot be built.
    """
    access.require(space, actor, "runs.start")
    version = _version(space, actor, ref, progress)
    bundle, _ = bundles.bundled(space, actor, version)
    found = list(_data(space, bundle))
    folder, changed = _folder(space, bundle)
    place = environments.here(bundle.run) if here else environments.built(space, bundle.run)
    try:
        made = _made(space, bundle, place, here=here, progress=progress)
    except Erased as error:
        found.append(Difference(what="data", name=version.ref, recorded="read", here=error.message))
        return _answer(space, actor, bundle, None, found, (place.what, folder))
    label = next(label for label, output in bundle.run.outputs.items() if output.digest == version.digest)
    rebuilt = made.outputs.get(label)
    found += _compared(bundle, made, changed if here else [])
    if rebuilt != version.digest:
        again = _made(space, bundle, place, here=here, progress=progress).outputs.get(label)
        if again != rebuilt:
            twice = f"two runs here gave {str(rebuilt)[:12]} and {str(again)[:12]}"
            found.append(Difference(what="seed", name="outside the seeds", recorded=version.digest[:12], here=twice))
        elif not found:
            what = "something that no record holds, such as a variable or a file that the steps read by themselves"
            found.append(Difference(what="environment", name="surroundings", recorded="not known", here=what))
    return _answer(space, actor, bundle, rebuilt, found, (place.what, folder))


def _version(space: Space, actor: str, ref: str, progress: Progress) -> Version:
    try:
        return names.resolve(space, ref)
    except NotFound as error:
        if space.settings.remote is None:
            hint = 'remote = "FOLDER" in loopwright.toml, where somebody ran: lw push ' + ref
            raise NotFound(error.message, code="ref.missing", field="ref", hint=hint) from None
    bundles.pull(space, actor, ref=ref, progress=progress)
    return names.resolve(space, ref)


def _answer(
    space: Space, actor: str, bundle: Bundle, rebuilt: str | None, found: list[Difference], told: tuple[str, str]
) -> Reproduced:
    version, equal = bundle.version, rebuilt == bundle.version.digest
    known = {item.what for item in found}
    differs = [] if equal else [what for what in ORDER if what in known]
    data = {"equal": equal, "differs": differs, "rebuilt": rebuilt}
    space.write(lambda tx: ledger.append(tx, actor, VERSION_REBUILT, version.ref, data))
    return Reproduced(
        ref=version.ref,
        digest=version.digest,
        rebuilt=rebuilt,
        equal=equal,
        differs=differs,
        differences=sorted(found, key=lambda item: (ORDER.index(item.what), item.name)),
        run=bundle.run.id,
        environment=told[0],
        folder=told[1],
    )


def _data(space: Space, bundle: Bundle) -> list[Difference]:
    """What of the data is not as it was read."""
    found = []
    with space.read() as tx:
        for one in bundle.data:
            now = erasure.latest(tx, one.version.digest)
            if now != one.version.digest:
                told = f"{now[:12]}, without rows that were erased"
                found.append(Difference(what="data", name=one.version.ref, recorded=one.version.digest[:12], here=told))
        for kind, parts in (("log of", bundle.logs), ("facts of", bundle.facts)):
            for part in parts:
                gone = part.digest is not None and erasure.tombstone(tx, part.digest) is not None
                if gone or part.found != part.state:
                    told = "erased" if gone else _states(part.found)
                    name = f"{kind} {part.name}"
                    found.append(Difference(what="data", name=name, recorded=_states(part.state), here=told))
    return found


def _states(state: Any) -> str:
    return msgspec.json.encode(state).decode()


def _folder(space: Space, bundle: Bundle) -> tuple[str, list[Difference]]:
    """How this folder's code stands to the recorded: in words, and file by file."""
    then, state = bundle.run.code, code_state(space.root)
    held = {} if bundle.code is None else artifacts.files(space, bundle.code)
    changed = []
    for path, digest in held.items():
        file = space.root / path
        now = canonical.digest_file(file) if file.is_file() else None
        if now != digest:
            told = "missing" if now is None else now[:12]
            changed.append(Difference(what="code", name=path, recorded=digest[:12], here=told))
    commits = f"commit {_short(state.commit)}" if state.commit == then.commit else (
        f"commit {_short(state.commit)}, and the run was at {_short(then.commit)}"
    )  # fmt: skip
    files = "the code is that of the run" if not changed else f"{len(changed)} files are not those of the run"
    return f"{commits}; {files}", changed


def _short(commit: str | None) -> str:
    return "none" if commit is None else commit[:12]


def _compared(bundle: Bundle, made: Rebuilt, changed: list[Difference]) -> list[Difference]:
    """What of code, environment, seeds and hardware is not as it was recorded, step by step.

    Definitions are compared where files have changed: a name that stands for data changes with the data too.
    """
    found: dict[tuple[str, str], Difference] = {}
    for run in bundle.runs:
        now = made.environment.get(run.name, {})
        for name in sorted({*run.environment, *now} if now else ()):
            values = run.environment.get(name, "none"), now.get(name, "none")
            if values[0] != values[1]:
                item = Difference(what=_kind(name), name=name, recorded=values[0], here=values[1])
                found.setdefault((item.what, name), item)
        parts = made.parts.get(run.name, {})
        for name in sorted({*run.code.parts, *parts} if changed else ()):
            values = run.code.parts.get(name, "none")[:12], parts.get(name, "none")[:12]
            if values[0] != values[1]:
                found.setdefault(("code", name), Difference(what="code", name=name, recorded=values[0], here=values[1]))
    return [*found.values(), *(changed if any(what == "code" for what, _ in found) else [])]


def _kind(name: str) -> What:
    if name.startswith(SEED):
        return "seed"
    return "hardware" if name.startswith(MACHINE) else "environment"


def _made(space: Space, bundle: Bundle, place: environments.Place, *, here: bool, progress: Progress) -> Rebuilt:
    """Make the version again in a scratch Space of its own process.

    Raises:
        Erased: data that it needs is there no more.
        Unavailable: the process ended without an answer.
    """
    scratch = Path(tempfile.mkdtemp(dir=space.home / "tmp", prefix="again-"))
    try:
        request = _laid_out(space, bundle, scratch, here=here)
        progress(0, None, "running the steps again")
        done = subprocess.run(
            [place.python, "-c", _MAIN],
            cwd=scratch / PROJECT,
            env=_environ(place, bundle),
            input=msgspec.json.encode(request),
            capture_output=True,
            check=False,
        )
        result = scratch / RESULT
        if not result.is_file():
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit {done.returncode}"]
            raise Unavailable(f"the steps could not be run again: {last[0]}", code="reproduce.process", hint="--here")
        made = msgspec.json.decode(result.read_bytes(), type=Rebuilt)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if made.error is not None:
        raise errors.rebuilt(made.error)
    return made


def _environ(place: environments.Place, bundle: Bundle) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if name not in config.ENVIRONMENT.values()}
    before = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environ["PYTHONPATH"] = os.pathsep.join([*place.paths, *before])
    start = bundle.run.environment.get(f"{SEED}hash", "random")
    environ.pop("PYTHONHASHSEED", None)
    return environ if start == "random" else {**environ, "PYTHONHASHSEED": start}


def _laid_out(space: Space, bundle: Bundle, scratch: Path, *, here: bool) -> Request:
    """Lay out code, settings and blobs for the process; what was erased is replaced by what has followed it."""
    if bundle.code is None or bundle.entry is None:
        raise Invalid(f"no code of {bundle.run.name} was recorded", code="reproduce.code", hint="lw run")
    root = scratch / PROJECT
    artifacts.materialise(space, bundle.code, root)
    if here:
        for path in artifacts.files(space, bundle.code):
            if (space.root / path).is_file():
                shutil.copyfile(space.root / path, root / path)
    (root / config.FILE).unlink(missing_ok=True)
    config.write(root, config.Settings(clock="replay", start=format_time(bundle.now_us)))
    with space.read() as tx:
        renewed = msgspec.structs.replace(
            bundle,
            data=[
                msgspec.structs.replace(
                    one,
                    version=msgspec.structs.replace(one.version, digest=erasure.latest(tx, one.version.digest)),
                )
                for one in bundle.data
            ],
            code=None,
        )
        for digest in sorted(renewed.needs()):
            erasure.require_kept(tx, digest)
    digests, recorded = bundles.closure(space, sorted(renewed.needs()))
    remote = Remote(scratch / PARTS).make()
    remote.send(space, digests)
    return Request(bundle=renewed, artifacts=recorded)


def text(done: Reproduced) -> str:
    """Whether the bytes are the same, and what is not."""
    if done.equal:
        lines = [f"{done.ref}: the same bytes, {done.digest}"]
    else:
        lines = [
            f"{done.ref}: recorded {done.digest}",
            f"{' ' * len(done.ref)}  made now {done.rebuilt or 'nothing'}",
            f"differs: {', '.join(done.differs)}",
        ]
    lines += [f"  {item.what} {item.name}: {item.recorded} -> {item.here}" for item in done.differences]
    return "\n".join([*lines, f"steps of {done.run} ran in {done.environment}", f"this folder: {done.folder}"])

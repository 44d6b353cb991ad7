"""Bundles: a version with all that it was made from, to be pushed, pulled, and made again elsewhere.

The runs that led to it, the data versions, the code, and extracts of the log and the facts as they could be seen then.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Artifact, Version
from loopwright.artifacts.reach import Reach, refuse_unread
from loopwright.artifacts.transfer import Moved, place, recorded_of, remote_of
from loopwright.data import extracts, queries
from loopwright.data.extracts import Part
from loopwright.data.model import FeaturesSpec
from loopwright.kernel.errors import Conflict, Corrupt, Invalid, NotFound
from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Progress, silent
from loopwright.kernel.times import HOUR, parse_time
from loopwright.lineage.model import VERSION_PULLED, VERSION_PUSHED
from loopwright.lineage.trace import refs_of
from loopwright.runs import queries as run_rows
from loopwright.runs import service as runs
from loopwright.runs.model import Run
from loopwright.serving import held
from loopwright.serving.predictions import LogReader
from loopwright.store import erasure, ledger
from loopwright.store.database import Tx
from loopwright.store.roots import Root
from loopwright.store.space import Space

KIND, FILE = "bundle", "bundle.json"


class DataVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A data version that was read, and what is kept of it."""

    version: Version
    known: queries.Known


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a version was made from.

    Args:
        runs: the run that made it, then those before it.
        entry: the project's file in the tree `code` that declares the steps.
        now_us: what `now` meant.
    """

    version: Version
    runs: list[Run]
    data: list[DataVersion]
    features: list[FeaturesSpec]
    logs: list[Part]
    facts: list[Part]
    code: str | None
    entry: str | None
    now_us: int

    @property
    def run(self) -> Run:
        """The run that made the version."""
        return self.runs[0]

    def needs(self) -> set[str]:
        """The digests that making it again reads."""
        found = {one.version.digest for one in self.data} | {p.digest for p in (*self.logs, *self.facts) if p.digest}
        return found | ({self.code} if self.code else set())


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """What a remote keeps of a version."""

    version: Version
    bundle: Version | None
    artifacts: list[Artifact]


class Transferred(msgspec.Struct, frozen=True, kw_only=True):
    """What was pushed or pulled."""

    remote: str
    versions: list[str]
    moved: Moved
    buried: int = 0


class AsWas(LogReader):
    """Reads the log as a training could: labels that had arrived, without what was known to be broken then."""

    def __init__(self, state: Any) -> None:
        known = state if isinstance(state, list) else []
        self._arrived: dict[str, int] = {row[0]: row[3] for row in known}
        self._spans: dict[str, held.Spans] = {row[0]: [(span[0], span[1]) for span in row[4:]] for row in known}

    def _endpoints(self, space: Space, features: str) -> list[str]:
        return list(self._arrived)

    def _last_seq(self, endpoint: str) -> int | None:
        return self._arrived.get(endpoint)

    def _held(self, space: Space, endpoint: str) -> held.Spans:
        return self._spans.get(endpoint, [])


def push(space: Space, actor: str, *, ref: str | None = None, progress: Progress = silent) -> Transferred:
    """Copy versions and all that they were made from to the remote; without a version, all models that runs made.

    Args:
        ref: such as `delay@2`, `delay@prod` or `orders`.

    Raises:
        NotFound: loopwright.toml names no remote, or there is no such version.
        Conflict: the remote holds another version of that number.
    """
    remote = remote_of(space).make()
    wanted = [names.resolve(space, ref)] if ref is not None else list(_models(space))
    moved = Moved()
    for version in wanted:
        there = remote.noted(version.name, version.number, Noted)
        if there is not None and there.version.digest != version.digest:
            message = f"{version.ref} is {version.digest[:12]} here and {there.version.digest[:12]} in the remote"
            raise Conflict(message, code="remote.differs", field="ref", hint="name another remote")
        bundle = None if version.run is None else bundled(space, actor, version)[1]
        roots = [each.digest for each in (version, bundle) if each is not None]
        digests, recorded = closure(space, roots)
        moved = _sum(moved, remote.send(space, digests, progress))
        remote.note(version.name, version.number, Noted(version=version, bundle=bundle, artifacts=recorded))
        data = {"digest": version.digest, "blobs": len(digests)}
        space.write(lambda tx, ref=version.ref, data=data: ledger.append(tx, actor, VERSION_PUSHED, ref, data))  # type: ignore[misc]
    return Transferred(
        remote=str(remote.folder), versions=[one.ref for one in wanted], moved=moved, buried=remote.bury(space)
    )


def _models(space: Space) -> Iterator[Version]:
    for name, kind in names.all_names(space):
        if kind == "model":
            yield from (version for version in names.versions(space, name) if version.run is not None)


def pull(space: Space, actor: str, *, ref: str, progress: Progress = silent) -> Transferred:
    """Copy a version and all that it was made from out of the remote, under the numbers that they have there.

    Args:
        ref: `delay@2`, or `delay` for its newest there.

    Raises:
        NotFound: loopwright.toml names no remote, or nobody has pushed the version there.
        Conflict: a number stands for something else here.
        Corrupt: a blob of the remote does not hold what was pushed.
    """
    remote = remote_of(space).make()
    name, _, at = ref.partition("@")
    have = remote.versions(valid_name(name))
    if at and not (at.isascii() and at.isdigit()):
        raise Invalid(f"{ref!r} is no version such as delay@2", code="ref.form", field="ref")
    number = int(at) if at else max(have, default=0)
    noted = remote.noted(name, number, Noted)
    if noted is None:
        message = f"{ref} was not pushed to {remote.folder}"
        raise NotFound(message, code="remote.missing", field="ref", hint=f"lw push {ref}")
    moved = remote.fetch(space, noted.artifacts, progress)
    bundle = None if noted.bundle is None else _read(space, noted.bundle.digest)
    if space.write(lambda tx: _enter(tx, actor, noted, bundle)) and noted.bundle is not None:
        _keep(space, actor, noted.version, noted.bundle.digest)
    return Transferred(remote=str(remote.folder), versions=[noted.version.ref], moved=moved)


def _enter(tx: Tx, actor: str, noted: Noted, bundle: Bundle | None) -> bool:
    fresh = place(tx, noted.version)
    if bundle is not None:
        enter(tx, bundle)
    if fresh:
        ledger.append(tx, actor, VERSION_PULLED, noted.version.ref, {"digest": noted.version.digest})
    return fresh


def enter(tx: Tx, bundle: Bundle) -> None:
    """Enter the runs, data versions and features of a bundle whose artifacts are here; those that are here stay.

    Raises:
        Conflict: a number stands for something else here.
    """
    for run in bundle.runs:
        run_rows.enter(tx, run)
    for one in bundle.data:
        if place(tx, one.version):
            queries.put_version(tx, one.version.name, one.version.number, one.known)
    for spec in bundle.features:
        if queries.find_features(tx, spec.name) is None:
            queries.put_features(tx, spec)


def closure(space: Space, roots: Sequence[str]) -> tuple[set[str], list[Artifact]]:
    """Every blob that artifacts are made of, and what is recorded of those that are artifacts."""
    reach = Reach(space)
    with space.read() as tx:
        reach.load(tx)
    digests = reach.add(None, [Root(digest, "push", "") for digest in roots])
    refuse_unread(reach)
    with space.read() as tx:
        return digests, recorded_of(tx, digests)


def bundled(space: Space, actor: str, version: Version) -> tuple[Bundle, Version]:
    """The bundle of a version that a run made: as it was pulled or made before, or made now.

    Raises:
        NotFound: no run made it.
    """
    for held_version in names.versions(space, f"{version.name}.{KIND}"):
        with space.read() as tx:
            gone = erasure.tombstone(tx, held_version.digest) is not None
        if not gone and artifacts.get(space, held_version.digest, KIND).meta.get("of") == version.ref:
            return _read(space, held_version.digest), held_version
    bundle = make(space, version)
    parts = {str(number): digest for number, digest in enumerate(sorted(_refers(bundle)))}
    files: dict[str, Any] = {FILE: msgspec.json.encode(bundle)}
    digest = artifacts.put_tree(space, files, kind=KIND, meta={"of": version.ref, "parts": parts}).digest
    return bundle, _keep(space, actor, version, digest)


def _keep(space: Space, actor: str, version: Version, digest: str) -> Version:
    artifact = artifacts.get(space, digest, KIND)
    return space.write(lambda tx: names.register(tx, actor, f"{version.name}.{KIND}", artifact, always=False))


def _read(space: Space, digest: str) -> Bundle:
    try:
        return msgspec.json.decode(artifacts.read(space, digest, FILE), type=Bundle)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"bundle {digest[:12]} cannot be read: {error}", code="bundle.form", hint="lw push") from None


def _refers(bundle: Bundle) -> set[str]:
    found = bundle.needs()
    for run in bundle.runs:
        code = (run.code.diff, run.code.files, run.code.project)
        found |= {output.digest for output in run.outputs.values()} | {digest for digest in code if digest}
    return found


def make(space: Space, version: Version) -> Bundle:
    """Find what a version was made from, and extract what of it grows or goes.

    Raises:
        NotFound: no run made it.
    """
    if version.run is None:
        message = f"{version.ref} was registered as it is: no run made it, so there is nothing to run again"
        raise NotFound(message, code="run.none", field="ref", hint=f"lw log {version.ref}")
    chain = list(chain_of(space, version.run))
    run, read = chain[0], {ref: names.resolve(space, ref) for one in chain for ref in refs_of(one.inputs)}
    with space.read() as tx:
        known = {ref: queries.find_version(tx, each.name, each.number) for ref, each in read.items()}
    now_us = run.started_us if space.clock.mode == "replay" else run.started_us - run.started_us % HOUR
    logs, told, features = _extracted(space, chain, now_us)
    project = next((one.code.project for one in chain if one.code.project), None)
    code = project or run.code.files
    return Bundle(
        version=version,
        runs=[msgspec.structs.replace(one, files={}, sealed={}, metrics=_finite(one)) for one in chain],
        data=[DataVersion(version=read[ref], known=kept) for ref, kept in sorted(known.items()) if kept is not None],
        features=features,
        logs=logs,
        facts=told,
        code=code,
        entry=_entry(space, code, run.name, whole=project is not None),
        now_us=now_us,
    )


def _finite(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.metrics.items() if abs(value) < float("inf")}


def chain_of(space: Space, run_id: str) -> Iterator[Run]:
    """A run, then those whose results it was fed."""
    todo, seen = [run_id], set()
    while todo:
        if (one := todo.pop(0)) not in seen:
            seen.add(one)
            run = runs.get(space, one)
            yield run
            todo += [step["run"] for step in run.inputs.get("steps", [])]


def _entry(space: Space, code: str | None, step: str, *, whole: bool) -> str | None:
    if code is None:
        return None
    if whole:
        return str(artifacts.get(space, code, "project").meta["entry"])
    files = artifacts.files(space, code)
    marks = [path for path, file in files.items() if f"def {step}(".encode() in space.blobs.read(file)]
    return marks[0] if marks else next(iter(files), None)


def _extracted(space: Space, chain: list[Run], now_us: int) -> tuple[list[Part], list[Part], list[FeaturesSpec]]:
    logs: dict[str, Part] = {}
    told: dict[str, Part] = {}
    features: dict[str, FeaturesSpec] = {}
    for run in chain:
        until = run.params.get("until") or next((r.params["until"] for r in chain if r.params.get("until")), None)
        until_us = parse_time(until, "until") if isinstance(until, str) else now_us
        for about in run.inputs.get("declared", {}).values():
            name = about.get("name", "")
            with space.read() as tx:
                spec = queries.find_features(tx, name)
            if spec is not None:
                features[name] = spec
            if about.get("log") and name not in logs:
                reader = AsWas(about["log"])
                part = _part(name, until_us, about["log"], reader.state(space, name, until_us))
                logs[name] = extracts.of_log(space, reader, part)
            for source, state in about.get("facts", {}).items():
                if source not in told:
                    with space.read() as tx:
                        found = queries.facts_state(tx, source, until_us)
                    told[source] = extracts.of_facts(space, _part(source, until_us, state, found))
    return list(logs.values()), list(told.values()), list(features.values())


def _part(name: str, until_us: int, state: Any, found: Any) -> Part:
    plain = msgspec.json.decode(msgspec.json.encode(found))
    return Part(name=name, until_us=until_us, digest=None, state=state, found=plain)


def _sum(one: Moved, other: Moved) -> Moved:
    fields = msgspec.structs.asdict(other)
    return Moved(**{name: getattr(one, name) + number for name, number in fields.items()})


def text(done: Transferred) -> str:
    """What was copied, in a line or two."""
    moved = done.moved
    lines = [f"{', '.join(done.versions) or 'nothing'}: {moved.copied} blobs copied ({moved.size_bytes} bytes),"
             f" {moved.there} were there, {moved.erased} are erased; remote {done.remote}"]  # fmt: skip
    if done.buried:
        lines.append(f"{done.buried} blobs that were erased here were taken out of the remote")
    return "\n".join(lines)

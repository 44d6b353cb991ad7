"""From a prediction back to model, run, code, data, label and decisions; bytes are hashed again on the way."""

from typing import Any

from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Version
from loopwright.kernel.errors import NotFound
from loopwright.kernel.times import format_time
from loopwright.lineage.model import Bytes, Decision, Trace, TracedRun
from loopwright.runs import service as runs
from loopwright.runs.model import Run
from loopwright.serving import predictions, routes
from loopwright.store import erasure, ledger
from loopwright.store.space import Space

# the fields of a decision that name versions of the endpoint's model
SPEAKS_OF = ("version", "candidate", "champion", "replaced")


def trace(space: Space, actor: str, *, prediction: str) -> Trace:
    """Say where a prediction came from: model, run, code, data, feature values, label, decisions.

    Args:
        prediction: the id of a prediction, or the id that its request carried.

    Raises:
        NotFound: no such prediction was logged.
    """
    row = predictions.find(space, prediction)
    spec = routes.endpoint(space, row.endpoint)
    number = row.version if row.version is not None else row.arm
    version = names.get(space, spec.model, number)
    made = run_of(space, version)
    with space.read() as tx:
        marks = names.taints(tx, spec.model, number)
    return Trace(
        id=row.id,
        request_id=row.request_id,
        endpoint=row.endpoint,
        at=format_time(row.at_us),
        version=version.ref,
        picked=f"{spec.model}@{row.arm}",
        score=row.score,
        scores=dict(row.scores),
        latency_us=dict(row.latency_us),
        inputs=dict(row.inputs),
        label=row.label,
        label_known_at=None if row.label_known_us is None else format_time(row.label_known_us),
        model=checked(space, version),
        run=None if made is None else traced_run(made),
        data=[] if made is None else data_of(space, made),
        trained_on={} if made is None else training_of(made),
        decisions=decisions(space, row.endpoint, number, row.at_us),
        tainted=bool(marks),
    )


def run_of(space: Space, version: Version) -> Run | None:
    """The run that made a version, when a run did."""
    try:
        return None if version.run is None else runs.get(space, version.run)
    except NotFound:
        return None


def traced_run(run: Run) -> TracedRun:
    """The part of a run that says how its output came to be."""
    return TracedRun(
        id=run.id,
        name=run.name,
        state=run.state,
        started=format_time(run.started_us),
        params=run.params,
        commit=run.code.commit,
        dirty=run.code.dirty,
        diff=run.code.diff,
        files=run.code.files or run.code.project,
        environment=run.environment,
        metrics=run.metrics,
    )


def checked(space: Space, version: Version) -> Bytes:
    """Hash the bytes of a version again, every file of a tree; of what was erased, what has taken its place."""
    with space.read() as tx:
        digest, gone = erasure.latest(tx, version.digest), erasure.tombstone(tx, version.digest) is not None
    if gone and digest == version.digest:  # all of its rows were erased
        return Bytes(ref=version.ref, digest=version.digest, bytes_ok=True, erased=True)
    artifact = artifacts.get(space, digest)
    digests = [digest]
    if artifact.is_tree and space.blobs.verify(digest):
        with space.read() as tx:
            digests += [erasure.latest(tx, file) for file in artifacts.files(space, digest).values()]
    good = all(space.blobs.verify(each) for each in digests)
    size = artifact.size_bytes
    return Bytes(ref=version.ref, digest=version.digest, bytes_ok=good, size_bytes=size, erased=gone)


def data_of(space: Space, run: Run) -> list[Bytes]:
    """The data versions that a run and the runs before it read, hashed again."""
    return [checked(space, names.resolve(space, ref)) for ref in sorted(refs_of(run.inputs))]


def refs_of(inputs: Any) -> set[str]:
    """Every `name@number` under a `data` key of a run's inputs."""
    found: set[str] = set()
    if isinstance(inputs, dict):
        for key, value in inputs.items():
            if key == "data" and isinstance(value, dict):
                found.update(str(ref) for ref in value)
            else:
                found |= refs_of(value)
    elif isinstance(inputs, list):
        for value in inputs:
            found |= refs_of(value)
    return found


def training_of(run: Run) -> dict[str, Any]:
    """What of the prediction log and the labels a run was trained on: counts and the moment it looked from."""
    found: dict[str, Any] = {}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("log"), dict):
                found.update(value["log"])
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(run.inputs)
    until = run.params.get("until")
    return {**found, **({"until": until} if until is not None else {})}


def decisions(space: Space, endpoint: str, version: int, until_us: int) -> list[Decision]:
    """The decisions on an endpoint that speak of a version, up to a moment."""
    out = []
    with space.read() as tx:
        found = ledger.read(tx, kinds=ledger.decision_kinds(), subject=f"endpoint:{endpoint}", limit=100_000)
    for event in found:
        speaks = version in (event.data.get(field) for field in SPEAKS_OF)
        if event.at_us <= until_us and speaks:
            out.append(
                Decision(seq=event.seq, at=format_time(event.at_us), kind=event.kind, sentence=ledger.sentence(event))
            )
    return out

"""Op rows of serving: endpoints, routes, predictions, labels."""

from pathlib import Path
from typing import Any

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.kernel.files import fresh_file
from loopwright.kernel.op import Op
from loopwright.kernel.pages import MOST, Page, page
from loopwright.kernel.times import parse_time
from loopwright.serving import compare, labels, predictions, publish, routes
from loopwright.serving.labels import Taken
from loopwright.serving.model import EndpointSpec, Route, RouteSet, WorkerReport
from loopwright.serving.predictions import Prediction
from loopwright.store.space import Space


class EndpointState(msgspec.Struct, frozen=True, kw_only=True):
    """What is declared of an endpoint, and its routes now."""

    spec: EndpointSpec
    routes: list[Route]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A file of predictions."""

    path: str
    rows: int
    columns: list[str]


def list_endpoints(space: Space, actor: str) -> list[EndpointState]:
    """List the endpoints with their routes."""
    return [_state(space, spec) for spec in routes.endpoints(space)]


def get_endpoint(space: Space, actor: str, *, endpoint: str) -> EndpointState:
    """Get an endpoint with its routes."""
    return _state(space, routes.endpoint(space, endpoint))


def _state(space: Space, spec: EndpointSpec) -> EndpointState:
    return EndpointState(spec=spec, routes=routes.current(space, spec.name))


def list_routes(
    space: Space, actor: str, *, endpoint: str, after: str | None = None, limit: int = MOST
) -> Page[RouteSet]:
    """List all routes that an endpoint has had, oldest first."""
    found = routes.history(space, endpoint)
    return page(found, after=after, limit=limit, key=lambda routes: routes.generation)


def list_workers(space: Space, actor: str) -> list[WorkerReport]:
    """List the workers that are alive and what they serve."""
    return publish.workers(space)


def add_labels(space: Space, actor: str, *, endpoint: str, body: bytes) -> Taken:
    """Add labels to predictions: NDJSON lines of id, label and known_at, all or none.

    Args:
        endpoint: the endpoint that answered.
        body: a line a label, such as {"id": "r-17", "label": 1, "known_at": "2013-04-02T09:30:00Z"}.
    """
    return labels.add(space, actor, endpoint, body)


def get_prediction(space: Space, actor: str, *, endpoint: str, id: str) -> Prediction:
    """Get one prediction with its inputs, scores and labels.

    Args:
        endpoint: the endpoint that answered.
        id: the id of the prediction, or the id that its request carried.
    """
    return predictions.find(space, id, endpoint)


def write_predictions(
    space: Space, actor: str, *, endpoint: str, out: Path, since: str | None = None, until: str | None = None
) -> Written:
    """Write the predictions of an endpoint, with their labels, to a Parquet file.

    Args:
        endpoint: the endpoint that answered.
        out: the Parquet file to write.
        since: the first moment, by the asker's time.
        until: the moment before which it ends.
    """
    if out.suffix != ".parquet" or not out.parent.is_dir():
        raise Invalid(f"{out} must be a .parquet file in a folder that is there", code="out.form", field="out")
    span = {
        "since_us": None if since is None else parse_time(since, "since"),
        "until_us": None if until is None else parse_time(until, "until"),
    }
    with predictions.connect() as con, fresh_file(out) as fresh:
        columns = predictions.joined(con, space, endpoint, space.clock.now_us() + 1, **span)
        rows = con.execute("SELECT COUNT(*) FROM judged").fetchone()[0]
        place = str(fresh).replace("'", "''")
        con.execute(f"COPY judged TO '{place}' (FORMAT parquet, COMPRESSION zstd)")
    return Written(path=str(out), rows=int(rows), columns=columns)


def check_features(
    space: Space,
    actor: str,
    *,
    name: str,
    sample: int | None = None,
    since: str | None = None,
    until: str | None = None,
) -> compare.Compared:
    """Compare the features that were looked up with what sources and facts say of the asking times, cell by cell.

    Args:
        name: the features.
        sample: so many rows of each endpoint, drawn by their ids; all by default.
        since: the first moment, by the asker's time.
        until: the moment before which it ends.
    """
    if sample is not None and sample < 1:
        raise Invalid("a sample has at least one row", code="features.sample", field="sample")
    first = None if since is None else parse_time(since, "since")
    return compare.compare(space, name, (first, None if until is None else parse_time(until, "until")), sample)


def _written_text(done: Any) -> str:
    return f"{done.rows} predictions in {done.path}"


OPS = [
    Op(fn=list_endpoints, http="GET /api/v1/endpoints", action="endpoints.read"),
    Op(
        fn=get_endpoint, http="GET /api/v1/endpoints/{endpoint}", action="endpoints.read", subject="endpoint:{endpoint}"
    ),
    Op(
        fn=list_routes,
        http="GET /api/v1/endpoints/{endpoint}/routes",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
    Op(fn=list_workers, http="GET /api/v1/workers", action="endpoints.read"),
    Op(
        fn=add_labels,
        http="POST /api/v1/endpoints/{endpoint}/labels",
        action="labels.add",
        repeatable=True,
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=get_prediction,
        http="GET /api/v1/endpoints/{endpoint}/predictions/{id:path}",
        action="predictions.read",
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=check_features,
        http="GET /api/v1/features/{name}/check",
        action="features.check",
        subject="features:{name}",
        cli="features check",
        positional=("name",),
        render=compare.text,
        exit_code=lambda done: int(done.differ > 0),
    ),
    Op(
        fn=write_predictions,
        http="POST /api/v1/endpoints/{endpoint}/predictions/files",
        action="predictions.export",
        subject="endpoint:{endpoint}",
        cli="predictions",
        positional=("endpoint",),
        writes="out",
        render=_written_text,
    ),
]

"""Every op through its function, HTTP and the command line: the same answer, or the same refusal."""

import contextlib
from typing import Any

import msgspec
import pytest

from loopwright import house
from loopwright.access import service as access
from loopwright.faces import bind, cli, client, output
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.op import Op
from loopwright.project import server

Served = tuple[Any, server.Running]

# what each op is asked; the place of an id that is only known later is named in capitals
ASKED: dict[str, dict[str, Any]] = {
    "artifacts.list_names": {},
    "artifacts.list_versions": {"name": "tiny"},
    "artifacts.get_version": {"name": "tiny", "number": 1},
    "artifacts.list_label_moves": {"name": "tiny", "label": "prod"},
    "artifacts.fsck": {},
    "data.add": {"path": "asks.csv"},
    "data.get": {"name": "asks"},
    "data.get_features": {"name": "signals"},
    "data.features_rows": {
        "name": "signals", "since": "2020-01-26", "until": "2020-01-27", "out": "some.parquet"
    },
    "runs.list_runs": {"limit": 2},
    "runs.get_run": {"run": "RUN"},
    "runs.list_points": {"run": "RUN"},
    "runs.get_console": {"run": "RUN"},
    "models.get_model": {"name": "tiny", "number": 1},
    "serving.list_endpoints": {},
    "serving.get_endpoint": {"endpoint": "tiny"},
    "serving.list_routes": {"endpoint": "tiny"},
    "serving.list_workers": {},
    "serving.add_labels": {"endpoint": "tiny", "body": b'{"id": "first", "label": 1}\n'},
    "serving.get_prediction": {"endpoint": "tiny", "id": "first"},
    "serving.write_predictions": {"endpoint": "tiny", "out": "log.parquet", "since": "2020-01-25"},
    "monitors.quality": {"endpoint": "tiny", "days": 3},
    "monitors.list_alarms": {"endpoint": "tiny"},
    "monitors.list_flags": {"endpoint": "tiny"},
    "releases.list_verdicts": {"endpoint": "tiny", "version": 1},
    "releases.list_reigns": {"endpoint": "tiny"},
    "releases.list_rollouts": {"endpoint": "tiny"},
    "pipelines.list_jobs": {"state": "finished"},
    "loop.endpoint_state": {"endpoint": "tiny"},
    "lineage.show": {"ref": "tiny@1"},
    "lineage.log": {"ref": "tiny", "limit": 5},
    "lineage.trace": {"prediction": "PREDICTION"},
    "lineage.events": {"kind": "decision", "stable": True},
    "project.status": {},
}  # fmt: skip
# ops that would change what is served, or that run as jobs: asked for what is not there, they must refuse alike
REFUSED: dict[str, dict[str, Any]] = {
    "project.run_target": {"target": "nothing"},
    "artifacts.gc": {"grace": "nothing"},
    "releases.check": {"ref": "nothing"},
    "releases.deploy": {"ref": "nothing"},
    "releases.rollback": {"endpoint": "nothing"},
    "releases.hold": {"endpoint": "nothing", "reason": "to see"},
    "artifacts.get_version": {"name": "tiny", "number": 99},
    "lineage.trace": {"prediction": "pred_0000"},
    "runs.get_run": {"run": "run_0000"},
    "serving.get_endpoint": {"endpoint": "nothing"},
    "data.get": {"name": "Not A Name"},
}


@pytest.fixture(scope="module")
def ids(served: Served) -> dict[str, str]:
    """One prediction, and the run that made the model."""
    project, where = served
    tensors = [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [0.25]},
        {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["south"]},
    ]
    fields = {"id": "first", "parameters": {"time": "2020-01-25T05:00:00Z"}, "inputs": tensors}
    with contextlib.closing(client.Client(where.data_url)) as caller:
        answer = caller.json("POST", "/v2/models/tiny/infer", fields)
    version = project.json("api", "artifacts.get_version", "name=tiny", "number=1")
    return {"PREDICTION": answer["parameters"]["prediction_id"], "RUN": version["run"]}


def filled(args: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    return {name: ids.get(value, value) if isinstance(value, str) else value for name, value in args.items()}


def by_function(project: Any, op: Op, args: dict[str, Any]) -> Any:
    space = house.open(project.folder)
    try:
        result = op.fn(space, access.local_actor(), **bind.bind(op, args))
        return msgspec.json.decode(bind.to_json(result))
    finally:
        space.close()


def by_command(project: Any, op: Op, args: dict[str, Any], code: int | None = 0) -> Any:
    words = []
    for name, value in args.items():
        if isinstance(value, bytes):
            (project.folder / "body.ndjson").write_bytes(value)
            value = "body.ndjson"
        words.append((name, value))
    if op.cli is None:
        line = ["api", op.name, *(f"{name}={value}" for name, value in words)]
    else:
        line = op.cli.split(" ")
        for name, value in words:
            option = next(p.option for p in bind.params(op) if p.name == name)
            line += [str(value)] if name in op.positional else [option] if value is True else [option, str(value)]
    return project.json(*line, code=code)


def test_every_op_is_asked() -> None:
    assert set(house.ops()) == set(ASKED) | set(REFUSED)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_the_three_faces_give_the_same(
    served: Served, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    project, where = served
    monkeypatch.chdir(project.folder)
    op, args = house.ops()[name], filled(ASKED[name], ids)
    with contextlib.closing(client.Client(where.control_url)) as caller:
        caller.call(op, **args)  # what is new the first time is old in all that are compared
        over_http = caller.call(op, **args)
    assert by_function(project, op, args) == over_http
    document = by_command(project, op, args)
    assert document["schema"].startswith("lw.") and document["schema"].endswith("/1")
    assert document == output.document(over_http, document["schema"])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_three_faces_refuse_alike(served: Served, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    project, where = served
    monkeypatch.chdir(project.folder)
    op, args = house.ops()[name], REFUSED[name]
    with pytest.raises(LoopwrightError) as caught:
        by_function(project, op, args)
    told = caught.value.to_dict()
    document = by_command(project, op, args, code=cli.exit_code(caught.value))
    assert document == {"schema": "lw.error/1", **told}
    if op.shape != "job":
        with contextlib.closing(client.Client(where.control_url)) as caller, pytest.raises(LoopwrightError) as caught:
            caller.call(op, **args)
        assert caught.value.to_dict() == told

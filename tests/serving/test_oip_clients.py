"""Clients that others wrote: the ruler's conformance checks, and Triton's own client, against a real worker."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from worker_harness import ME, PARAMS, VALUES, Running, change, frame

from loopwright.models import service as models
from loopwright.models.package import model
from loopwright.serving import predictions, routes
from loopwright.serving.model import EndpointSpec, Route
from loopwright.store.space import Space

# The wire knows no database: once is enough.
pytestmark = pytest.mark.parametrize("ground", ["sqlite"], indirect=True)
RULER = Path(__file__).parents[2] / "bench" / "rulers" / "serving" / "conformance.py"


@pytest.fixture
def wide(wall_space: Space, tmp_path: Path) -> Iterator[Running]:
    """A worker with a model of 25 numbers, and its right answers in a file as the ruler wants them."""
    random = np.random.default_rng(5)
    x = random.normal(size=(500, 25)).astype(np.float32)
    y = (x[:, 0] + x[:, 3] ** 2 + random.normal(size=500) > 1).astype(int)
    columns = [f"f{number}" for number in range(25)]
    table = pd.DataFrame(x.astype(float), columns=columns)
    booster = lgb.train(PARAMS, lgb.Dataset(table, y), 20)
    np.savez(tmp_path / "answers.npz", X=x[:10], gb=booster.predict(x[:10].astype(float)))
    made, space = model("delay", booster, sample=table), wall_space
    spec = EndpointSpec(name="delay", model="delay", features="asked")
    space.write(lambda tx: routes.declare(tx, ME, spec))
    stored = models.store(space, made)
    space.write(lambda tx: models.register(tx, ME, "delay", stored))
    change(space, [Route(1, 1.0, "live")])
    running = Running(space)
    yield running
    running.stop()


def test_the_rulers_checks_of_the_protocol_all_hold(wide: Running, tmp_path: Path) -> None:
    command = [sys.executable, str(RULER), "--url", f"http://127.0.0.1:{wide.port}", "--model", "delay"]
    wanted = ["--models-dir", str(tmp_path), "--only", "oip,binary,triton-http"]
    ran = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.endswith("17 passed, 0 failed, 0 skipped\n"), ran.stdout


def inputs(module: Any, table: pd.DataFrame, binary: bool) -> list[Any]:
    """The columns of a frame as tensors of Triton's client."""
    out = []
    for name, kind in (("wind", "FP64"), ("dest", "BYTES"), ("hour", "INT64"), ("wet", "BOOL")):
        column = table[name].astype(object) if kind == "BYTES" else table[name]
        made = module.InferInput(name, [len(table)], kind)
        made.set_data_from_numpy(column.to_numpy(), binary_data=binary)
        out.append(made)
    return out


def test_tritons_client_gets_the_same_in_every_form(worker: Running, ready: Space) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="the client of Triton is not installed")
    client = triton.InferenceServerClient(f"127.0.0.1:{worker.port}")
    table = frame(40, seed=3)
    table["dest"] = table["dest"].astype(object).where(table["dest"].notna(), "nowhere")
    answers = []
    for number, (binary_in, binary_out, packed) in enumerate(
        [(True, True, None), (False, False, None), (True, False, "gzip"), (False, True, "deflate")]
    ):
        wanted = [triton.InferRequestedOutput("probability", binary_data=binary_out)]
        sent = inputs(triton, table.fillna({"wind": 0.0}) if not binary_in else table, binary_in)
        made = client.infer(
            "delay", sent, outputs=wanted, request_id=f"t{number}", request_compression_algorithm=packed
        )
        assert made.get_response()["id"] == f"t{number}"
        answers.append(made.as_numpy("probability"))
    assert [answer.dtype for answer in answers] == [np.float64] * 4
    assert (answers[0] == answers[2]).all() and (answers[1] == answers[3]).all()
    whole = table["wind"].notna().to_numpy()
    assert (answers[0][whole] == answers[1][whole]).all() and not (answers[0] == answers[1]).all()
    assert predictions.find(ready, "t0/0").inputs["wind"] is None  # NaN of a binary tensor is a null
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("delay", "1")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert {entry["state"] for entry in client.get_model_repository_index()} == {"READY"}
    one = inputs(triton, pd.DataFrame([VALUES]), True)
    assert client.infer("delay", one, model_version="1").get_response()["model_version"] == "1"
    refused: list[tuple[Any, ...]] = [
        (client.infer, "nobody", one), (client.infer, "delay", one[:3]), (client.load_model, "delay"),
        (client.unload_model, "delay"),
    ]  # fmt: skip
    for ask, *arguments in refused:
        with pytest.raises(triton.InferenceServerException):
            ask(*arguments)
    client.close()

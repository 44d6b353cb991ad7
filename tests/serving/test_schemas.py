"""The stable wire is what docs/schemas says of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from worker_harness import VALUES, Running, ask

from loopwright.kernel.errors import Invalid
from loopwright.serving import labels
from loopwright.store.space import Space

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_requests_and_answers(worker: Running) -> None:
    request, answer = validator("infer-request-1"), validator("infer-answer-1")
    for body in (ask(id="s", subject="kind=value"), ask(), ask({k: [v, v] for k, v in VALUES.items()})):
        request.validate(body)
        answer.validate(worker.infer(body).json())
    packed = worker.infer(ask(id="packed", binary_data_output=True))
    answer.validate(json.loads(packed.content[: int(packed.headers["Inference-Header-Content-Length"])]))
    matrix = {"name": "X", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]}
    behind = {"name": "X", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}}
    request.validate({"inputs": [matrix]})
    request.validate({"inputs": [behind], "parameters": {"binary_data_output": True}})
    assert not request.is_valid({"inputs": [{**behind, "parameters": {}}]})
    error = validator("error-1")
    for body in ({"inputs": []}, ask({**VALUES, "hour": None}), {**ask(), "id": 7}):
        got = worker.infer(body)
        assert got.status_code == 422
        error.validate(got.json())
    for wrong in ({"inputs": []}, {**ask(), "id": 7}):
        assert not request.is_valid(wrong)


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ({"id": "a", "label": 1}, True),
        ({"id": "a", "label": True, "known_at": "2013-04-01T12:00:00Z"}, True),
        ({"id": "", "label": 1}, False),
        ({"id": "a", "label": "1"}, False),
        ({"id": "a"}, False),
        ({"id": "a", "label": 1, "more": 1}, False),
    ],
)
def test_labels(ready: Space, line: dict[str, Any], good: bool) -> None:
    assert validator("label-1").is_valid(line) is good
    body = json.dumps(line).encode()
    if good:
        assert labels.add(ready, "me", "delay", body).accepted == 1
    else:
        with pytest.raises(Invalid):
            labels.add(ready, "me", "delay", body)

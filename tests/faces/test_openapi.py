"""The OpenAPI document: valid, whole, and true of what a real server answers to made-up requests of every kind."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from loopwright import house
from loopwright.faces import client, door, openapi
from loopwright.faces.bind import path, verb
from loopwright.project import server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the packages under it deprecate is not ours
    import hypothesis
    import schemathesis
    from schemathesis.specs.openapi import checks as found
    from schemathesis.specs.openapi import definitions

Served = tuple[Any, server.Running]
EXAMPLES = 12


def no_fault(context: Any, response: Any, case: Any) -> None:
    """A fault of the server; 501, 503 and 504 are answers that the document has."""
    assert response.status_code not in (500, 502), response.text


LOOKED_AT = [
    no_fault,
    found.status_code_conformance,
    found.content_type_conformance,
    found.response_schema_conformance,
    found.response_headers_conformance,
]
# jobs whose work would be done for real: their routes are called, but not with what would start something long
SLOW = {"artifacts.fsck"}


@pytest.fixture(scope="module")
def document(served: Served) -> dict[str, Any]:
    _, where = served
    with contextlib.closing(client.Client(where.control_url)) as caller:
        found: dict[str, Any] = caller.json("GET", openapi.PATH)
    return found


def test_it_is_valid(document: dict[str, Any]) -> None:
    definitions.OPENAPI_31_VALIDATOR.validate(document)
    assert document["openapi"] == "3.1.0"
    assert document["components"]["securitySchemes"]["session"]["name"] == door.COOKIE
    names = [told["operationId"] for here in document["paths"].values() for told in here.values()]
    assert len(names) == len(set(names)) > 50
    for here in document["paths"].values():
        for told in here.values():
            assert told[openapi.ACTION].count(".") == 1


def test_every_op_is_in_it(document: dict[str, Any]) -> None:
    for op in openapi.routed(house.ops()):
        told = document["paths"][openapi.place(path(op))][verb(op).lower()]
        assert (told["operationId"], told[openapi.ACTION]) == (op.name, op.action)
        assert told["summary"].endswith(".")


def test_every_route_of_the_server_is_in_it(document: dict[str, Any], served: Served) -> None:
    _, where = served
    with contextlib.closing(client.Client(where.control_url)) as caller:
        for place in ("/health/live", "/api/v1/clock", "/login"):
            assert "get" in document["paths"][place], place
            assert caller.send("GET", place).response.read() is not None


def test_every_named_part_is_there(document: dict[str, Any]) -> None:
    def named(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for item in value.values():
                yield from named(item)
        elif isinstance(value, list):
            for item in value:
                yield from named(item)

    found = set(named(document))
    assert len(found) > 40
    for name in found:
        part: Any = document
        for step in name.removeprefix("#/").split("/"):
            part = part[step]
        assert part


def operations() -> list[str]:
    return sorted(op.name for op in openapi.routed(house.ops()))


@pytest.fixture(scope="module")
def api(document: dict[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_dict(json.loads(json.dumps(document)))
        return {result.ok().definition.raw["operationId"]: result.ok() for result in schema.get_all_operations()}


@pytest.mark.parametrize("name", operations())
def test_made_up_requests_are_answered_as_it_says(api: dict[str, Any], served: Served, name: str) -> None:
    _, where = served

    @hypothesis.settings(
        max_examples=3 if name in SLOW else EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(case=api[name].as_strategy())
    def ask(case: Any) -> None:
        if isinstance(case.query, dict):
            case.query.pop("wait_s", None)  # tests do not wait
        case.call_and_validate(base_url=where.control_url, checks=LOOKED_AT)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ask()

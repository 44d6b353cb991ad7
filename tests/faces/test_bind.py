"""Values from outside become typed arguments, or an error that names the field."""

from pathlib import Path
from typing import Any, Literal

import pytest

from loopwright.faces import bind
from loopwright.kernel.errors import Invalid
from loopwright.kernel.op import Op, Progress, silent


def sample(
    space: Any,
    actor: str,
    *,
    name: str,
    count: int = 3,
    share: float = 0.5,
    dry: bool = False,
    kind: Literal["a", "b"] = "a",
    tags: list[str] | None = None,
    params: dict[str, int] | None = None,
    note: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Do something with a name.

    Args:
        name: what to do it with, in a text
            of two lines.
        count: how often.

    Raises:
        Invalid: never.
    """
    return {}


def upload(space: Any, actor: str, *, endpoint: str, ndjson: bytes) -> None:
    """Take lines."""


def place(space: Any, actor: str, *, out: Path) -> None:
    """Take a path."""


OP = Op(fn=sample, http="POST /api/v1/samples/{name}", action="samples.make", cli="sample")
UPLOAD = Op(fn=upload, http="POST /api/v1/endpoints/{endpoint}/labels", action="labels.add")
PLACE = Op(fn=place, http="POST /api/v1/places", action="places.make")


def test_parameters_come_from_the_signature() -> None:
    names = [p.name for p in bind.params(OP)]
    assert names == ["name", "count", "share", "dry", "kind", "tags", "params", "note"]
    assert [p.name for p in bind.params(OP) if p.required] == ["name"]
    assert bind.takes_progress(OP)
    helps = {p.name: p.help for p in bind.params(OP)}
    assert helps["name"] == "what to do it with, in a text of two lines."
    assert helps["count"] == "how often."
    assert helps["share"] == ""
    assert bind.help_text(OP) == "Do something with a name."


def test_text_is_read_as_the_type_of_the_field() -> None:
    given = {"name": "7", "count": "4", "share": "0.25", "dry": "true", "note": "null", "params": {"k": "2"}}
    found = bind.bind(OP, given)
    assert found == {"name": "7", "count": 4, "share": 0.25, "dry": True, "note": "null", "params": {"k": 2}}


def test_json_is_not_read_as_another_type() -> None:
    with pytest.raises(Invalid) as caught:
        bind.bind(OP, {"name": "x", "count": "4"}, lax={"name"})
    assert caught.value.field == "count"
    assert "int" in caught.value.message


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "name"),
        ({"name": "x", "nmae": "y"}, "nmae"),
        ({"name": "x", "count": "many"}, "count"),
        ({"name": "x", "count": 1e400}, "count"),
        ({"name": "x", "kind": "c"}, "kind"),
        ({"name": "x", "tags": ["a", 3]}, "tags[1]"),
        ({"name": "x", "params": {"k": "v"}}, "params[...]"),
        ({"name": None}, "name"),
    ],
)
def test_an_error_names_the_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        bind.bind(OP, given)
    assert caught.value.field == field


def test_raw_body_and_paths() -> None:
    whole = bind.body_param(UPLOAD)
    assert whole is not None and whole.name == "ndjson"
    assert bind.bind(UPLOAD, {"endpoint": "e", "ndjson": b"\xff"}) == {"endpoint": "e", "ndjson": b"\xff"}
    assert bind.bind(PLACE, {"out": "a/b"}) == {"out": Path("a/b")}
    with pytest.raises(Invalid):
        bind.bind(PLACE, {"out": 3})


def test_paths_of_routes() -> None:
    assert bind.path_fields(OP) == ("name",)
    assert bind.fill_path(OP, {"name": "a%2Fb"}) == "/api/v1/samples/a%2Fb"
    assert (bind.verb(OP), bind.path(OP)) == ("POST", "/api/v1/samples/{name}")


def test_plain_json_of_numbers_and_paths() -> None:
    import numpy as np

    assert bind.to_json({"p": Path("a"), "n": np.float64(0.5), "v": np.arange(2)}) == b'{"p":"a","n":0.5,"v":[0,1]}'
    with pytest.raises(TypeError):
        bind.to_json(object())


@pytest.mark.parametrize("count", [2**63, -(2**63) - 1, "99999999999999999999"])
def test_a_number_that_no_database_holds_is_refused_by_name(count: Any) -> None:
    with pytest.raises(Invalid) as caught:
        bind.bind(OP, {"name": "n", "count": count})
    assert caught.value.field == "count"
    assert bind.bind(OP, {"name": "n", "count": 2**63 - 1})["count"] == 2**63 - 1

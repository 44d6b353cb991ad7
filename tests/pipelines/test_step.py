"""What a step is, and how parameters are read from the command line."""

import functools
from typing import Any, Literal

import pytest

import loopwright as lw
from loopwright.kernel.errors import Invalid
from loopwright.pipelines.step import chain, read_params


@lw.step
def table(until: str = "now", rows: int = 3, keep: bool = True) -> list[int]:
    """Rows."""
    return list(range(rows))


@lw.step(name="fit")
def train(
    data: Any = table,
    *,
    rate: float = 0.1,
    how: Literal["fast", "slow"] = "fast",
    columns: list[str] | None = None,
    free=1,
) -> float:
    return rate * len(data)


def test_a_step_is_the_plain_function_when_it_is_called() -> None:
    assert table(rows=2) == [0, 1]
    assert train([1, 2], rate=2) == 4
    assert train() == pytest.approx(0.3), "what is wired in is computed"
    assert table.__name__ == "table" and table.__doc__ == "Rows."
    assert (table.name, train.name) == ("table", "fit")
    assert repr(table) == "<step table(until: str='now', rows: int=3, keep: bool=True)>"
    assert [s.name for s in chain(train)] == ["table", "fit"]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("rows=5", "rows", 5),
        ("rate=1", "rate", 1.0),
        ("rate=1e-3", "rate", 0.001),
        ("keep=no", "keep", False),
        ("until=2013-04-01", "until", "2013-04-01"),
        ("until=a=b", "until", "a=b"),
        ("how=slow", "how", "slow"),
        ('columns=["a"]', "columns", ["a"]),
        ("columns=null", "columns", None),
        ("free=2", "free", 2),
        ("table.rows=5", "table.rows", 5),
    ],
)
def test_parameters_are_read_by_their_annotations(text: str, name: str, value: Any) -> None:
    key, _, value_text = text.partition("=")
    found = read_params(train, {key: value_text})
    assert found == {name: value} and type(found[name]) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("row=5", "no parameter 'row' in table"),
        ("fit.rows=5", "no parameter 'fit.rows'"),
        ("rows=5.5", "'rows' must be of type int, not '5.5'"),
        ("rows=", "must be of type int"),
        ("keep=maybe", "must be of type bool"),
        ("rate=fast", "must be of type float"),
        ("how=medium", "'how' must be of type"),
        ("columns=a", "'columns' must be of type"),
        ("free=x", "must be of type int"),
    ],
)
def test_a_wrong_parameter_is_told_plainly(text: str, told: str) -> None:
    with pytest.raises(Invalid, match=told):
        read_params(train, dict([text.split("=", 1)]))


def test_an_unknown_parameter_gets_the_nearest_as_a_hint() -> None:
    with pytest.raises(Invalid) as caught:
        read_params(train, {"colums": "1"})
    assert caught.value.hint == "-p columns=..."


def test_a_step_has_named_parameters_alone() -> None:
    with pytest.raises(Invalid, match="named parameters"):
        lw.step(lambda *rows: rows)  # type: ignore[misc]
    with pytest.raises(Invalid):
        lw.step(functools.partial(print))


def test_two_steps_of_one_name_are_refused_in_a_chain() -> None:
    @lw.step(name="table")
    def other(data: Any = table) -> Any:
        return data

    with pytest.raises(Invalid, match="two steps are called 'table'"):
        chain(other)

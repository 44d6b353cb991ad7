"""The compiled subset of expressions gives what DuckDB gives, over generated expressions and values."""

import math
import re
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopwright.data import expressions, online, scalar, sql
from loopwright.kernel.errors import Unsupported

KINDS = {
    "i": "int",
    "j": "int",
    "d": "float",
    "e": "float",
    "s": "text",
    "t": "text",
    "b": "bool",
    "at": "time",
    "to": "time",
}
TYPES = {"int": "BIGINT", "float": "DOUBLE", "text": "VARCHAR", "bool": "BOOLEAN", "time": "BIGINT"}
PLACES = {name: (place, kind) for place, (name, kind) in enumerate(KINDS.items())}

wholes = st.none() | st.integers(-(10**9), 10**9) | st.sampled_from([0, 1, -1, 7, 2**53 + 1, -(2**62)])
fractions = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 0.49999999999999994, 1e308, -1e308, math.nan, math.inf, 5e-324]
)  # fmt: skip
texts = st.none() | st.text(st.sampled_from("aAbZ zéßİÅñ'%Σ"), max_size=6) | st.sampled_from(["", "JFK", " x "])
times = st.none() | st.integers(-62_135_596_800_000_000 // 10, 253_402_300_799_999_999 // 10)
rows = st.tuples(wholes, wholes, fractions, fractions, texts, texts, st.none() | st.booleans(), times, times)


def leaf(kind: str) -> st.SearchStrategy[str]:
    columns = [f'"{name}"' for name, of in KINDS.items() if of == kind]
    made = {
        "int": st.integers(0, 40).map(str),
        "float": st.sampled_from(["0.5", "2.0", "1e3", ".25", "0.1"]),
        "text": st.sampled_from(["'a'", "'JFK'", "''", "'it''s'"]),
        "bool": st.sampled_from(["true", "false"]),
    }
    return st.sampled_from(columns) | made.get(kind, st.sampled_from(columns))


WORDS = {
    "part": "year quarter month week day dayofweek isodow dayofyear hour minute second",
    "unit": "second minute hour day week month quarter year",
    "cmp": "= <> != < <= > >= ==",
    "trunc": "day hour minute",
    "f": "floor ceil trunc abs sqrt ln log10 exp",
    "w": "lower upper trim ltrim rtrim",
}
ALWAYS = [
    "coalesce({same}, {same})", "nullif({same}, {same})", "greatest({same}, {same})", "least({same}, {same})",
    "if({bool}, {same}, {same})", "case when {bool} then {same} else {same} end",
    "case {any} when {any} then {same} end", "({same})",
]  # fmt: skip
OWN = {
    "int": [
        "{int} + {int}", "{int} - {int}", "{int} * {int}", "- {int}", "{int} // ({int} * 2 + 1)",
        "{int} % ({int} * 2 + 1)", "abs({int})", "sign({number})", "{part}({time})", "date_part('{part}', {time})",
        "date_diff('{unit}', {time}, {time})", "length({text})", "strpos({text}, {text})",
        "cast({bool} as bigint)", "try_cast({float} as bigint)",
    ],
    "float": [
        "{float} + {number}", "{number} - {float}", "{float} * {number}", "{number} / {number}", "{float} % {number}",
        "{number} ** {int}", "- {float}", "round({float})", "round({float}, {n})", "{f}({float})",
        "pow({number}, {number})", "{int}::double", "epoch({time})",
    ],
    "text": [
        "{text} || {text}", "{w}({text})", "left({text}, {n})", "right({text}, {n})", "substr({text}, {n}, {n})",
        "substring({text}, {n})", "replace({text}, {text}, {text})", "concat({text}, {text})",
        "cast({int} as varchar)",
    ],
    "bool": [
        "{any} {cmp} {any}", "{bool} and {bool}", "{bool} or {bool}", "not {bool}", "{any} is null",
        "{any} is not null", "{bool} is true", "{any} is distinct from {any}", "{number} in ({number}, {number})",
        "{number} not in ({number}, null)", "{number} between {number} and {number}", "contains({text}, {text})",
        "starts_with({text}, {text})",
    ],
    "time": ["date_trunc('{trunc}', {time})"],
}  # fmt: skip


@st.composite
def of_kind(draw: Any, kind: str, depth: int = 3) -> str:
    """An expression of a kind, with brackets only here and there."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        return str(draw(leaf(kind)))

    def fill(found: Any) -> str:
        word = found[1]
        if word == "number":
            word = draw(st.sampled_from(["int", "float"]))
        if word == "any":
            word = alike
        if word in WORDS:
            return str(draw(st.sampled_from(WORDS[word].split())))
        if word == "n":
            return str(draw(st.integers(-4, 5)))
        return str(draw(of_kind(kind if word == "same" else word, depth - 1)))

    alike = draw(st.sampled_from(["int", "float", "text", "bool", "time"]))
    template = draw(st.sampled_from(OWN[kind] * 2 + ALWAYS))
    return re.sub(r"{(\w+)}", fill, template)


def by_duckdb(con: Any, text: str, row: tuple[Any, ...]) -> Any:
    columns = ", ".join(
        ("make_timestamp(?::BIGINT)" if kind == "time" else f"?::{TYPES[kind]}") + f' AS "{name}"'
        for name, kind in KINDS.items()
    )
    made = expressions.quoted(text, "derive.x", "base.")
    (shape,) = con.execute(f"DESCRIBE SELECT ({made}) AS x FROM (SELECT {columns}) base", list(row)).fetchall()
    value = "x" if sql.kind_of(shape[1]) == "text" else sql.number("x", shape[1])
    if sql.kind_of(shape[1]) == "time":
        value = "epoch_us(x)"
    (found,) = con.execute(
        f"SELECT {value} FROM (SELECT ({made}) AS x FROM (SELECT {columns}) base)", list(row)
    ).fetchall()
    return found[0]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(["int", "float", "text", "bool", "time"]), data=st.data())
def test_an_expression_has_the_value_that_duckdb_gives(con: Any, kind: str, data: Any) -> None:
    text, row = data.draw(of_kind(kind)), data.draw(rows)
    try:
        made = scalar.compile_one(text, "derive.x", PLACES)
    except Unsupported:
        return
    try:
        wanted = by_duckdb(con, text, row)
    except duckdb.Error:
        return  # such a row has no feature offline either
    value = made[1] if made[0] in ("text", "time") else online._finite(made)
    found = value(row)
    assert found == wanted, (text, row, found, wanted)


@pytest.fixture(scope="module")
def con() -> Any:
    made = duckdb.connect(config={"threads": "1"})
    made.execute("SET TimeZone = 'UTC'")
    yield made
    made.close()

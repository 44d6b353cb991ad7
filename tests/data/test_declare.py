"""Declarations: what may be said, and how a wrong word is refused."""

import subprocess
import sys

import pytest

import loopwright as lw
from loopwright.data import expressions
from loopwright.data.model import Limit
from loopwright.kernel.errors import Invalid

BASE = lw.data("data/asks.parquet", key="id", known="asked_at")
WEATHER = lw.data("data/weather.csv", key="origin", time="at", known="at")


def test_a_source_is_named_after_its_file() -> None:
    made = lw.data("somewhere/Big Planes.csv.gz", key="tail", known="always")
    assert (made.name, made.key, made.known_column) == ("big-planes", ("tail",), None)


def test_the_room_has_the_name_of_the_declaration_and_can_be_called() -> None:
    """Neither takes the other away, whichever is used first."""
    use, load = "lw.data('x.csv', key='a')", "import loopwright.data.service as room; room.KIND"
    for order in (f"{use}; {load}; {use}", f"{load}; {use}; {load}"):
        words = [sys.executable, "-c", f"import loopwright as lw; {order}"]
        ran = subprocess.run(words, capture_output=True, check=False)
        assert ran.returncode == 0, ran.stderr.decode()


def test_checks_become_limits() -> None:
    made = lw.data("w.csv", key="a", checks={"temp": (-40, 120), "rain": (0, None), "site": ["B", "A"]})
    assert made.checks == (
        Limit("temp", -40.0, 120.0),
        Limit("rain", 0.0, None),
        Limit("site", levels=("A", "B")),
    )


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"path": "", "key": "id"}, "path"),
        ({"path": "x.csv", "key": ()}, "key"),
        ({"path": "x.csv", "key": ["a", "a"]}, "key"),
        ({"path": "x.csv", "key": "a", "time": 3}, "time"),
        ({"path": "x.csv", "key": "a", "name": "Not A Name"}, "name"),
        ({"path": "x.csv", "key": "a", "checks": {"t": (5, 1)}}, "checks.t"),
        ({"path": "x.csv", "key": "a", "checks": {"t": "high"}}, "checks.t"),
    ],
)
def test_a_wrong_source_names_the_field(given: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        lw.data(**given)
    assert caught.value.field == field


def test_features_come_in_the_order_of_the_declaration() -> None:
    made = lw.features(
        "f",
        BASE,
        columns=["origin"],
        derive={"hour_of": "hour(sched)"},
        joins=[
            lw.asof(WEATHER, on="origin", columns={"sky": "cover", "temp": "temp"}, within="3h"),
            lw.window(
                lw.data("left.csv", key="id", known="left_at"),
                on="origin",
                last="2h",
                n=("count", "id"),
                m=("mean", "d"),
            ),
        ],
    )
    assert made.outputs == ("origin", "hour_of", "sky", "temp", "n", "m")
    assert made.nullable == ("sky", "temp", "n", "m")
    assert [source.name for source in made.sources] == ["asks", "weather", "left"]
    made.require(["m", "origin"])
    with pytest.raises(Invalid, match="leak: no feature of f"):
        made.require(["origin", "leak"])


def test_a_source_without_known_at_is_refused_by_name() -> None:
    secret = lw.data("data/weather.csv", key="origin", time="at")
    for declare in (
        lambda: lw.asof(secret, on="origin", columns="temp"),
        lambda: lw.lookup(secret, on="origin", columns="temp"),
        lambda: lw.window(secret, on="origin", last="1h", n=("count", "temp")),
        lambda: lw.features("f", secret, columns="temp"),
    ):
        with pytest.raises(Invalid, match="weather declares no known-at") as caught:
            declare()
        assert caught.value.field == "weather"
        assert "known=" in str(caught.value.hint)


def test_what_is_always_known_has_no_latest_row_and_no_window() -> None:
    planes = lw.data("planes.csv", key="tail", known="always")
    with pytest.raises(Invalid, match="no latest row"):
        lw.asof(planes, on="tail", columns="seats")
    with pytest.raises(Invalid, match="a window needs"):
        lw.window(planes, on="tail", last="1h", n=("count", "seats"))


@pytest.mark.parametrize(
    ("columns", "derive", "match"),
    [
        (["id"], {}, "reserved"),
        (["Id"], {}, "reserved"),
        (["a"], {"a": "b"}, "used twice"),
        (["a"], {"A": "b"}, "used twice"),
        (["_a"], {}, "reserved"),
        ([], {}, "has no columns"),
    ],
)
def test_feature_names_are_checked(columns: list[str], derive: dict[str, str], match: str) -> None:
    with pytest.raises(Invalid, match=match):
        lw.features("f", BASE, columns=columns, derive=derive)


def test_two_sources_of_one_name_are_refused() -> None:
    other = lw.data("elsewhere/weather.csv", key="origin", time="at", known="at")
    with pytest.raises(Invalid, match="two different sources are called weather"):
        lw.features(
            "f",
            BASE,
            joins=[lw.asof(WEATHER, on="origin", columns="temp"), lw.asof(other, on="origin", columns="rain")],
        )


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("isodow(sched) - 1", ("sched",)),
        ("hour(sched) * 60 + minute(sched)", ("sched",)),
        ("case when \"odd name\" in ('a', 'b''c') then 1 else 0 end", ("odd name",)),
        ("cast(a as double) / nullif(b, 0)", ("a", "b")),
        ("date_diff('minute', asked_at, sched + interval '1 hour')", ("asked_at", "sched")),
        ("a::integer % 7", ("a",)),
        ("not (a is null or b between 1 and 2.5e3)", ("a", "b")),
    ],
)
def test_scalar_expressions_are_allowed(text: str, columns: tuple[str, ...]) -> None:
    assert expressions.columns_of(text, "derive.x") == columns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(select max(a) from t)",
        "read_text('/etc/passwd')",
        "getenv('HOME')",
        "random()",
        "now()",
        "a; drop table t",
        "a -- b",
        "a /* b */",
        "a.b",
        "sum(a)",
        "a::json",
        "$1",
        "[a, b]",
        '"read_text"(a)',
        "a -> b",
        "'open",
    ],
)
def test_other_expressions_are_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        expressions.columns_of(text, "derive.x")
    assert caught.value.field == "derive.x"

"""Recorded files: read by time, refused with the file and the column at fault."""

from pathlib import Path

import duckdb
import pytest

from loopwright.faces.recorded import Asked, Files, Input, Recording, Span
from loopwright.kernel.errors import Invalid, LoopwrightError, NotFound
from loopwright.kernel.times import HOUR, parse_time

INPUTS = [Input("x", "FP64"), Input("n", "INT64"), Input("s", "BYTES"), Input("b", "BOOL")]
ASKED = Asked(INPUTS, [])
START = parse_time("2020-01-01T00:00:00Z")
REQUESTS = """id,time,x,n,s,b,more
3,2020-01-01T02:00:00Z,0.5,1,u,true,m
1,2020-01-01T00:00:00Z,,2,,false,m
2,2020-01-01T01:00:00Z,1.5,3,w,true,m
"""
LABELS = """id,label,known_at
1,0,2020-01-01T05:00:00Z
2,1,2020-01-01T00:30:00Z
3,,2020-01-01T06:00:00Z
9,1,2020-01-01T06:00:00Z
"""


def recording(folder: Path, requests: str = REQUESTS, labels: str = LABELS) -> Recording:
    (folder / "requests.csv").write_text(requests)
    (folder / "labels.csv").write_text(labels)
    return Recording(Files(folder / "requests.csv", folder / "labels.csv"), ASKED)


def test_requests_come_by_time(tmp_path: Path) -> None:
    found = recording(tmp_path)
    assert found.left_out == ["more"]
    rows = found.requests(START, START + 2 * HOUR)
    assert [row.id for row in rows] == ["1", "2"]
    assert rows[0].values == (None, 2, None, False)
    assert rows[1].values == (1.5, 3, "w", True)
    assert found.span(START, None) == Span(3, START, START + 2 * HOUR, START + 5 * HOUR)
    assert found.span(START + HOUR, START + 2 * HOUR).requests == 1


def test_a_label_is_sent_when_it_is_known_and_not_before_its_request(tmp_path: Path) -> None:
    found, whole = recording(tmp_path), (START, START + 24 * HOUR)
    assert [label.id for label in found.labels(START, START + HOUR, whole)] == []
    early = found.labels(START + HOUR, START + 2 * HOUR, whole)
    assert [(label.id, label.known_us) for label in early] == [("2", START + HOUR // 2)]
    assert [label.id for label in found.labels(START + 2 * HOUR, START + 24 * HOUR, whole)] == ["1"]
    assert found.labels(START + 2 * HOUR, START + 24 * HOUR, (START + HOUR, START + 2 * HOUR)) == []


def test_parquet_with_other_time_types(tmp_path: Path) -> None:
    con = duckdb.connect()
    for name, kind in (("a", "TIMESTAMP"), ("b", "TIMESTAMPTZ"), ("c", "TIMESTAMP_NS"), ("d", "DATE")):
        con.execute("SET TimeZone = 'UTC'")
        rows = f"SELECT 7 AS id, CAST('2020-01-01' AS {kind}) AS time, 1 AS x, 2 AS n, 's' AS s, true AS b"
        con.sql(rows).write_parquet(str(tmp_path / f"{name}.parquet"))
        (tmp_path / "labels.csv").write_text(LABELS)
        found = Recording(Files(tmp_path / f"{name}.parquet", tmp_path / "labels.csv"), ASKED)
        assert found.requests(START, START + 1) == [("7", START, None, (1.0, 2, "s", True))]


@pytest.mark.parametrize(
    ("requests", "labels", "field", "said"),
    [
        ("id,time,x,n,s\n1,2020-01-01,1,1,s\n", LABELS, "b", "requests.csv"),
        (REQUESTS, "id,known_at\n1,2020-01-01\n", "label", "labels.csv"),
        (REQUESTS.replace("0.5", "half"), LABELS, "x", "half"),
        (REQUESTS.replace("2020-01-01T02:00:00Z", "soon"), LABELS, "time", "row 1"),
        (REQUESTS.replace("2020-01-01T02:00:00Z", ""), LABELS, "time", "row 1"),
        (REQUESTS.replace("\n3,", "\n2,"), LABELS, "id", "2 rows"),
        ("id,time,x,n,s,b\n1,17,1,1,s,true\n", LABELS, "time", "not times"),
        (REQUESTS, LABELS.replace("2020-01-01T05:00:00Z", ""), "known_at", "labels.csv"),
    ],
)
def test_errors_name_file_and_column(tmp_path: Path, requests: str, labels: str, field: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        recording(tmp_path, requests, labels)
    assert caught.value.field == field
    assert said in caught.value.message
    assert ".csv" in caught.value.message


def test_missing_and_strange_files(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(LABELS)
    with pytest.raises(NotFound):
        Recording(Files(tmp_path / "none.csv", tmp_path / "labels.csv"), ASKED)
    (tmp_path / "r.xlsx").write_text("")
    with pytest.raises(Invalid):
        Recording(Files(tmp_path / "r.xlsx", tmp_path / "labels.csv"), ASKED)
    (tmp_path / "r.parquet").write_text("not parquet")
    with pytest.raises(LoopwrightError) as caught:
        Recording(Files(tmp_path / "r.parquet", tmp_path / "labels.csv"), ASKED)
    assert "r.parquet" in caught.value.message


def test_a_file_may_hold_what_features_are_looked_up_by_and_whom_a_request_is_about(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(LABELS)
    (tmp_path / "asks.csv").write_text(
        "id,time,place,due,plane\n1,2020-01-01,north,2020-01-01T03:00:00,N1\n2,2020-01-02,south,,\n"
    )
    asked = Asked(INPUTS, [Input("place", "BYTES"), Input("due", "BYTES")])
    found = Recording(Files(tmp_path / "asks.csv", tmp_path / "labels.csv", subject="plane"), asked)
    first, second = found.requests(START, START + 48 * HOUR)
    assert (first.subject, first.values) == ("plane=N1", ("north", "2020-01-01T03:00:00.000000Z"))
    assert (second.subject, second.values) == (None, ("south", None))
    assert found.left_out == []
    whole = recording(tmp_path)
    assert whole.inputs == INPUTS, "a file that has the whole row sends the whole row"


def test_facts_come_by_when_they_became_known_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(LABELS)
    (tmp_path / "requests.csv").write_text(REQUESTS)
    (tmp_path / "weather.csv").write_text(
        "place,at,temp\nb,2020-01-01T01:00:00,3\na,2020-01-01T01:00:00,\na,2020-01-01T00:00:00,1\n"
    )
    facts = {"weather": (tmp_path / "weather.csv", "at")}
    found = Recording(Files(tmp_path / "requests.csv", tmp_path / "labels.csv", facts), ASKED)
    first, then = found.told(START, START + HOUR)["weather"], found.told(START + 1, START + HOUR + 1)["weather"]
    assert first == [(START, b'{"place":"a","at":"2020-01-01T00:00:00.000000Z","temp":1}')]
    assert [line for _, line in then] == [
        b'{"place":"b","at":"2020-01-01T01:00:00.000000Z","temp":3}',
        b'{"place":"a","at":"2020-01-01T01:00:00.000000Z","temp":null}',
    ]
    with pytest.raises(Invalid) as caught:
        Recording(
            Files(tmp_path / "requests.csv", tmp_path / "labels.csv", {"weather": (facts["weather"][0], "x")}), ASKED
        )
    assert caught.value.field == "x"

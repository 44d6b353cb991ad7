"""What every bench reports: verdicts made in one place, a document that fits its schema, exit codes, the last line."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import contract
import house_rules as rules
import jsonschema
import pytest
from contract import Bar, Bench, CannotRun, Result, Row, stat

ROWS = (
    Row("house.wide", "widths", "m", "higher", (Bar(">=", 2),)),
    Row("house.ratio", "ratios", "x", "lower", (Bar(">=", 1.5, on="ratio"),)),
    Row("door.count", "doors", "", "lower", (Bar("==", 3),)),
)


def arguments(*argv: str) -> argparse.Namespace:
    return contract.parser("A bench for the tests.").parse_args(argv)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(contract, "OUT", tmp_path / "bench" / "out")
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    return tmp_path


def good(bench: Bench) -> None:
    bench.put("house.wide", Result(stat([2, 3, 4], "count")))
    bench.put("house.ratio", Result(stat([1.0], "cpu"), against=("floor", "bare_python_cpu_s", stat([1.5], "cpu"))))
    bench.put("door.count", Result(stat([3], "count"), counts={"attempted": 3, "checked": 3}))


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((rules.ROOT / "docs" / "schemas" / "bench-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return loaded


def run(out: Path, measure: Any, *argv: str) -> tuple[int, dict[str, Any]]:
    target = out / "made" / "doc.json"
    code = contract.main("house", ROWS, arguments("--json", str(target), *argv), measure)
    document = json.loads(target.read_text()) if target.exists() else {}
    if document:
        jsonschema.validate(document, schema())
    return code, document


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {row["id"]: row["verdict"] for row in document["rows"]}


def test_all_met(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = run(out, good)
    assert code == 0
    assert set(verdicts(document).values()) == {"pass"}
    assert document["rows"][1]["ratio"] == 1.5
    assert document["seed"] == 7
    assert (out / document["rows"][0]["evidence"] / "document.json").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "3 passed, 0 failed, 0 skipped"


def test_a_row_that_was_not_measured_fails(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = run(out, lambda bench: bench.put("house.wide", Result(stat([9], "count"))))
    assert code == 1
    assert verdicts(document) == {"house.wide": "pass", "house.ratio": "fail", "door.count": "fail"}
    assert document["rows"][1]["reason"] == "not measured"
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 2 failed, 0 skipped"


@pytest.mark.parametrize("name", ["wrong", "failed", "lost"])
def test_anything_wrong_failed_or_lost_fails_the_row(out: Path, name: str) -> None:
    def measure(bench: Bench) -> None:
        good(bench)
        bench.put("door.count", Result(stat([3], "count"), counts={name: 1}))

    code, document = run(out, measure)
    assert code == 1
    assert document["rows"][2]["reason"] == f"1 {name}"
    assert document["rows"][2]["bars"][0]["met"] is True


def test_quick_never_counts_as_met(out: Path) -> None:
    code, document = run(out, good, "--quick")
    assert code == 3
    assert set(verdicts(document).values()) == {"skip"}
    assert not any(bar["met"] for row in document["rows"] for bar in row["bars"])


def test_quick_still_fails_what_fails(out: Path) -> None:
    code, document = run(out, lambda bench: bench.put("house.wide", Result(stat([1], "count"))), "--quick")
    assert code == 1
    assert verdicts(document)["house.wide"] == "fail"


def test_only_takes_ids_and_prefixes(out: Path) -> None:
    code, document = run(out, good, "--only", "door.count,house.w")
    assert code == 0
    assert list(verdicts(document)) == ["house.wide", "door.count"]
    assert run(out / "b", good, "--only", "garden")[0] == 2


def test_list_prints_ids_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def measure(bench: Bench) -> None:
        raise AssertionError("measured")

    assert contract.main("house", ROWS, arguments("--list"), measure) == 0
    assert capsys.readouterr().out.split() == [row.id for row in ROWS]


def test_a_part_that_breaks_fails_its_rows_and_no_others(out: Path) -> None:
    def broken() -> None:
        raise RuntimeError("the door fell off")

    def measure(bench: Bench) -> None:
        good(bench)
        del bench.results["door.count"]
        bench.part(broken, "door.")

    code, document = run(out, measure)
    assert code == 1
    assert verdicts(document) == {"house.wide": "pass", "house.ratio": "pass", "door.count": "fail"}
    assert "RuntimeError: the door fell off" in document["rows"][2]["reason"]


def test_what_cannot_begin_exits_2_and_writes_nothing(out: Path) -> None:
    def measure(bench: Bench) -> None:
        raise CannotRun("no clay")

    code, document = run(out, measure)
    assert code == 2
    assert document == {}


def test_a_bar_on_nothing_is_not_met() -> None:
    assert not Bar(">=", 0, on="ratio").holds(1.0, None)
    assert not Bar("<=", 0).holds(math.nan, None)
    assert Bar("<=", 1).holds(1.0, None)


def test_ratio_above_one_means_ours_is_better() -> None:
    higher = Row("a.b", "t", "", "higher", (Bar(">=", 2, on="ratio"),))
    result = Result(stat([4], "count"), against=("peer", "p", stat([2], "count")))
    assert contract.judge(higher, result, quick=False, evidence="e")["ratio"] == 2
    lower = Row("a.b", "t", "", "lower", (Bar(">=", 2, on="ratio"),))
    assert contract.judge(lower, result, quick=False, evidence="e")["verdict"] == "fail"


def test_floors_are_measured_once_a_run(out: Path) -> None:
    contract.OUT.mkdir(parents=True)
    bench = Bench("house", ROWS, arguments("--reps", "1"))
    for name in ("fdatasync_p50_ms", "sqlite_full_commit_p50_ms", "http_stub_p50_ms"):
        first = bench.floor(name)
        assert first["median"] > 0
        assert bench.floor(name) is first
    assert set(bench.document()["floors"]) == {"fdatasync_p50_ms", "sqlite_full_commit_p50_ms", "http_stub_p50_ms"}


def test_percentile_and_stat() -> None:
    assert contract.percentile([float(i) for i in range(1, 101)], 0.99) == 99
    assert contract.percentile([5.0], 0.99) == 5
    assert stat([3, 1, 2], "wall") == {"median": 2, "min": 1, "max": 3, "n": 3, "kind": "wall"}
    with pytest.raises(ValueError, match="at least one sample"):
        stat([], "wall")


def test_interleaving_measures_in_turn() -> None:
    order: list[str] = []

    def task(name: str) -> float:
        order.append(name)
        return 1.0

    found = contract.interleave({"a": lambda: task("a"), "b": lambda: task("b")}, 2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert found == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_what_cannot_be_measured_here_is_skipped_with_its_reason(out: Path) -> None:
    def measure(bench: Bench) -> None:
        good(bench)
        bench.put("door.count", Result(skipped="needs root"))

    code, document = run(out, measure)
    assert code == 0
    assert verdicts(document)["door.count"] == "skip"
    assert "SKIPPED(needs root)" in next(row["reason"] for row in document["rows"] if row["id"] == "door.count")

"""The range rule: honest columns keep it, gross errors break it."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest

from loopwright.data import contract, profile, sources


def judged(parquet: Any, tmp_path: Path, values: Any) -> tuple[float, float, int]:
    path = parquet(tmp_path / "v.parquet", {"v": "DOUBLE"}, [[v] for v in values])
    con = sources.connect(tmp_path)
    look = profile.Look(con, path)
    made = look.contract(look.profile())
    found = look.findings(made)
    con.close()
    return made.columns[0].low, made.columns[0].high, sum(f.count for f in found if f.kind == "range")


def outside(values: Any) -> int:
    """The values outside the range that the rule draws, without a file."""
    values = np.sort(np.asarray(values, float))
    n, most, middle = len(values), contract.tail_rows(len(values)), float(np.median(values))
    above = contract.tail_limit([float(v - middle) for v in values[::-1][:most]], n)
    below = contract.tail_limit([float(middle - v) for v in values[:most]], n)
    return sum(
        0 if limit is None else int((sign * (values - middle) > limit).sum())
        for sign, limit in ((1, above), (-1, below))
    )


HONEST = {
    "normal": lambda r, n: r.normal(50, 10, n),
    "uniform": lambda r, n: r.uniform(0, 1, n),
    "exponential": lambda r, n: r.exponential(3, n),
    "lognormal": lambda r, n: r.lognormal(2, 1, n),
    "student t, 3": lambda r, n: r.standard_t(3, n),
    "pareto, index 1.5": lambda r, n: r.pareto(1.5, n),
    "counts": lambda r, n: r.poisson(4, n),
    "mostly zero": lambda r, n: np.where(r.random(n) < 0.94, 0, np.round(r.exponential(0.1, n), 2)),
    "two humps": lambda r, n: np.where(r.random(n) < 0.5, r.normal(0, 1, n), r.normal(40, 1, n)),
    "few levels": lambda r, n: r.integers(1, 5, n),
}


@pytest.mark.parametrize("name", HONEST)
def test_false_alarms_are_rare(name: str) -> None:
    """At most 3 of 300 honest columns have any row outside, sizes 200 to 5,000 (nominal: 0.3 for a power tail)."""
    random = np.random.default_rng(7)
    alarms = sum(outside(HONEST[name](random, int(n))) > 0 for n in random.integers(200, 5000, 300))
    assert alarms <= 3


@pytest.mark.parametrize("name", ["normal", "uniform", "exponential", "counts", "mostly zero"])
def test_gross_errors_are_found(name: str) -> None:
    """A value 25 times as far out as any other is found, alone or beside two more."""
    random = np.random.default_rng(11)
    for count in (1, 3):
        values = np.asarray(HONEST[name](random, 4000), float)
        far = np.median(values) + 25 * np.abs(values - np.median(values)).max()
        values[random.choice(4000, count, replace=False)] = far * np.linspace(1, 1.2, count)
        assert outside(values) == count


def test_a_file_with_one_glitch(tmp_path: Path, parquet: Any) -> None:
    random = np.random.default_rng(3)
    values = np.round(random.gamma(4, 2.6, 2000), 2)
    values[700] = 1048.36
    low, high, broken = judged(parquet, tmp_path, values)
    assert broken == 1
    assert values[np.arange(2000) != 700].max() * 1.5 < high < 1048
    assert low < values.min()


def test_few_rows_are_not_judged(tmp_path: Path, parquet: Any) -> None:
    low, high, broken = judged(parquet, tmp_path, [1.0, 2.0, 3.0, 1000.0])
    assert (low, high, broken) == (-998.0, 2000.0, 0)


def test_nothing_but_nulls(tmp_path: Path, parquet: Any) -> None:
    assert judged(parquet, tmp_path, [None] * 5) == (None, None, 0)


def test_what_unpacks_to_more_than_memory_leaves_half_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=8 << 20))
    monkeypatch.setattr(sources, "MEMORY_LIMIT", "30MB")
    con = sources.connect(tmp_path)
    with pytest.raises(duckdb.OutOfMemoryException, match="max_temp_directory_size"):
        con.execute("CREATE TEMP TABLE t AS SELECT range, hash(range) AS h, hash(range + 1) AS g FROM range(4000000)")
    con.close()

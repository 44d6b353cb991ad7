"""lw add: versions, what is found in a file, and bad input that changes nothing."""

import os
from pathlib import Path
from typing import Any

import pytest

import loopwright as lw
from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.data import ops, service, text
from loopwright.kernel.errors import Conflict, Invalid, LoopwrightError, NotFound, Unsupported
from loopwright.store import ledger
from loopwright.store.space import Space, bound

ME = "local:me"
WIND = {"site": "VARCHAR", "at": "TIMESTAMP", "wind": "DOUBLE"}


def winds(parquet: Any, path: Path, *extra: tuple[str, str, float | None]) -> Path:
    rows = [(site, f"2013-02-{day:02} {hour:02}:00:00", 5.0 + (day * 7 + hour) % 23)
            for site in ("EWR", "JFK") for day in range(1, 9) for hour in range(24)]  # fmt: skip
    return parquet(path, WIND, [*rows, *extra])


def test_the_first_version_tells_what_is_in_it(space: Space, parquet: Any) -> None:
    path = winds(
        parquet,
        space.root / "wind.parquet",
        ("EWR", "2013-02-12 03:00:00", 1048.36),
        ("JFK", "2013-02-08 23:00:00", 9.0),
    )
    added = service.add(space, ME, path)
    assert (added.version.ref, added.rows, added.columns, added.unchanged) == ("wind@1", 386, 3, False)
    assert [(c.name, c.kind) for c in added.schema] == [("site", "text"), ("at", "time"), ("wind", "number")]
    assert added.profile[0].levels == {"EWR": 193, "JFK": 193}
    assert added.contract.unique == ("site", "at")
    assert added.contract.columns[0].levels == ("EWR", "JFK")
    ranged, repeated = added.findings
    assert (ranged.kind, ranged.column, ranged.count) == ("range", "wind", 1)
    assert ranged.rows == ({"row": 385, "site": "EWR", "at": "2013-02-12T03:00:00Z", "wind": 1048.36},)
    assert (repeated.kind, repeated.count) == ("duplicate-key", 1)
    assert repeated.rows == ({"row": 386, "site": "JFK", "at": "2013-02-08T23:00:00Z"},)
    shown = text.render(added)
    assert "wind = 1048.36 (row 385, site EWR, at 2013-02-12T03:00:00Z)" in shown
    assert "wind@1 added: 386 rows, 3 columns (wind.parquet)" in shown
    assert space.blobs.path(added.version.digest).read_bytes() == path.read_bytes(), "the value is kept"
    with space.read() as tx:
        assert [e.kind for e in ledger.read(tx)][-2:] == ["version.registered@1", "data.added@1"]


def test_equal_bytes_make_no_version_and_changed_bytes_make_one(space: Space, parquet: Any, held: Any) -> None:
    path = winds(parquet, space.root / "wind.parquet")
    first = service.add(space, ME, path)
    before = held(space)
    again = service.add(space, ME, path)
    assert again.unchanged
    assert again.version == first.version
    winds(parquet, path, ("EWR", "2013-03-01 00:00:00", 7.0))
    changed = service.add(space, ME, path)
    assert (changed.version.number, changed.unchanged) == (2, False)
    assert held(space) != before
    winds(parquet, path)
    assert service.add(space, ME, path).version.number == 3, "what is newest counts, not what once was"


def test_an_untouched_file_is_not_read_again(space: Space, monkeypatch: pytest.MonkeyPatch, parquet: Any) -> None:
    path = winds(parquet, space.root / "wind.parquet")
    old = path.stat().st_mtime_ns - 60 * 10**9
    os.utime(path, ns=(old, old))
    first = service.add(space, ME, path)
    monkeypatch.setattr(service, "_SETTLED_US", -(10**12))  # as if the file had lain there for long

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was hashed again")

    monkeypatch.setattr(service.canonical, "digest_file", refuse)
    assert service.add(space, ME, path).version == first.version


def test_a_change_that_keeps_size_and_time_is_seen(space: Space) -> None:
    path = space.root / "a.csv"
    path.write_text("a,b\n1,2\n")
    service.add(space, ME, path)
    was = path.stat()
    path.write_text("a,b\n1,3\n")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert service.add(space, ME, path).version.number == 2


def test_a_declaration_decides_the_key_and_the_limits(space: Space, parquet: Any) -> None:
    winds(
        parquet,
        space.root / "data/wind.parquet",
        ("EWR", "2013-02-08 23:00:00", 35.0),
        (None, "2013-03-01 00:00:00", None),
    )
    wind = lw.data("data/wind.parquet", key="site", time="at", known="at", checks={"wind": (0, 30), "site": ["EWR"]})
    assert service.current_version(space, wind).ref == "wind@1"
    found = ops.get(space, ME, name="wind")
    assert found.contract.unique == ("site", "at")
    assert found.contract.unique_declared
    kinds = {(f.kind, f.column): f.count for f in found.findings}
    assert kinds == {
        ("range", "wind"): 1,
        ("level", "site"): 192,
        ("missing-key", "site"): 1,
        ("duplicate-key", "site, at"): 1,
    }
    again = service.add(space, ME, space.root / "data/wind.parquet")
    assert again.unchanged, "a plain add keeps the declaration that the name was used with"
    wider = lw.data("data/wind.parquet", key="site", time="at", known="at")
    assert service.current_version(space, wider).number == 1, "other words about the same bytes are no new version"
    assert {f.kind for f in ops.get(space, ME, name="wind", number=1).findings} == {"missing-key", "duplicate-key"}


def test_a_key_that_repeats_a_little_is_told(space: Space, parquet: Any) -> None:
    rows = [[f"r{i}", "2013-01-01", 0] for i in range(300)] + [["r7", "2013-01-02", 1]]
    parquet(space.root / "labels.parquet", {"id": "VARCHAR", "known_at": "TIMESTAMP", "late": "INTEGER"}, rows)
    labels = lw.data("labels.parquet", key="id", known="known_at")
    service.current_version(space, labels)
    (finding,) = ops.get(space, ME, name="labels").findings
    assert finding.rows == ({"row": 301, "id": "r7"},)


def test_csv_is_read_as_typed_columns(space: Space) -> None:
    path = space.root / "Mixed Case.csv"
    path.write_text("\ufeffname;at;n;x\nKöln;2013-01-01T00:00:00Z;NA;1.5\nBonn;2013-01-02T00:00:00Z;3;\n")
    added = ops.add(space, ME, path=str(path))
    assert added.version.name == "mixed-case"
    assert [(c.name, c.kind) for c in added.schema] == [
        ("name", "text"),
        ("at", "time"),
        ("n", "number"),
        ("x", "number"),
    ]
    assert [c.nulls for c in added.profile] == [0, 0, 1, 1]


def test_delimiters_in_quoted_names_do_not_count(space: Space) -> None:
    path = space.root / "quoted.csv"
    path.write_text('"price, net, EUR";"n"\n1.5;2\n2.5;3\n')
    assert [c.name for c in service.add(space, ME, path).schema] == ["price, net, EUR", "n"]


def test_times_that_nobody_can_write_down_are_unknown(space: Space, parquet: Any) -> None:
    kinds = {"stamp": "TIMESTAMP", "day": "DATE", "zoned": "TIMESTAMPTZ"}
    bad = ("20213-01-05", "5881580-07-10", "20213-01-05 00:00:00+00")
    good = [(f"2013-01-{day:02}",) * 2 + (f"2013-01-{day:02} 00:00:00+00",) for day in range(1, 29)]
    added = service.add(space, ME, parquet(space.root / "typo.parquet", kinds, [*good, bad]))
    assert [c.type for c in added.schema] == ["TIMESTAMP", "DATE", "TIMESTAMP WITH TIME ZONE"]
    assert {(c.low, c.high) for c in added.profile} == {("2013-01-01T00:00:00Z", "2013-01-28T00:00:00Z")}


def test_a_job_takes_the_newest_version_and_never_the_folder(space: Space, parquet: Any) -> None:
    path = winds(parquet, space.root / "wind.parquet")
    wind = lw.data("wind.parquet", key="site", time="at", known="at")
    with bound(space, job=True), pytest.raises(NotFound, match="never added"):
        wind.version()
    first = wind.version(space)
    winds(parquet, path, ("EWR", "2013-03-01 00:00:00", 7.0))
    with bound(space, job=True):
        assert wind.version(space) == first
        assert wind.fingerprint(space, 0)["digest"] == first.digest
    assert wind.version(space).number == 2


@pytest.mark.parametrize("ground", ["sqlite"], indirect=True)
def test_missing_bytes_are_told(space: Space, parquet: Any) -> None:
    winds(parquet, space.root / "wind.parquet")
    made = lw.features("f", lw.data("wind.parquet", key="site", known="always"), at="at", columns=["wind"])
    version = service.current_version(space, made.base)
    space.blobs.path(version.digest).unlink()
    with pytest.raises(NotFound, match="the bytes of wind@1 are not here"):
        made.rows(space, since="2013-01-01", until="2014-01-01")


def _bad_csv(folder: Path) -> dict[str, bytes]:
    return {
        "empty.csv": b"",
        "empty.parquet": b"",
        "header.csv": b"a,b\n",
        "latin.csv": "a,b\nKöln,1\n".encode("latin-1"),
        "ragged.csv": b"a,b\n1,2\n3,4,5\n",
        "broken.parquet": b"PAR1 but no more",
        "notes.txt": b"hello",
    }


@pytest.mark.parametrize("name", _bad_csv(Path()))
def test_a_bad_file_is_refused_and_changes_nothing(space: Space, name: str, held: Any) -> None:
    (space.root / name).write_bytes(_bad_csv(space.root)[name])
    before = held(space)
    with pytest.raises(Unsupported if name.endswith("txt") else Invalid) as caught:
        ops.add(space, ME, path=str(space.root / name))
    assert caught.value.field == "path"
    assert name in caught.value.message
    assert held(space) == before
    assert not list((space.home / "tmp").iterdir())


def test_bad_words_are_refused_and_change_nothing(space: Space, parquet: Any, held: Any) -> None:
    path = winds(parquet, space.root / "wind.parquet")
    service.add(space, ME, path)
    (space.root / "sub").mkdir()
    other = winds(parquet, space.root / "sub/wind.parquet", ("EWR", "2013-03-01 00:00:00", 7.0))
    model = artifacts.put_blob(space, b"m", kind="model", meta={})
    space.write(lambda tx: names.register(tx, ME, "taken", model))
    before = held(space)

    def refused(kind: type[LoopwrightError], field: str, path: Path | str, **how: object) -> LoopwrightError:
        with pytest.raises(kind) as caught:
            service.add(space, ME, path, **how)
        assert caught.value.field == field
        assert held(space) == before
        return caught.value

    refused(NotFound, "path", "nowhere.csv")
    refused(NotFound, "path", space.root)
    assert "--as" in str(refused(Conflict, "name", other).hint)
    refused(Conflict, "name", other, name="taken")
    refused(Invalid, "name", other, name="No Name")
    assert "wind" in str(refused(Invalid, "key", path, declaration=lw.data("wind.parquet", key="nope")).hint)
    refused(Invalid, "time", path, declaration=lw.data("wind.parquet", key="site", time="nope"))
    refused(Invalid, "wind.site", path, declaration=lw.data("wind.parquet", key="at", time="site"))
    refused(Invalid, "checks.gust", path, declaration=lw.data("wind.parquet", key="at", checks={"gust": (0, 1)}))
    assert service.add(space, ME, other, name="wind").version.number == 2, "a name that is given may be continued"

"""Values go into artifacts and come back equal in every respect; what cannot is refused with a hint."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopwright.artifacts import codecs, service
from loopwright.artifacts.codecs import Codec, Encoded, Stored
from loopwright.kernel.errors import Unsupported
from loopwright.store.space import Space


def back(space: Space, value: Any) -> Any:
    kept = codecs.keep(space, value).artifact
    return codecs.load(space, kept.digest, kept.kind, kept.meta)


PLAIN = [
    None,
    True,
    0,
    -(2**70),
    1.5,
    -0.0,
    math.inf,
    "",
    "é\ud800\0",
    b"",
    b"\x00\xff",
    [],
    {},
    (),
    [1, [2.5, None]],
    {"b": 1, "a": [True]},
    {1: "one", None: (1, 2), (3, "x"): {}},
    (1, [2, (3,)], {"k": (b"x", "y")}),
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_come_back_equal_and_of_the_same_types(space: Space, value: Any) -> None:
    found = back(space, value)
    assert repr(found) == repr(value)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_nest_of_plain_values_comes_back(space: Space, value: Any) -> None:
    assert repr(back(space, value)) == repr(value)


def test_equal_values_have_one_digest_and_other_values_another(space: Space) -> None:
    digest = codecs.keep(space, {"a": (1, 2.0)}).artifact.digest
    assert codecs.keep(space, {"a": (1, 2.0)}).artifact.digest == digest
    assert codecs.keep(space, {"a": [1, 2.0]}).artifact.digest != digest
    assert codecs.keep(space, {"a": (1, 2)}).artifact.digest != digest


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1.5, np.nan, -np.inf], dtype="float16"),
        np.array([[True, False]]),
        np.array(3),
        np.zeros((0, 4)),
        np.array(["2013-02-12T03", "NaT"], dtype="datetime64[h]"),
        np.array(["a", "bcd"]),
        np.array([1 + 2j]),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_come_back_bit_for_bit(space: Space, array: Any) -> None:
    found = back(space, {"x": array})["x"]
    assert found.dtype == array.dtype and found.shape == array.shape
    assert found.tobytes() == array.tobytes()
    assert found.flags.f_contiguous == array.flags.f_contiguous
    found.flat[:1] = found.flat[:1]  # a step may write to what it is given


@pytest.mark.parametrize(
    "number", [np.float64(0.1), np.int8(-3), np.bool_(True), np.float32("nan"), np.datetime64("NaT", "s")]
)
def test_numpy_numbers_keep_their_type(space: Space, number: Any) -> None:
    found = back(space, [number])[0]
    assert type(found) is type(number) and found.tobytes() == number.tobytes()


def _frame() -> pd.DataFrame:
    times = ["2013-02-12T03:00:00", None, "1700-01-01", "2100-12-31T23:59:59"]
    return pd.DataFrame(
        {
            "float": [1.5, np.nan, -0.0, np.inf],
            "float32": np.array([0.1, np.nan, 1, 2], dtype="float32"),
            "float16": np.array([0.1, np.nan, 1, 2], dtype="float16"),
            "int": [1, -(2**63), 2**63 - 1, 0],
            "int8": np.array([1, 2, -128, 127], dtype="int8"),
            "uint64": np.array([0, 1, 2, 2**64 - 1], dtype="uint64"),
            "bool": [True, False, True, False],
            "str": pd.array(["a", None, "", "é'\""], dtype="str"),
            "string": pd.array(["a", pd.NA, "", "b"], dtype="string"),
            "object": np.array(["a", None, "", "b"], dtype=object),
            "object nan": np.array(["a", np.nan, "", "b"], dtype=object),
            "mixed": np.array(["a", None, np.nan, 3], dtype=object),
            "bools": np.array([True, None, False, True], dtype=object),
            "lists": np.array([[1, "x"], None, {"a": 1.5}, True], dtype=object),
            "Int64": pd.array([1, None, 2**62, -3], dtype="Int64"),
            "UInt8": pd.array([1, None, 255, 0], dtype="UInt8"),
            "nullable float": pd.array([1.5, None, 2, 3], dtype="Float32"),
            "boolean": pd.array([True, None, False, True], dtype="boolean"),
            "category": pd.Categorical(["b", None, "a", "b"], categories=["b", "a", "unused"]),
            "ordered": pd.Categorical([3, 1, None, 2], categories=[3, 2, 1], ordered=True),
            "by bool": pd.Categorical([True, False, None, True]),
            "time s": np.array(times, dtype="datetime64[s]"),
            "time ms": np.array(times, dtype="datetime64[ms]"),
            "time us": np.array(times, dtype="datetime64[us]"),
            "time ns": np.array(times, dtype="datetime64[ns]"),
            "zoned": pd.DatetimeIndex(np.array(times, dtype="datetime64[us]")).tz_localize("America/New_York"),
            "offset": pd.DatetimeIndex(np.array(times, dtype="datetime64[us]")).tz_localize("+02:00"),
            "span": np.array([1, -5, 0, None], dtype="timedelta64[s]"),
        }
    )


def _same(found: pd.DataFrame, frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, frame, check_exact=True, check_freq=True, check_flags=True)
    assert list(map(str, found.dtypes)) == list(map(str, frame.dtypes))
    assert type(found.index) is type(frame.index) and found.index.names == frame.index.names
    assert type(found.columns) is type(frame.columns) and found.columns.dtype == frame.columns.dtype
    assert found.attrs == frame.attrs


def test_a_frame_of_every_type_comes_back_equal(space: Space) -> None:
    frame = _frame()
    found = back(space, frame)
    _same(found, frame)
    for name in ("object", "object nan", "mixed", "bools", "lists"):
        assert [repr(v) for v in found[name]] == [repr(v) for v in frame[name]], name
    found.loc[0, "float"] = 9.0  # a step may write to what it is given
    _same(back(space, frame.iloc[:0]), frame.iloc[:0])


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(2, 10, 2, name="n"),
        pd.Index(["EWR-1", "JFK-2", "LGA-3", "EWR-1"], name="id"),
        pd.Index([1.5, np.nan, 2, 3]),
        pd.Index(["a", None, "b", 1], dtype=object),
        pd.CategoricalIndex(["a", "b", "a", None]),
        pd.date_range("2013-01-01", periods=4, freq="D", tz="UTC"),
        pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", None]),
    ],
    ids=lambda i: type(i).__name__ + str(i.dtype),
)
def test_the_index_comes_back(space: Space, index: pd.Index) -> None:
    frame = pd.DataFrame({"v": [1, 2, 3, 4]}, index=index)
    frame.attrs["loopwright"] = {"features": "flights", "until_us": 1364788800000000, "columns": ["v"]}
    _same(back(space, frame), frame)
    found = back(space, (index, frame["v"]))
    pd.testing.assert_index_equal(found[0], index, exact=True)
    pd.testing.assert_series_equal(found[1], frame["v"], check_freq=True)
    assert found[1].attrs == frame["v"].attrs


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(np.ones((2, 3))),
        pd.DataFrame(np.ones((2, 2)), columns=["a", "a"]),
        pd.DataFrame(np.ones((2, 2)), columns=["a", "A"]),
        pd.DataFrame(np.ones((2, 2)), columns=pd.Index([1, "b"], dtype=object, name="both")),
        pd.DataFrame(np.ones((2, 2)), columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"])),
        pd.DataFrame(index=["a", "b"]),
        pd.DataFrame(),
        pd.DataFrame({'it\'s "x"': [1]}),
    ],
    ids=range(8),
)
def test_the_columns_come_back(space: Space, frame: pd.DataFrame) -> None:
    _same(back(space, frame), frame)


def test_equal_frames_give_equal_bytes_and_other_tools_read_them(space: Space) -> None:
    import duckdb

    first, again = codecs.keep(space, _frame()).artifact, codecs.keep(space, _frame()).artifact
    assert first.digest == again.digest
    path = service.local_path(space, first.digest, "0/frame.parquet")
    with duckdb.connect() as con:
        rows = con.execute(f'SELECT category, "str", "time us" FROM read_parquet(\'{path}\')').fetchall()
    assert [row[0] for row in rows] == ["b", None, "a", "b"]
    assert rows[0][2].isoformat() == "2013-02-12T03:00:00"


def test_files_and_folders_come_back_under_their_names(space: Space, tmp_path: Path) -> None:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "deep" / "a.csv").write_bytes(b"1\n")
    (tmp_path / "report.txt").write_bytes(b"fine")
    file, folder = back(space, (tmp_path / "report.txt", tmp_path / "out"))
    assert (file.name, file.read_bytes()) == ("report.txt", b"fine")
    assert (folder.name, (folder / "deep" / "a.csv").read_bytes()) == ("out", b"1\n")
    assert back(space, tmp_path / "report.txt") == file, "the same place each time"


class Fitted:
    """Stands for a type of a room above."""

    def __init__(self, name: str, weight: int) -> None:
        self.name, self.weight = name, weight


@pytest.fixture
def fitted_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_codecs", {})
    codecs.register(
        Codec(
            name="fitted",
            kind="fitted-model",
            accepts=lambda value: isinstance(value, Fitted),
            encode=lambda value, _: Encoded(files={"w": b"%d" % value.weight}, meta={"name": value.name}),
            decode=_fitted,
        )
    )


def _fitted(stored: Stored) -> Fitted:
    return Fitted(stored.meta["name"], int(stored.read("w")))


@pytest.mark.usefixtures("fitted_codec")
def test_a_type_of_a_room_above_is_an_artifact_of_its_own(space: Space) -> None:
    alone = codecs.keep(space, Fitted("delay", 3))
    assert alone.artifact.kind == "fitted-model" and alone.artifact.meta == {"name": "delay"}
    assert alone.parts[0].digest == alone.artifact.digest
    inside = codecs.keep(space, {"model": Fitted("delay", 3), "auc": 0.7})
    assert [part.digest for part in inside.parts] == [alone.artifact.digest]
    assert back(space, {"model": Fitted("other", 3)})["model"].name == "other"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ({1, 2}, "sorted"),
        ((x for x in "ab"), "list"),
        (object(), "JSON values"),
        (np.array([object()]), "astype"),
        (pd.Timestamp("2013-01-01"), "isoformat"),
        (pd.DataFrame({"a": [object()]}), "astype(str)"),
        (pd.DataFrame({"a": pd.period_range("2013", periods=1)}), "astype(str)"),
        ({frozenset(): 1}, "keys"),
        (Path("no such file"), "write it first"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_cannot_come_back_equal_is_refused_with_a_hint(space: Space, value: Any, hint: str) -> None:
    with pytest.raises(Unsupported) as caught:
        codecs.keep(space, ("fine", value))
    assert hint in str(caught.value.hint)


def test_a_value_that_holds_itself_is_refused(space: Space) -> None:
    value: list[Any] = []
    value.append((value,))
    with pytest.raises(Unsupported, match="holds itself"):
        codecs.keep(space, value)


def test_a_fitted_model_is_pointed_to_its_package(space: Space) -> None:
    from lightgbm import LGBMClassifier

    with pytest.raises(Unsupported) as caught:
        codecs.keep(space, LGBMClassifier())
    assert "lw.model" in str(caught.value.hint)

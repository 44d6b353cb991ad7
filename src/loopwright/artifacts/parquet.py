"""pandas frames as Parquet and back, equal in values, types, index, levels and attrs; written and read by DuckDB.

Other tools read the same file: a column is stored as what it shows, its pandas type beside it.
"""

import json
from pathlib import Path
from typing import Any

from loopwright.kernel.errors import Unsupported

_UNITS = ("s", "ms", "us", "ns")


def is_frame(value: Any) -> bool:
    """Whether a value is a pandas DataFrame, Series or Index; imports nothing."""
    kind = type(value)
    names = ("DataFrame", "Series", "Index", "RangeIndex", "DatetimeIndex", "CategoricalIndex", "MultiIndex")
    return kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in names


def write(value: Any, path: Path) -> dict[str, Any]:
    """Write a frame, Series or Index to `path` (nothing when it has no column to store) and say how it is read.

    Raises:
        Unsupported: a column is of a type that is not kept.
    """
    import pandas as pd

    kind = type(value).__name__
    frame = value
    meta: dict[str, Any] = {"type": "DataFrame", "rows": len(value), "attrs": _attrs(value)}
    if kind == "Series":
        meta.update(type="Series", name=_label(value.name))
        frame = value.to_frame(name="value")
    elif kind != "DataFrame":
        meta["type"] = "Index"
        frame = pd.DataFrame(index=value)
    stored: dict[str, Any] = {}
    names = _names(frame)
    meta["columns"] = [{"in": name, **_pack(frame.iloc[:, place], name, stored)} for place, name in enumerate(names)]
    meta["labels"] = _pack_labels(frame.columns)
    meta["index"] = _pack_index(frame.index, stored)
    if stored:
        _to_parquet(pd.DataFrame(stored, copy=False), path)
    return meta


def read(path: Path | None, meta: dict[str, Any]) -> Any:
    """Read a frame, Series or Index as `write` was given it."""
    import pandas as pd

    stored = {} if path is None else _from_parquet(path)
    index = _unpack_index(meta["index"], stored)
    if meta["type"] == "Index":
        return index
    columns = [_unpack(column, stored) for column in meta["columns"]]
    frame = pd.DataFrame(dict(enumerate(columns)), index=index, copy=False)
    if meta["type"] == "Series":
        series = frame[0].rename(_unlabel(meta["name"]))
        series.attrs = meta["attrs"]
        return series
    frame.columns = _unpack_labels(meta["labels"])
    frame.attrs = meta["attrs"]
    return frame


def _to_parquet(frame: Any, path: Path) -> None:
    import duckdb

    target = str(path).replace("'", "''")
    with duckdb.connect(":memory:", config={"threads": 1}) as con:
        con.execute("SET pandas_analyze_sample=0")
        con.register("stored", frame)
        con.execute(f"COPY (SELECT * FROM stored) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")


def _from_parquet(path: Path) -> dict[str, Any]:
    import duckdb

    with duckdb.connect(":memory:", config={"threads": 1}) as con:
        found: dict[str, Any] = con.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchnumpy()
    return found


def _names(frame: Any) -> list[str]:
    """Column names for the file: the frame's own where they can be, else by position."""
    own = list(frame.columns)
    plain = all(type(name) is str and name and not name.startswith("__index_") for name in own)
    if plain and len({name.casefold() for name in own}) == len(own):
        return own
    return [f"c{place}" for place in range(len(own))]


def _attrs(value: Any) -> dict[str, Any]:
    attrs = getattr(value, "attrs", {})
    text = _as_json(attrs)
    if text is None:
        raise Unsupported("the frame's attrs hold what is no JSON", code="value.attrs", hint="frame.attrs.clear()")
    return dict(json.loads(text))


def _as_json(value: Any) -> str | None:
    """The value as JSON where JSON gives it back as it is."""
    try:
        text = json.dumps(value)
        return text if _same(json.loads(text), value) else None
    except (TypeError, ValueError):
        return None


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)


# labels: names of columns, of the index, of a Series


def _label(name: Any) -> Any:
    if name is None or type(name) in (str, int, float, bool):
        return name
    if type(name) is tuple:
        return {"tuple": [_label(part) for part in name]}
    if type(name).__module__ == "numpy" and getattr(name, "shape", None) == () and name.dtype.kind in "iufb":
        return name.item()
    raise Unsupported(
        f"the frame has the name {name!r} of type {type(name).__name__}",
        code="value.label",
        hint="frame.columns = frame.columns.astype(str)",
    )


def _unlabel(stored: Any) -> Any:
    return tuple(_unlabel(part) for part in stored["tuple"]) if isinstance(stored, dict) else stored


def _pack_labels(columns: Any) -> dict[str, Any]:
    kind = type(columns).__name__
    if kind == "RangeIndex":
        return {"range": [columns.start, columns.stop, columns.step], "name": _label(columns.name)}
    labels = [_label(name) for name in columns]
    if kind == "MultiIndex":
        return {"multi": labels, "names": [_label(name) for name in columns.names]}
    if kind != "Index":
        raise Unsupported(f"the frame's columns are a {kind}", code="value.label", hint="frame.columns.astype(str)")
    return {"labels": labels, "dtype": str(columns.dtype), "name": _label(columns.name)}


def _unpack_labels(stored: dict[str, Any]) -> Any:
    import pandas as pd

    if "range" in stored:
        return pd.RangeIndex(*stored["range"], name=_unlabel(stored["name"]))
    if "multi" in stored:
        labels = [_unlabel(label) for label in stored["multi"]]
        return pd.MultiIndex.from_tuples(labels, names=[_unlabel(name) for name in stored["names"]])
    labels = [_unlabel(label) for label in stored["labels"]]
    return pd.Index(labels, dtype=stored["dtype"], name=_unlabel(stored["name"]), tupleize_cols=False)


def _pack_index(index: Any, stored: dict[str, Any]) -> dict[str, Any]:
    kind = type(index).__name__
    if kind == "RangeIndex":
        return {"range": [index.start, index.stop, index.step], "names": [_label(index.name)]}
    levels = [index.get_level_values(place) for place in range(index.nlevels)]
    columns = []
    for place, level in enumerate(levels):
        name = f"__index_{place}__"
        columns.append({"in": name, **_pack(level.to_series(), name, stored)})
    names = [_label(name) for name in index.names]
    return {"levels": columns, "names": names, "multi": kind == "MultiIndex", "freq": getattr(index, "freqstr", None)}


def _unpack_index(packed: dict[str, Any], stored: dict[str, Any]) -> Any:
    import pandas as pd

    names = [_unlabel(name) for name in packed["names"]]
    if "range" in packed:
        return pd.RangeIndex(*packed["range"], name=names[0])
    levels = [
        pd.Index(_unpack(column, stored), dtype=object if column["as"] in ("text", "json") else None)
        for column in packed["levels"]
    ]
    if packed["multi"]:
        return pd.MultiIndex.from_arrays(levels, names=names)
    index = levels[0].rename(names[0])
    if packed["freq"] is not None:
        index.freq = packed["freq"]
    return index


# columns


def _pack(series: Any, name: str, stored: dict[str, Any]) -> dict[str, Any]:
    """Put a column into the file's columns and say how it is read."""
    import pandas as pd

    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _pack_category(series, name, stored)
    if isinstance(dtype, pd.StringDtype):
        stored[name] = _texts(series)
        return {"as": "string", "storage": dtype.storage, "na": "nan" if dtype.na_value is not pd.NA else "NA"}
    if isinstance(dtype, pd.DatetimeTZDtype):
        stored[name] = series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return {"as": "time", "unit": dtype.unit, "zone": str(dtype.tz)}
    if hasattr(dtype, "numpy_dtype") and str(dtype)[0] in "IUFb":
        stored[name] = series.array
        return {"as": "masked", "dtype": str(dtype)}
    kind = getattr(dtype, "kind", "")
    if not hasattr(dtype, "byteorder"):
        raise _unsupported(series, name)
    if kind == "O":
        return _pack_objects(series, name, stored)
    values = series.to_numpy()
    if kind == "M":
        stored[name] = values
        return {"as": "time", "unit": str(values.dtype)[len("datetime64[") : -1], "zone": None}
    if kind == "m":
        stored[name] = values.view("int64")
        return {"as": "span", "dtype": str(values.dtype)}
    if kind in "biuf" and values.dtype.itemsize <= 8:
        stored[name] = values.astype("float32") if values.dtype.itemsize == 2 and kind == "f" else values
        return {"as": "number", "dtype": str(values.dtype)}
    raise _unsupported(series, name)


def _texts(series: Any) -> Any:
    """Text with None where there is none."""
    texts = series.to_numpy(dtype=object, copy=True)
    texts[series.isna().to_numpy()] = None
    return texts


def _pack_objects(series: Any, name: str, stored: dict[str, Any]) -> dict[str, Any]:
    """Text and one kind of null as text; anything else that is JSON, cell by cell, as JSON."""
    values = series.to_numpy()
    kinds = {type(value) for value in values}
    nulls = kinds - {str}
    if nulls <= {type(None)} or (nulls == {float} and _only_nan(values)):
        stored[name] = _texts(series)
        return {"as": "text", "null": "nan" if float in nulls else "none"}
    cells = [_as_json(value) for value in values]
    if None in cells:
        raise _unsupported(series, name)
    stored[name] = _objects(cells)
    return {"as": "json"}


def _only_nan(values: Any) -> bool:
    return all(value != value for value in values if type(value) is float)


def _objects(values: list[Any]) -> Any:
    import numpy as np

    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _pack_category(series: Any, name: str, stored: dict[str, Any]) -> dict[str, Any]:
    levels, codes = series.cat.categories, series.cat.codes.to_numpy()
    labels = [_label(level) for level in levels]
    about = {"as": "category", "levels": labels, "dtype": str(levels.dtype), "ordered": bool(series.cat.ordered)}
    if all(type(label) is str for label in labels):
        texts = _objects([*labels, None])
        stored[name] = texts[codes]
        return {**about, "by": "text"}
    if str(levels.dtype) not in ("int64", "float64", "bool", "object"):
        raise _unsupported(series, name)
    stored[name] = codes.astype("int32")
    return {**about, "by": "code"}


def _unpack(column: dict[str, Any], stored: dict[str, Any]) -> Any:
    import numpy as np
    import pandas as pd

    raw = stored[column["in"]]
    mask = np.ma.getmaskarray(raw)
    values = np.ma.getdata(raw)
    match column["as"]:
        case "number":
            dtype = np.dtype(column["dtype"])
            values = values.astype(dtype)
            if mask.any():
                values[mask] = np.nan
            return values
        case "text" | "string":
            texts = values.astype(object)
            texts[mask] = np.nan if column.get("null") == "nan" else None
            if column["as"] == "text":
                return pd.Series(texts, dtype=object).array
            na = np.nan if column["na"] == "nan" else pd.NA
            return pd.array(texts, dtype=pd.StringDtype(_storage(column["storage"]), na_value=na))
        case "json":
            return pd.Series(_objects([json.loads(text) for text in values]), dtype=object).array
        case "span":
            return values.astype("int64").view(column["dtype"])
        case "time":
            times = values.astype(f"datetime64[{column['unit']}]")
            times[mask] = np.datetime64("NaT")
            zone = column["zone"]
            return times if zone is None else pd.Series(times).dt.tz_localize("UTC").dt.tz_convert(zone).array
        case "masked":
            return _masked(values, mask, column["dtype"])
        case _:
            return _category(column, values, mask)


def _storage(name: str) -> str:
    from importlib.util import find_spec

    return name if name == "python" or find_spec("pyarrow") is not None else "python"


def _masked(values: Any, mask: Any, dtype: str) -> Any:
    import pandas as pd

    kinds = {"b": pd.arrays.BooleanArray, "F": pd.arrays.FloatingArray}
    make = kinds.get(dtype[0], pd.arrays.IntegerArray)
    plain = values.astype(dtype.lower().replace("boolean", "bool"))
    plain[mask] = 0 if dtype != "boolean" else False
    return make(plain, mask.copy())


def _category(column: dict[str, Any], values: Any, mask: Any) -> Any:
    import numpy as np
    import pandas as pd

    levels = pd.Index([_unlabel(level) for level in column["levels"]], dtype=column["dtype"])
    if column["by"] == "code":
        codes = values.astype("int32")
    else:
        place = {level: number for number, level in enumerate(column["levels"])}
        codes = np.fromiter(
            (-1 if gone else place[text] for text, gone in zip(values, mask, strict=True)), "int32", len(values)
        )
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(levels, ordered=column["ordered"]))


def _unsupported(series: Any, name: str) -> Unsupported:
    kinds = sorted({type(value).__name__ for value in series.head(1000)}) if series.dtype == object else []
    what = f"values of type {', '.join(kinds)}" if kinds else f"type {series.dtype}"
    return Unsupported(
        f"column {name!r} of the frame has {what}, which is not kept",
        code="value.column",
        field=name,
        hint=f'frame["{name}"] = frame["{name}"].astype(str)',
    )

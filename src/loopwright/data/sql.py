"""Pieces of DuckDB SQL: quoting, kinds of column types, times as integers. Text in, text out."""

from loopwright.kernel.errors import Invalid

_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")


def ident(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def kind_of(kind: str) -> str:
    """The kind of a DuckDB type: number, bool, text, time or other."""
    kind = kind.upper()
    if kind.removeprefix("U").startswith(_NUMBERS) and not kind.endswith("[]"):
        return "number"
    if kind == "BOOLEAN":
        return "bool"
    if kind in ("VARCHAR", "UUID") or (kind.startswith("ENUM") and not kind.endswith("[]")):
        return "text"
    if kind == "DATE" or (kind.startswith("TIMESTAMP") and not kind.endswith("[]")):
        return "time"
    return "other"


def is_whole(kind: str) -> bool:
    """Whether a number type holds integers only."""
    return not kind.upper().startswith(_FRACTIONS)


def moment(column: str, kind: str, field: str) -> str:
    """A time column as microseconds since the epoch; a time without an offset is taken as UTC.

    What is infinite or lies outside the years 1 to 9999, which nothing could write down, is NULL.

    Raises:
        Invalid: the column holds no times.
    """
    if kind_of(kind) != "time":
        raise Invalid(
            f"{field} holds {kind}, not times",
            code="data.time-type",
            field=field,
            hint="write it as a timestamp, such as 2013-04-01T04:00:00Z",
        )
    stamp = f"TRY_CAST({ident(column)} AS TIMESTAMP)" if "ZONE" not in kind.upper() else ident(column)
    at_us = f"epoch_us({stamp})"
    return f"CASE WHEN isfinite({stamp}) THEN CASE WHEN {at_us} BETWEEN {_FIRST_US} AND {_LAST_US} THEN {at_us} END END"


def number(expression: str, kind: str) -> str:
    """A number or bool as a DOUBLE; what is not finite is NULL."""
    if kind_of(kind) == "number" and is_whole(kind):
        return f"CAST({expression} AS DOUBLE)"
    if kind_of(kind) == "bool":
        return f"CAST(CAST({expression} AS INTEGER) AS DOUBLE)"
    double = f"CAST({expression} AS DOUBLE)"
    return f"CASE WHEN isfinite({double}) THEN {double} END"

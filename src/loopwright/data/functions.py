"""What operators and functions make of values, as DuckDB does: over int, float, bool, str, and times in us."""

import math
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from loopwright.kernel.times import DAY, HOUR, MINUTE, SECOND

_FIRST_DAY = date(1970, 1, 1).toordinal()
UNITS = {"second": SECOND, "minute": MINUTE, "hour": HOUR, "day": DAY}


# DuckDB orders fractions so that NaN equals itself and is above all others


def same(a: float, b: float) -> bool:
    """Whether two fractions are equal."""
    return a == b or (a != a and b != b)


def less(a: float, b: float) -> bool:
    """Whether a fraction is below another."""
    return a < b or (b != b and a == a)


def divide(a: float, b: float) -> float:
    """A quotient by the rules of IEEE 754."""
    if b == 0.0:
        if a == 0.0 or a != a:
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1.0, b)
    return a / b


def power(a: float, b: float) -> float:
    """A power by the rules of C."""
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:  # a negative number to a fraction, or 0 to a negative number
        if a != 0.0:
            return math.nan
        return math.copysign(math.inf, a) if b % 2 == 1 else math.inf


def _remainder(a: float, b: float) -> float:
    return math.nan if b == 0.0 or math.isinf(a) or a != a or b != b else math.fmod(a, b)


def _whole_divide(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _whole_remainder(a: int, b: int) -> int:
    return a - b * _whole_divide(a, b)


def rounded(x: float) -> int:
    """The nearest whole number, half to even; raises for what is not finite."""
    return round(x)


def _half_up(x: float) -> float:
    if not abs(x) < 2.0**52:
        return x
    whole = math.floor(abs(x))
    return math.copysign(whole + (abs(x) - whole >= 0.5), x)


def _round_to(x: float, places: int) -> float:
    factor = power(10.0, float(abs(places)))
    made = divide(_half_up(x * factor), factor) if places >= 0 else _half_up(x / factor) * factor
    return made if math.isfinite(made) else (x if places >= 0 else 0.0)


def _guarded(function: Callable[[float], float], above: float) -> Callable[[float], float]:
    """A function that is not a number below its domain, -inf at 0 when it is a logarithm, inf where it overflows."""

    def made(x: float) -> float:
        if x != x or x < above:
            return math.nan
        if x == 0.0 and function is not math.sqrt and above == 0.0:
            return -math.inf
        try:
            return function(x)
        except OverflowError:
            return math.inf

    return made


def _part(x: float, function: Callable[[float], int]) -> float:
    return math.copysign(float(function(x)), x) if math.isfinite(x) else x


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def _day(at: int) -> date:
    return date.fromordinal(_FIRST_DAY + at // DAY)


def _week(at: int) -> int:
    return _day(at).isocalendar()[1]


def _substr(text: str, start: int, length: int | None = None) -> str:
    first = start - 1 if start > 0 else len(text) + start if start < 0 else -1
    end = len(text) if length is None else first + length
    if length is not None and length < 0:
        first, end = end, first
    return text[max(first, 0) : max(end, 0)]


def _case_of(way: Callable[[str], str]) -> Callable[[str], str]:
    """Letter by letter, a letter for a letter."""
    return lambda x: way(x) if x.isascii() else "".join(m if len(m := way(c)) == 1 else c for c in x)


def _months(at: int) -> int:
    day = _day(at)
    return day.year * 12 + day.month


def _monday(at: int) -> int:
    day = _day(at)
    return (day - timedelta(days=day.weekday())).toordinal() // 7


STEPS: dict[str, Callable[[int], int]] = {
    "second": lambda at: at // SECOND, "minute": lambda at: at // MINUTE, "hour": lambda at: at // HOUR,
    "day": lambda at: at // DAY, "week": _monday, "month": _months,
    "quarter": lambda at: (_months(at) - 1) // 3, "year": lambda at: _day(at).year,
}  # fmt: skip
WHOLE: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "//": _whole_divide,
    "%": _whole_remainder,
}  # fmt: skip
FRACTIONS: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "%": _remainder,
}  # fmt: skip
# (name, kinds of the arguments) -> kind, function, kinds that the arguments are brought to
FUNCTIONS: dict[tuple[str, ...], tuple[str, Callable[..., Any], tuple[str, ...]]] = {
    ("abs", "int"): ("int", abs, ("int",)),
    ("abs", "float"): ("float", abs, ("float",)),
    ("round", "int"): ("int", lambda x: x, ("int",)),
    ("round", "float"): ("float", _half_up, ("float",)),
    ("round", "float", "int"): ("float", _round_to, ("float", "int")),
    ("trunc", "int"): ("int", lambda x: x, ("int",)),
    ("trunc", "float"): ("float", lambda x: _part(x, math.trunc), ("float",)),
    ("sign", "int"): ("int", _sign, ("int",)),
    ("sign", "float"): ("int", _sign, ("float",)),
    ("pow", "float", "float"): ("float", power, ("float", "float")),
    ("power", "float", "float"): ("float", power, ("float", "float")),
    ("strpos", "text", "text"): ("int", lambda a, b: a.find(b) + 1, ("text", "text")),
    ("trim", "text"): ("text", lambda x: x.strip(" "), ("text",)),
    ("ltrim", "text"): ("text", lambda x: x.lstrip(" "), ("text",)),
    ("rtrim", "text"): ("text", lambda x: x.rstrip(" "), ("text",)),
    ("lower", "text"): ("text", _case_of(str.lower), ("text",)),
    ("upper", "text"): ("text", _case_of(str.upper), ("text",)),
    ("length", "text"): ("int", len, ("text",)),
    ("left", "text", "int"): ("text", lambda x, n: x[:n], ("text", "int")),
    ("right", "text", "int"): ("text", lambda x, n: x[-n:] if n else "", ("text", "int")),
    ("substr", "text", "int"): ("text", _substr, ("text", "int")),
    ("substr", "text", "int", "int"): ("text", _substr, ("text", "int", "int")),
    ("replace", "text", "text", "text"): (
        "text", lambda x, a, b: x.replace(a, b) if a else x, ("text", "text", "text")
    ),
    ("contains", "text", "text"): ("bool", lambda a, b: b in a, ("text", "text")),
    ("starts_with", "text", "text"): ("bool", str.startswith, ("text", "text")),
    ("ends_with", "text", "text"): ("bool", str.endswith, ("text", "text")),
    ("year", "time"): ("int", lambda at: _day(at).year, ("time",)),
    ("quarter", "time"): ("int", lambda at: (_day(at).month + 2) // 3, ("time",)),
    ("month", "time"): ("int", lambda at: _day(at).month, ("time",)),
    ("week", "time"): ("int", _week, ("time",)),
    ("weekofyear", "time"): ("int", _week, ("time",)),
    ("day", "time"): ("int", lambda at: _day(at).day, ("time",)),
    ("dayofweek", "time"): ("int", lambda at: (at // DAY + 4) % 7, ("time",)),
    ("isodow", "time"): ("int", lambda at: (at // DAY + 3) % 7 + 1, ("time",)),
    ("dayofyear", "time"): ("int", lambda at: _day(at).timetuple().tm_yday, ("time",)),
    ("hour", "time"): ("int", lambda at: at // HOUR % 24, ("time",)),
    ("minute", "time"): ("int", lambda at: at // MINUTE % 60, ("time",)),
    ("second", "time"): ("int", lambda at: at // SECOND % 60, ("time",)),
    ("epoch", "time"): ("float", lambda at: at / SECOND, ("time",)),
}  # fmt: skip
FUNCTIONS |= {
    (name, "float"): ("float", lambda x, f=function: _part(x, f), ("float",))
    for name, function in (("floor", math.floor), ("ceil", math.ceil), ("ceiling", math.ceil))
}
FUNCTIONS |= {
    (name, "float"): ("float", _guarded(function, above), ("float",))
    for name, function, above in (
        ("sqrt", math.sqrt, 0.0), ("ln", math.log, 0.0), ("log10", math.log10, 0.0), ("log", math.log10, 0.0),
        ("log2", math.log2, 0.0), ("exp", math.exp, -math.inf),
    )
}  # fmt: skip
FUNCTIONS |= {("substring", *key[1:]): value for key, value in FUNCTIONS.items() if key[0] == "substr"}

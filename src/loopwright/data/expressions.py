"""Which expressions a declaration may hold: scalar, repeatable, over base columns; decided from the tokens alone.

An allow-list: what is not known to be harmless (a query, a function that reads files or the clock) is refused.
"""

import re

from loopwright.data.sql import ident
from loopwright.kernel.errors import Invalid

_TOKEN = re.compile(
    r"\s+|(?P<text>'(?:[^']|'')*')|(?P<quoted>\"(?:[^\"]|\"\")+\")|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign>::|<=|>=|<>|!=|==|\|\||//|\*\*|[-+*/%^(),=<>])"
)


_FRACTION = re.compile(r"\d+\.\d*|\.\d+")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_KEYWORDS = _set("and or not is null in between like case when then else end true false distinct from as")
_TYPES = _set("double float real integer int bigint smallint tinyint decimal varchar text boolean bool date timestamp")
FUNCTIONS = (
    _set("abs ceil ceiling floor round trunc sqrt cbrt exp ln log log2 log10 pow power sign sin cos tan asin acos atan")
    | _set("atan2 radians degrees greatest least coalesce nullif if ifnull cast try_cast")
    | _set("lower upper trim ltrim rtrim length substr substring left right replace concat contains strpos")
    | _set("starts_with ends_with year quarter month week weekofyear day dayofweek isodow dayofyear hour minute second")
    | _set("date_trunc date_part date_diff datediff epoch")
)
_BEFORE_BRACKET = _set("in and or not case when then else like between from")


def columns_of(expression: str, field: str) -> tuple[str, ...]:
    """The columns that an allowed expression reads, in order of appearance.

    Raises:
        Invalid: it is empty, or holds something that is not allowed; the message names it.
    """
    return tuple(dict.fromkeys(column for _, column in tokens_of(expression, field) if column is not None))


def quoted(expression: str, field: str, table: str) -> str:
    """The expression as DuckDB takes it: columns as `table`'s and quoted, so that one may have the name of a word.

    A number with a point is a fraction of 64 bits, as in every other language, and no decimal.

    Raises:
        Invalid: as `columns_of`.
    """
    parts = []
    for text, column in tokens_of(expression, field):
        fraction = column is None and _FRACTION.fullmatch(text)
        parts.append(table + ident(column) if column is not None else f"{text}e0" if fraction else text)
    return " ".join(parts)


def tokens_of(expression: str, field: str) -> list[tuple[str, str | None]]:
    """The tokens, each with the column that it names, if it names one."""
    tokens = _tokens(expression, field) if isinstance(expression, str) else []
    if not tokens:
        raise Invalid(f"{field} must be an expression, not {expression!r}", code="expression.empty", field=field)
    out: list[tuple[str, str | None]] = []
    for place, (kind, text) in enumerate(tokens):
        after_kind, after = tokens[place + 1] if place + 1 < len(tokens) else ("", "")
        before = tokens[place - 1][1].lower() if place else ""
        column = None
        if kind == "quoted":
            if after == "(":
                raise _refused(field, f"{text}(")
            column = text[1:-1].replace('""', '"')
        elif kind == "word" and not _allowed(text, before, after, field) and after_kind != "text":
            column = text
        elif (
            kind == "word"
            and after_kind == "text"
            and text.lower() not in (*_KEYWORDS, "interval", "date", "timestamp")
        ):
            raise _refused(field, f"{text} {after}")
        out.append((text, column))
    return out


def _allowed(text: str, before: str, after: str, field: str) -> bool:
    """Whether a word is a type, a function or a keyword; False when it must be a column."""
    lower = text.lower()
    if before in ("as", "::"):
        if lower not in _TYPES:
            raise _refused(field, text)
        return True
    if after == "(" and lower not in _BEFORE_BRACKET:
        if lower not in FUNCTIONS:
            raise Invalid(
                f"{field} calls {text}(), which a feature may not",
                code="expression.function",
                field=field,
                hint="use one of: " + ", ".join(sorted(FUNCTIONS)),
            )
        return True
    return lower in _KEYWORDS


def _tokens(expression: str, field: str) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None or expression.startswith(("--", "->", "/*"), at):
            raise _refused(field, expression[at : at + 20])
        if match.lastgroup:
            out.append((match.lastgroup, match[0]))
        at = match.end()
    return out


def _refused(field: str, what: str) -> Invalid:
    return Invalid(
        f"{field} holds {what!r}; an expression is scalar SQL over the base's columns",
        code="expression.form",
        field=field,
        hint="such as isodow(sched) - 1",
    )

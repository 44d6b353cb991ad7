"""Expressions of a declaration compiled once to Python closures, for look-ups: the values that DuckDB would give.

A subset; what lies outside it is Unsupported, and said before anything is served. Kinds: int, float, bool, text, time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loopwright.data import expressions, functions
from loopwright.kernel.errors import Unsupported

Row = Sequence[Any]
Eval = Callable[[Row], Any]
Node = tuple[str, Eval]
ERRORS = (ArithmeticError, ValueError)  # what a compiled expression raises where DuckDB would refuse the values
_NULL = "null"
_TYPES = {"double": "float", "varchar": "text", "text": "text", "boolean": "bool", "bool": "bool", "bigint": "int"}
_CASTS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("int", "float"): float, ("bool", "float"): float, ("bool", "int"): int, ("float", "int"): functions.rounded,
    ("int", "text"): str, ("bool", "text"): lambda x: "true" if x else "false",
}  # fmt: skip
# how tightly an operator binds, as in PostgreSQL's grammar
_OR, _AND, _NOT, _IS, _COMPARE, _IN, _OTHER, _ADD, _TIMES, _POWER, _MINUS, _CAST = range(12)
_BINDS = dict.fromkeys(("=", "==", "<>", "!=", "<", "<=", ">", ">="), _COMPARE)
_BINDS |= {"or": _OR, "and": _AND, "is": _IS, "between": _IN, "in": _IN, "not": _IN, "||": _OTHER, "+": _ADD, "-": _ADD}
_BINDS |= {"*": _TIMES, "/": _TIMES, "//": _TIMES, "%": _TIMES, "^": _POWER, "**": _POWER, "::": _CAST}


def compile_one(text: str, field: str, places: Mapping[str, tuple[int, str]]) -> Node:
    """The kind of an expression, and the closure that gives its value for a row.

    Args:
        places: of each column, its place in a row and its kind.

    Raises:
        Unsupported: it holds something outside the subset; names it.
    """
    parser = _Parser(text, field, places)
    node = parser.expression(_OR)
    if parser.peek():
        raise parser.outside(parser.peek())
    return node


class _Parser:
    """A Pratt parser over the tokens; each node is compiled as it is read."""

    def __init__(self, text: str, field: str, places: Mapping[str, tuple[int, str]]) -> None:
        self._tokens = expressions.tokens_of(text, field)
        self._at = 0
        self._field = field
        self._places = places

    def outside(self, what: str) -> Unsupported:
        """What to raise for something that is outside the subset."""
        message = f"{self._field} holds {what!r}, which no look-up can compute"
        return Unsupported(message, code="expression.subset", field=self._field, hint="send the full row of features")

    def peek(self, ahead: int = 0) -> str:
        """The coming token in lower case; empty at the end and for a column."""
        if self._at + ahead >= len(self._tokens):
            return ""
        text, column = self._tokens[self._at + ahead]
        return text.lower() if column is None else "a column"

    def take(self, wanted: str = "") -> str:
        """The coming token, which must be the one that is wanted."""
        if self._at >= len(self._tokens) or (wanted and self.peek() != wanted):
            raise self.outside(self.peek() or "nothing")
        self._at += 1
        return self._tokens[self._at - 1][0]

    def given(self, word: str) -> bool:
        """Take a token if it comes."""
        if self.peek() != word:
            return False
        self._at += 1
        return True

    def expression(self, least: int) -> Node:
        left, below = self._prefix(), _CAST + 1
        while (binds := _BINDS.get(self.peek(), -1)) >= least:
            if binds >= below:  # a comparison of a comparison, which has no meaning there
                raise self.outside(self.peek())
            word = self.take().lower()
            left = self._infix(left, word, binds)
            below = binds if binds in (_COMPARE, _IN, _IS) else _CAST + 1
        return left

    def _prefix(self) -> Node:
        text, column = self._tokens[self._at] if self._at < len(self._tokens) else ("", None)
        self.take()
        if column is not None:
            place, kind = self._places[column]
            return kind, lambda row: row[place]
        word = text.lower()
        if word == "(":
            node = self.expression(_OR)
            self.take(")")
            return node
        if word in ("-", "+"):
            return self._signed(word)
        if word == "not":
            return self._not(self.expression(_NOT))
        if word == "case":
            return self._case()
        if word in ("true", "false"):
            return _constant("bool", word == "true")
        if word == "null":
            return _constant(_NULL, None)
        if text.startswith("'"):
            return _constant("text", text[1:-1].replace("''", "'"))
        if text[:1].isdigit() or text[:1] == ".":
            return self._number(text)
        if self.peek() == "(":
            return self._call(word)
        raise self.outside(text)

    def _number(self, text: str) -> Node:
        if text.isdigit() and int(text) < 1 << 63:
            return _constant("int", int(text))
        return _constant("float", float(text))

    def _signed(self, sign: str) -> Node:
        kind, value = self.expression(_MINUS)
        self._need(kind, ("int", "float"), sign)
        if sign == "+":
            return kind, value
        return kind, _through(lambda x: -x, value, kind)

    def _not(self, node: Node) -> Node:
        self._need(node[0], ("bool",), "not")
        return "bool", _through(lambda x: not x, node[1])

    def _infix(self, left: Node, word: str, binds: int) -> Node:
        if word == "::":
            return self._cast(left, self.take().lower(), trying=False)
        if word == "is":
            return self._is(left)
        if word in ("not", "between", "in"):
            inner = self.take().lower() if word == "not" else word
            if inner not in ("between", "in"):
                raise self.outside(inner)
            node = self._between(left) if inner == "between" else self._in(left)
            return self._not(node) if word == "not" else node
        right = self.expression(binds + 1)
        if binds in (_OR, _AND):
            self._need(left[0], ("bool",), word)
            self._need(right[0], ("bool",), word)
            return "bool", (_or if word == "or" else _and)(left[1], right[1])
        if binds == _COMPARE:
            return self._compare(word, left, right)
        if word == "||":
            self._need(left[0], ("text",), word)
            self._need(right[0], ("text",), word)
            return "text", _both(lambda a, b: a + b, left[1], right[1])
        return self._arithmetic(word, left, right)

    def _arithmetic(self, word: str, left: Node, right: Node) -> Node:
        for kind, _ in (left, right):
            self._need(kind, ("int", "float"), word)
        whole = left[0] != "float" and right[0] != "float"
        if word in ("^", "**"):
            return "float", _both(functions.power, _float(left)[1], _float(right)[1])
        if word == "/":
            return "float", _both(functions.divide, _float(left)[1], _float(right)[1])
        if whole:
            return "int", _both(functions.WHOLE[word], left[1], right[1], "int")
        if word == "//":
            raise self.outside("// of fractions")
        return "float", _both(functions.FRACTIONS[word], _float(left)[1], _float(right)[1])

    def _compare(self, word: str, left: Node, right: Node) -> Node:
        kind, (one, other) = self._alike([left, right], word)
        plain = kind != "float"
        word = {"==": "=", "!=": "<>"}.get(word, word)
        made = {
            "=": (lambda a, b: a == b) if plain else functions.same,
            "<>": (lambda a, b: a != b) if plain else (lambda a, b: not functions.same(a, b)),
            "<": (lambda a, b: a < b) if plain else functions.less,
            ">": (lambda a, b: a > b) if plain else (lambda a, b: functions.less(b, a)),
            "<=": (lambda a, b: a <= b) if plain else (lambda a, b: not functions.less(b, a)),
            ">=": (lambda a, b: a >= b) if plain else (lambda a, b: not functions.less(a, b)),
        }[word]
        return "bool", _both(made, one, other)

    def _is(self, left: Node) -> Node:
        negated = self.given("not")
        if self.given("null"):
            value = left[1]
            return "bool", (lambda row: value(row) is not None) if negated else (lambda row: value(row) is None)
        if self.given("distinct"):
            self.take("from")
            kind, (one, other) = self._alike([left, self.expression(_IS + 1)], "is distinct from")
            return "bool", _distinct(one, other, kind == "float", negated)
        word = self.take().lower()
        if word not in ("true", "false"):
            raise self.outside(f"is {word}")
        self._need(left[0], ("bool",), f"is {word}")
        value, wanted = left[1], word == "true"
        return "bool", lambda row: (value(row) is wanted) is not negated

    def _between(self, left: Node) -> Node:
        low = self.expression(_IN + 1)
        self.take("and")
        high = self.expression(_IN + 1)
        above, below = self._compare(">=", left, low), self._compare("<=", left, high)
        return "bool", _and(above[1], below[1])

    def _in(self, left: Node) -> Node:
        self.take("(")
        items = [left, *self._list(_OR)]
        kind, (value, *others) = self._alike(items, "in")
        found = [_both(functions.same if kind == "float" else (lambda a, b: a == b), value, other) for other in others]
        out = found[0]
        for item in found[1:]:
            out = _or(out, item)
        return "bool", out

    def _list(self, least: int) -> list[Node]:
        """Expressions up to the closing bracket."""
        out = [self.expression(least)]
        while self.given(","):
            out.append(self.expression(least))
        self.take(")")
        return out

    def _case(self) -> Node:
        subject = None if self.peek() == "when" else self.expression(_OR)
        tests, results = [], []
        while self.given("when"):
            test = self.expression(_OR)
            test = test if subject is None else self._compare("=", subject, test)
            self._need(test[0], ("bool",), "when")
            tests.append(test[1])
            self.take("then")
            results.append(self.expression(_OR))
        results.append(self.expression(_OR) if self.given("else") else _constant(_NULL, None))
        self.take("end")
        kind, values = self._alike(results, "case")
        return kind, _choose(tests, values)

    def _cast(self, node: Node, name: str, *, trying: bool) -> Node:
        to, (kind, value) = _TYPES.get(name), node
        if to is None:
            raise self.outside(f"cast to {name}")
        made = _CASTS.get((kind, to))
        if kind in (to, _NULL):
            return to, value
        if made is None:
            raise self.outside(f"cast of {kind} to {name}")
        return to, _tried(_through(made, value, to)) if trying else _through(made, value, to)

    def _call(self, name: str) -> Node:
        self.take("(")
        if name in ("cast", "try_cast"):
            node = self.expression(_OR)
            self.take("as")
            made = self._cast(node, self.take().lower(), trying=name == "try_cast")
            self.take(")")
            return made
        args = self._list(_OR)
        kinds = [kind for kind, _ in args]
        if name in ("coalesce", "ifnull", "greatest", "least", "concat"):
            return self._many(name, args)
        if name == "if" and len(args) == 3 and kinds[0] == "bool":
            kind, values = self._alike(args[1:], name)
            return kind, _choose([args[0][1]], values)
        if name == "nullif" and len(args) == 2:
            equal = self._compare("=", args[0], args[1])[1]
            value = args[0][1]
            return kinds[0], lambda row: None if equal(row) else value(row)
        if name in ("date_part", "date_diff", "datediff", "date_trunc"):
            return self._dated(name, args)
        found = functions.FUNCTIONS.get((name, *kinds)) or functions.FUNCTIONS.get(
            (name, *("float" if k == "int" else k for k in kinds))
        )
        if found is None:
            raise self.outside(f"{name}({', '.join(kinds)})")
        kind, function, wanted = found
        values = [_float(arg)[1] if want == "float" else arg[1] for arg, want in zip(args, wanted, strict=True)]
        return kind, _called(function, values, kind)

    def _many(self, name: str, args: list[Node]) -> Node:
        if name == "ifnull" and len(args) != 2:
            raise self.outside(name)
        kind, values = self._alike(args, name)
        if name == "concat":
            self._need(kind, ("text",), name)
            return "text", lambda row: "".join(part for value in values if (part := value(row)) is not None)
        if name in ("coalesce", "ifnull"):
            return kind, lambda row: next((found for value in values if (found := value(row)) is not None), None)
        less = functions.less if kind == "float" else (lambda a, b: a < b)
        return kind, _extreme(values, less if name == "least" else (lambda a, b: less(b, a)))

    def _dated(self, name: str, args: list[Node]) -> Node:
        """Functions whose first argument is the name of a unit."""
        kinds = [kind for kind, _ in args[1:]]
        unit = args[0][1](()).lower() if args[0] and args[0][1].__name__ == "constant" and args[0][0] == "text" else ""
        if name == "date_part" and kinds == ["time"] and ((unit, "time") in functions.FUNCTIONS):
            kind, function, _ = functions.FUNCTIONS[unit, "time"]
            return kind, _through(function, args[1][1])
        if name == "date_trunc" and kinds == ["time"] and unit in functions.UNITS:
            span = functions.UNITS[unit]
            return "time", _through(lambda at: at - at % span, args[1][1])
        if name in ("date_diff", "datediff") and kinds == ["time", "time"] and unit in functions.STEPS:
            step = functions.STEPS[unit]
            return "int", _both(lambda a, b: step(b) - step(a), args[1][1], args[2][1])
        raise self.outside(f"{name}({unit or '?'})")

    def _alike(self, nodes: Sequence[Node], where: str) -> tuple[str, list[Eval]]:
        """Nodes brought to one kind."""
        kinds = {kind for kind, _ in nodes} - {_NULL}
        if kinds == {"int", "float"}:
            return "float", [_float(node)[1] for node in nodes]
        if len(kinds) != 1:
            raise self.outside(f"{where} of {' and '.join(sorted(kinds)) or 'nulls'}")
        return kinds.pop(), [value for _, value in nodes]

    def _need(self, kind: str, wanted: tuple[str, ...], where: str) -> None:
        if kind not in wanted:
            raise self.outside(f"{where} of {kind}")


def _constant(kind: str, value: Any) -> Node:
    def constant(row: Row) -> Any:
        return value

    return kind, constant


def _fits(value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise OverflowError("beyond 64 bits")
    return value


def _through(function: Callable[[Any], Any], value: Eval, kind: str = "") -> Eval:
    """A function of one value; null stays null."""
    if kind == "int":
        return lambda row: None if (x := value(row)) is None else _fits(function(x))
    return lambda row: None if (x := value(row)) is None else function(x)


def _both(function: Callable[[Any, Any], Any], one: Eval, other: Eval, kind: str = "") -> Eval:
    """A function of two values; null when either is."""

    def made(row: Row) -> Any:
        a, b = one(row), other(row)
        return None if a is None or b is None else function(a, b)

    return made if kind != "int" else lambda row: None if (x := made(row)) is None else _fits(x)


def _called(function: Callable[..., Any], values: Sequence[Eval], kind: str) -> Eval:
    if len(values) == 1:
        return _through(function, values[0], kind)

    def made(row: Row) -> Any:
        found = [value(row) for value in values]
        return None if None in found else function(*found)

    return made


def _tried(value: Eval) -> Eval:
    def made(row: Row) -> Any:
        try:
            return value(row)
        except ERRORS:
            return None

    return made


def _float(node: Node) -> Node:
    kind, value = node
    return node if kind == "float" else ("float", _through(float, value))


def _and(one: Eval, other: Eval) -> Eval:
    def made(row: Row) -> bool | None:
        a, b = one(row), other(row)
        if a is False or b is False:
            return False
        return None if a is None or b is None else True

    return made


def _or(one: Eval, other: Eval) -> Eval:
    def made(row: Row) -> bool | None:
        a, b = one(row), other(row)
        if a is True or b is True:
            return True
        return None if a is None or b is None else False

    return made


def _choose(tests: Sequence[Eval], values: Sequence[Eval]) -> Eval:
    pairs, last = list(zip(tests, values, strict=False)), values[-1]

    def made(row: Row) -> Any:
        for test, value in pairs:
            if test(row):
                return value(row)
        return last(row)

    return made


def _distinct(one: Eval, other: Eval, floats: bool, negated: bool) -> Eval:
    def made(row: Row) -> bool:
        a, b = one(row), other(row)
        same = a is b if a is None or b is None else functions.same(a, b) if floats else a == b
        return same is negated

    return made


def _extreme(values: Sequence[Eval], before: Callable[[Any, Any], bool]) -> Eval:
    """The first by an order of the values that are not null."""

    def made(row: Row) -> Any:
        best = None
        for value in values:
            found = value(row)
            if found is not None and (best is None or before(found, best)):
                best = found
        return best

    return made

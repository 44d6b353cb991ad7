"""The names that code takes from outside, held against what Python's own compiler says of the standard library."""

import ast
import importlib.util
import symtable
from pathlib import Path

import pytest

from loopwright.pipelines.scopes import references

MODULES = [
    "argparse",
    "ast",
    "collections",
    "dataclasses",
    "_pydecimal",
    "enum",
    "functools",
    "inspect",
    "logging",
    "typing",
]


def outer(table: symtable.SymbolTable, found: set[str]) -> set[str]:
    """The names that a scope and those inside it look up in the module."""
    found.update(s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced())
    for inner in table.get_children():
        if inner.get_name() != "top":  # the compiler takes a function of this name for the module itself
            outer(inner, found)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_name_that_the_compiler_finds_is_missed(module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    text = Path(spec.origin).read_text()
    tables = symtable.symtable(text, module, "exec").get_children()
    checked = 0
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        own = [t for t in tables if t.get_name() == node.name and t.get_lineno() == node.lineno]
        wanted = set().union(*(outer(table, set()) for table in own)) if own else set()
        plain = {name for name in wanted if "__" not in name.lstrip("_")}  # the compiler mangles private names
        assert plain <= {reference.path[0] for reference in references([node])}, node.name
        checked += len(plain)
    assert checked > 10


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("a.b.c(d).e", {("a", "b", "c"), ("d",)}),
        ("def f(x, y=z): return x + y + g", {("z",), ("g",)}),
        ("def f():\n    x = 1\n    return x", set()),
        ("def f():\n    global x\n    x = 1", {("x",)}),
        ("def f():\n    x = 1\n    def g():\n        nonlocal x\n        x += 1", set()),
        ("def f():\n    x = 1\n    def g():\n        global x\n        return x", {("x",)}),
        ("[x for x in y if z]", {("y",), ("z",)}),
        ("[x for x in x]", {("x",)}),
        ("def f():\n    return [y := 1 for x in z], y", {("z",)}),
        ("class C(B, metaclass=M):\n    k = 1\n    def m(self): return k", {("B",), ("M",), ("k",)}),
        ("lambda x=a: x + b", {("a",), ("b",)}),
        ("def f():\n    try:\n        pass\n    except E as e:\n        return e", {("E",)}),
        ("def f(v):\n    match v:\n        case P(x=1) as y:\n            return y", {("P",)}),
        ("@d(1)\ndef f(v: T) -> R: pass", {("d",), ("T",), ("R",)}),
        ("def f():\n    import a.b as c\n    return c.d", {("c", "d")}),
        ("def f():\n    with a as b:\n        b.c", {("a",)}),
        ("f'{a:{b}}'", {("a",), ("b",)}),
    ],
)
def test_the_names_of_small_pieces(code: str, found: set[tuple[str, ...]]) -> None:
    assert {reference.path for reference in references(ast.parse(code).body)} == found

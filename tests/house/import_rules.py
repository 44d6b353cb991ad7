"""Who imports whom, read from the source, imports inside functions included; and import loops in it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from house_rules import Source


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run, at start or later; those for type checkers alone never do."""
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        for child in node.orelse:
            yield from _statements(child)
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _statements(child)


def _start(source: Source, node: ast.ImportFrom, is_package: bool) -> str:
    """The absolute name that a `from` starts at."""
    if not node.level:
        return node.module or ""
    parts = source.module.split(".")
    keep = len(parts) - node.level + (1 if is_package else 0)
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def imported(source: Source) -> set[str]:
    """Every dotted name that a file imports; `from a import b` gives `a.b`, which may be a module or a name in `a`."""
    is_package = source.path.endswith("__init__.py")
    names: set[str] = set()
    for node in _statements(source.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            start = _start(source, node, is_package)
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def graph(sources: Iterable[Source]) -> dict[str, set[str]]:
    """Module -> the modules of the same set that it imports."""
    every = {s.module: s for s in sources}

    def resolve(name: str) -> str | None:
        while name and name not in every:
            name = name.rpartition(".")[0]
        return name or None

    out: dict[str, set[str]] = {}
    for module, source in every.items():
        targets = {resolve(name) for name in imported(source)}
        out[module] = {t for t in targets if t is not None and t != module}
    return out


def _reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(edges.get(start, ()))
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += edges.get(node, ())
    return seen


def loops(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""
    reach = {module: _reachable(edges, module) for module in edges}
    groups = {
        tuple(sorted(other for other in edges if other in reach[module] and module in reach[other]))
        for module in edges
        if module in reach[module]
    }
    return [list(group) for group in sorted(groups)]

"""The project's own files as Python read them: syntax trees, what each top-level name is bound to, what is imported.

Project code is every file outside the standard library, the installed packages and loopwright itself.
"""

import ast
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from types import CodeType
from typing import Any, NamedTuple

from loopwright.pipelines.scopes import Import, imports_of

_STANDARD = os.path.realpath(os.path.dirname(os.__file__)) + os.sep
_OURS = os.path.realpath(os.path.dirname(os.path.dirname(__file__))) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NO_FILE = (0, 0)
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


class Binding(NamedTuple):
    """One top-level statement that makes a name, or changes what it stands for, and the conditions around it."""

    statement: ast.stmt
    origin: Import | None
    conditions: tuple[ast.AST, ...]
    makes: bool = True


class Source:
    """One project file: its tree, its top-level names and the modules that it imports.

    Args:
        namespace: the names of the running module, or None when it is not loaded.
    """

    def __init__(self, path: str, text: bytes, namespace: dict[str, Any] | None) -> None:
        self.path = path
        self.text = text
        self.namespace = namespace
        self.dotted = ""
        self.tree = _strip(ast.parse(text))
        self.bindings: dict[str, list[Binding]] = {}
        self.stars: list[Import] = []
        self._bind(self.tree.body, ())
        self.imports = sorted(set(_modules(self.tree)))

    @property
    def label(self) -> str:
        """The file's name, for people and keys; a notebook's cells share one."""
        return os.path.basename(self.path) if os.path.exists(self.path) else "cell"

    @property
    def package(self) -> str:
        """The dotted package that relative imports start from."""
        if self.namespace is not None:
            return str(self.namespace.get("__package__") or "")
        inside = os.path.basename(self.path) == "__init__.py"
        return self.dotted if inside else self.dotted.rpartition(".")[0]

    def live(self, name: str) -> Any:
        """What the name stands for in the running module; `MISSING` when it is not loaded or has no such name."""
        return MISSING if self.namespace is None else self.namespace.get(name, MISSING)

    def definition(self, code: CodeType) -> list[ast.AST]:
        """The definitions that a code object can come from: one, or all lambdas of its line."""
        found: list[ast.AST] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if code.co_firstlineno in (first, node.lineno):
                    found.append(node)
            elif isinstance(node, ast.Lambda) and code.co_name == "<lambda>" and node.lineno == code.co_firstlineno:
                found.append(node)
        return found

    def around(self, line: int) -> ast.stmt | None:
        """The top-level statement that holds a line."""
        for statement in self.tree.body:
            first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
            if first <= line <= (statement.end_lineno or statement.lineno):
                return statement
        return None

    def _bind(self, body: Iterable[ast.stmt], conditions: tuple[ast.AST, ...]) -> None:
        for statement in body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._import(statement, conditions)
            elif isinstance(statement, _DEFINITIONS):
                self._add(statement.name, Binding(statement, None, conditions))
            elif isinstance(statement, _BLOCKS):
                self._block(statement, conditions)
            else:
                made = set(_stored(statement))
                for name in _touched(statement):
                    self._add(name, Binding(statement, None, conditions, name in made))

    def _import(self, statement: ast.Import | ast.ImportFrom, conditions: tuple[ast.AST, ...]) -> None:
        for name, origin in imports_of(statement):
            self._add(name, Binding(statement, origin, conditions))
        if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
            self.stars.append(Import(statement.module or "", None, statement.level))

    def _block(self, block: ast.stmt, conditions: tuple[ast.AST, ...]) -> None:
        if isinstance(block, ast.If) and _is_main_guard(block.test):
            self._bind(block.orelse, conditions)
            return
        heads: list[ast.AST] = []
        bodies: list[list[ast.stmt]] = []
        for part in ast.iter_child_nodes(block):
            if isinstance(part, ast.ExceptHandler | ast.match_case):
                heads += [p for p in ast.iter_child_nodes(part) if not isinstance(p, ast.stmt)]
                bodies.append(part.body)
            elif isinstance(part, ast.stmt):
                bodies.append([part])
            else:
                heads.append(part)
        inner = (*conditions, *heads)
        for head in heads:
            for name in _stored(head):
                self._add(name, Binding(ast.copy_location(ast.Pass(), block), None, inner))
        for statements in bodies:
            self._bind(statements, inner)

    def _add(self, name: str, binding: Binding) -> None:
        self.bindings.setdefault(name, []).append(binding)


class _Missing:
    """No value."""


MISSING = _Missing()


def _strip(tree: ast.Module) -> ast.Module:
    """Drop the statements that are only text: docstrings say nothing that a computation can depend on."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                kept = [s for s in body if not _is_text(s)]
                setattr(node, field, kept)
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_main_guard(test: ast.expr) -> bool:
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Name)
        and test.left.id == "__name__"
        and isinstance(test.ops[0], ast.Eq)
    )


def _modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def _stored(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            yield part.id


def _touched(statement: ast.stmt) -> list[str]:
    """The names that a plain statement binds, changes a part of, or calls a method of."""
    names = list(_stored(statement))
    for part in ast.walk(statement):
        base: ast.AST | None = None
        if isinstance(part, ast.Attribute | ast.Subscript) and not isinstance(part.ctx, ast.Load):
            base = part.value
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and isinstance(statement, ast.Expr):
            base = part.func.value
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        if isinstance(base, ast.Name):
            names.append(base.id)
    return list(dict.fromkeys(names))


@cache
def is_project(path: str) -> bool:
    """Whether a file is the project's own code."""
    if path.startswith((_STANDARD, _OURS)) or any(part in path for part in _INSTALLED):
        return False
    real = os.path.realpath(path)
    return not real.startswith((_STANDARD, _OURS)) and not any(part in real for part in _INSTALLED)


class _Read(NamedTuple):
    source: Source
    stat: tuple[int, int]
    spec: Any


class Sources:
    """The project's files, each as it was when its module was loaded."""

    def __init__(self) -> None:
        self._read: dict[str, _Read] = {}

    def remember(self, own: str, namespace: dict[str, Any]) -> None:
        """Keep the text of the module that is being loaded, and of every project module that is loaded already."""
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and path.endswith(".py") and path not in self._read and is_project(path):
                self._load(path, vars(module))
        if is_project(own) and (own not in self._read or self._read[own].stat != _stat(own)):
            self._load(own, namespace)

    def module(self, name: str) -> Source | None:
        """The project module of that name, loaded or not; None when it is not the project's."""
        live = sys.modules.get(name)
        path = find(name) if live is None else getattr(live, "__file__", None)
        if not isinstance(path, str) or not path.endswith(".py") or not is_project(path):
            return None
        source = self.file(path, None if live is None else vars(live))
        if source is not None:
            source.dotted = name
        return source

    def file(self, path: str, namespace: dict[str, Any] | None = None) -> Source | None:
        """A project file by its path; None when its text cannot be had."""
        kept = self._read.get(path)
        if kept is None or (namespace is not None and kept.spec is not namespace.get("__spec__")):
            self._load(path, namespace)
            kept = self._read.get(path)
        return None if kept is None else kept.source

    def edited(self, source: Source) -> bool:
        """Whether the file's text has changed since its module was loaded."""
        kept = self._read.get(source.path)
        if kept is None or kept.stat == _stat(source.path):
            return False
        return _text(source.path) != source.text

    def _load(self, path: str, namespace: dict[str, Any] | None) -> None:
        stat = _stat(path)
        text = _text(path)
        try:
            source = Source(path, text, namespace)
        except (SyntaxError, ValueError):
            return
        if text or stat != _NO_FILE:  # an empty __init__.py is a file like others
            self._read[path] = _Read(source, stat, (namespace or {}).get("__spec__"))


SOURCES = Sources()


def _stat(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return _NO_FILE
    return found.st_mtime_ns, found.st_size


def _text(path: str) -> bytes:
    """The text of a file, or of a notebook's cell, which lies in Python's line cache under a name that is no file."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        import linecache
    return "".join(linecache.getlines(path)).encode()


def find(name: str) -> str | None:
    """Where a module that is not loaded would come from (a folder ends in a slash); nothing is run to learn it."""
    parts = name.split(".")
    places: list[str] | None = None
    path: str | None = None
    for depth in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:depth]), places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or [])
        path = spec.origin if spec.has_location else None
        if path is None and places:
            path = os.path.join(places[0], "")
    return path


def _spec(name: str, places: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, places)
        except (ImportError, ValueError, AttributeError):
            continue
        if spec is not None:
            return spec
    return None

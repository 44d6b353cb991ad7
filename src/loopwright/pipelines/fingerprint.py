"""The fingerprint of a step: the syntax of its function and, transitively, of all that it names in the project.

Installed packages enter by their versions (environment.py). Not seen: names made by text (getattr on an object,
`importlib` with a computed name) and files that the code opens without declaring them.
"""

import ast
import copy
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any

import msgspec

from loopwright.kernel import canonical
from loopwright.pipelines import values
from loopwright.pipelines.scopes import Import, Reference, references
from loopwright.pipelines.sources import MISSING, SOURCES, Binding, Source, find, is_project
from loopwright.pipelines.step import Step

Declare = Callable[[Any], Any]


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What a step depends on.

    Args:
        digest: of all parts together.
        parts: digest of each definition that was reached, by `file:name`.
        declared: fingerprints of the declared objects that were reached, by `kind:name`.
        imports: top-level modules that the reached files import.
        edited: files that have changed since Python read them; what runs is then not what lies there.
        files: path and text of each file that was reached, as Python read it.
    """

    digest: str
    parts: dict[str, str]
    declared: dict[str, Any]
    imports: tuple[str, ...]
    edited: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...] = ()


def trace(step: Step[..., Any], declare: Declare) -> Fingerprint:
    """Fingerprint a step; `declare` gives the fingerprint of a declared object."""
    tracer = Tracer(step.fn, declare)
    tracer.function(step.fn, root=True)
    return finished(tracer)


def finished(tracer: "Tracer") -> Fingerprint:
    """The fingerprint of all that a tracer has reached."""
    parts = {label: canonical.digest(content) for label, content in tracer.entries.items()}
    reached = tracer.reached.values()
    return Fingerprint(
        digest=canonical.digest(parts),
        parts=parts,
        declared=tracer.declared,
        imports=tuple(sorted({module for source in reached for module in source.imports})),
        edited=tuple(sorted(source.label for source in reached if SOURCES.edited(source))),
        files=tuple(sorted((source.path, source.text) for source in reached)),
    )


class Tracer:
    """Walks from a function to everything that it names; each thing reached becomes one entry."""

    def __init__(self, start: Callable[..., Any], declare: Declare) -> None:
        self.entries: dict[str, Any] = {}
        self.declared: dict[str, Any] = {}
        self.reached: dict[str, Source] = {}
        self.root = os.path.dirname(getattr(getattr(start, "__code__", None), "co_filename", ""))
        self.opaque = 0
        self._declare = declare
        self._labels: dict[Any, str] = {}
        self._alive: list[Any] = []
        self._declared: dict[int, Any] = {}

    def _label(self, key: Any, label: str) -> tuple[str, bool]:
        """The label of a thing, and whether it is met for the first time."""
        if key in self._labels:
            return self._labels[key], False
        taken, number = label, 1
        while taken in self.entries:
            number += 1
            taken = f"{label}#{number}"
        self._labels[key] = taken
        self.entries[taken] = None
        return taken, True

    # functions and classes, by the objects themselves

    def function(self, fn: Any, *, root: bool = False) -> Any:
        """What a function is: its definition and all that it names, its closure among them."""
        code = getattr(fn, "__code__", None)
        if not isinstance(code, CodeType):
            return values.describe(self, fn)
        if not is_project(code.co_filename):
            return self._foreign(fn)
        source = SOURCES.file(code.co_filename, fn.__globals__)
        first = fn.__qualname__.partition(".")[0]
        if source is not None and not root and _lives_there(source, fn, first):
            return self.name(source, first)
        label, new = self._label(("function", id(fn)), f"{source.label if source else '?'}:{fn.__qualname__}")
        if new:
            self._alive.append(fn)
            self.entries[label] = self._function(fn, code, source, root)
        return label

    def _function(self, fn: Any, code: CodeType, source: Source | None, root: bool) -> Any:
        cells = _cells(fn)
        nodes = [] if source is None else source.definition(code)
        if source is None or not nodes:
            return ["code", _bytecode(code), self._loose_names(fn, code), [self.value(v) for v in cells.values()]]
        self._reach(source)
        if root:
            nodes = [_without_defaults(node) for node in nodes]
        before = self.opaque
        content: list[Any] = ["function", [_dump(node) for node in nodes], self._references(source, nodes, cells)]
        if not root and "<locals>" not in fn.__qualname__:
            content.append(_bytecode(code))
        if cells and self.opaque > before:
            content.append(self._around(source, code.co_firstlineno))
        return content

    def _loose_names(self, fn: Any, code: CodeType) -> list[Any]:
        """The globals that a function without a text names."""
        found = [(name, fn.__globals__[name]) for name in _names(code) if name in fn.__globals__]
        return [[name, self.value(value)] for name, value in found]

    def _around(self, source: Source, line: int) -> Any:
        statement = source.around(line)
        if statement is None:
            return None
        label, new = self._label((source.path, "line", statement.lineno), f"{source.label}:{line}")
        if new:
            self.entries[label] = [_dump(statement), self._references(source, [statement], {})]
        return label

    def _foreign(self, fn: Any) -> Any:
        """A function of an installed package: its name, and what of the project it holds (as decorators do)."""
        held = [self.value(value) for name, value in _cells(fn).items() if name != "__class__"]
        inner = getattr(fn, "__wrapped__", None)
        return ["foreign", f"{fn.__module__}.{fn.__qualname__}", held, None if inner is None else self.value(inner)]

    def kind(self, cls: type) -> Any:
        """What a class is: its definition where it is the project's."""
        source = self._source_of(cls)
        if source is None:
            return f"={cls.__module__}.{cls.__qualname__}"
        first = cls.__qualname__.partition(".")[0]
        if first in source.bindings:
            return self.name(source, first)
        label, new = self._label(("class", id(cls)), f"{source.label}:{cls.__qualname__}")
        if new:
            self._alive.append(cls)
            self._reach(source)
            nodes = [n for n in ast.walk(source.tree) if isinstance(n, ast.ClassDef) and n.name == cls.__name__]
            methods = [value for value in vars(cls).values() if isinstance(value, FunctionType)]
            held = [[self.value(cell) for name, cell in _cells(m).items() if name != "__class__"] for m in methods]
            bases = [self.kind(base) for base in cls.__bases__ if base is not object]
            self.entries[label] = [[_dump(n) for n in nodes], self._references(source, nodes, {}), held, bases]
        return label

    def _source_of(self, cls: type) -> Source | None:
        for value in vars(cls).values():
            if isinstance(value, FunctionType) and value.__module__ == cls.__module__:
                path = value.__code__.co_filename
                if is_project(path) and (source := SOURCES.file(path, value.__globals__)) is not None:
                    return source
        return SOURCES.module(cls.__module__)

    # names, by the text of the files

    def name(self, source: Source, name: str) -> Any:
        """What a top-level name of a file stands for: the statements that make it, and its value."""
        bindings, live = source.bindings.get(name, []), source.live(name)
        if not bindings:
            star = self._star(source, name)
            if star is not None:
                return self.name(star, name)
            if live is MISSING or _is_dunder(name):
                return f"={name}"
        self._reach(source)
        label, new = self._label((source.path, "name", name), f"{source.label}:{name}")
        if new:
            self.entries[label] = self._name(source, bindings, live)
        return label

    def _name(self, source: Source, bindings: Sequence[Binding], live: Any) -> Any:
        if values.is_declared(live):
            return self.value(live)
        settled = isinstance(live, ModuleType | Step) or any(b.origin for b in bindings)
        content: list[Any] = []
        for binding in bindings:
            if binding.origin is not None:
                content.append(self._imported(source, binding.origin, ()))
            elif binding.makes or not settled:
                nodes = [binding.statement, *binding.conditions]
                content.append([[_dump(node) for node in nodes], self._references(source, nodes, {})])
        if live is not MISSING and not _covered(source, bindings, live):
            content.append(self.value(live))
        if isinstance(live, FunctionType | type):
            content += self._made(source, bindings, live)
        return content

    def _made(self, source: Source, bindings: Sequence[Binding], live: Any) -> list[Any]:
        """What a definition's text does not say: which of several it is, and what it came to hold when it was run."""
        opaque = self.opaque
        made: list[Any] = [n for n, b in enumerate(bindings) if len(bindings) > 1 and _covered(source, [b], live)]
        if isinstance(live, FunctionType):
            made += [self.value(held) for held in (live.__defaults__, live.__kwdefaults__) if held]
        else:
            made += [[name, self.value(held)] for name, held in sorted(vars(live).items()) if _added(live, name, held)]
        self.opaque = opaque
        return made

    def _references(self, source: Source, nodes: Iterable[ast.AST], cells: dict[str, Any]) -> list[Any]:
        return [self._resolve(source, reference, cells) for reference in references(nodes)]

    def _resolve(self, source: Source, reference: Reference, cells: dict[str, Any]) -> Any:
        name, *rest = reference.path
        if reference.origin is not None:
            return self._imported(source, reference.origin, tuple(rest))
        if name in cells:
            value = cells[name]
            if isinstance(value, ModuleType):
                return self.module(value.__name__, tuple(rest))
            return self.value(value)
        return self._attribute(source, name, tuple(rest))

    def _attribute(self, source: Source, name: str, rest: tuple[str, ...]) -> Any:
        """A top-level name and what is taken of it; through modules the attributes are followed."""
        bindings, live = source.bindings.get(name, []), source.live(name)
        if not bindings and isinstance(live, ModuleType):
            return self.module(live.__name__, rest)
        origins = [b.origin for b in bindings if b.origin is not None]
        if origins and not any(b.makes and b.origin is None for b in bindings):
            self._reach(source)
            found = [self._imported(source, origin, rest) for origin in dict.fromkeys(origins)]
            found += self._touches(source, name, bindings, live)
            if isinstance(live, ModuleType):
                return [*found, f"={live.__name__}"] if len(found) > 1 else found
            return found if live is MISSING else [*found, self.value(live)]
        return self.name(source, name)

    def _touches(self, source: Source, name: str, bindings: Sequence[Binding], live: Any) -> list[Any]:
        """The statements that change a part of something imported, such as `random.seed(1)`."""
        statements = [b.statement for b in bindings if not b.makes]
        if not statements or getattr(live, "__name__", "").partition(".")[0] == "loopwright":
            return []
        label, new = self._label((source.path, "touches", name), f"{source.label}:{name}.*")
        if new:
            dumped = [_dump(node) for node in statements]
            self.entries[label] = [dumped, self._references(source, statements, {})]
        return [label]

    def _imported(self, source: Source, origin: Import, rest: tuple[str, ...]) -> Any:
        module = _absolute(source, origin)
        if origin.name is None:
            return self.module(module, rest)
        target = SOURCES.module(module)
        if target is not None:
            return self._member(target, module, (origin.name, *rest))
        return self.module(module, (origin.name, *rest))

    def module(self, name: str, rest: tuple[str, ...]) -> Any:
        """A module, whole when nothing is taken of it, or what is taken of it."""
        source = SOURCES.module(name)
        if source is not None:
            return self._member(source, name, rest) if rest else self._whole(source)
        live = sys.modules.get(name)
        path = find(name) if live is None else getattr(live, "__file__", None)
        if rest and _is_project_folder(name, path):
            return self.module(f"{name}.{rest[0]}", rest[1:])
        if path is not None and is_project(path) and os.path.isfile(path):
            return ["file", os.path.basename(path), canonical.digest_file(values.as_path(path))]
        return "=" + ".".join((name, *rest))

    def _member(self, source: Source, module: str, rest: tuple[str, ...]) -> Any:
        first, live = rest[0], source.live(rest[0])
        if first in source.bindings:
            return self._attribute(source, first, rest[1:])
        if SOURCES.module(f"{module}.{first}") is not None:
            return self.module(f"{module}.{first}", rest[1:])
        star = self._star(source, first)
        if star is not None:
            return self._attribute(star, first, rest[1:])
        if live is not MISSING or _is_dunder(first):
            return self._attribute(source, first, rest[1:])
        return self._whole(source)

    def _whole(self, source: Source) -> Any:
        self._reach(source)
        label, new = self._label((source.path, "whole"), f"{source.label}:*")
        if new:
            self.entries[label] = [_dump(source.tree), self._references(source, [source.tree], {})]
        return label

    def _star(self, source: Source, name: str) -> Source | None:
        """The file that a star import of this one takes the name from."""
        for star in reversed(source.stars):
            target = SOURCES.module(_absolute(source, star))
            if target is None or target is source:
                continue
            if name in target.bindings:
                return target
            further = self._star(target, name)
            if further is not None:
                return further
        return None

    def _reach(self, source: Source) -> None:
        self.reached[source.path] = source

    # values

    def value(self, value: Any) -> Any:
        """What a value is: itself when it is plain, else what it is made of."""
        return values.describe(self, value)

    def declare(self, value: Any) -> Any:
        """The fingerprint of a declared object, kept under its kind and name."""
        if id(value) not in self._declared:
            label = f"{type(value).__name__.lower()}:{getattr(value, 'name', '')}"
            found = self._declare(value)
            while self.declared.get(label, found) != found:
                label += "+"
            self.declared[label] = found
            self._declared[id(value)] = found
            self._alive.append(value)
        return self._declared[id(value)]


def _lives_there(source: Source, fn: Any, first: str) -> bool:
    """Whether a top-level name of the file leads to the function."""
    live = source.live(first)
    if isinstance(live, type):
        return bool(first != fn.__qualname__)
    if isinstance(live, Step):
        live = live.fn
    for _ in range(20):
        if live is fn:
            return first in source.bindings
        live = getattr(live, "__wrapped__", None)
    return False


def _covered(source: Source, bindings: Sequence[Binding], live: Any) -> bool:
    """Whether the statements that bind a name say all about its value already."""
    if isinstance(live, ModuleType):
        return True
    if isinstance(live, Step):
        live = live.fn
    code = getattr(live, "__code__", None)
    if isinstance(live, type):
        lines = [v.__code__.co_firstlineno for v in vars(live).values() if isinstance(v, FunctionType)]
        return any(isinstance(b.statement, ast.ClassDef) and _holds(b.statement, lines) for b in bindings)
    if not isinstance(code, CodeType) or code.co_filename != source.path or getattr(live, "__closure__", None):
        return False
    return any(b.origin is None and _holds(b.statement, [code.co_firstlineno]) for b in bindings)


def _holds(statement: ast.stmt, lines: Sequence[int]) -> bool:
    first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
    last = statement.end_lineno or statement.lineno
    return all(first <= line <= last for line in lines)


def _added(cls: type, name: str, held: Any) -> bool:
    """Whether a member of a class can differ from what the class's statement says."""
    if isinstance(held, FunctionType):
        path = held.__code__.co_filename
        return not path.startswith("<") and not held.__qualname__.startswith(f"{cls.__qualname__}.")
    return not name.endswith("_") and not hasattr(type(held), "__get__")


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_project_folder(name: str, path: str | None) -> bool:
    """Whether a module is a folder of the project without a file of its own."""
    live = sys.modules.get(name)
    if live is None:
        return path is not None and path.endswith(os.sep) and is_project(path)
    places = list(getattr(live, "__path__", [])) if path is None else []
    return any(is_project(os.path.join(place, "")) for place in places)


def _absolute(source: Source, origin: Import) -> str:
    if origin.level == 0:
        return origin.module
    package = source.package.split(".")
    kept = package[: len(package) - origin.level + 1]
    return ".".join([*kept, origin.module] if origin.module else kept)


def _dump(node: ast.AST) -> str:
    return ast.dump(node, annotate_fields=False)


def _without_defaults(node: ast.AST) -> ast.AST:
    """The definition without the values of its own defaults: those are parameters and enter the key as such."""
    arguments = getattr(node, "args", None)
    if not isinstance(arguments, ast.arguments):
        return node
    node, arguments = copy.copy(node), copy.copy(arguments)
    arguments.defaults, arguments.kw_defaults = [], [None for _ in arguments.kwonlyargs]
    node.args = arguments  # type: ignore[attr-defined]
    return node


def _cells(fn: Any) -> dict[str, Any]:
    """The closure of a function, name -> value; names that have no value yet are left out."""
    found = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _bytecode(code: CodeType) -> Any:
    inner = [_bytecode(c) if isinstance(c, CodeType) else [type(c).__name__, _constant(c)] for c in code.co_consts]
    return [code.co_code, inner, list(code.co_names), list(code.co_varnames)]


def _constant(value: Any) -> str:
    """A constant as text; a set's own text has another order in every process."""
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(_constant(item) for item in value))}}}"
    if isinstance(value, tuple):
        return f"({', '.join(_constant(item) for item in value)})"
    return repr(value)


def _names(code: CodeType) -> list[str]:
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _names(constant)
    return list(dict.fromkeys(found))

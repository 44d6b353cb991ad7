"""Which outer names a piece of Python names: scopes as Python resolves them, on the syntax tree.

Errs on the side of naming too much: a name too many costs a needless run, one too few a stale result.
"""

import ast
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Import(NamedTuple):
    """What one imported name stands for: a module, or a name in a module."""

    module: str
    name: str | None
    level: int


class Reference(NamedTuple):
    """An outer name with the attributes taken of it; `origin` when the code itself imports the name."""

    path: tuple[str, ...]
    origin: Import | None = None


def imports_of(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Import]]:
    """The names that an import statement binds; a star import binds none."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname is None:
                top = alias.name.partition(".")[0]
                yield top, Import(top, None, 0)
            else:
                yield alias.asname, Import(alias.name, None, 0)
        return
    for alias in node.names:
        if alias.name != "*":
            yield alias.asname or alias.name, Import(node.module or "", alias.name, node.level)


def references(nodes: Iterable[ast.AST]) -> list[Reference]:
    """The outer names that the nodes name, each once, in the order of the text."""
    finder = _Finder()
    for node in nodes:
        finder.visit(node)
    return list(dict.fromkeys(finder.found))


class _Scope:
    """Names bound in one function, class or comprehension."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.bound: set[str] = set()
        self.outer: set[str] = set()
        self.globals: set[str] = set()
        self.imports: dict[str, list[Import]] = {}

    def take(self, statements: Iterable[ast.AST]) -> None:
        """Collect what the statements bind here, without entering scopes of their own."""
        for node in statements:
            self._take(node)

    def _take(self, node: ast.AST) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.bound.add(node.name)
                self.take([*node.decorator_list, *_outside(node)])
                return
            case ast.Lambda():
                self.take(_outside(node))
                return
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                walrus = (n.target for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
                self.take(walrus)
                return
            case ast.Import() | ast.ImportFrom():
                for name, origin in imports_of(node):
                    self.imports.setdefault(name, []).append(origin)
                return
            case ast.Global():
                self.globals.update(node.names)
                return
            case ast.Nonlocal():
                self.outer.update(node.names)
                return
            case ast.Name(ctx=ast.Store() | ast.Del()):
                self.bound.add(node.id)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                self.bound.add(name)
            case ast.MatchMapping(rest=str(name)):
                self.bound.add(name)
            case _:
                pass
        self.take(ast.iter_child_nodes(node))


def _outside(node: ast.AST) -> list[ast.AST]:
    """The parts of a definition that are evaluated where it stands."""
    if isinstance(node, ast.ClassDef):
        return [*node.bases, *node.keywords]
    arguments = getattr(node, "args", None)
    if not isinstance(arguments, ast.arguments):
        return []
    out: list[ast.AST] = [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
    out += [a.annotation for a in _parameters(arguments) if a.annotation is not None]
    returns = getattr(node, "returns", None)
    return out if returns is None else [*out, returns]


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    stars = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *stars]


class _Finder(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Reference] = []
        self._scopes: list[_Scope] = []

    def _meet(self, path: tuple[str, ...], *, store: bool) -> None:
        name = path[0]
        innermost = True
        for scope in reversed(self._scopes):
            visible = innermost or scope.kind != "class"
            innermost = innermost and scope.kind == "comprehension"
            if not visible:
                continue
            if name in scope.globals:
                break
            if name in scope.outer:
                continue
            if name in scope.imports:
                self.found += [Reference(path, origin) for origin in scope.imports[name]]
                if name not in scope.bound:
                    return
            if name in scope.bound and scope.kind != "class":
                return
        if not store:
            self.found.append(Reference(path))

    def visit_Name(self, node: ast.Name) -> None:
        self._meet((node.id,), store=not isinstance(node.ctx, ast.Load) and not self._is_outer(node.id))

    def _is_outer(self, name: str) -> bool:
        return bool(self._scopes) and name in self._scopes[-1].globals | self._scopes[-1].outer

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain: list[str] = [node.attr]
        value = node.value
        while isinstance(value, ast.Attribute):
            chain.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name):
            self._meet((value.id, *reversed(chain)), store=False)
        else:
            self.visit(value)

    def _enter(self, scope: _Scope, nodes: Iterable[ast.AST]) -> None:
        self._scopes.append(scope)
        for node in nodes:
            self.visit(node)
        self._scopes.pop()

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        for part in [*getattr(node, "decorator_list", []), *_outside(node)]:
            self.visit(part)
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
        scope = _Scope("function")
        scope.take(body)
        scope.bound.update(a.arg for a in _parameters(node.args))
        scope.bound.update(_type_parameters(node))
        scope.bound -= scope.outer | scope.globals
        self._enter(scope, body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in [*node.decorator_list, *_outside(node)]:
            self.visit(part)
        scope = _Scope("class")
        scope.take(node.body)
        self._enter(scope, node.body)

    def visit_Import(self, node: ast.Import) -> None:
        """An import alone names nothing: what is used of it is met where it is used."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """The same for `from` imports."""

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, _COMPREHENSIONS):
            self._comprehension(node)
        else:
            super().generic_visit(node)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        first, scope = node.generators[0], _Scope("comprehension")
        self.visit(first.iter)
        for part in node.generators:
            scope.take([part.target])
        body: list[ast.AST] = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for place, part in enumerate(node.generators):
            body += [part.target, *part.ifs] if place == 0 else [part.iter, part.target, *part.ifs]
        self._enter(scope, body)


def _type_parameters(node: ast.AST) -> list[str]:
    return [str(parameter.name) for parameter in getattr(node, "type_params", [])]

"""The house rules as pure functions from source text to findings, so that each can be tested on a wrong example.

A finding is one line a person can act on; no finding means that the rule holds.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "loopwright"

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
MAX_DEPTH = 2
MAX_CODE_LINES = 31_000
# Wires and foreign systems are counted apart: how many there are says nothing about how hard the product is to hold.
COUNTED_APART = ("loopwright.bridges", "loopwright.serving.protocols")
_NO_CODE = frozenset(
    {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)
# What every function of a room is handed by its caller says nothing about how hard the function is to call.
UNCOUNTED = frozenset({"self", "cls", "space", "tx", "actor"})
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "helper", "base", "common", "manager", "managers", "misc"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file: its text, its place and its module name."""

    path: str
    text: str
    module: str = ""

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def room(self) -> str:
        parts = self.module.split(".")
        return parts[1] if len(parts) > 1 else ""


def read(folder: Path, *, root: Path = ROOT, skip: Iterable[str] = ()) -> list[Source]:
    """The Python files under a folder, without those below a folder named in `skip`."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(root)
        if set(place.parts) & {"__pycache__", *skip}:
            continue
        found.append(Source(place.as_posix(), path.read_text(encoding="utf-8"), module_name(place)))
    return found


def module_name(place: Path) -> str:
    """`src/loopwright/store/space.py` -> `loopwright.store.space`; outside src the path with dots."""
    parts = list(place.with_suffix("").parts)
    parts = parts[1:] if parts[0] == "src" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_sources() -> list[Source]:
    """The product: every module of the package, without the demo projects it carries as data."""
    return read(PACKAGE, skip=("demos",))


# --- size -----------------------------------------------------------------------------------------------------------


def long_files(sources: Iterable[Source]) -> list[str]:
    """Files over the limit of lines."""
    long = (s for s in sources if len(s.lines) > MAX_FILE_LINES)
    return [f"{s.path}: {len(s.lines)} lines, at most {MAX_FILE_LINES}" for s in long]


def code_lines(source: Source) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def too_much_code(sources: Iterable[Source]) -> list[str]:
    """The product when it is more than a few people can hold in their heads."""
    count = sum(code_lines(s) for s in sources if not s.module.startswith(COUNTED_APART))
    return [f"{count} lines of code, fewer than {MAX_CODE_LINES}"] if count >= MAX_CODE_LINES else []


def functions(source: Source) -> Iterator[Function]:
    """Every function of a file, nested ones too."""
    for node in ast.walk(source.tree):
        if isinstance(node, Function):
            yield node


def function_lines(node: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    doc = ast.get_docstring(node, clean=False)
    return (node.end_lineno or node.lineno) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)


def long_functions(sources: Iterable[Source]) -> list[str]:
    """Functions over the limit of lines."""
    return [
        f"{s.path}:{node.lineno}: {node.name} has {function_lines(node)} lines, at most {MAX_FUNCTION_LINES}"
        for s in sources
        for node in functions(s)
        if function_lines(node) > MAX_FUNCTION_LINES
    ]


def parameters(node: Function) -> list[str]:
    """The named parameters that count; `*args` and `**kwargs` do not."""
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [a.arg for a in every if a.arg not in UNCOUNTED]


def wide_functions(sources: Iterable[Source]) -> list[str]:
    """Functions over the limit of parameters."""
    return [
        f"{s.path}:{node.lineno}: {node.name} takes {len(parameters(node))} parameters, at most {MAX_PARAMETERS}"
        for s in sources
        for node in functions(s)
        if len(parameters(node)) > MAX_PARAMETERS
    ]


def deep_files(sources: Iterable[Source], package: str = "src/loopwright") -> list[str]:
    """Files more than the allowed number of folders below the package."""
    found = []
    for s in sources:
        folders = Path(s.path).relative_to(package).parts[:-1]
        if len(folders) > MAX_DEPTH:
            found.append(f"{s.path}: {len(folders)} folders below the package, at most {MAX_DEPTH}")
    return found


def vague_names(sources: Iterable[Source]) -> list[str]:
    """Files and folders whose name says nothing about what they hold."""
    vague = (s for s in sources if set(Path(s.path).with_suffix("").parts) & VAGUE_NAMES)
    return [f"{s.path}: name it after what it holds" for s in vague]


# --- exceptions -----------------------------------------------------------------------------------------------------


def _is_broad(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    if isinstance(kind, ast.Tuple):
        return any(_is_broad(k) for k in kind.elts)
    return isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether it ends by raising what it caught, or another error that names it as its cause."""
    last = handler.body[-1]
    if not isinstance(last, ast.Raise):
        return False
    return last.exc is None or (isinstance(last.cause, ast.Name) and last.cause.id == handler.name)


_REASON = re.compile(r"#\s*noqa:\s*BLE001\s+-\s+(?P<why>\S.{9,})")


def broad_excepts(sources: Iterable[Source]) -> list[str]:
    """Broad handlers that neither raise again nor say why they catch everything."""
    return [
        f"{s.path}:{node.lineno}: say why, as `# noqa: BLE001 - reason`, or name the exceptions"
        for s in sources
        for node in ast.walk(s.tree)
        if isinstance(node, ast.ExceptHandler)
        and _is_broad(node.type)
        and not _raises_again(node)
        and not _REASON.search(s.lines[node.lineno - 1])
    ]


# --- words ----------------------------------------------------------------------------------------------------------


def comments(source: Source) -> Iterator[tuple[int, str]]:
    """Line number and text of each comment."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


_UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")


def unfinished(sources: Iterable[Source]) -> list[str]:
    """Notes of work left undone, and functions that only say so."""
    found = []
    for s in sources:
        found += [f"{s.path}:{line}: {text}" for line, text in comments(s) if _UNFINISHED.search(text)]
        for node in ast.walk(s.tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                named = {n.id for n in ast.walk(node.exc) if isinstance(n, ast.Name)}
                if "NotImplementedError" in named:
                    found.append(f"{s.path}:{node.lineno}: raises NotImplementedError")
    return found


def words(text: str, pattern: re.Pattern[str], path: str) -> list[str]:
    """Each line of a text in which the pattern is found."""
    return [
        f"{path}:{number}: {match.group(0)}"
        for number, line in enumerate(text.splitlines(), 1)
        if (match := pattern.search(line))
    ]


# A path that exists on one machine only: a home, a mount, a folder under the root that no system has.
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|work|mnt|media|workspace|tmp)/[\w.-]+")
# Assembled here, so that this file does not name them itself.
REGISTRY_HOST = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("docker", "io"),
            ("ghcr", "io"),
            ("quay", "io"),
            ("anaconda", "org"),
            ("deb", "debian", "org"),
            ("golang", "org"),
        )
    )
)
INDEX_OPTION = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host|https?://|^\s*-[if]\s", re.MULTILINE)
DEMO_WORDS = re.compile(
    r"(?i)\bflights\b|nycflights|tailnum|\bairports?\b|dep_delay|arr_delay|\bdeparture|\bJFK\b|\bLGA\b|\bEWR\b"
)

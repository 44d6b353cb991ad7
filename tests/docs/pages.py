"""The Markdown pages of the project as tests see them: links, headings, fenced blocks and what their head says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and options, the file it stands for if it names one, its text."""

    page: str
    line: int
    language: str
    options: str
    file: str
    body: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the output that the page shows under it."""

    text: str
    shown: tuple[str, ...]


def pages() -> dict[str, str]:
    """Every page of the project by its path."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found += [ROOT / name / "README.md" for name in ("bench", "changelog.d", "requirements")]
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in sorted(found)}


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, in order. ```python title="x.py" stands for x.py."""
    found = []
    for match in FENCE.finditer(text):
        words = match["info"].split(maxsplit=1)
        title = re.search(r'title="([^"]+)"', match["info"])
        line = text.count("\n", 0, match.start()) + 1
        language, options = (*words, "", "")[:2]
        found.append(Block(page, line, language, options, title[1] if title else "", match["body"]))
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block: lines behind `$ `; a line that ends in a backslash goes on."""
    text, shown, going_on = "", [], False
    for line in block.body.splitlines():
        if line.startswith("$ ") and not going_on:
            if text:
                yield Command(text, tuple(shown))
            text, shown = uncommented(line[2:]), []
        elif going_on:
            text = text[:-1] + uncommented(line).strip()
        else:
            shown.append(line)
        going_on = text.endswith("\\")
    if text:
        yield Command(text, tuple(shown))


def uncommented(line: str) -> str:
    """A command line without the remark behind two blanks and a #."""
    return re.split(r"\s{2,}# ", line, maxsplit=1)[0].rstrip()


def prose(text: str) -> str:
    """A page without its fenced blocks and without inline code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings make, as GitHub and MkDocs make them."""
    found: set[str] = set()
    for match in HEADING.finditer(FENCE.sub("", text)):
        slug = re.sub(r"[^\w\- ]", "", match["text"].lower()).strip().replace(" ", "-")
        found.add(slug)
    return found


def shows(shown: tuple[str, ...], printed: str) -> bool:
    """Whether the lines that a page shows were printed, in that order; `...` stands for anything, also for lines."""
    wanted = [line.strip() for line in shown if line.strip()]
    left = [line.strip() for line in printed.splitlines() if line.strip()]
    skipping = False
    for line in wanted:
        if line == "...":
            skipping = True
            continue
        form = re.compile(".*".join(map(re.escape, line.split("..."))))
        while left and not form.fullmatch(left[0]) and skipping:
            left.pop(0)
        if not left or not form.fullmatch(left.pop(0)):
            return False
        skipping = False
    return skipping or not left or not wanted

"""Pages: links lead somewhere, commands exist with their options, and the lists are complete."""

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata

import pages
import pytest
from packaging.requirements import Requirement
from pages import Block, Command

PAGES = pages.pages()
BLOCKS = [block for page, text in PAGES.items() for block in pages.blocks(page, text)]
LANGUAGES = {"console", "python", "toml", "json", "text", "sql"}


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/getting-started.md", "docs/concepts.md"} <= set(PAGES)
    assert len(BLOCKS) > 8


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for match in pages.LINK.finditer(pages.prose(PAGES[page])):
        target, _, anchor = match["target"].partition("#")
        if target.startswith("https:"):
            continue
        place = (pages.ROOT / page).parent / target if target else pages.ROOT / page
        assert place.exists(), f"{page}: {match['target']}"
        if anchor:
            assert anchor in pages.anchors(place.read_text(encoding="utf-8")), f"{page}: {match['target']}"


def test_some_links_were_looked_at() -> None:
    assert sum(len(pages.LINK.findall(pages.prose(text))) for text in PAGES.values()) > 15


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), ["README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page not in PAGES:
            continue
        reached.add(page)
        for match in pages.LINK.finditer(pages.prose(PAGES[page])):
            target = match["target"].partition("#")[0]
            if target and not target.startswith("https:"):
                place = ((pages.ROOT / page).parent / target).resolve()
                if place.is_relative_to(pages.ROOT):
                    todo.append(place.relative_to(pages.ROOT).as_posix())
    assert {page for page in PAGES if page.startswith("docs/") and page != "docs/decisions/template.md"} <= reached


def test_every_decision_is_listed_by_its_title() -> None:
    first, *records = [page for page in PAGES if re.match(r"docs/decisions/\d{4}-", page)]
    assert len(records) > 10
    for page in records:
        title = PAGES[page].splitlines()[0].removeprefix("# ")
        assert f"- [{title}]({page.rpartition('/')[2]})\n" in PAGES[first], page


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_blocks_say_what_they_are(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.language == "python":
        compile(block.body, block.name, "exec")
    elif block.language == "toml":
        tomllib.loads(block.body)
    elif block.language == "console":
        assert list(pages.commands(block)), "a console block has a line that begins with `$ `"


@cache
def help_of(command: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "loopwright", *shlex.split(command), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"lw {command}: {ran.stderr}"
    return ran.stdout


def lw_calls() -> list[str]:
    """Every use of lw in a console block or as inline code."""
    found = {c.text for b in BLOCKS if b.language == "console" for c in pages.commands(b)}
    for text in PAGES.values():
        found |= set(re.findall(r"`((?:lw|make) [^`\n]+)`", pages.FENCE.sub("", text)))
    calls = (re.sub(r"^\.venv/bin/", "", part.strip()) for line in found for part in re.split(r"&&|\||;", line))
    return sorted({call for call in calls if call.startswith(("lw ", "make "))})


def test_some_commands_were_found() -> None:
    assert len([c for c in lw_calls() if c.startswith("lw ")]) > 8


@pytest.mark.parametrize("call", lw_calls())
def test_commands_exist_with_their_options(call: str) -> None:
    words = shlex.split(call)
    if words[0] == "make":
        makefile = (pages.ROOT / "Makefile").read_text()
        verbs = [w for w in words[1:] if re.fullmatch(r"[a-z][a-z-]*", w)]
        assert verbs and all(re.search(rf"^{verb}:", makefile, re.MULTILINE) for verb in verbs)
        return
    options = [word.split("=")[0] for word in words[1:] if word.startswith("-")]
    command = words[1] if len(words) > 1 and not words[1].startswith("-") else ""
    told = help_of(command)
    if re.search(r"^Commands:", told, re.MULTILINE) and command and len(words) > 2:
        told = help_of(f"{command} {words[2]}")
    for option in options:
        assert re.search(rf"(?<![\w-]){re.escape(option)}\b", told), f"{call}: no {option} in\n{told}"


def project() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((pages.ROOT / "pyproject.toml").read_text())["project"]
    return loaded


def test_the_page_of_dependencies_names_each_of_them_and_no_other() -> None:
    told = project()
    extras = told["optional-dependencies"]
    assert isinstance(extras, dict)
    listed = [*told["dependencies"], *(line for lines in extras.values() for line in lines)]  # type: ignore[misc]
    wanted = {Requirement(line).name for line in listed}
    rows = re.findall(r"^\| ([a-z0-9-]+) \|", PAGES["docs/decisions/dependencies.md"], re.MULTILINE)
    assert set(rows) - {"package", "---"} == wanted
    assert len(wanted) > 15


def test_the_base_brings_few_distributions() -> None:
    seen, todo = set(), [Requirement("loopwright")]
    while todo:
        need = todo.pop()
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        if name not in seen:
            seen.add(name)
            todo += [Requirement(line) for line in metadata.requires(need.name) or []]
    assert {"duckdb", "msgspec", "click"} <= seen
    assert len(seen) <= 24


def test_changelog_fragments_are_named_as_their_readme_says() -> None:
    found = [p for p in (pages.ROOT / "changelog.d").iterdir() if p.name != "README.md"]
    assert found
    kinds = set(re.findall(r"^\| `([a-z]+)` \|", PAGES["changelog.d/README.md"], re.MULTILINE))
    assert kinds == {"added", "changed", "fixed", "removed", "security"}
    for path in found:
        assert re.fullmatch(rf"[a-z0-9-]+\.({'|'.join(kinds)})\.md", path.name), path.name
        assert path.read_text().strip()


def test_a_shown_output_is_compared() -> None:
    assert pages.shows(("a", "...", "d e"), "a\nb\nc\nd e\n")
    assert pages.shows(("run_... ok",), "run_0a1 ok\n")
    assert pages.shows((), "anything\n")
    assert not pages.shows(("a", "c"), "a\nb\nc\n")
    assert not pages.shows(("a",), "a\nb\n")
    assert not pages.shows(("a", "...", "x"), "a\nb\n")


def test_commands_are_read_from_a_console_block() -> None:
    body = "$ lw add x.csv   # a remark\nadded\n$ lw run \\\n    project.py\n"
    found = list(pages.commands(Block("p.md", 1, "console", "", "", body)))
    assert found == [Command("lw add x.csv", ("added",)), Command("lw run project.py", ())]

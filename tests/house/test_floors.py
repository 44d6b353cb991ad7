"""The floors: import-linter's contract names every room, holds, and no modules import each other in a loop."""

import configparser
import re
import subprocess
import sys

import house_rules as rules
import import_rules
import pytest
from house_rules import Source

NOT_ROOMS = {"__main__", "__init__", "__pycache__", "demos"}


@pytest.fixture(scope="module")
def contract() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    assert parsed.read(rules.ROOT / ".importlinter") == [str(rules.ROOT / ".importlinter")]
    return parsed


def layers(contract: configparser.ConfigParser) -> set[str]:
    return set(re.findall(r"[a-z]+", contract["importlinter:contract:floors"]["layers"]))


def rooms_on_disk() -> set[str]:
    shown = (p for p in rules.PACKAGE.iterdir() if not p.name.startswith("."))
    return {p.stem for p in shown if p.is_dir() or p.suffix == ".py"} - NOT_ROOMS


def test_contract_names_the_rooms_that_stand_and_no_other(contract: configparser.ConfigParser) -> None:
    assert len(rooms_on_disk()) > 10
    assert layers(contract) == rooms_on_disk()


def test_every_room_is_bound_by_the_contracts_on_drivers_and_frameworks(contract: configparser.ConfigParser) -> None:
    def sources(name: str) -> set[str]:
        modules = contract[f"importlinter:contract:{name}"]["source_modules"].split()
        return {m.removeprefix("loopwright.") for m in modules}

    rooms = rooms_on_disk()
    assert sources("one-database-door") == rooms - {"store"}
    assert sources("rooms-know-no-face") == rooms - {"house", "faces", "serving"}
    assert sources("serving-knows-no-terminal") == {"serving"}


def test_contracts_make_no_exceptions(contract: configparser.ConfigParser) -> None:
    assert not [s for s in contract.sections() if "ignore_imports" in contract[s]]


def test_contracts_hold(contract: configparser.ConfigParser) -> None:
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    ran = subprocess.run(command, cwd=rules.ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    count = len([s for s in contract.sections() if s.startswith("importlinter:contract:")])
    assert count >= 5
    assert f"{count} kept, 0 broken" in ran.stdout


def test_no_import_loops() -> None:
    edges = import_rules.graph(rules.package_sources())
    assert len(edges) > 40
    assert sum(map(len, edges.values())) > 100
    assert import_rules.loops(edges) == []


def test_a_loop_through_a_lazy_import_is_found() -> None:
    sources = [
        Source("src/p/a.py", "import p.b\n", "p.a"),
        Source("src/p/b.py", "def f():\n    from p import c\n", "p.b"),
        Source("src/p/c.py", "from .a import x\n", "p.c"),
        Source("src/p/d.py", "from p import a\n", "p.d"),
    ]
    assert import_rules.loops(import_rules.graph(sources)) == [["p.a", "p.b", "p.c"]]


def test_an_import_for_type_checkers_alone_is_no_loop() -> None:
    sources = [
        Source("src/p/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import B\n", "p.a"),
        Source("src/p/b.py", "from p.a import A\n", "p.b"),
    ]
    assert import_rules.loops(import_rules.graph(sources)) == []


def test_only_faces_and_the_entry_import_the_house() -> None:
    edges = import_rules.graph(rules.package_sources())
    users = {m for m, targets in edges.items() if "loopwright.house" in targets}
    assert users, "nobody imports the house: the check looks at the wrong thing"
    assert {m.split(".")[1] for m in users} <= {"faces", "__main__"}

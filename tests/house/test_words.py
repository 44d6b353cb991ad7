"""What the project's files must not name: a machine's own paths, registry hosts, and the demo outside its folder."""

import subprocess

import house_rules as rules
import pytest

BINARY = {".png", ".xz", ".parquet", ".gz", ".zip", ".ico", ".woff2", ".npy"}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every text file of the project: those git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=rules.ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = {}
    for name in filter(None, listed):
        path = rules.ROOT / name
        if path.is_file() and path.suffix not in BINARY:
            found[name] = path.read_text(encoding="utf-8")
    assert len(found) > 80
    assert {"README.md", "Makefile", "pyproject.toml", "requirements/dev.txt"} <= set(found)
    return found


def findings(texts: dict[str, str], pattern: "rules.re.Pattern[str]") -> list[str]:
    return [line for name, text in texts.items() for line in rules.words(text, pattern, name)]


def test_no_path_of_one_machine(texts: dict[str, str]) -> None:
    assert findings(texts, rules.MACHINE_PATH) == []


def test_no_registry_host(texts: dict[str, str]) -> None:
    assert findings(texts, rules.REGISTRY_HOST) == []


def test_installing_says_no_index(texts: dict[str, str]) -> None:
    installing = {n: t for n, t in texts.items() if n.startswith(("requirements/", ".ci/")) or n == "Makefile"}
    assert len(installing) >= 6
    assert findings(installing, rules.INDEX_OPTION) == []


def test_the_demo_is_known_nowhere_else(texts: dict[str, str]) -> None:
    product = {n: t for n, t in texts.items() if n.startswith("src/") and "/demos/" not in n}
    demos = {n: t for n, t in texts.items() if n.startswith("src/loopwright/demos/")}
    assert len(product) > 40
    assert findings(product, rules.DEMO_WORDS) == []
    assert findings(demos, rules.DEMO_WORDS), "the demo does not name its subject"


@pytest.mark.parametrize("text", ["open('{}home/ann/x.csv')", 'ROOT = "{}work/main"', "x={}tmp/a.log"])
def test_a_machine_path_is_found(text: str) -> None:
    assert rules.words(text.format("/"), rules.MACHINE_PATH, "f") != []


@pytest.mark.parametrize("text", ["GET /api/v1/workers", "docs/work/plan.md", "pred/home/x", "/v2/models/delay/infer"])
def test_a_route_is_no_machine_path(text: str) -> None:
    assert rules.words(text, rules.MACHINE_PATH, "f") == []


def test_an_index_is_found() -> None:
    for line in ("--index-url somewhere", "-i somewhere", "see https://somewhere", "--find-links wheels"):
        assert rules.words(line, rules.INDEX_OPTION, "f") == [f"f:1: {rules.INDEX_OPTION.search(line).group(0)}"]

"""What the interpreter loads at start: `import loopwright`, `lw --help` and everyday commands stay light."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "asyncio",
    "blake3",
    "duckdb",
    "httptools",
    "jinja2",
    "lightgbm",
    "nacl",
    "numpy",
    "obstore",
    "onnxruntime",
    "orjson",
    "pandas",
    "psycopg",
    "rich",
    "scipy",
    "sklearn",
    "starlette",
    "uvicorn",
    "uvloop",
    "xgboost",
    "zstandard",
}
REPORT = "; import json, sys; sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
HELP = """
import sys
sys.argv = ["lw", "--help"]
from loopwright.__main__ import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, code
"""


def loaded(code: str, folder: Path | None = None) -> tuple[str, set[str]]:
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, set(json.loads(ran.stderr.rsplit("\n", 1)[1]))


def test_import_loads_no_heavy_package() -> None:
    _, modules = loaded("import loopwright" + REPORT)
    assert "loopwright" in modules
    assert modules & HEAVY == set()
    assert {m for m in modules if m.startswith("loopwright.")} == set(), "names are resolved on first use"


def test_help_loads_no_heavy_package_and_no_room() -> None:
    text, modules = loaded(HELP + REPORT[2:])
    for command in ("demo", "replay", "trace", "up", "status"):
        assert command in text
    assert modules & HEAVY == set()


PROJECT = """
import loopwright as lw

asks = lw.data("asks.csv", key="id")


@lw.step
def counted(rows=asks):
    return 3


if __name__ == "__main__":
    lw.run(counted)
"""
COMMAND = """
import sys
sys.argv = ["lw", *{words!r}]
from loopwright.__main__ import main
assert not main()
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one file of data and one step, which has run."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "asks.csv").write_text("id,x\n" + "".join(f"r{n},{n}\n" for n in range(100)))
    (folder / "project.py").write_text(PROJECT)
    for words in (("init", "--entry", "project.py"), ("run",), ("status",)):
        subprocess.run([sys.executable, "-m", "loopwright", *words], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("status",), set()),
        (("log", "asks"), set()),
        (("events",), set()),
        (("add", "asks.csv"), {"blake3"}),  # unless the file is known to be unchanged by its time
        (("run",), {"blake3"}),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) else "",
)
def test_everyday_commands_load_what_they_need(small: Path, words: tuple[str, ...], needed: set[str]) -> None:
    """Data that is known and a run that is cached cost no reader of data and no learner."""
    text, modules = loaded(COMMAND.format(words=words) + REPORT[2:], small)
    assert modules & HEAVY <= needed, text
    assert "loopwright.faces.http" not in modules and "loopwright.faces.control" not in modules


def test_a_heavy_import_would_be_seen() -> None:
    _, modules = loaded("import orjson" + REPORT)
    assert modules & HEAVY == {"orjson"}


@pytest.mark.parametrize(
    "name", ["data", "features", "step", "model", "load", "gate", "endpoint", "run", "predictions"]
)
def test_every_name_of_the_face_resolves(name: str) -> None:
    import loopwright

    assert callable(getattr(loopwright, name))
    assert name in dir(loopwright)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import loopwright

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = loopwright.nothing

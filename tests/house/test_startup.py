"""What the interpreter loads at start: `import loopwright` and `lw --help` stay light."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "blake3",
    "duckdb",
    "httptools",
    "jinja2",
    "lightgbm",
    "numpy",
    "orjson",
    "pandas",
    "rich",
    "scipy",
    "sklearn",
    "starlette",
    "uvicorn",
    "uvloop",
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


def loaded(code: str) -> tuple[str, set[str]]:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
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

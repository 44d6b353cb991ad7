"""reproduce: the same bytes from the record alone, or which of data, code, environment, seed and hardware differs."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import remade
from remade import ME

from loopwright import house
from loopwright.artifacts import names
from loopwright.audit import erase
from loopwright.kernel import settings
from loopwright.kernel.errors import NotFound, Unavailable
from loopwright.kernel.settings import Settings
from loopwright.lineage import bundles, environments
from loopwright.lineage.reproduce import Reproduced, reproduce, text
from loopwright.pipelines.environment import needed, seeded
from loopwright.pipelines.service import run_step
from loopwright.project import entry
from loopwright.store.space import Space, bind

STEP = """
import os
import random

import loopwright as lw
IMPORT


@lw.step
def train(scale: int = 2):
    return {"value": BODY}
"""


def test_versions_are_made_again_in_a_clone_and_what_was_erased_is_told(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_REMOTE", str(tmp_path / "remote"))
    space.settings = settings.read(space.root)
    remade.first(space)
    second = remade.second(space)
    remade.git(space.root, "init", "-q")
    remade.git(space.root, "add", "project.py")
    remade.git(space.root, "commit", "-qm", "first")
    bundles.push(space, ME)
    made = bundles.bundled(space, ME, second)[0]
    assert [(part.name, part.digest is not None, part.state == part.found) for part in (*made.logs, *made.facts)] == [
        ("signals", True, True),
        ("skies", True, True),
    ]
    remade.git(tmp_path, "clone", "-q", str(space.root), "clone")
    clone = _clone(tmp_path / "clone", monkeypatch)
    with pytest.raises(NotFound):
        names.resolve(clone, "mood@2")
    for ref in ("mood@2", "mood@1"):
        done = reproduce(clone, ME, ref=ref)
        assert (done.equal, done.differs, done.rebuilt) == (True, [], done.digest), text(done)
        assert [item for item in done.differences if item.what in ("data", "code")] == []
    assert names.resolve(clone, "mood@2").digest == second.digest
    assert clone.root != space.root and not (clone.root / "asks.csv").exists()
    clone.close()
    erase.erase(space, ME, subject="who=someone-3")
    bind(space)
    gone = reproduce(space, ME, ref="mood@2")
    assert (gone.equal, gone.differs) == (False, ["data"]), text(gone)
    assert bundles.push(space, ME, ref="mood@2").buried > 0


def _clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    """A Space of its own beside the first, in a file and a folder."""
    for name in ("LOOPWRIGHT_DATABASE", "LOOPWRIGHT_BLOBS", "LOOPWRIGHT_SCHEMA", "LOOPWRIGHT_BLOBS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return house.init(folder, Settings(clock="replay", start=remade.START, entry="project.py"))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = house.init(tmp_path / "small", Settings(clock="replay", start=remade.START, entry="project.py"))
    bind(made)
    yield made
    bind(None)
    made.close()


def _train(space: Space, body: str, extra: str = "") -> None:
    _write(space, body, extra)
    module = entry.load(space.root / "project.py")
    outcome = run_step(space, ME, module.train, {"scale": 3})
    with space.read() as tx:
        from loopwright.artifacts import service

        artifact = service.find(tx, outcome.value.digest)
    space.write(lambda tx: names.register(tx, ME, "thing", artifact, run=outcome.run.id))


def _write(space: Space, body: str, extra: str = "") -> None:
    (space.root / "project.py").write_text(STEP.replace("BODY", body).replace("IMPORT", extra))


def _differs(done: Reproduced, what: str) -> bool:
    named = [item for item in done.differences if item.what == what]
    return not done.equal and what in done.differs and bool(named) and all(item.recorded != item.here for item in named)


def test_chance_without_a_seed_is_the_same_again(small: Space) -> None:
    _train(small, "scale * random.random()")
    done = reproduce(small, ME, ref="thing@1")
    assert done.equal and done.differs == []
    assert "has what was recorded" in done.environment and "the code is that of the run" in done.folder
    _write(small, "scale * 2")
    told = reproduce(small, ME, ref="thing")
    assert told.equal and "1 files are not those of the run" in told.folder


def test_code_that_has_changed_is_named(small: Space) -> None:
    _train(small, "scale * 2")
    _write(small, "scale * 3")
    done = reproduce(small, ME, ref="thing@1", here=True)
    assert done.differs == ["code"] and _differs(done, "code"), text(done)


def test_chance_outside_the_seeds_is_named(small: Space) -> None:
    _train(small, "os.urandom(8).hex()")
    done = reproduce(small, ME, ref="thing@1")
    assert done.differs == ["seed"] and _differs(done, "seed"), text(done)


def test_another_start_of_the_hashes_is_named(small: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "5")  # of this process: recorded, and given to the one that runs again
    _train(small, "os.environ['PYTHONHASHSEED']")
    assert reproduce(small, ME, ref="thing@1").equal


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor cannot become fewer")
def test_another_machine_is_named(small: Space) -> None:
    before = os.sched_getaffinity(0)
    _train(small, "len(os.sched_getaffinity(0))")
    os.sched_setaffinity(0, {min(before)})
    try:
        done = reproduce(small, ME, ref="thing@1")
    finally:
        os.sched_setaffinity(0, before)
    assert done.differs == ["hardware"] and _differs(done, "hardware"), text(done)


def test_another_environment_is_named_and_the_recorded_one_is_built(
    small: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "venv" / "site-packages"
    name = f"tiny_of_{tmp_path.name.replace('-', '_')}".lower()
    _install(site, name, "1.0")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    _train(small, f"{name}.VALUE", f"import {name}")
    _wheel(tmp_path / "wheels", name, "1.0")
    (site / f"{name}-1.0.dist-info" / "METADATA").unlink()
    (site / f"{name}-1.0.dist-info").rmdir()
    _install(site, name, "2.0")
    done = reproduce(small, ME, ref="thing@1", here=True)
    assert done.differs == ["environment"] and _differs(done, "environment"), text(done)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match=name.replace("_", "[-_]")):
        reproduce(small, ME, ref="thing@1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    done = reproduce(small, ME, ref="thing@1")
    assert done.equal and f"with {name} 1.0" in done.environment, text(done)
    (tmp_path / "wheels" / f"{name}-1.0-py3-none-any.whl").unlink()  # it was built once
    assert reproduce(small, ME, ref="thing@1").equal


def _install(site: Path, name: str, version: str) -> None:
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{name}.py").write_text(f"VALUE = {version!r}\n")
    about = site / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def _wheel(folder: Path, name: str, version: str) -> None:
    folder.mkdir()
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as out:
        out.writestr(f"{name}.py", f"VALUE = {version!r}\n")
        out.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        out.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        out.writestr(f"{about}/RECORD", "")


def test_what_reads_what_no_record_holds_is_told_as_such(small: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "one")
    _train(small, "os.environ['SOME_VARIABLE']")
    monkeypatch.setenv("SOME_VARIABLE", "two")
    done = reproduce(small, ME, ref="thing@1")
    assert done.differs == ["environment"] and done.differences[0].name == "surroundings"


def test_a_python_that_is_not_installed_is_told(small: Space) -> None:
    _train(small, "1")
    bundle = bundles.make(small, names.resolve(small, "thing@1"))
    bundle.run.environment["python"] = "2.99.1"
    with pytest.raises(Unavailable, match=r"Python 2\.99\.1"):
        environments.built(small, bundle.run)


def test_what_no_run_made_cannot_be_made_again(small: Space) -> None:
    from loopwright.artifacts import service

    artifact = service.put_blob(small, b"x", kind="data", meta={})
    small.write(lambda tx: names.register(tx, ME, "given", artifact))
    with pytest.raises(NotFound, match="no run made it"):
        reproduce(small, ME, ref="given@1")
    with pytest.raises(NotFound) as caught:
        reproduce(small, ME, ref="nothing@1")
    assert "remote" in str(caught.value.hint)


def test_needs_of_distributions_are_followed_and_generators_are_given_back() -> None:
    import random

    assert {"numpy", "python-dateutil", "six"} <= set(needed({"pandas": "1"}))
    random.seed(4)
    state = random.getstate()
    with seeded(1, arrays=True):
        first = (random.random(), sys.modules["numpy"].random.random())
    assert random.getstate() == state
    with seeded(1, arrays=False):
        assert (random.random(), sys.modules["numpy"].random.random()) == first

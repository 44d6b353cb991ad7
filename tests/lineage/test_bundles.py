"""push and pull: whole or refused, again without harm, and nothing that was erased comes back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import remade
from remade import ME

from loopwright import house
from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.fsck import fsck
from loopwright.artifacts.gc import gc
from loopwright.audit import erase
from loopwright.kernel.errors import Conflict, Corrupt, Erased, Invalid, NotFound, Unsupported
from loopwright.kernel.settings import Settings
from loopwright.lineage.bundles import Bundle, bundled, pull, push
from loopwright.pipelines.service import run_step
from loopwright.project import entry
from loopwright.runs import service as runs
from loopwright.store import erasure
from loopwright.store.space import Space, bind

STEP = """
import loopwright as lw


@lw.step
def first():
    return [1, 2, 3]


@lw.step
def train(data=first, scale: int = 2):
    lw.log(rows=len(data))
    return {"value": sum(data) * scale}
"""


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def one(tmp_path: Path, remote: Path) -> Iterator[Space]:
    made = _space(tmp_path / "one", remote)
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path, remote: Path) -> Iterator[Space]:
    made = _space(tmp_path / "other", remote)
    yield made
    made.close()


def _space(folder: Path, remote: Path) -> Space:
    return house.init(folder, Settings(clock="replay", start=remade.START, entry="project.py", remote=str(remote)))


def _train(space: Space, scale: int = 2) -> str:
    bind(space)
    (space.root / "project.py").write_text(STEP)
    module = entry.load(space.root / "project.py")
    outcome = run_step(space, ME, module.train, {"scale": scale})
    artifact = artifacts.get(space, outcome.value.digest)
    version = space.write(lambda tx: names.register(tx, ME, "thing", artifact, run=outcome.run.id))
    bind(None)
    return version.ref


def test_what_is_pulled_is_what_was_pushed_with_all_that_led_to_it(one: Space, other: Space) -> None:
    ref = _train(one)
    sent = push(one, ME, ref=ref)
    assert sent.moved.copied > 3 and sent.moved.there == 0
    assert push(one, ME, ref=ref).moved.copied == 0
    got = pull(other, ME, ref="thing")
    assert got.versions == [ref] and got.moved.copied == sent.moved.copied
    assert pull(other, ME, ref=ref).moved.copied == 0
    here, there = names.get(one, "thing", 1), names.get(other, "thing", 1)
    assert (here.digest, here.run, here.at_us) == (there.digest, there.run, there.at_us)
    assert here.run is not None and runs.get(other, here.run).params == {"scale": 2}
    known: tuple[Bundle, Bundle] = (bundled(one, ME, here)[0], bundled(other, ME, there)[0])
    assert known[0] == known[1] and [run.name for run in known[0].runs] == ["train", "first"]
    for space in (one, other):
        assert fsck(space, ME).ok
        assert gc(space, ME, grace="0d", dry_run=True).removed == []
        assert fsck(space, ME).ok


def test_what_was_cut_off_is_sent_again_and_damage_is_told(one: Space, other: Space, remote: Path) -> None:
    ref = _train(one)
    push(one, ME, ref=ref)
    digest = names.get(one, "thing", 1).digest
    blob = remote / "blobs" / digest[:2] / digest
    whole = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(whole[:-1])
    with pytest.raises(Corrupt):
        pull(other, ME, ref=ref)
    assert names.newest(other, "thing") is None
    assert push(one, ME, ref=ref).moved.copied == 1
    assert blob.read_bytes() == whole
    blob.unlink()
    with pytest.raises(NotFound):
        pull(other, ME, ref=ref)
    push(one, ME, ref=ref)
    assert pull(other, ME, ref=ref).versions == [ref]


def test_a_number_that_stands_for_something_else_is_refused(one: Space, other: Space) -> None:
    ref = _train(one)
    push(one, ME, ref=ref)
    assert _train(other, 7) == ref
    with pytest.raises(Conflict, match="in the remote"):
        pull(other, ME, ref=ref)
    with pytest.raises(Conflict, match="in the remote"):
        push(other, ME, ref=ref)


def test_what_is_erased_is_taken_out_and_does_not_come_back(one: Space, other: Space, remote: Path) -> None:
    ref = _train(one)
    push(one, ME, ref=ref)
    pull(other, ME, ref=ref)
    made = bundled(one, ME, names.get(one, "thing", 1))[0].runs[1].outputs["value"].digest
    found = erasure.Found("step result", "first", 1, made)
    one.write(lambda tx: artifacts.retire(tx, "erasure_1", found))
    erasure.sweep(one)
    assert push(one, ME, ref=ref).buried == 1
    assert not (remote / "blobs" / made[:2] / made).exists()
    assert push(other, ME, ref=ref).moved.erased == 1
    assert not (remote / "blobs" / made[:2] / made).exists()
    pull(other, ME, ref=ref)
    with pytest.raises(Erased):
        artifacts.get(other, made)
    assert not other.blobs.has(made) and fsck(other, ME).ok


def test_a_fresh_space_takes_over_what_was_erased_before(one: Space, other: Space) -> None:
    ref = _train(one)
    made = bundled(one, ME, names.get(one, "thing", 1))[0].runs[1].outputs["value"].digest
    one.write(lambda tx: artifacts.retire(tx, "erasure_1", erasure.Found("step result", "first", 1, made)))
    erasure.sweep(one)
    push(one, ME, ref=ref)
    pull(other, ME, ref=ref)
    with pytest.raises(Erased):
        artifacts.get(other, made)
    assert fsck(other, ME).ok


def test_what_is_no_remote_is_told(one: Space, remote: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not pushed"):
        pull(one, ME, ref="thing@1")
    for ref in ("thing@prod", "../x@1"):
        with pytest.raises(Invalid):
            pull(one, ME, ref=ref)
    (remote / "loopwright-remote.json").write_text('{"layout": 9}')
    with pytest.raises(Unsupported):
        push(one, ME)
    (remote / "loopwright-remote.json").write_text("{")
    with pytest.raises(Corrupt):
        push(one, ME)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(Invalid, match="not empty"):
        push(_at(one, tmp_path / "full"), ME)
    with pytest.raises(NotFound, match="names no remote"):
        push(_at(one, None), ME)


def _at(space: Space, folder: Path | None) -> Space:
    space.settings = Settings(clock="replay", start=remade.START, remote=None if folder is None else str(folder))
    return space


def test_a_bundle_that_quotes_a_person_goes_with_them(one: Space) -> None:
    bind(one)
    (one.root / "project.py").write_text(STEP.replace("scale: int = 2", 'scale: int = 2, note: str = ""'))
    module = entry.load(one.root / "project.py")
    outcome = run_step(one, ME, module.train, {"note": "asked for by Agnes Nutter"})
    artifact = artifacts.get(one, outcome.value.digest)
    version = one.write(lambda tx: names.register(tx, ME, "thing", artifact, run=outcome.run.id))
    first = bundled(one, ME, version)[1].digest
    erase.erase(one, ME, subject="who=Agnes Nutter")
    bind(None)
    with pytest.raises(Erased):
        artifacts.get(one, first)
    made, again = bundled(one, ME, version)
    assert again.digest != first and made.run.params == {"scale": 2, "note": "asked for by [erased]"}
    assert b"Agnes Nutter" not in b"".join(one.blobs.read(digest) for digest in one.blobs.all())
    assert fsck(one, ME).ok

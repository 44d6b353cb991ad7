"""Artifacts, names, labels, permits, code state and fsck."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.access import permits
from loopwright.artifacts import code, names, service
from loopwright.kernel import canonical
from loopwright.kernel.errors import Conflict, Corrupt, Forbidden, Invalid, NotFound
from loopwright.kernel.times import HOUR
from loopwright.store import clock
from loopwright.store.space import Space

ME = "local:me"
SPEC = Path(__file__).parents[2] / "docs" / "spec" / "identity-1.json"


def _blob(space: Space, text: str, kind: str = "data") -> service.Artifact:
    return service.put_blob(space, text.encode(), kind=kind, meta={})


def test_vectors_of_trees(space: Space) -> None:
    trees = json.loads(SPEC.read_text())["trees"]
    assert len(trees) == 3
    for vector in trees:
        made = service.put_tree(space, {p: t.encode() for p, t in vector["files"].items()}, kind="tree", meta={})
        assert made.digest == vector["id"]
        assert space.blobs.read(made.digest).decode() == vector["listing"]
        back = {p: service.read(space, made.digest, p).decode() for p in service.files(space, made.digest)}
        assert back == vector["files"]


def test_a_tree_refuses_paths_that_leave_it_or_clash(space: Space) -> None:
    for files in ({"../x": b""}, {"/x": b""}, {"a": b"", "a/b": b""}):
        with pytest.raises(Invalid):
            service.put_tree(space, files, kind="tree", meta={})


@given(st.binary(max_size=300))
def test_any_bytes_are_no_tree_or_a_canonical_one(data: bytes) -> None:
    try:
        listing = service.decode_tree(data)
    except Corrupt:
        return
    assert service.encode_tree(listing) == data


def test_versions_count_up_and_equal_bytes_can_be_left_out(space: Space) -> None:
    one, two = _blob(space, "1"), _blob(space, "2")
    for artifact, always, number in [(one, True, 1), (one, False, 1), (two, False, 2), (two, True, 3), (one, False, 4)]:
        made = space.write(lambda tx, a=artifact, w=always: names.register(tx, ME, "flights", a, always=w))
        assert made.number == number
    with pytest.raises(Conflict):
        space.write(lambda tx: names.register(tx, ME, "flights", _as_model(one)))


def _as_model(artifact: service.Artifact) -> service.Artifact:
    return service.Artifact(digest=artifact.digest, kind="model", size_bytes=1, is_tree=False, meta={})


def test_addresses(space: Space) -> None:
    for text in "abc":
        artifact = _blob(space, text)
        space.write(lambda tx, a=artifact: names.register(tx, ME, "delay", a))
    for number in (1, 3, 2):
        space.write(lambda tx, n=number: names.move(tx, ME, "delay", "prod", n))
    expected = {"delay": 3, "delay@1": 1, "delay@prod": 2, "delay@prod~1": 3, "delay@prod~2": 1, "delay~1": 2}
    assert {ref: names.resolve(space, ref).number for ref in expected} == expected
    for ref in ("nobody", "delay@9", "delay@prod~3", "delay@test"):
        with pytest.raises(NotFound):
            names.resolve(space, ref)
    with pytest.raises(Invalid):
        names.resolve(space, "@@")


def test_a_guarded_label_moves_only_with_the_permit_for_just_that(space: Space) -> None:
    for text in "ab":
        artifact = _blob(space, text)
        space.write(lambda tx, a=artifact: names.register(tx, ME, "delay", a))
    space.write(lambda tx: names.guard(tx, "delay", "prod"))
    verdict = {"outcome": "pass", "reason": "tested"}

    def issue(to_state: str, outcome: str = "pass") -> str:
        given = {**verdict, "outcome": outcome}
        return space.write(
            lambda tx: permits.issue(tx, ME, "delay@prod", ("", to_state), evidence=[], verdict=given, ttl_us=HOUR)
        )

    with pytest.raises(Forbidden, match="needs a permit"):
        space.write(lambda tx: names.move(tx, ME, "delay", "prod", 1))
    with pytest.raises(Forbidden, match="another move"):
        permit = issue("2")
        space.write(lambda tx: names.move(tx, ME, "delay", "prod", 1, permit=permit))
    with pytest.raises(Forbidden, match="passing verdict"):
        issue("1", "fail")
    late = issue("1")
    now = space.clock.now_us()
    space.write(lambda tx: clock.advance(tx, "replay", now + 2 * HOUR))
    with pytest.raises(Forbidden, match="expired"):
        space.write(lambda tx: names.move(tx, ME, "delay", "prod", 1, permit=late))
    good = issue("1")
    space.write(lambda tx: names.move(tx, ME, "delay", "prod", 1, permit=good))
    assert names.labels_of(space, "delay") == {"prod": 1}


def test_the_state_of_the_code(tmp_path: Path) -> None:
    assert code.code_state(tmp_path) == code.CodeState(commit=None, dirty=False)

    def git(*args: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", "a.py")
    git("commit", "-qm", "one")
    clean = code.code_state(tmp_path)
    assert clean.commit is not None and not clean.dirty and clean.diff == b""
    (tmp_path / "a.py").write_text("x = 2\n")
    changed = code.code_state(tmp_path)
    assert changed.commit == clean.commit and changed.dirty and b"+x = 2" in changed.diff


def test_addresses_with_odd_numbers_are_no_addresses(space: Space) -> None:
    made = _blob(space, "a")
    space.write(lambda tx: names.register(tx, ME, "delay", made))
    for ref in ("delay@²", "delay@٣", "delay@" + "9" * 30, "delay@" + "9" * 5000, "delay~٣"):
        with pytest.raises(Invalid):
            names.resolve(space, ref)


def test_a_listing_with_paths_or_digests_that_are_none_is_corrupt() -> None:
    for row in (["../x", "a" * 64, 1], ["/x", "a" * 64, 1], ["x", "no digest", 1], ["x", 7, 1]):
        with pytest.raises(Corrupt):
            service.decode_tree(canonical.encode([service.TREE_TYPE, [row]]))


def test_files_are_on_disk_before_their_folder_has_its_name(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = service.put_tree(space, {"a.py": b"1", "b/c.py": b"2"}, kind="project", meta={})
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = service.materialise(space, tree.digest, space.home / "projects" / tree.digest)
    assert (folder / "b" / "c.py").read_bytes() == b"2"
    assert len([path for path in synced if ".new-" in path]) == 2

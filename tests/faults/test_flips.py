"""One flipped bit in every stored file: fsck finds each and reads refuse it. Four writers at once: all are served."""

import contextlib
import json
import random
from collections.abc import Iterator

import pytest
from lab import Lab, flip

WRITERS, ROUNDS = 4, 12


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with contextlib.closing(Lab(tmp_path_factory.mktemp("lab"))) as made:
        made.prepare()
        yield made


def test_fsck_finds_every_flipped_bit_and_no_read_gives_wrong_bytes(lab: Lab) -> None:
    draw = random.Random(11)
    with lab.copy("base") as project:
        stored = sorted((project / ".loopwright" / "blobs").glob("??/*"))
        assert len(stored) > 20
        for path in stored:
            flip(path, draw)
            told = json.loads(lab.lw(project, "fsck", "--json").out)
            assert path.name in json.dumps(told), f"{path.name}: {told}"
            handed = lab.ask(project, "readable", digests=[path.name])
            assert handed[path.name].startswith("refused"), handed
            flip(path, draw, back=True)
        assert lab.lw(project, "fsck").code == 0


def test_fsck_finds_a_flipped_bit_in_a_spool_and_in_the_projects_code(lab: Lab) -> None:
    draw = random.Random(12)
    with lab.copy("base") as project:
        home = project / ".loopwright"
        code = [path for path in home.glob("projects/*/*") if path.is_file()]
        for path in sorted([*home.glob("spool/*/*.spool"), *code]):
            flip(path, draw)
            done = lab.lw(project, "fsck", "--json")
            assert done.code == 1 and path.stem in done.out, f"{path}: {done}"
            flip(path, draw, back=True)
        assert lab.lw(project, "fsck").code == 0


def test_four_writers_at_once_are_all_served(lab: Lab) -> None:
    with lab.copy("base") as project:
        begun = [lab.begin(project, "write", number=number, rounds=ROUNDS) for number in range(WRITERS)]
        codes = [lab.wait(one.pid) for one in begun]
        assert codes == [0] * WRITERS, [one.out.with_suffix(".err").read_text()[-500:] for one in begun]
        told = [row for one in begun for row in json.loads(one.said())]
        seen = lab.ask(project, "state")
        held = {number: digest for name, number, digest in seen["versions"] if name == "shared"}
        assert held == {number: digest for number, digest, _ in told}
        assert sorted(held) == list(range(1, WRITERS * ROUNDS + 1))
        assert {row[1] for row in seen["labels"]} >= {label for *_, label in told}
        assert lab.lw(project, "fsck").code == 0

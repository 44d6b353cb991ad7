"""A file is replaced whole or not at all, and nothing is left beside it."""

import os
from pathlib import Path

import pytest

from loopwright.kernel import files


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "notes"
    for text in (b"one", b"two"):
        files.replace_file(place, text)
        assert place.read_bytes() == text
    assert os.listdir(tmp_path) == ["notes"]


def test_a_file_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    place = tmp_path / "key"
    files.make_file(place, b"first")
    files.make_file(place, b"second")
    assert place.read_bytes() == b"first" and os.listdir(tmp_path) == ["key"]


def test_what_fails_half_way_leaves_the_old(tmp_path: Path) -> None:
    place = tmp_path / "rows.csv"
    place.write_text("old")
    with pytest.raises(OSError), files.fresh_file(place) as fresh:
        fresh.write_text("half")
        raise OSError("no room")
    assert place.read_text() == "old" and os.listdir(tmp_path) == ["rows.csv"]
    with files.fresh_file(place) as fresh:
        fresh.write_text("new")
    assert place.read_text() == "new" and os.listdir(tmp_path) == ["rows.csv"]

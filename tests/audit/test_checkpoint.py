"""Checkpoints and trees against the published forms: RFC 6962 and signed notes."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.audit import checkpoint, merkle
from loopwright.kernel.errors import Corrupt, Invalid

# the inputs and roots that Certificate Transparency's own tests use
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_standard(size: int) -> None:
    leaves = [merkle.leaf(bytes.fromhex(text)) for text in INPUTS[:size]]
    assert merkle.root(leaves).hex() == ROOTS[size]


NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.
"""
NOTE_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="


def test_a_note_that_others_signed_verifies() -> None:
    signature = ("PeterNeumann", base64.b64decode(NOTE_SIGNATURE))
    note = checkpoint.Checkpoint(origin="", size=0, root=b"", more=(), body=NOTE, signatures=(signature,))
    assert checkpoint.signed_by(note, NOTE_KEY)
    other = checkpoint.Checkpoint(origin="", size=0, root=b"", more=(), body=NOTE + "x", signatures=(signature,))
    assert not checkpoint.signed_by(other, NOTE_KEY)


@pytest.fixture
def signed(tmp_path: Path) -> tuple[str, str]:
    name, seed, public = checkpoint.own_key(tmp_path)
    return checkpoint.sign(checkpoint.body(name, 3, b"r" * 32, "events 9 to 9"), name, seed), public


def test_what_is_written_is_read(signed: tuple[str, str], tmp_path: Path) -> None:
    text, public = signed
    found = checkpoint.parse(text)
    assert (found.size, found.root, found.more) == (3, b"r" * 32, ("events 9 to 9",))
    assert found.origin == public.split("+")[0]
    assert checkpoint.signed_by(found, public)
    assert checkpoint.own_key(tmp_path)[2] == public
    assert checkpoint.parse(text.replace("\n", "\r\n")) == found


@pytest.mark.parametrize(
    ("old", "new"),
    [("\n3\n", "\n4\n"), ("events 9", "events 8"), ("events 9 to 9\n", ""), ("loopwright/", "loopwrong/")],
)
def test_a_changed_text_is_not_signed(signed: tuple[str, str], old: str, new: str) -> None:
    text, public = signed
    assert old in text
    assert not checkpoint.signed_by(checkpoint.parse(text.replace(old, new, 1)), public)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "a\n1\n\n", "a\n-1\nAAAA\n\n\u2014 a AAAAAAAA\n", "a\n01\nAAAA\n\n\u2014 a AAAAAAAA\n",
     "a\n1\nAAAA\n\n\u2014 a AAAAAAAA\n", "x" * 70_000],
)  # fmt: skip
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        checkpoint.parse(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        checkpoint.parse(text)
    except Invalid as error:
        assert error.field == "against"
    try:
        checkpoint.read_public(text)
    except Invalid as error:
        assert error.field == "key"


def test_a_key_file_that_holds_no_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "audit.key").write_text("hello")
    with pytest.raises(Corrupt):
        checkpoint.own_key(tmp_path)

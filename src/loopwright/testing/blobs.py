"""What a store of blobs must keep: make a subclass in a pytest module and give it the fixture `blobs`.

`spoil` puts other bytes in place of a blob behind the store's back; None takes it away.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt, Invalid, LoopwrightError, NotFound
from loopwright.store.blobs import Blobs

LARGE_BYTES = (33 << 20) + 7
_CLOCKS_APART_US = 60_000_000


def refused(kind: type[LoopwrightError], act: Callable[[], Any]) -> LoopwrightError:
    """The error of a kind that an act must raise."""
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


class BlobsSuite:
    """The promises of the port `Blobs`, one test each."""

    def spoil(self, blobs: Blobs, digest: str, data: bytes | None) -> None:
        """Put `data` in place of a blob in the store itself and in what stands before it; None takes it away."""
        raise AssertionError("a subclass says how its store is spoiled")

    def test_bytes_and_files_come_back_under_their_digest(self, blobs: Blobs, tmp_path: Path) -> None:
        """One digest for the same bytes, whichever way they came."""
        for data in (b"", b"one", os.urandom(3 << 20)):
            file = tmp_path / "file"
            file.write_bytes(data)
            digest = blobs.put_bytes(data)
            assert digest == canonical.digest_bytes(data) == blobs.put_file(file)
            assert blobs.read(digest) == data == blobs.path(digest).read_bytes()
            assert blobs.size(digest) == len(data)
            assert blobs.has(digest) and blobs.verify(digest) and blobs.reread(digest) and blobs.renew(digest)

    def test_a_large_file_comes_back(self, blobs: Blobs, tmp_path: Path) -> None:
        """It is put in parts where the store wants that, and put again without harm."""
        file = tmp_path / "large"
        with open(file, "wb") as stream:
            stream.write(os.urandom(1 << 20) * (LARGE_BYTES >> 20))
            stream.write(b"." * (LARGE_BYTES % (1 << 20)))
        digest = blobs.put_file(file)
        assert blobs.size(digest) == LARGE_BYTES and blobs.reread(digest) and blobs.verify(digest)
        assert blobs.put_file(file) == digest
        assert [entry.size_bytes for entry in blobs.entries()] == [LARGE_BYTES]

    def test_what_is_not_there_is_said_so(self, blobs: Blobs) -> None:
        """Errors name the digest; questions are answered with no."""
        digest = canonical.digest_bytes(b"nobody put me")
        assert not (blobs.has(digest) or blobs.verify(digest) or blobs.reread(digest) or blobs.renew(digest))
        for act in (blobs.read, blobs.size):
            assert digest in str(refused(NotFound, lambda act=act: act(digest)))  # type: ignore[misc]
        blobs.delete(digest)

    def test_what_is_no_digest_is_refused(self, blobs: Blobs) -> None:
        """No text that leaves the store's folder can name a blob."""
        for text in ("", "../x", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n", "/" + "a" * 63):
            for act in (blobs.path, blobs.has, blobs.read, blobs.delete):
                refused(Invalid, lambda act=act, text=text: act(text))  # type: ignore[misc]

    def test_all_are_listed_in_order_with_size_and_time(self, blobs: Blobs) -> None:
        """The times are told by the clock that the store answers with."""
        assert list(blobs.all()) == []
        digests = sorted(blobs.put_bytes(bytes([n]) * n) for n in range(40))
        now = blobs.now_us()
        found = list(blobs.entries())
        assert list(blobs.all()) == digests == [entry.digest for entry in found]
        assert sorted(entry.size_bytes for entry in found) == list(range(40))
        assert all(abs(now - entry.put_us) < _CLOCKS_APART_US for entry in found)

    def test_a_deleted_blob_is_gone_and_can_be_put_again(self, blobs: Blobs) -> None:
        """Also by whoever deleted it."""
        digest = blobs.put_bytes(b"one")
        for _ in range(2):
            blobs.delete(digest)
            assert not blobs.has(digest) and list(blobs.all()) == []
        assert blobs.put_bytes(b"one") == digest and blobs.read(digest) == b"one" and blobs.reread(digest)

    def test_many_put_the_same_bytes_at_once(self, blobs: Blobs) -> None:
        """All are told that it is there, and it is there once."""
        data, failed = os.urandom(1 << 16), []

        def put() -> None:
            try:
                assert blobs.reread(blobs.put_bytes(data))
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed and list(blobs.all()) == [canonical.digest_bytes(data)]

    def test_other_bytes_are_never_answered(self, blobs: Blobs) -> None:
        """A flipped bit, a cut and an empty file are found and refused."""
        data = os.urandom(5000)
        digest = blobs.put_bytes(data)
        for spoilt in (bytes([data[0] ^ 1]) + data[1:], data[:-1], b""):
            self.spoil(blobs, digest, spoilt)
            assert not blobs.verify(digest) and not blobs.reread(digest)
            assert "does not hold what was stored" in str(refused(Corrupt, lambda: blobs.read(digest)))
        self.spoil(blobs, digest, None)
        refused(NotFound, lambda: blobs.read(digest))

    def test_a_failed_put_leaves_nothing(self, blobs: Blobs, tmp_path: Path) -> None:
        """A source that is not there is an error of the caller, and no half of a blob stays."""
        refused_by_system = False
        try:
            blobs.put_file(tmp_path / "nothing")
        except FileNotFoundError:
            refused_by_system = True
        assert refused_by_system and list(blobs.all()) == []

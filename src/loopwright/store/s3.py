"""Blobs in an S3-compatible object store, with the local folder as their cache.

A blob is uploaded before it is given its name in the cache, so what lies in the cache lies in the store.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from loopwright.kernel import canonical
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Corrupt, Invalid, NotFound, Unavailable, Unsupported
from loopwright.kernel.times import MINUTE
from loopwright.store.blobs import Entry, Incoming, LocalBlobs, checked_digest, damaged, is_digest, missing

PART_BYTES = 16 << 20
FRESH_US = 15 * MINUTE  # a blob known to have been put this lately is not asked for again
RETRY_S = 60.0
_PARTS = 4  # uploaded at a time
_TRIES = 3
_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9._/-]+))?/?")
_REASON = re.compile(r"timed out|[Cc]onnection (?:refused|reset|closed)|dns error|status:? \d{3}|HTTP status \w+ error")
_LOOPBACK = "127.0.0.1,localhost,::1"
_first_pid: int | None = None  # the process whose threads do the client's work


class S3Blobs:
    """The blobs in `url`/ab/<digest>, read by way of `local`; credentials come from AWS_* variables alone."""

    remote = True

    def __init__(self, local: LocalBlobs, url: str, endpoint: str | None = None) -> None:
        match = _URL.fullmatch(url)
        if match is None:
            raise Invalid(f"{url!r} is no store such as s3://bucket/prefix", code="blobs.url", field="blobs")
        self.local = local
        self.where = url if endpoint is None else f"{url} at {endpoint}"
        self._bucket, self._prefix = match["bucket"], (match["prefix"] or "").strip("/")
        self._endpoint = endpoint
        self._client: Any = None

    @property
    def _store(self) -> Any:
        """The client of this process.

        Raises:
            Unsupported: the process was forked from one that had used a store: the client's threads stayed behind.
        """
        global _first_pid
        if _first_pid is None:
            _first_pid = os.getpid()
        if _first_pid != os.getpid():
            raise Unsupported(
                "this process was forked from one that had used the object store, whose client cannot follow",
                code="blobs.forked",
                hint="start processes by spawn, as multiprocessing.get_context('spawn') does",
            )
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> Any:
        _library()
        from obstore.store import S3Store

        known = any(name.startswith("AWS_") and name not in ("AWS_REGION", "AWS_DEFAULT_REGION") for name in os.environ)
        options: dict[str, Any] = {}
        if self._endpoint is not None:
            options["endpoint"] = self._endpoint
            options["skip_signature"] = not known  # a store of one's own may ask for none
        return S3Store(
            self._bucket,
            prefix=self._prefix or None,
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            client_options={
                "allow_http": (self._endpoint or "").startswith("http://"),
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(seconds=60),
                "proxy_excludes": _LOOPBACK,
            },
            retry_config={
                "max_retries": 4,
                "retry_timeout": timedelta(seconds=RETRY_S),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=2),
                    "base": 2,
                },
            },
            **options,
        )

    @contextlib.contextmanager
    def _asking(self, digest: str | None = None) -> Iterator[None]:
        """Turn what the client raises into our errors; its own texts can hold addresses with signatures."""
        told = _library().exceptions
        try:
            yield
        except FileNotFoundError:
            if digest is not None:
                raise missing(digest) from None
            raise Unavailable(f"there is no bucket {self._bucket} in {self.where}", code="blobs.bucket") from None
        except (told.AlreadyExistsError, told.PreconditionError):
            raise _There from None
        except (told.PermissionDeniedError, told.UnauthenticatedError):
            raise Unavailable(
                f"{self.where} refused the credentials",
                code="blobs.denied",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ) from None
        except told.BaseError as error:
            reason = _REASON.search(str(error))
            why = reason[0] if reason else type(error).__name__
            raise Unavailable(
                f"the object store {self.where} does not answer: {why}", retry_after_s=5.0, code="blobs.unavailable"
            ) from None

    # --- reading ----------------------------------------------------------------------------------------------------

    def path(self, digest: str) -> Path:
        """Where a blob lies on this machine; it is fetched, and checked on arrival, when it does not.

        Raises:
            NotFound: the store has none.
            Corrupt: the store gave other bytes twice.
            Unavailable: the store does not answer.
        """
        path = self.local.path(digest)
        if not path.exists():
            self._fetch(digest)
        return path

    def has(self, digest: str) -> bool:
        """Whether the blob is in the cache or in the store."""
        return self.local.has(digest) or self._head(digest) is not None

    def stored(self, digest: str) -> bool:
        """Whether the blob is in the store itself."""
        return self._head(digest) is not None

    def size(self, digest: str) -> int:
        """The bytes of a blob, counted.

        Raises:
            NotFound: the store has none.
        """
        with contextlib.suppress(NotFound):
            return self.local.size(digest)
        head = self._head(digest)
        if head is None:
            raise missing(digest)
        return int(head["size"])

    def read(self, digest: str) -> bytes:
        """The bytes of a blob; those that the cache has damaged are fetched again.

        Raises:
            NotFound: the store has none.
            Corrupt: the store gave other bytes twice.
            Unavailable: the store does not answer.
        """
        self.path(digest)
        try:
            return self.local.read(digest)
        except (Corrupt, NotFound):
            self._fetch(digest)
            return self.local.read(digest)

    def verify(self, digest: str) -> bool:
        """Whether the blob, from the cache or else from the store, has its digest."""
        with contextlib.suppress(NotFound, Corrupt):
            self.path(digest)
            return self.local.verify(digest)
        return False

    def reread(self, digest: str) -> bool:
        """Whether the store itself, without the cache, gives bytes with this digest."""
        made = canonical.hasher()
        try:
            for piece in self._pieces(digest):
                made.update(piece)
        except NotFound:
            return False
        return bool(made.hexdigest() == digest)

    def _head(self, digest: str) -> Any | None:
        obstore = _library()

        try:
            with self._asking(digest):
                return obstore.head(self._store, _key(digest))
        except NotFound:
            return None

    def _fetch(self, digest: str) -> None:
        for _ in range(2):
            with Incoming(self.local) as incoming:
                for piece in self._pieces(digest):
                    incoming.write(piece)
                if incoming.digest == digest:
                    incoming.settle()
                    # the age of a cached blob is that of the stored one: nothing has been put by reading
                    with contextlib.suppress(FileNotFoundError):
                        os.utime(self.local.path(digest), (0, 0))
                    return
        raise damaged(digest)

    def _pieces(self, digest: str) -> Iterator[bytes]:
        """The bytes as they come; when the stream breaks it goes on where it broke."""
        obstore = _library()

        got, tries = 0, 0
        while True:
            try:
                with self._asking(digest):
                    options: Any = {"range": {"offset": got}} if got else None
                    for piece in obstore.get(self._store, _key(digest), options=options).stream(min_chunk_size=1 << 20):
                        got += len(piece)
                        yield bytes(piece)
                return
            except Unavailable:
                tries += 1
                if tries == _TRIES:
                    raise

    # --- putting ----------------------------------------------------------------------------------------------------

    def put_bytes(self, data: bytes) -> str:
        """Store bytes and return their digest; in the object store, and in the cache, on return.

        Raises:
            Unavailable: the store does not answer.
        """
        digest = canonical.digest_bytes(data)
        if not self._known(digest):
            with Incoming(self.local) as incoming:
                incoming.write(data)
                incoming.flush()
                self._upload(digest, incoming.path, incoming.size_bytes)
                incoming.settle()
        return digest

    def put_file(self, source: Path) -> str:
        """Store a file's bytes, hashed as they are copied, and return their digest.

        Raises:
            Unavailable: the store does not answer.
        """
        with Incoming(self.local) as incoming:
            incoming.copy(source)
            digest = incoming.digest
            if not self._known(digest):
                self._upload(digest, incoming.path, incoming.size_bytes)
                incoming.settle()
        return digest

    def renew(self, digest: str) -> bool:
        """Let a blob's age start anew; False when neither store nor cache has it whole."""
        if self._known(digest):
            return True
        with contextlib.suppress(NotFound, Corrupt):
            path = self.path(digest)
            if self.local.verify(digest):
                self._upload(digest, path, path.stat().st_size)
                return self.local.renew(digest)
        return False

    def doubt(self, digest: str) -> None:
        """Ask the store again the next time the blob is put: somebody may have taken it away."""
        self.local.doubt(digest)
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.local.path(digest), (0, 0))

    def _known(self, digest: str) -> bool:
        """Whether this host put the blob so lately that no cleaning can have taken it from the store."""
        try:
            age_us = machine_us() - self.local.path(digest).stat().st_mtime_ns // 1000
        except FileNotFoundError:
            return False
        return 0 <= age_us < FRESH_US and self.local.whole(digest)

    def _upload(self, digest: str, path: Path, size: int) -> None:
        obstore = _library()

        key = _key(digest)
        if size <= PART_BYTES:
            with contextlib.suppress(_There), self._asking():
                obstore.put(self._store, key, path.read_bytes(), mode="create", use_multipart=False)
                return
        head = self._head(digest)
        if head is not None and head["size"] == size and _fresh(head["last_modified"]) and _same(head["e_tag"], path):
            return
        part = max(PART_BYTES, -(-size // 9_000))
        with self._asking():  # over the same bytes, or over damaged ones: one put replaces the other whole
            obstore.put(
                *(self._store, key, path),
                use_multipart=size > PART_BYTES,
                chunk_size=part,
                max_concurrency=_PARTS,
            )

    # --- looking after ----------------------------------------------------------------------------------------------

    def all(self) -> Iterator[str]:
        """The digests of all blobs in the store, in order."""
        for entry in self.entries():
            yield entry.digest

    def entries(self) -> Iterator[Entry]:
        """All blobs as the store lists them."""
        obstore = _library()

        last, tries = None, 0
        while True:  # a list that breaks goes on behind what it gave last
            try:
                with self._asking():
                    for chunk in obstore.list(self._store, offset=last, chunk_size=1000):
                        for row in chunk:
                            last, digest = row["path"], row["path"].rpartition("/")[2]
                            if is_digest(digest) and last == _key(digest):
                                yield Entry(digest, row["size"], _us(row["last_modified"]))
                return
            except Unavailable:
                tries += 1
                if tries == _TRIES:
                    raise

    def delete(self, digest: str) -> None:
        """Take a blob out of the store and of the cache."""
        obstore = _library()

        with contextlib.suppress(NotFound), self._asking(digest):
            obstore.delete(self._store, _key(digest))
        self.local.delete(digest)

    def now_us(self) -> int:
        """The store's own clock, asked by putting an object."""
        obstore = _library()

        with self._asking():
            obstore.put(self._store, "clock", b".", use_multipart=False)
            return _us(obstore.head(self._store, "clock")["last_modified"])


class _There(Exception):
    """A put on the condition that there is none has found one."""


def _library() -> Any:
    """The client's library.

    Raises:
        Unsupported: it is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise Unsupported(
            "blobs in an object store need obstore", extra="s3", field="blobs", hint="pip install 'loopwright[s3]'"
        ) from None
    return obstore


def _key(digest: str) -> str:
    return f"{checked_digest(digest)[:2]}/{digest}"


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def _fresh(moment: datetime) -> bool:
    return machine_us() - _us(moment) < FRESH_US


def _same(tag: str | None, path: Path) -> bool:
    """Whether an ETag that is an MD5 sum is that of a file; other forms say nothing about the bytes."""
    found = (tag or "").strip('"')
    if not re.fullmatch(r"[0-9a-f]{32}", found):
        return True
    made = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            made.update(piece)
    return made.hexdigest() == found

"""Space: the database, the blobs and the clock of one project, together.

Opening is given the migrations of the rooms above; it knows none of them.
"""

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from loopwright.kernel import settings as config
from loopwright.kernel.clock import Clock, WallClock
from loopwright.kernel.errors import Conflict, NotFound, Unsupported
from loopwright.kernel.files import fsync_folder
from loopwright.store import hosts
from loopwright.store.blobs import Blobs, LocalBlobs
from loopwright.store.clock import ReplayClock
from loopwright.store.database import Database, Tx
from loopwright.store.gate import Gate
from loopwright.store.migrate import current as current_mode
from loopwright.store.migrate import prepare
from loopwright.store.presence import Presence
from loopwright.store.sqlite import SqliteDatabase

T = TypeVar("T")
HOME = ".loopwright"
FOLDERS = ("blobs", "tmp", "spool", "run", "runs", "projects")
MIGRATIONS = [
    """
    CREATE TABLE events(
      seq INTEGER PRIMARY KEY AUTOINCREMENT, at_us BIGINT NOT NULL, known_at_us BIGINT NOT NULL, actor TEXT NOT NULL,
      kind TEXT NOT NULL, subject TEXT NOT NULL, data TEXT NOT NULL, cause BIGINT);
    CREATE INDEX events_subject ON events(subject, seq);
    CREATE INDEX events_kind ON events(kind, seq);
    CREATE TABLE clock(mode TEXT NOT NULL, now_us BIGINT NOT NULL)
    """,
    "CREATE TABLE leases(name TEXT PRIMARY KEY, holder TEXT NOT NULL, fence BIGINT NOT NULL, until_us BIGINT NOT NULL)",
    """
    CREATE TABLE tombstones(
      digest TEXT PRIMARY KEY, successor TEXT, erasure TEXT NOT NULL, rows BIGINT NOT NULL, at_us BIGINT NOT NULL);
    CREATE TABLE erasures(
      id TEXT PRIMARY KEY, subject TEXT NOT NULL, actor TEXT NOT NULL, began_us BIGINT NOT NULL, ended_us BIGINT,
      receipt TEXT);
    CREATE TABLE erased_counts(
      erasure TEXT NOT NULL, place TEXT NOT NULL, name TEXT NOT NULL, n BIGINT NOT NULL,
      PRIMARY KEY (erasure, place, name));
    CREATE TABLE erased_refs(hash TEXT PRIMARY KEY, erasure TEXT NOT NULL)
    """,
]


class Space:
    """A project's store: `root` is the project's folder, `home` the store in it."""

    def __init__(self, root: Path, settings: config.Settings) -> None:
        self.root = root
        self.home = root / HOME
        self.settings = settings
        self.presence = Presence(self.home / "open.lock")
        self.database: Database = open_database(self.home, settings)
        self.blobs: Blobs = open_blobs(self.home, settings)
        self.clock: Clock = WallClock()
        self._pid = os.getpid()
        self._guards = threading.local()
        self.rooms: Callable[[], Mapping[str, Sequence[str]]] = dict  # gives the migrations that it was opened with

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one durable transaction and return what it returns."""
        check: Callable[[Tx], None] | None = getattr(self._guards, "check", None)
        if check is None:
            return self.database.write(fn)

        def checked(tx: Tx) -> T:
            check(tx)
            return fn(tx)

        return self.database.write(checked)

    @contextlib.contextmanager
    def guarded(self, check: Callable[[Tx], None]) -> Iterator[None]:
        """Inside, what this thread writes is written only if `check`, which may raise, lets it."""
        self._guards.check = check
        try:
            yield
        finally:
            self._guards.check = None

    @property
    def shared(self) -> bool:
        """Whether other hosts may have the same Space open."""
        return self.settings.database is not None

    @cached_property
    def host(self) -> str:
        """Who this folder is among the hosts of a shared Space; `local` when it has its own."""
        if not self.shared:
            return "local"
        return hosts.identity(self.home)

    def read(self) -> AbstractContextManager[Tx]:
        """A read-only snapshot."""
        return self.database.read()

    @property
    def is_open(self) -> bool:
        """Whether it can be used in this process: it was opened here, is not closed, and its folder is still there."""
        return self._pid == os.getpid() and not self.database.closed and self.database.there and self.home.is_dir()

    def close(self) -> None:
        """Close the connections; does nothing in a process that was forked from the opener's."""
        if self._pid == os.getpid():
            self.database.close()
            self.presence.close()


def open_database(home: Path, settings: config.Settings) -> Database:
    """The database of the Space in `home`: its file, or the schema of the settings.

    Raises:
        Unsupported: the driver is not installed.
    """
    if settings.database is None:
        return SqliteDatabase(home / "space.db", Gate(home / "gate"))
    try:
        from loopwright.store.postgres import PostgresDatabase
    except ImportError:
        raise Unsupported(
            "PostgreSQL needs a driver that is not installed",
            extra="postgres",
            code="store.driver",
            field="database",
            hint="pip install 'loopwright[postgres]'",
        ) from None
    return PostgresDatabase(settings.database, settings.schema, config.database_password())


def open_blobs(home: Path, settings: config.Settings) -> Blobs:
    """The blobs of the Space in `home`: its folder, or the object store of the settings with that folder as cache."""
    local = LocalBlobs(home / "blobs", home / "tmp")
    if settings.blobs is None:
        return local
    from loopwright.store.s3 import S3Blobs

    return S3Blobs(local, settings.blobs, settings.blobs_endpoint)


def open_space(
    root: Path,
    *,
    migrations: Callable[[], Mapping[str, Sequence[str]]],
    counts: Mapping[str, int] | None = None,
    create: bool = False,
) -> Space:
    """Open the Space of a project folder, or make it.

    Args:
        migrations: gives those of the rooms above; not asked when `counts` says how many there are and none is missing.

    Raises:
        NotFound: there is none, and `create` is not set.
        Conflict: loopwright.toml names another clock than the Space has lived on.
    """
    root = root.resolve()
    home = root / HOME
    if not home.is_dir():
        if not create:
            raise NotFound(f"no loopwright project in {root}", code="space.missing", hint="lw init")
        root.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
    fresh = [folder for folder in FOLDERS if not (home / folder).is_dir()]
    for folder in fresh:
        (home / folder).mkdir(mode=0o700, exist_ok=True)
    if fresh:  # what will be acknowledged here must not lie in a folder whose own name a power cut takes away
        for above in (home, root, root.parent):
            fsync_folder(above)
    settings = config.read(root)
    space = Space(root, settings)
    space.rooms = lambda: {"store": MIGRATIONS, **migrations()}
    try:
        space.database.make(create=create)
        mode = None if counts is None else current_mode(space.database, {"store": len(MIGRATIONS), **counts})
        if mode is None:
            mode = prepare(space.database, home, space.rooms(), settings)
    except BaseException:
        space.close()
        raise
    if mode != settings.clock:
        space.close()
        raise Conflict(
            f"this Space lives on the {mode} clock and loopwright.toml says {settings.clock}; a Space keeps its clock",
            code="clock.changed",
            hint=f'set clock = "{mode}" in loopwright.toml',
        )
    if mode == "replay":
        space.database.replay = True
        space.clock = ReplayClock(space.database)
    atexit.register(space.close)
    return space


_bound: Space | None = None
_opener: Callable[..., Space] | None = None
_job = False


def bind(space: Space | None, *, job: bool = False) -> None:
    """Make a Space the current one of this process; `job` says that it runs a stored project, not a folder."""
    global _bound, _job
    _bound, _job = space, job


@contextlib.contextmanager
def bound(space: Space, *, job: bool = False) -> Iterator[Space]:
    """The Space as the current one inside a `with` block."""
    before = (_bound, _job)
    bind(space, job=job)
    try:
        yield space
    finally:
        bind(before[0], job=before[1])


def job_mode() -> bool:
    """Whether this process runs a stored project for the Space, and must not look at the project's folder."""
    return _job


def set_opener(opener: Callable[..., Space]) -> None:
    """Say how a Space is opened: `opener(root=None, *, create=False)`."""
    global _opener
    _opener = opener


def open_at(root: Path | None = None, *, create: bool = False) -> Space:
    """Open the Space of a folder by the opener; by default that of the nearest folder upward.

    Raises:
        NotFound: there is none.
    """
    if _opener is None:
        raise NotFound("no loopwright project is open", code="space.missing", hint="lw init")
    return _opener(root, create=create)


def reopened(root: Path) -> Space:
    """The Space of a folder, made when it is not there; the one bound to this process when it is that."""
    if _bound is not None and _bound.is_open and _bound.root == root.resolve():
        return _bound
    return open_at(root, create=True)


def current() -> Space:
    """The Space bound to this process, or that of the nearest folder upward.

    Raises:
        NotFound: there is none.
    """
    global _bound
    if _bound is None:
        _bound = open_at()
    return _bound


def find_root(start: Path) -> Path:
    """The nearest folder upward that holds loopwright.toml or a Space.

    Raises:
        NotFound: there is none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / config.FILE).is_file() or (folder / HOME).is_dir():
            return folder
    raise NotFound(f"no loopwright project in {start} or above it", code="space.missing", hint="lw init")

"""Makes the snapshots that look-ups read: of the newest versions once, of facts again as they arrive."""

import contextlib
import os
import threading
from bisect import insort
from pathlib import Path
from typing import Any

import msgspec

from loopwright.artifacts import names
from loopwright.artifacts.model import Version
from loopwright.data import facts, online, scalar, service, snapshot
from loopwright.data.facts import Fact
from loopwright.data.model import DataSpec, FeaturesSpec, Join, Window
from loopwright.data.online import KEPT_US, Plan
from loopwright.kernel import canonical
from loopwright.kernel.errors import LoopwrightError, NotFound, Unsupported
from loopwright.kernel.files import replace_file
from loopwright.store.database import Tx
from loopwright.store.locks import take
from loopwright.store.space import Space

_Row = tuple[int, int, int, int, tuple[snapshot.Value, ...]]  # counts from, -held, -known, seq, values
_lock = threading.Lock()
_tellers: dict[tuple[Path, str], "Teller"] = {}


def plan(space: Space, spec: FeaturesSpec) -> Plan:
    """How workers look features up; makes the snapshot of the newest versions where it is not there.

    Raises:
        NotFound: a source was never added.
        Unsupported: an expression is outside what look-ups compute, or a source does not fit.
    """
    found = {source.name: newest_version(space, source) for source in spec.sources}
    types = {column.name: column.type for column in service.schema(space, found[spec.base.name])}
    wanted = [name for name in online.base_columns(spec) if name != spec.at]
    base = tuple((name, online.kind_of(types[name])) for name in wanted if name in types)
    places = {name: (place, kind) for place, (name, kind) in enumerate([*base, (spec.at, "time")])}
    for name in wanted:
        if places.get(name, (0, "other"))[1] == "other":
            raise Unsupported(f"{name} is of no kind that a look-up takes", code="lookup.kind", field=name)
    for out, text in spec.derive:
        scalar.compile_one(text, f"derive.{out}", places)
    folder = space.home / "run" / "features"
    digests = {name: version.digest for name, version in found.items()}
    mark = canonical.digest([msgspec.to_builtins(spec), digests])[-24:]
    path = folder / f"{spec.name}-{mark}.versions"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, _versions(space, spec), durable=False)
    return Plan(features=spec, base=base, versions=str(path), facts=str(folder / f"{spec.name}-{mark}.facts"))


def newest_version(space: Space, source: DataSpec) -> Version:
    """The version of a source that was added last.

    Raises:
        NotFound: none was.
    """
    last = names.newest(space, source.name)
    if last is None:
        raise NotFound(
            f"{source.name} was never added", code="data.missing", field="name", hint=f"lw add {source.path}"
        )
    return last


def warm(space: Space, spec: FeaturesSpec) -> None:
    """Make the snapshot of the newest versions where DuckDB is at hand, ahead of need; what fails is told later."""
    with contextlib.suppress(LoopwrightError):
        plan(space, spec)


def _versions(space: Space, spec: FeaturesSpec) -> bytes:
    from loopwright.data import sources
    from loopwright.data.execute import Executor
    from loopwright.data.opened import FOREVER_US

    floor_us = space.clock.now_us() - KEPT_US
    writer = snapshot.Writer(floor_us)
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        executor = Executor(con, space, spec, -FOREVER_US, newest_version)
        for join in spec.joins:
            width, texts = len(join.on), dict[str, int]()
            rows: dict[bytes, list[snapshot.Held]] = {}
            for row in executor.held(join, floor_us):
                if None not in row[:width]:
                    key, (at, held, known) = snapshot.key_of(row[:width]), row[width : width + 3]
                    rows.setdefault(key, []).append((at, held, known, row[width + 3 :]))
            is_text = _is_text(space, join)
            runs = {key: snapshot.run_of(found, len(is_text), texts) for key, found in rows.items()}
            writer.table(runs, is_text, list(texts))
    return writer.encoded()


def _is_text(space: Space, join: Join) -> list[bool]:
    """Which columns of a join's table hold texts; a window's hold numbers or marks."""
    kinds = {c.name: c.kind for c in service.schema(space, newest_version(space, join.source))}
    return [kinds.get(name) == "text" and not isinstance(join, Window) for name in online.wanted(join)]


def show_facts(space: Space, made: Plan) -> None:
    """Bring the snapshot of facts to what is known here; an older one never replaces a newer."""
    with _lock:
        key = (space.home, made.facts)
        teller = _tellers.get(key)
        if teller is None or teller.space is not space:  # a folder may be closed and opened again
            teller = _tellers[key] = Teller(space, made)
        teller.tell()


class Teller:
    """Keeps the facts that can still be asked for of one plan in order, and writes them anew as they arrive."""

    def __init__(self, space: Space, made: Plan) -> None:
        self.space = space
        self._plan = made
        self._joins = made.features.joins
        self._is_text = [_is_text(space, join) for join in self._joins]
        self._rows: list[dict[bytes, list[_Row]]] = []
        self._runs: list[dict[bytes, snapshot.Run]] = []
        self._seen: tuple[int, int] | None = None
        self._written: tuple[int, int] | None = None

    def tell(self) -> None:
        """Read what is new, and write the snapshot when there is anything."""
        path = Path(self._plan.facts)
        with self.space.read() as tx:
            if facts.newest(tx) == self._written and path.exists():
                return
        lock = take(path.with_suffix(".lock"))
        try:
            with self.space.read() as tx:
                now_us, newest = tx.now_us(), facts.newest(tx)
                self._read(tx, newest, now_us - KEPT_US)
            replace_file(path, self._bytes(now_us - KEPT_US), durable=False)
            self._written = newest
        finally:
            os.close(lock)

    def _read(self, tx: Tx, newest: tuple[int, int], floor_us: int) -> None:
        if self._seen is None or self._seen[1] != newest[1]:
            self._rows, self._runs = [{} for _ in self._joins], [{} for _ in self._joins]
            self._seen = None
        for name in {join.source.name for join in self._joins if not online.is_static(join)}:
            mine = [(place, join) for place, join in enumerate(self._joins) if join.source.name == name]
            if self._seen is None:
                spans = [join.last_us if isinstance(join, Window) else snapshot.FOREVER_US // 2 for _, join in mine]
                found = facts.scan(tx, name, since_us=floor_us - max(spans), until_us=snapshot.FOREVER_US)
            else:
                found = facts.after(tx, name, self._seen[0], snapshot.FOREVER_US)
            for place, join in mine:
                for fact in found:
                    self._take(place, join, fact)
        self._seen = newest
        for join, rows, runs in zip(self._joins, self._rows, self._runs, strict=True):
            if isinstance(join, Window):
                for run in runs.values():
                    run.cut(floor_us - join.last_us)
            _prune(rows, floor_us)

    def _take(self, place: int, join: Join, fact: Fact) -> None:
        parts = [fact.values.get(theirs) for _, theirs in join.on]
        if None in parts:
            return
        key, names = snapshot.key_of(parts), online.wanted(join)
        values = tuple(_number(fact.values.get(name), isinstance(join, Window)) for name in names)
        if isinstance(join, Window):
            runs = self._runs[place]
            if key not in runs:
                runs[key] = snapshot.Run(len(names))
            runs[key].insert(fact.known_us, values)
            return
        held_us = fact.known_us if join.source.time is None else fact.time_us or 0
        row = (max(fact.known_us, held_us), -held_us, -fact.known_us, fact.seq, values)
        insort(self._rows[place].setdefault(key, []), row)

    def _bytes(self, floor_us: int) -> bytes:
        writer = snapshot.Writer(floor_us)
        for place, (join, is_text) in enumerate(zip(self._joins, self._is_text, strict=True)):
            if online.is_static(join):
                writer.skip()
            elif isinstance(join, Window):
                writer.table({key: run for key, run in self._runs[place].items() if run.at}, is_text)
            else:
                texts: dict[str, int] = {}
                rising = {key: snapshot.rising(found) for key, found in self._rows[place].items()}
                runs = {key: snapshot.run_of(found, len(is_text), texts) for key, found in rising.items()}
                writer.table(runs, is_text, list(texts))
        return writer.encoded()


def _number(value: Any, marked: bool) -> snapshot.Value:
    if value is None:
        return None
    if type(value) is str:
        return 1.0 if marked else value
    return float(value)


def _prune(rows: dict[bytes, list[_Row]], floor_us: int) -> None:
    """Of the rows that count before a moment, leave of each key only the one that is then the latest."""
    for key, found in rows.items():
        first = next((at for at, row in enumerate(found) if row[0] > floor_us), len(found))
        if first > 1:
            (at, held, known, _) = snapshot.rising(found[:first])[-1]
            last = next(row for row in found[:first] if row[:3] == (at, -held, -known))
            rows[key] = [last, *found[first:]]

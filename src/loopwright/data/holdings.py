"""What the data room holds of a subject: rows of data versions and facts. Each version is followed by one without them.

A source without the subject's column is searched by the request ids when declared features, or their labels, say that
its key is a request's.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from loopwright.access.service import local_actor
from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Artifact, Version
from loopwright.data import facts, queries, service, sql, subjects
from loopwright.data.model import Contract, FeaturesSpec
from loopwright.kernel.files import fresh_file
from loopwright.store.database import Tx
from loopwright.store.erasure import Found, Subject, count, tombstones
from loopwright.store.space import Space

PLACE, FACTS = "data version", "facts"


class _Rows(msgspec.Struct, frozen=True):
    """Rows of a subject in one data version."""

    version: Version
    artifact: Artifact
    reading: str
    test: str
    rows: int
    direct: bool


class _Holdings:
    """The answer of this room."""

    room = "data"
    tables = ("data_versions", "data_stats", "feature_sets", "facts", "facts_taken_back")

    def refs(self, space: Space, subject: Subject) -> Iterable[str]:
        """The keys of the subject's rows in the sources that requests are made from."""
        found: set[str] = set()
        with subjects.opened(space, subject) as con:
            for spec in _specs(space):
                key = sql.ident(spec.base.key[0])
                if spec.base.key[0] == subject.column:  # one request, by the id that it was sent with
                    found.add(subject.value)
                for held in self._versions(space, con, subject, {spec.base.name}):
                    rows = con.execute(f"SELECT DISTINCT CAST({key} AS VARCHAR) FROM {held.reading} WHERE {held.test}")
                    found.update(row[0] for row in rows.fetchall() if row[0] is not None)
                for _, values in self._facts(space, spec.base.name, subject):
                    found.add(str(values[spec.base.key[0]]))
        return found

    def find(self, space: Space, subject: Subject) -> list[Found]:
        """Rows by version, and facts by source."""
        with subjects.opened(space, subject) as con:
            held = list(self._versions(space, con, subject))
        found = [Found(PLACE, one.version.ref, one.rows, one.version.digest) for one in held]
        for name in _fact_names(space):
            if told := list(self._facts(space, name, subject)):
                found.append(Found(FACTS, name, len(told)))
        return found

    def forget(self, space: Space, subject: Subject, erasure: str) -> None:
        """Facts go, versions get successors; what is found by ids goes before the rows that give the ids."""
        bases = {spec.base.name for spec in _specs(space)}
        for name in sorted(_fact_names(space), key=lambda name: name in bases):
            gone = [seq for seq, _ in self._facts(space, name, subject)]
            space.write(lambda tx, name=name, gone=gone: _drop_facts(tx, erasure, name, gone))  # type: ignore[misc]
        with subjects.opened(space, subject) as con:
            held = list(self._versions(space, con, subject))
            for one in sorted(held, key=lambda one: (one.direct, one.version.name in bases)):
                self._replace(space, con, one, erasure)

    def _versions(self, space: Space, con: Any, subject: Subject, only: set[str] | None = None) -> Iterator[_Rows]:
        from loopwright.data import sources

        with space.read() as tx:
            gone = tombstones(tx)
        for name, kind in names.all_names(space):
            if kind != service.KIND or (only is not None and name not in only):
                continue
            ids = _ids(space, subject, name)
            for version in names.versions(space, name):
                if version.digest in gone or not space.blobs.has(version.digest):
                    continue
                reading = service.reading(space, version)
                columns = sources.schema(con, f"SELECT * FROM {reading}")
                test = subjects.condition(columns, subject, ids)
                if test is None:
                    continue
                rows = int(con.execute(f"SELECT COUNT(*) FROM {reading} WHERE {test}").fetchone()[0])
                if rows:
                    artifact = artifacts.get(space, version.digest, service.KIND)
                    direct = subject.column in {column.name for column in columns}
                    yield _Rows(version, artifact, reading, test, rows, direct)

    def _facts(self, space: Space, name: str, subject: Subject) -> Iterator[tuple[int, dict[str, Any]]]:
        ids = _ids(space, subject, name)
        with space.read() as tx:
            rows = tx.query("SELECT seq, body FROM facts WHERE name = ? ORDER BY seq", (name,))
        for row in rows:
            values = msgspec.json.decode(row["body"])
            if subjects.holds(values, subject, ids):
                yield row["seq"], values

    def _replace(self, space: Space, con: Any, held: _Rows, erasure: str) -> None:
        """Put a successor without the rows in a version's place; the newest version of a name gets a new version."""
        version, place = held.version, Path(tempfile.mkdtemp(dir=space.home / "tmp", prefix="erase-"))
        with space.read() as tx:
            known = queries.find_version(tx, version.name, version.number)
        assert known is not None
        form, delimiter = str(held.artifact.meta["format"]), str(held.artifact.meta["delimiter"])
        named = Path(known.path).name
        path = place / (named if named.lower().endswith((".parquet", ".csv", ".tsv", ".gz")) else f"rows.{form}")
        try:
            left = subjects.without(con, held.reading, held.test, path, delimiter)
            kept = service.stored(space, path, known.declaration) if left else None
        finally:
            shutil.rmtree(place, ignore_errors=True)
        found = Found(PLACE, version.ref, held.rows, version.digest)

        def change(tx: Tx) -> None:
            if kept is not None and tx.value(_NEWEST, (version.name,)) == version.number:
                fresh = msgspec.structs.replace(known, contract=kept.contract, findings=kept.findings)
                service.enter(tx, local_actor(), version.name, kept.artifact, fresh)
            bare = msgspec.structs.replace(known, contract=Contract(), findings=())
            queries.put_version(tx, version.name, version.number, bare)
            artifacts.retire(tx, erasure, found, None if kept is None else kept.artifact.digest)

        space.write(change)


_NEWEST = "SELECT MAX(number) FROM data_versions WHERE name = ?"


def own_files(space: Space, subject: Subject, *, rewrite: bool = False) -> list[str]:
    """The project's own files that hold rows of the subject; they are written anew without them only when asked."""
    from loopwright.data import sources

    with space.read() as tx:
        places = {row["path"]: row["name"] for row in tx.query("SELECT path, name FROM data_versions ORDER BY number")}
    found = []
    for place, name in sorted(places.items()):
        file = space.root / place
        if not file.is_file():
            continue
        form = sources.format_of(file)
        delimiter = "," if form == "parquet" else sources.delimiter_of(file)
        with subjects.opened(space, subject) as con:
            reading = sources.reading(file, form, delimiter)
            columns = sources.schema(con, f"SELECT * FROM {reading}")
            test = subjects.condition(columns, subject, _ids(space, subject, name))
            if test is None or not con.execute(f"SELECT COUNT(*) FROM {reading} WHERE {test}").fetchone()[0]:
                continue
            found.append(place)
            if rewrite:
                with fresh_file(file) as fresh:
                    subjects.without(con, reading, test, fresh, delimiter)
    return found


def _specs(space: Space) -> list[FeaturesSpec]:
    with space.read() as tx:
        found = [queries.find_features(tx, name) for name in queries.all_features(tx)]
    return [spec for spec in found if spec is not None]


def _ids(space: Space, subject: Subject, name: str) -> list[str]:
    """The columns of a source that hold ids of requests, as the declarations have it."""
    found = []
    for spec in _specs(space):
        key = spec.base.key[0]
        on = {(there, here) for join in spec.joins if join.source.name == name for here, there in join.on}
        joined = any(join.source.name == name for join in spec.joins)
        other = any(there == key and here != key for there, here in on)
        if name == spec.base.name or (joined and not other):
            found.append(key)
        if name in subject.labels.get(spec.name, ()):
            with space.read() as tx:
                declared = queries.newest_declaration(tx, name)
            found += declared.key if declared is not None else ()
    return found


def _fact_names(space: Space) -> list[str]:
    with space.read() as tx:
        return [row["name"] for row in tx.query("SELECT DISTINCT name FROM facts ORDER BY name")]


def _drop_facts(tx: Tx, erasure: str, name: str, gone: list[int]) -> None:
    if gone:
        facts.take_back(tx, name, gone)
    count(tx, erasure, Found(FACTS, name, len(gone)))


HOLDINGS = _Holdings()

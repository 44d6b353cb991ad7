"""Versions of data: add a file, know the version in use, and what a cached result depends on.

Light to import: DuckDB is loaded only when a file must really be looked into.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from loopwright.access import service as access
from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Artifact, Version
from loopwright.data import logged, queries
from loopwright.data.model import (
    DATA_ADDED,
    FEATURES_DECLARED,
    Added,
    Column,
    ColumnProfile,
    Contract,
    DataSpec,
    FeaturesSpec,
    Finding,
    name_of,
)
from loopwright.kernel import canonical
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Conflict, Erased, Invalid, NotFound
from loopwright.kernel.ids import valid_name
from loopwright.store import erasure, ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space, job_mode

KIND = "data"
MIGRATIONS = queries.MIGRATIONS
_SETTLED_US = 2_000_000  # a file changed so shortly before it was hashed may change again within its clock's tick


class _Found(msgspec.Struct, frozen=True):
    """What was found in a file's bytes, kept as the artifact's metadata."""

    format: str
    delimiter: str
    rows: int
    schema: tuple[Column, ...]
    profile: tuple[ColumnProfile, ...]
    contract: Contract


def add(
    space: Space, actor: str, path: str | Path, *, name: str | None = None, declaration: DataSpec | None = None
) -> Added:
    """Make a version of a file with its schema, profile and proposed contract, and say which rows break it.

    Without a declaration the one that the name was last used with holds. Equal bytes make no new version.

    Raises:
        NotFound: there is no such file.
        Invalid: it cannot be read, has no rows, or lacks a declared column.
        Unsupported: it is neither CSV nor Parquet.
        Conflict: the name is another's, or the file changed while it was read.
        Erased: it holds rows that were erased.
    """
    access.require(space, actor, "data.add", f"name:{name}" if name else "")
    file = locate(space, path)
    implied = declaration is None and name is None
    name = valid_name(name or (declaration.name if declaration else name_of(file.name)))
    last = _last(space, name, file, implied=implied)
    kept = None if last is None else _kept(space, last)
    if declaration is None and kept is not None:
        declaration = kept.declaration
    stat = _stat(file)
    digest, settled = _digest(space, file, stat)
    _require_kept(space, file, digest)
    if last is not None and kept is not None and last.digest == digest and kept.declaration == _plain(declaration):
        if not settled and not _passing(space, file):
            space.write(lambda tx: queries.put_stat(tx, str(file), stat, digest, machine_us()))
        return _added(space, last, kept, unchanged=True)
    found, contract, findings = _look(space, file, declaration)
    artifact = artifacts.put_blob(space, file, kind=KIND, meta=msgspec.to_builtins(found))
    if artifact.digest != digest or _stat(file) != stat:
        raise Conflict(f"{file.name} changed while it was read", code="data.changing", field="path", hint="lw add PATH")
    known = queries.Known(_shown(space, file), _plain(declaration), contract, findings)

    def keep(tx: Tx) -> Version:
        version = enter(tx, actor, name, artifact, known)
        if not _passing(space, file):
            queries.put_stat(tx, str(file), stat, digest, machine_us())
        return version

    version = space.write(keep)
    return _added(space, version, known, unchanged=last is not None and version.number == last.number)


def _require_kept(space: Space, file: Path, digest: str) -> None:
    with space.read() as tx:
        if erasure.tombstone(tx, digest) is not None:
            raise Erased(
                f"{file.name} holds rows that were erased from this project",
                code="erased",
                field="path",
                hint="lw erase --subject COLUMN=VALUE --files, which writes it anew without them",
            )


def enter(tx: Tx, actor: str, name: str, artifact: Artifact, known: queries.Known) -> Version:
    """Make stored bytes the newest version of a name, unless they are; with the event."""
    before = tx.value("SELECT MAX(number) FROM data_versions WHERE name = ?", (name,))
    version = names.register(tx, actor, name, artifact, always=False)
    queries.put_version(tx, name, version.number, known)
    if version.number != before:
        found = _found(artifact)
        counts = {"rows": found.rows, "columns": len(found.schema), "findings": len(known.findings)}
        ledger.append(tx, actor, DATA_ADDED, version.ref, {**counts, "digest": artifact.digest})
    return version


class Stored(msgspec.Struct, frozen=True):
    """A file that was stored and looked into; no version yet."""

    artifact: Artifact
    contract: Contract
    findings: tuple[Finding, ...]


def stored(space: Space, file: Path, declaration: DataSpec | None) -> Stored:
    """Store a file that was made here and say what is in it."""
    found, contract, findings = _look(space, file, declaration)
    return Stored(artifacts.put_blob(space, file, kind=KIND, meta=msgspec.to_builtins(found)), contract, findings)


def current_version(space: Space, data: DataSpec) -> Version:
    """The version of a declared source that is used now.

    In a project's folder that is the file's, added if it has changed; in a job the newest that was added: a job
    never looks at the folder.

    Raises:
        NotFound: there is no such file, or in a job no version.
    """
    if job_mode():
        last = names.newest(space, data.name)
        if last is None:
            raise NotFound(
                f"{data.name} was never added", code="data.missing", field="name", hint=f"lw add {data.path}"
            )
        return last
    return add(space, access.local_actor(), space.root / data.path, declaration=data).version


def describe(space: Space, version: Version) -> Added:
    """A version as it was found when it was added.

    Raises:
        NotFound: it is no data.
    """
    kept = _kept(space, version)
    if kept is None:
        raise NotFound(f"{version.ref} is no data", code="data.missing", field="name", hint="lw show")
    return _added(space, version, kept, unchanged=True)


def schema(space: Space, version: Version) -> tuple[Column, ...]:
    """The columns of a version."""
    return _found(artifacts.get(space, version.digest, KIND)).schema


def reading(space: Space, version: Version) -> str:
    """The DuckDB table function that reads a version's bytes.

    Raises:
        NotFound: they are not here.
    """
    from loopwright.data import sources

    found = _found(artifacts.get(space, version.digest, KIND))
    path = artifacts.local_path(space, version.digest)
    if not path.exists():
        raise NotFound(f"the bytes of {version.ref} are not here", code="blob.missing", field="name", hint="lw fsck")
    return sources.reading(path, found.format, found.delimiter)


def fingerprint(space: Space, data: DataSpec, until_us: int) -> dict[str, Any]:
    """What a cached result depends on: the declaration, the bytes, and the facts known before a moment."""
    return {
        "declaration": msgspec.to_builtins(_plain(data)),
        "digest": current_version(space, data).digest,
        **_told(space, [data], until_us),
    }


def features_fingerprint(space: Space, spec: FeaturesSpec, until_us: int) -> dict[str, Any]:
    """What a cached result depends on: the declarations, the bytes of every source, and the log so far."""
    reader = logged.log_reader()
    return {
        "declaration": msgspec.to_builtins(spec),
        "digests": {source.name: current_version(space, source).digest for source in spec.sources},
        "log": None if reader is None else reader.state(space, spec.name, until_us),
        **_told(space, spec.sources, until_us),
    }


def _told(space: Space, specs: Sequence[DataSpec], until_us: int) -> dict[str, Any]:
    with space.read() as tx:
        told = {spec.name: queries.facts_state(tx, spec.name, until_us) for spec in specs}
    told = {name: state for name, state in told.items() if state[0]}
    return {"facts": told} if told else {}


def declare_features(space: Space, actor: str, spec: FeaturesSpec) -> bool:
    """Keep a declaration of features, so that commands can name it; True when it is new or has changed."""
    with space.read() as tx:
        if queries.find_features(tx, spec.name) == msgspec.convert(msgspec.to_builtins(spec), FeaturesSpec):
            return False

    def keep(tx: Tx) -> bool:
        changed = queries.put_features(tx, spec)
        if changed:
            declared = {"count": len(spec.outputs), "digest": canonical.digest(msgspec.to_builtins(spec))}
            ledger.append(tx, actor, FEATURES_DECLARED, f"features:{spec.name}", declared)
        return changed

    return space.write(keep)


def features_of(space: Space, name: str) -> FeaturesSpec:
    """The features that were last declared under a name.

    Raises:
        NotFound: none were.
    """
    with space.read() as tx:
        spec, there = queries.find_features(tx, valid_name(name)), queries.all_features(tx)
    if spec is None:
        have = f"one of: {', '.join(there)}" if there else "run the project that declares them: lw run"
        raise NotFound(f"no features {name}", code="features.missing", field="name", hint=have)
    return spec


def require(spec: FeaturesSpec, columns: Sequence[str]) -> None:
    """Go on only when every column is a feature.

    Raises:
        Invalid: one is not; the message names it and what there is.
    """
    missing = [column for column in columns if column not in spec.outputs]
    if missing:
        raise Invalid(
            f"{', '.join(missing)}: no feature of {spec.name}",
            code="features.unknown-column",
            field=missing[0],
            hint=f"{spec.name} has: {', '.join(spec.outputs)}",
        )


def locate(space: Space, path: str | Path) -> Path:
    """A file by its path: absolute, relative to the working folder, or to the project's.

    Raises:
        NotFound: there is no file.
    """
    given = Path(path)
    for place in (given, space.root / given):
        if place.is_file():
            return place.resolve()
    raise NotFound(f"no file {path}", code="data.no-file", field="path", hint="lw add PATH")


def _last(space: Space, name: str, file: Path, *, implied: bool) -> Version | None:
    """The newest version of the name, unless the name is somebody else's."""
    last = names.newest(space, name)
    if last is None:
        return None
    if last.kind != KIND:
        raise Conflict(
            f"{name} holds versions of kind {last.kind}, not data",
            code="name.kind",
            field="name",
            hint=f"lw add {file.name} --as ANOTHER",
        )
    kept = _kept(space, last)
    if implied and kept is not None and kept.path != _shown(space, file):
        raise Conflict(
            f"{name} is the name of {kept.path}",
            code="data.name-taken",
            field="name",
            hint=f"lw add {file} --as {name} for a new version of it, or --as ANOTHER",
        )
    return last


def _kept(space: Space, version: Version) -> queries.Known | None:
    with space.read() as tx:
        return queries.find_version(tx, version.name, version.number)


def _look(space: Space, file: Path, declaration: DataSpec | None) -> tuple[_Found, Contract, tuple[Finding, ...]]:
    """Look into a file; nothing is written."""
    from loopwright.data import profile, sources
    from loopwright.data.contract import declared

    if file.stat().st_size == 0:
        raise Invalid(f"{file.name} is empty", code="data.empty", field="path")
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        look = profile.Look(con, file)
        if declaration is not None:
            profile.require_columns(look.schema, declaration, declaration.name)
        columns = look.profile()
        proposed = look.contract(columns)
        contract = proposed
        if declaration is not None:
            contract = declared(proposed, declaration, key_tells_apart=look.tells_apart(declaration.key))
        findings = look.findings(contract)
    return _Found(look.format, look.delimiter, look.rows, look.schema, columns, proposed), contract, findings


def _digest(space: Space, file: Path, stat: queries.Stat) -> tuple[str, bool]:
    """The file's digest, and whether the stat cache vouches for it."""
    with space.read() as tx:
        seen = queries.find_stat(tx, str(file))
    if seen is not None and seen[0] == stat:
        newest_us = max(stat.modified_ns, stat.changed_ns) // 1000
        if newest_us + _SETTLED_US < seen[2]:
            return seen[1], True
    return canonical.digest_file(file), False


def _stat(file: Path) -> queries.Stat:
    found = os.stat(file)
    return queries.Stat(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def _shown(space: Space, file: Path) -> str:
    """A file's path, from the project's folder where it lies in it: a project may be moved."""
    if _passing(space, file):
        return file.name
    root = space.root.resolve()
    return str(file.relative_to(root) if file.is_relative_to(root) else file)


def _passing(space: Space, file: Path) -> bool:
    """Whether a file came over a wire and goes with the answer."""
    return file.is_relative_to(space.home.resolve() / "tmp")


def _plain(declaration: DataSpec | None) -> DataSpec | None:
    """The declaration without the methods of its face, so that a stored one is equal to it."""
    return None if declaration is None else DataSpec(**msgspec.structs.asdict(declaration))


def _found(artifact: Artifact) -> _Found:
    return msgspec.convert(artifact.meta, _Found)


def _added(space: Space, version: Version, known: queries.Known, *, unchanged: bool) -> Added:
    found = _found(artifacts.get(space, version.digest, KIND))
    return Added(
        version=version,
        path=known.path,
        format=found.format,
        rows=found.rows,
        columns=len(found.schema),
        schema=found.schema,
        profile=found.profile,
        contract=known.contract,
        findings=known.findings,
        unchanged=unchanged,
    )

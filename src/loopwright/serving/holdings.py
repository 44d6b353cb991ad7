"""What serving holds of a subject: logged predictions in spools and sealed files, and labels.

A request is the subject's by the keyed hash that it was asked with, by a column of the subject's name, or by its id.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Artifact
from loopwright.data import facts, sql
from loopwright.data import subjects as rows_of
from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Unavailable
from loopwright.serving import predictions, publish, record, routes, seal, subjects
from loopwright.serving.columns import gather
from loopwright.serving.model import SealedLog
from loopwright.store.database import Tx
from loopwright.store.erasure import Found, Subject, count, erasures, forget_refs
from loopwright.store.space import Space

LOG, LABELS = "prediction log", "labels"
LET_GO_S = 30.0
_CHUNK = 500


class _Holdings:
    """The answer of this room."""

    room = "serving"
    tables = ("endpoints", "route_sets", "prediction_log", "labels", "hosts", "subject_keys")

    def refs(self, space: Space, subject: Subject) -> Iterable[str]:
        """The ids of the logged requests of the subject, and those of their answers."""
        found: set[str] = set()
        for name in _endpoints(space):
            for row in rows(space, subject, name):
                found.update((row["id"], row["request_id"]))
        return found

    def find(self, space: Space, subject: Subject) -> list[Found]:
        """Rows of the log and labels by endpoint."""
        found = []
        for name in _endpoints(space):
            logged = sum(1 for _ in rows(space, subject, name))
            with space.read() as tx:
                told = sum(n for _, n in _labels(tx, name, subject))
            found += [Found(LOG, name, logged)] * (logged > 0) + [Found(LABELS, name, told)] * (told > 0)
        return found

    def forget(self, space: Space, subject: Subject, erasure: str) -> None:
        """Labels first, for the log knows the ids; then every sealed file is followed by one without the rows."""
        for name in _endpoints(space):
            space.write(lambda tx, name=name: _drop_labels(tx, erasure, name, subject))  # type: ignore[misc]
        let_go(space)
        with rows_of.opened(space, subject) as con:
            for name in _endpoints(space):
                for part in predictions.segments(space, name):
                    _rewrite(space, con, part, subject, erasure)


def _endpoints(space: Space) -> list[str]:
    return [spec.name for spec in routes.endpoints(space)]


def rows(space: Space, subject: Subject, endpoint: str) -> Iterator[dict[str, Any]]:
    """The logged rows of the subject, repeats included: columns as in sealed files."""
    with rows_of.opened(space, subject) as con:
        for path in predictions.open_spools(space, endpoint):
            with suppress(FileNotFoundError):  # sealed meanwhile
                batch = gather(record.read(path))
                if batch.rows:
                    batch.create(con, "spool")
                    yield from _matching(con, "SELECT * FROM spool", subject)
        for part in predictions.segments(space, endpoint):
            yield from _matching(con, f"SELECT * FROM {_reading(space, part)}", subject)


def _matching(con: Any, query: str, subject: Subject) -> Iterator[dict[str, Any]]:
    yield from rows_of.as_dicts(con.execute(f"SELECT * FROM ({query}) WHERE {_test(con, query, subject)}"))


def _test(con: Any, query: str, subject: Subject) -> str:
    from loopwright.data import sources

    test = rows_of.condition(sources.schema(con, query), subject)
    return f"(subject IS NOT DISTINCT FROM {sql.literal(subject.hash)} OR {test or 'FALSE'})"


def _reading(space: Space, part: SealedLog) -> str:
    return f"read_parquet({sql.literal(str(space.blobs.path(part.digest)))})"


def let_go(space: Space) -> None:
    """Have the workers let go of their spools and of the answers that they remember, and seal what was logged.

    Raises:
        Unavailable: a worker did not; asked again, it goes on from here.
    """
    until, cut = monotonic_s() + LET_GO_S, machine_us()
    publish.publish(space)
    with space.read() as tx:
        wanted = erasures(tx)
    while True:
        behind = [str(report.slot) for report in publish.workers(space) if report.erasures < wanted]
        seal.seal(space)
        spools = (path for name in _endpoints(space) for path in predictions.open_spools(space, name))
        held = [path for path in spools if _older(path, cut)]
        if not behind and not held:
            return
        if monotonic_s() > until:
            raise Unavailable(
                f"the log was not let go in {LET_GO_S:g} s: worker {', '.join(behind) or held[0].name}",
                code="erase.log",
                hint="lw status, then the same lw erase again",
            )
        time.sleep(0.02)


def renew(space: Space) -> None:
    """Have look-ups read what is there now, and take away the snapshots that were read before."""
    publish.publish(space)
    facts.show(space)
    folder = space.home / "run"
    try:
        read_now = (folder / publish.ROUTE_FILE).read_text("utf-8", "replace")
    except FileNotFoundError:
        read_now = ""
    for path in (folder / "features").glob("*.*"):
        if path.suffix != ".lock" and str(path) not in read_now:
            path.unlink(missing_ok=True)


def _older(path: Path, cut_us: int) -> bool:
    return record.opened_us(path.stem) < cut_us


def _labels(tx: Tx, endpoint: str, subject: Subject) -> Iterator[tuple[list[str], int]]:
    """Ids by the piece, and how many labels they have."""
    refs = sorted(subject.refs)
    for start in range(0, len(refs), _CHUNK):
        part = refs[start : start + _CHUNK]
        marks = ",".join("?" * len(part))
        n = tx.value(f"SELECT COUNT(*) FROM labels WHERE endpoint = ? AND ref IN ({marks})", [endpoint, *part])
        yield part, int(n)


def _drop_labels(tx: Tx, erasure: str, endpoint: str, subject: Subject) -> None:
    for part, n in list(_labels(tx, endpoint, subject)):
        if n:
            marks = ",".join("?" * len(part))
            tx.execute(f"DELETE FROM labels WHERE endpoint = ? AND ref IN ({marks})", [endpoint, *part])
            count(tx, erasure, Found(LABELS, endpoint, n))


def _rewrite(space: Space, con: Any, part: SealedLog, subject: Subject, erasure: str) -> None:
    query = f"SELECT * FROM {_reading(space, part)}"
    test = _test(con, query, subject)
    gone = con.execute(f"SELECT id, request_id FROM ({query}) WHERE {test}").fetchall()
    if not gone:
        return
    target = space.home / "tmp" / f"{part.spool}.erased.parquet"
    old = artifacts.get(space, part.digest, seal.KIND)
    try:
        kept = f"{query} WHERE NOT {test} ORDER BY at_us, request_id, id"
        con.execute(f"COPY ({kept}) TO {sql.literal(str(target))} (FORMAT parquet, COMPRESSION zstd)")
        made = artifacts.put_blob(space, target, kind=seal.KIND, meta={**old.meta, "rows": part.rows - len(gone)})
    finally:
        target.unlink(missing_ok=True)
    key = subjects.key_path(space).read_bytes()
    hashes = sorted({subjects.ref_hash(key, ref) for row in gone for ref in row})
    space.write(lambda tx: _move(tx, part, made, erasure, hashes, len(gone)))


def _move(tx: Tx, part: SealedLog, made: Artifact, erasure: str, hashes: list[str], rows: int) -> None:
    tx.execute(
        "UPDATE prediction_log SET digest = ?, rows = ? WHERE spool = ? AND digest = ?",
        (made.digest, part.rows - rows, part.spool, part.digest),
    )
    forget_refs(tx, erasure, hashes)
    artifacts.retire(tx, erasure, Found(LOG, part.endpoint, rows, part.digest), made.digest)


HOLDINGS = _Holdings()

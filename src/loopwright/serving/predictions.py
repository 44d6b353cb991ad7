"""Reading the prediction log: sealed files and open spools as one table, each request once, joined with its labels."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from loopwright.access.service import local_actor, require
from loopwright.kernel.errors import Erased, NotFound
from loopwright.kernel.times import DAY
from loopwright.serving import held, labels, record, routes, subjects
from loopwright.serving.columns import FIXED, Batch, gather, quoted
from loopwright.serving.labels import Label
from loopwright.serving.model import SealedLog
from loopwright.serving.spool import SUFFIX, folder_of
from loopwright.store.database import Tx
from loopwright.store.space import Space, current

# Beyond so many ids it is cheaper to read all labels of an endpoint.
_FEW_REFS = 20_000


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as it was logged, and the labels that came for it.

    Args:
        arm: the version whose turn it was; another than `version` when it failed and the champion answered.
        score: what was answered; `scores`, `errors` and `latency_us` are by version.
        segment: digest of the sealed file that holds it; None while its spool is open.
        asked: what the caller knew, when the inputs were looked up from it; times as microseconds.
        labels: all that came for it, oldest first; `label` is the one that stands.
    """

    id: str
    request_id: str
    endpoint: str
    at_us: int
    received_us: int
    version: int | None
    arm: int
    subject: str | None
    inputs: dict[str, Any]
    score: float | None
    scores: dict[str, float]
    errors: dict[str, str]
    latency_us: dict[str, int]
    segment: str | None
    asked: dict[str, Any] = {}
    labels: list[Label] = []
    label: float | None = None
    label_known_us: int | None = None


def view(
    con: Any,
    space: Space,
    endpoint: str,
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    table: str = "predictions",
) -> list[str]:
    """Make a temporary DuckDB table of the predictions with since <= at < until, and return its columns.

    Columns: those of the prediction log (id, at_us, received_us, request_id, version, arm, subject), `score` (what was
    answered), in_<input>, ask_<column> where look-ups were asked for, and score_<v>, latency_us_<v>, error_<v> of each
    version that scored a row of the time.
    A request id that came before within 24 h of `at` is left out. The order is that of (at_us, request_id).

    Raises:
        NotFound: there is no such endpoint.
    """
    with space.read() as tx:
        routes.find(tx, endpoint)
    low = None if since_us is None else since_us - DAY
    parts = _load(con, space, endpoint, (low, until_us))
    source = " UNION ALL BY NAME ".join(f"SELECT * FROM {part}" for part in parts)
    con.execute(f"CREATE OR REPLACE TEMP VIEW loopwright_log AS {source}")
    columns = _columns([row[0] for row in con.execute("DESCRIBE loopwright_log").fetchall()])
    made = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in columns.items())
    again = f"at_us - LAG(at_us) OVER (PARTITION BY request_id ORDER BY at_us, received_us, id) <= {DAY}"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT {made} FROM ("
        f"  SELECT *, COALESCE({again}, FALSE) AS loopwright_again FROM loopwright_log WHERE {_between(low, until_us)})"
        f" WHERE NOT loopwright_again AND {_between(since_us, None)} ORDER BY at_us, request_id, id"
    )
    _note_repeats(con, again, _between(low, until_us))
    con.execute("DROP VIEW loopwright_log")
    return list(columns)


def _note_repeats(con: Any, again: str, limits: str) -> None:
    """Make a table `loopwright_again` (id, first): the rows that `view` leaves out, and the row that each repeats.

    A worker that died after it had logged an answer, and before the client had it, leaves such a pair; the client knows
    the second row by its id, and may label that.
    """
    order = "OVER (PARTITION BY request_id ORDER BY at_us, received_us, id)"
    twice = "SELECT request_id FROM loopwright_log GROUP BY request_id HAVING COUNT(*) > 1"
    con.execute(
        "CREATE OR REPLACE TEMP TABLE loopwright_again AS SELECT id, first FROM (SELECT id, repeats,"
        f" LAST_VALUE(CASE WHEN NOT repeats THEN id END IGNORE NULLS) {order} AS first FROM ("
        f"  SELECT *, COALESCE({again}, FALSE) AS repeats FROM loopwright_log"
        f"  WHERE request_id IN ({twice}) AND {limits})) WHERE repeats"
    )


def _between(low: int | None, high: int | None) -> str:
    limits = [f"at_us >= {low}"] * (low is not None) + [f"at_us < {high}"] * (high is not None)
    return " AND ".join(limits) or "TRUE"


def _columns(present: Sequence[str]) -> dict[str, str]:
    """The names of the table's columns and their expressions; `score` picks the answering version's."""
    cases = " ".join(f"WHEN {n.removeprefix('score_')} THEN {n}" for n in present if n.startswith("score_"))
    inputs = [name for name in present if name.startswith("in_")]
    columns = {name: name for name in FIXED}
    columns["score"] = f"CASE version {cases} END" if cases else "NULL::DOUBLE"
    columns.update({name: quoted(name) for name in inputs})
    columns.update({name: quoted(name) for name in present if name not in columns})
    return columns


def _load(con: Any, space: Space, endpoint: str, limits: tuple[int | None, int | None]) -> list[str]:
    """Make the parts of the log available to DuckDB and name them.

    The spools are read before the manifest: one that is sealed meanwhile is then in both, and its rows are left out.
    The manifest is read once, so that the spools left out are just those whose files are read.
    """
    low, high = limits
    batches: dict[str, list[Any]] = {}
    for path in open_spools(space, endpoint):
        try:
            batches[path.stem] = list(record.read(path, low, high))
        except FileNotFoundError:
            continue
    sealed = segments(space, endpoint)
    done = {part.spool for part in sealed}
    files = [part for part in sealed if _reaches(part, low, high)]
    rows = gather(frame for spool, frames in batches.items() if spool not in done for frame in frames)
    rows.create(con, "loopwright_open")
    parts = ["loopwright_open"]
    if files:
        places = ", ".join("'" + str(space.blobs.path(part.digest)).replace("'", "''") + "'" for part in files)
        parts.append(f"read_parquet([{places}], union_by_name = true)")
    return parts


def open_spools(space: Space, endpoint: str) -> list[Path]:
    """The spools of an endpoint that are not sealed yet."""
    return sorted(folder_of(space.home, endpoint).glob(f"*{SUFFIX}"))


def segments(space: Space, endpoint: str, since_us: int | None = None, until_us: int | None = None) -> list[SealedLog]:
    """The sealed files of an endpoint that can hold rows of a time."""
    with space.read() as tx:
        rows = tx.query("SELECT * FROM prediction_log WHERE endpoint = ? ORDER BY min_at_us, spool", (endpoint,))
    found = [SealedLog(**dict(row)) for row in rows]
    return [part for part in found if _reaches(part, since_us, until_us)]


def _reaches(part: SealedLog, since_us: int | None, until_us: int | None) -> bool:
    return (since_us is None or part.max_at_us >= since_us) and (until_us is None or part.min_at_us < until_us)


def _note_labels(
    con: Any, space: Space, endpoint: str, known_before_us: int, refs: list[str] | None, last_seq: int | None
) -> None:
    """Make the table `loopwright_known` (ref, value, known_at_us, seq) of the labels as they stood at a moment.

    `ref` is a request's id or a prediction's; `refs` asks for some only.
    """
    with space.read() as tx:
        known = labels.known(tx, endpoint, known_before_us, refs, last_seq)
    columns = list(zip(*known, strict=True)) or [(), (), (), ()]
    con.execute(
        "CREATE OR REPLACE TEMP TABLE loopwright_known AS SELECT UNNEST(?::VARCHAR[]) AS ref,"
        " UNNEST(?::DOUBLE[]) AS value,"
        " UNNEST(?::BIGINT[]) AS known_at_us, UNNEST(?::BIGINT[]) AS seq",
        [list(column) for column in columns],
    )


def joined(
    con: Any,
    space: Space,
    endpoint: str,
    known_before_us: int,
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    last_seq: int | None = None,
) -> list[str]:
    """Make a temporary table `judged`: the columns of `view`, `label` and `label_known_us` (null without a label).

    A label that names the prediction's id, that of a repeat of it, or the request's are one line: the latest known_at
    stands, and of equal ones the last to arrive; with `last_seq` none that arrived behind that one counts. Returns the
    columns; the order is that of (at_us, request_id).
    """
    columns = view(con, space, endpoint, since_us=since_us, until_us=until_us, table="loopwright_asked")
    ids = con.execute("SELECT id, request_id FROM loopwright_asked").fetchall()
    repeats = con.execute("SELECT id, first FROM loopwright_again").fetchall()
    refs = None if len(ids) > _FEW_REFS else sorted({ref for pair in [*ids, *repeats] for ref in pair})
    _note_labels(con, space, endpoint, known_before_us, refs, last_seq)
    if repeats:
        con.execute(
            "CREATE OR REPLACE TEMP TABLE loopwright_known AS SELECT COALESCE(g.first, k.ref) AS ref, value,"
            " known_at_us, seq FROM loopwright_known k LEFT JOIN loopwright_again g ON g.id = k.ref"
            " QUALIFY ROW_NUMBER() OVER (PARTITION BY COALESCE(g.first, k.ref) ORDER BY known_at_us DESC, seq DESC) = 1"
        )
    later = "b.ref IS NOT NULL AND (a.ref IS NULL OR (b.known_at_us, b.seq) > (a.known_at_us, a.seq))"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE judged AS SELECT p.*, CASE WHEN {later} THEN b.value ELSE a.value END AS label,"
        f" CASE WHEN {later} THEN b.known_at_us ELSE a.known_at_us END AS label_known_us"
        " FROM loopwright_asked p LEFT JOIN loopwright_known a ON a.ref = p.request_id"
        " LEFT JOIN loopwright_known b ON b.ref = p.id AND p.id <> p.request_id"
        " ORDER BY p.at_us, p.request_id, p.id"
    )
    con.execute("DROP TABLE loopwright_asked")
    con.execute("DROP TABLE loopwright_known")
    return [*columns, "label", "label_known_us"]


def connect() -> Any:
    """A DuckDB connection in memory with one thread, so that equal reads give equal rows."""
    import duckdb

    return duckdb.connect(":memory:", config={"threads": 1})


def find(space: Space, reference: str, endpoint: str | None = None) -> Prediction:
    """The prediction of an id: its own, or that of its request (the first, where several came).

    Raises:
        NotFound: no endpoint has logged it.
        Erased: it was erased.
    """
    specs = routes.endpoints(space) if endpoint is None else [routes.endpoint(space, endpoint)]
    # A request's own id may look like a prediction's: it may be that of another endpoint's answer.
    for spool in dict.fromkeys((record.spool_of(reference), None)):
        for name in (spec.name for spec in specs):
            # Open spools first: one that is sealed meanwhile is then found sealed.
            looked = (_find_open(space, name, reference, spool), _find_sealed(space, name, reference, spool))
            found = [row for row in looked if row is not None]
            if found:
                return _with_labels(space, min(found, key=lambda row: (row.at_us, row.received_us)))
    key = subjects.key_path(space)
    with space.read() as tx:
        if subjects.erased_refs(tx, (reference,), key):
            raise Erased(f"prediction {reference[:120]!r} was erased", code="erased", field="id")
    message = f"no prediction {reference[:120]!r} in the log"
    raise NotFound(message, code="prediction.missing", field="id", hint="lw predictions ENDPOINT")


def _with_labels(space: Space, row: Prediction) -> Prediction:
    with space.read() as tx:
        known = labels.of(tx, row.endpoint, sorted({row.id, row.request_id}))
    if not known:
        return row
    last = max(known, key=lambda label: (label.known_at_us, label.seq))
    return msgspec.structs.replace(row, labels=known, label=last.value, label_known_us=last.known_at_us)


def _find_open(space: Space, endpoint: str, reference: str, spool: str | None) -> Prediction | None:
    best: tuple[tuple[int, int, str], Batch] | None = None
    for path in open_spools(space, endpoint):
        if spool is not None and path.stem != spool:
            continue
        try:
            batch = gather(record.read(path))
        except FileNotFoundError:
            continue
        for row, columns in zip(batch.rows, batch.order, strict=True):
            if reference in (row.id, row.request_id):
                order = (row.at_us, row.received_us, row.id)
                if best is None or order < best[0]:
                    best = (order, Batch(rows=[row], inputs={}, order=[columns], versions=[]))
    if best is None:
        return None
    row, columns = best[1].rows[0], best[1].order[0]
    return Prediction(
        **{name: getattr(row, name) for name in FIXED},
        endpoint=endpoint,
        **_inputs(dict(zip(columns.labels, row.values, strict=True))),
        score=None if row.version is None else row.scores.get(row.version),
        scores=_texts(row.scores),
        errors=_texts(row.errors),
        latency_us=_texts(row.latency_us),
        segment=None,
    )


def _find_sealed(space: Space, endpoint: str, reference: str, spool: str | None) -> Prediction | None:
    parts = [part for part in segments(space, endpoint) if spool is None or part.spool == spool]
    if not parts:
        return None
    with connect() as con:
        places = ", ".join("'" + str(space.blobs.path(part.digest)).replace("'", "''") + "'" for part in parts)
        column = "request_id" if spool is None else "id"
        result = con.execute(
            f"SELECT * FROM read_parquet([{places}], union_by_name = true, filename = 'loopwright_file')"
            f" WHERE {column} = ? ORDER BY at_us, received_us, id LIMIT 1",
            [reference],
        )
        names = [part[0] for part in result.description]
        found = result.fetchone()
    if found is None:
        return None
    row = dict(zip(names, found, strict=True))
    return Prediction(
        **{name: row[name] for name in FIXED},
        endpoint=endpoint,
        **_inputs(row),
        score=row.get(f"score_{row['version']}"),
        scores=_by_version(row, "score_"),
        errors=_by_version(row, "error_"),
        latency_us=_by_version(row, "latency_us_"),
        segment=Path(row["loopwright_file"]).name,
    )


def _inputs(row: dict[str, Any]) -> dict[str, Any]:
    asked = {name[4:]: value for name, value in row.items() if name.startswith("ask_") and value is not None}
    return {"inputs": {name[3:]: value for name, value in row.items() if name.startswith("in_")}, "asked": asked}


def _texts(by_version: dict[int, Any]) -> dict[str, Any]:
    return {str(version): value for version, value in sorted(by_version.items())}


def _by_version(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix) and value is not None
    }


def predictions(endpoint: str) -> Any:
    """All predictions of an endpoint with the labels known by now: a pandas frame, or columns as lists without it."""
    space = current()
    require(space, local_actor(), "predictions.export", endpoint)
    with connect() as con:
        joined(con, space, endpoint, space.clock.now_us() + 1)
        result = con.execute("SELECT * FROM judged")
        try:
            return result.df()
        except ImportError:
            names = [part[0] for part in result.description]
            return dict(zip(names, (list(c) for c in zip(*result.fetchall(), strict=True)), strict=False))


class LogReader:
    """The port through which data reads logged requests: by the name of the features that endpoints declare."""

    def __call__(self, space: Space, con: Any, features: str, until_us: int) -> int | None:
        """Make a view `logged` of the requests before a moment whose label was known before it.

        Columns: id, at_us, the features' columns, label, label_known_us. Returns the time of the first request that
        was logged under these features; None, and no view, when there is none before the moment. A request that names a
        time before its endpoint had routes was not served then, and counts for nothing; neither does one that was asked
        while a feed was broken.
        """
        parts, firsts = [], []
        for number, endpoint in enumerate(self._endpoints(space, features)):
            since_us = routes.first_served_us(space, endpoint)
            limits = {"since_us": since_us, "until_us": until_us, "last_seq": self._last_seq(endpoint)}
            columns = joined(con, space, endpoint, until_us, **limits)
            first = con.execute("SELECT MIN(at_us) FROM judged").fetchone()[0]
            if first is None:
                continue
            firsts.append(int(first))
            inputs = [f"{quoted(name)} AS {quoted(name[3:])}" for name in columns if name.startswith("in_")]
            wanted = ", ".join(["request_id AS id", "at_us", *inputs, "label", "label_known_us"])
            part = f"logged_{number}"
            left_out = [f"NOT ({_between(*span)})" for span in self._held(space, endpoint)]
            where = " AND ".join(["label IS NOT NULL", *left_out])
            con.execute(f"CREATE OR REPLACE TEMP TABLE {part} AS SELECT {wanted} FROM judged WHERE {where}")
            parts.append(f"SELECT * FROM {part}")
        if not firsts:
            return None
        con.execute(f"CREATE OR REPLACE TEMP VIEW logged AS {' UNION ALL BY NAME '.join(parts)}")
        return min(firsts)

    def state(self, space: Space, features: str, until_us: int) -> list[list[Any]]:
        """What decides the rows of `logged` at a moment, for cache keys: counts of rows and labels, the last label."""
        out: list[list[Any]] = []
        for endpoint in self._endpoints(space, features):
            rows = count(space, endpoint, until_us)
            with space.read() as tx:
                out.append([endpoint, rows, *labels.state(tx, endpoint, until_us, self._last_seq(endpoint))])
            out[-1] += self._held(space, endpoint)
        return out

    def _last_seq(self, endpoint: str) -> int | None:
        """The last label that counts as arrived; None = all that are here."""
        return None

    def _held(self, space: Space, endpoint: str) -> held.Spans:
        with space.read() as tx:
            return held.spans(tx, endpoint)

    def _endpoints(self, space: Space, features: str) -> Iterable[str]:
        return [spec.name for spec in routes.endpoints(space) if spec.features == features]


def count(space: Space, endpoint: str, until_us: int) -> int:
    """How many rows of an endpoint lie before a moment, repeats included.

    Files that lie before it whole are counted by what is known of them, so that a cached step opens no DuckDB.
    """
    spools: dict[str, int] = {}
    for path in open_spools(space, endpoint):
        with contextlib.suppress(FileNotFoundError):
            spools[path.stem] = record.count(path, until_us)
    sealed = segments(space, endpoint, None, until_us)
    found = sum(part.rows for part in sealed if part.max_at_us < until_us)
    found += sum(rows for spool, rows in spools.items() if spool not in {part.spool for part in sealed})
    cut = [space.blobs.path(part.digest) for part in sealed if part.max_at_us >= until_us]
    if cut:
        with connect() as con:
            files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in cut)
            row = con.execute(f"SELECT COUNT(*) FROM read_parquet([{files}]) WHERE at_us < ?", [until_us]).fetchone()
        found += int(row[0])
    return found


def manifest(tx: Tx, endpoint: str) -> tuple[int, int]:
    """How many files of an endpoint are sealed, and how many rows they hold."""
    row = tx.one(
        "SELECT COUNT(*) AS files, COALESCE(SUM(rows), 0) AS n FROM prediction_log WHERE endpoint = ?", (endpoint,)
    )
    return (0, 0) if row is None else (row["files"], row["n"])


LOG_READER = LogReader()

"""Feeds: the sources, requests and labels of an endpoint, held against what they were while they were sound.

A broken feed holds training, gate and promotion, and what was asked while it was broken is never learnt from.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from loopwright.artifacts import names
from loopwright.data import facts
from loopwright.data import queries as data
from loopwright.data.model import DataSpec, FeaturesSpec, Window
from loopwright.kernel import canonical
from loopwright.kernel.errors import Conflict, NotFound
from loopwright.kernel.op import Progress
from loopwright.kernel.times import DAY, HOUR, format_time
from loopwright.monitors import contrary
from loopwright.monitors import feed_queries as queries
from loopwright.monitors import feed_rules as rules
from loopwright.monitors.feed_model import FEED_BROKE, FEED_LOST, FEED_MENDED, LABELS, REQUESTS, Episode
from loopwright.monitors.feed_rules import Fault, Pass, Row, State
from loopwright.notes import service as notes
from loopwright.serving import labels, routes
from loopwright.serving.columns import quoted
from loopwright.serving.model import EndpointSpec
from loopwright.serving.routes import subject_of
from loopwright.store import ledger
from loopwright.store.database import Tx, as_text
from loopwright.store.space import Space

FEEDS = "monitors.feeds"
ACTOR = "loop"
EVERY_US = 4 * HOUR
LOG_EVERY_US = 12 * HOUR  # the log is read less often than facts and labels
HISTORY_ROWS = 300_000
CONTRARY = "contrary"


class _Feed(NamedTuple):
    """A feed to be watched: its declaration, and the columns that say which group and thing a row is about."""

    name: str
    spec: DataSpec
    group: tuple[str, ...]
    key: tuple[str, ...]
    columns: tuple[str, ...]
    within_us: int | None = None


def needs_job(space: Space, endpoint: str, close_us: int, at_us: int) -> bool:
    """Whether a look needs the log or the history: at the closing of a block, half a day later, and the first time."""
    with space.read() as tx:
        return queries.looked_us(tx, endpoint) is None or (at_us - close_us) % LOG_EVERY_US == 0


def look(space: Space, endpoint: str, at_us: int, *, log: bool = False) -> None:
    """Look at the feeds of an endpoint as they were known before a moment; looked at twice, it counts once.

    Args:
        log: whether the requests are read too, and the history when this is the first look.
    """
    with space.read() as tx:
        looked_us, spec = queries.looked_us(tx, endpoint), routes.find(tx, endpoint)
        states, watched = queries.states(tx, endpoint), _feeds(tx, spec)
    if looked_us is not None and looked_us >= at_us:
        return
    if not states and log:
        states = _history(space, spec, watched, at_us)
    found: dict[str, list[Fault]] = {}
    judged: list[Any] = []
    if log and REQUESTS in states:
        found[REQUESTS], judged = _requests(space, endpoint, states[REQUESTS], at_us)
    with space.read() as tx:
        for feed in watched:
            if feed.name in states and feed.name != REQUESTS:
                state = states[feed.name]
                done = Pass(feed.name, state, live=True)
                if feed.name == LABELS and judged and spec.task == "binary":
                    _contrary(done, judged, at_us)
                found[feed.name] = done.go(_told(tx, endpoint, feed, state.until_us, at_us), at_us)
    space.write(lambda tx: _write(tx, endpoint, at_us, found, states))


def _feeds(tx: Tx, spec: EndpointSpec) -> list[_Feed]:
    """The feeds of an endpoint: what its features join by knowledge time, its requests, its labels."""
    features = data.find_features(tx, spec.features or "")
    if features is None:
        return []
    found: dict[str, _Feed] = {}
    for join in features.joins:
        source, theirs = join.source, tuple(theirs for _, theirs in join.on)
        if source.known_column is None:
            continue
        used = [o.column for o in join.outputs] if isinstance(join, Window) else [c for _, c in join.columns]
        known = found.get(source.name)
        group = theirs if known is None or len(theirs) < len(known.group) else known.group
        columns = dict.fromkeys([*(known.columns if known else ()), *theirs, *used])
        within = getattr(join, "within_us", None) if known is None else known.within_us
        key = (*source.key, *([] if source.time is None else [source.time]))
        found[source.name] = _Feed(source.name, source, group, key, tuple(columns), within)
    base = _Feed(REQUESTS, features.base, (), (), tuple(_base_columns(features)))
    told = None if spec.labels is None else facts.declaration(tx, spec.labels)
    out = [*(found[name] for name in sorted(found)), base]
    if told is not None and told.known_column is not None and spec.target is not None:
        out.append(_Feed(LABELS, told, (), (), (spec.target,)))
    return out


def _base_columns(features: FeaturesSpec) -> list[str]:
    from loopwright.data import expressions

    used = [*features.columns]
    for out, text in features.derive:
        used += expressions.columns_of(text, f"derive.{out}")
    used += [ours for join in features.joins for ours, _ in join.on]
    return list(dict.fromkeys(used))


def _told(tx: Tx, endpoint: str, feed: _Feed, since_us: int, until_us: int) -> Iterable[Row]:
    if feed.name == LABELS:
        column = feed.columns[0]
        known = labels.between(tx, endpoint, since_us, until_us)
        return [Row(known_us, "", "", {column: value}) for known_us, value in known]
    rows = facts.scan(tx, feed.name, since_us=since_us, until_us=until_us)
    return [_row(feed, fact.known_us, fact.values) for fact in rows]


def _row(feed: _Feed, known_us: int, values: Mapping[str, Any]) -> Row:
    group, key = ("|".join(str(values.get(column)) for column in columns) for columns in (feed.group, feed.key))
    return Row(known_us, group, key, {column: values.get(column) for column in feed.columns})


def _history(space: Space, spec: EndpointSpec, watched: Sequence[_Feed], at_us: int) -> dict[str, State]:
    """What the feeds were like before the endpoint served, from the newest version of each source."""
    from loopwright.data import sources

    first_us = min(routes.first_served_us(space, spec.name) or at_us, at_us)
    found = {}
    for feed in watched:
        version = names.newest(space, feed.spec.name)
        if version is None:
            continue
        with contextlib.closing(sources.connect(space.home / "tmp")) as con:
            found[feed.name] = _calibrated(con, space, feed, (version, first_us))
    return found


def _calibrated(con: Any, space: Space, feed: _Feed, until: tuple[Any, int]) -> State:
    from loopwright.data import service, sources, sql

    version, first_us = until
    schema = {column.name: column for column in service.schema(space, version)}
    with space.read() as tx:
        kept = data.find_version(tx, version.name, version.number)
    limits = {} if kept is None else {rule.column: (rule.low, rule.high) for rule in kept.contract.columns}
    there = [name for name in feed.columns if name in schema]
    numbers = {name: limits.get(name, (None, None)) for name in there if schema[name].kind in ("number", "bool")}
    texts = [name for name in there if schema[name].kind == "text" and feed.name != LABELS]
    target = feed.columns[0] if feed.name == LABELS else ""
    if feed.name == LABELS:
        numbers = {target: (None, None)}
    column = feed.spec.known_column
    state = rules.start(
        numbers, texts, fresh_us=feed.within_us, target=target, counted=feed.name not in (LABELS, REQUESTS)
    )
    state.until_us = first_us
    if column is None or column not in schema or (target and schema[target].kind not in ("number", "bool")):
        return state
    needs = list(dict.fromkeys([column, *(name for name in (*feed.group, *feed.key, *there) if name in schema)]))
    sources.load(con, "t", service.reading(space, version), needs)
    known = sql.moment(column, schema[column].type, column)
    shown = ", ".join(_shown(schema[name]) for name in needs)
    cursor = con.execute(
        f'SELECT * FROM (SELECT {known} AS "lw.known", rowid AS "lw.row", {shown} FROM t)'
        f' WHERE "lw.known" < {first_us}'
        f' QUALIFY row_number() OVER (ORDER BY "lw.known" DESC, "lw.row" DESC) <= {HISTORY_ROWS}'
        ' ORDER BY "lw.known", "lw.row"'
    )
    Pass(feed.name, state, live=False).go(_fetched(cursor, feed, needs), first_us)
    return state


def _shown(column: Any) -> str:
    from loopwright.data import sql

    name = sql.ident(column.name)
    if column.kind in ("number", "bool"):
        return f"{sql.number(name, column.type)} AS {name}"
    return f"{sql.moment(column.name, column.type, column.name)} AS {name}" if column.kind == "time" else name


def _fetched(cursor: Any, feed: _Feed, needs: Sequence[str]) -> Iterable[Row]:
    while batch := cursor.fetchmany(10_000):
        for known_us, _, *values in batch:
            yield _row(feed, known_us, dict(zip(needs, values, strict=True)))


def _requests(space: Space, endpoint: str, state: State, at_us: int) -> tuple[list[Fault], list[Any]]:
    """Hold the requests since the last such look against what they were; also (label, score, at) of what came since."""
    from loopwright.monitors import rows
    from loopwright.serving import predictions

    since_us = state.until_us
    span = rows.Asked(endpoint=endpoint, since_us=since_us - DAY, until_us=at_us, known_before_us=at_us)
    with predictions.connect() as con:
        columns = rows.load(con, space, span)
        names = [*state.numbers, *state.texts]
        there = {name: next((p + name for p in ("ask_", "in_") if p + name in columns), None) for name in names}
        shown = ", ".join(["at_us", *(quoted(column) for column in there.values() if column is not None)])
        found = con.execute(
            f"SELECT {shown} FROM {rows.TABLE} WHERE at_us >= {since_us} ORDER BY at_us, request_id, id"
        )
        have = [name for name, column in there.items() if column is not None]
        asked = [Row(at, "", "", dict(zip(have, values, strict=True))) for at, *values in found.fetchall()]
        if asked:  # a caller that sends no such column says nothing of it
            state.numbers = {name: number for name, number in state.numbers.items() if name in have}
            state.texts = {name: text for name, text in state.texts.items() if name in have}
        judged = con.execute(
            f"SELECT label, score, at_us FROM {rows.TABLE} WHERE label_known_us >= {since_us} AND label IS NOT NULL"
            " AND isfinite(score) ORDER BY at_us, request_id, id"
        ).fetchall()
    return Pass(REQUESTS, state, live=True).go(asked, at_us), judged


def _contrary(done: Pass, judged: Sequence[tuple[float, float, int]], at_us: int) -> None:
    import numpy as np

    from loopwright.checks.scores import auc

    label, score = np.array([row[0] for row in judged]), np.array([row[1] for row in judged])
    ranked = auc(label, score)
    found = None if ranked is None else contrary.contrary(label.tolist(), float(score.mean()), float(ranked))
    if found is None:
        return
    if found.turned:
        reason = (
            f"the labels of {len(judged)} requests are turned round: AUC {found.auc:.3f}, at most {found.high:.3f},"
            f" and {found.rate:.1%} came true where {found.mean:.1%} were predicted"
        )
        figures = {name: round(getattr(found, name), 6) for name in ("auc", "high", "rate", "mean")}
        first_us = min(row[2] for row in judged)
        done.bad(Fault(column="", what=CONTRARY, since_us=first_us, reason=reason, figures=figures))
    elif found.upright and len(judged) >= contrary.CONTRARY_ROWS:
        done.good("", CONTRARY, at_us)  # labels of before that may be mixed still


def _write(tx: Tx, endpoint: str, at_us: int, found: Mapping[str, list[Fault]], states: Mapping[str, State]) -> None:
    looked_us = queries.looked_us(tx, endpoint)
    if looked_us is not None and looked_us >= at_us:
        return
    queries.put_look(tx, endpoint, at_us)
    for source, state in states.items():
        queries.put_state(tx, endpoint, source, state)
    known = {(e.source, e.column, e.what): e for e in queries.episodes(tx, endpoint, still_open=True)}
    for source, faults in sorted(found.items()):
        for fault in faults:
            episode = known.get((source, fault.column, fault.what)) or _open(tx, endpoint, source, fault, at_us)
            seen = msgspec.structs.replace(
                episode, since_us=min(episode.since_us, fault.since_us), until_us=fault.until_us, holds=fault.holds,
                reason=fault.reason, detail=fault.figures,
            )  # fmt: skip
            queries.put_episode(tx, seen)
            if states[source].open.get(fault.key) is None:
                close(tx, seen, ACTOR, at_us)


def _open(tx: Tx, endpoint: str, source: str, fault: Fault, at_us: int) -> Episode:
    data = {
        "endpoint": endpoint,
        "source": source,
        "column": fault.column,
        "what": fault.what,
        "since": format_time(fault.since_us),
        "until": None if fault.until_us is None else format_time(fault.until_us),
        "holds": fault.holds,
        "reason": fault.reason,
        "figures": dict(sorted(fault.figures.items())),
    }
    seq = ledger.append(tx, ACTOR, FEED_BROKE, subject_of(endpoint), data, at_us=at_us)
    made = Episode(
        id=f"feed_{canonical.digest([endpoint, source, fault.column, fault.what, at_us])[:26]}",
        endpoint=endpoint,
        source=source,
        column=fault.column,
        what=fault.what,
        opened_us=at_us,
        since_us=fault.since_us,
        holds=fault.holds,
        reason=fault.reason,
        seq=seq,
    )
    tx.execute(
        "INSERT INTO alarms(id, endpoint, kind, opened_us, reason, explanation, clean, seq)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        (
            f"alarm_{made.id}",
            endpoint,
            made.alarm,
            at_us,
            fault.reason,
            as_text(data["figures"]),
            seq,
        ),
    )
    return made


def close(tx: Tx, episode: Episode, actor: str, at_us: int, note: str = "") -> Episode:
    """End an episode, its alarm and its hold; `note` is the digest of the reason of a person who did it."""
    until_us = at_us if episode.until_us is None else episode.until_us
    ended = msgspec.structs.replace(episode, closed_us=at_us, until_us=until_us, holds=False)
    queries.put_episode(tx, ended)
    tx.execute("UPDATE alarms SET closed_us = ? WHERE id = ?", (at_us, f"alarm_{episode.id}"))
    where = f"{episode.column} of {episode.source}" if episode.column else episode.source
    data = {
        "endpoint": episode.endpoint,
        "source": episode.source,
        "column": episode.column,
        "what": episode.what,
        "since": format_time(episode.since_us),
        "until": format_time(until_us),
        "reason": f"{where} is sound again ({episode.what}) from {format_time(until_us)} on",
        "figures": {},
        **({"note": note} if note else {}),
    }
    ledger.append(tx, actor, FEED_MENDED, subject_of(episode.endpoint), data, cause=episode.seq, at_us=at_us)
    return ended


def episodes(space: Space, endpoint: str) -> list[Episode]:
    """The episodes of an endpoint's feeds, oldest first.

    Raises:
        NotFound: there is no such endpoint.
    """
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return queries.episodes(tx, endpoint)


def accept(space: Space, actor: str, endpoint: str, episode: str, reason: str) -> Episode:
    """Take what a feed does now as sound: end an episode and its hold by hand; what it spoilt stays left out.

    Raises:
        NotFound: no such endpoint or episode.
        Conflict: it has ended.
    """

    def act(tx: Tx) -> Episode:
        routes.find(tx, endpoint)
        found = next((e for e in queries.episodes(tx, endpoint) if e.id == episode), None)
        if found is None:
            hint = f"lw feeds {endpoint}"
            raise NotFound(f"{endpoint} has no episode {episode!r}", code="feed.missing", field="episode", hint=hint)
        if found.closed_us is not None:
            raise Conflict(f"{episode} has ended", code="feed.ended", field="episode")
        state = queries.states(tx, endpoint).get(found.source)
        if state is not None and state.open.pop(f"{found.column}:{found.what}", None) is not None:
            queries.put_state(tx, endpoint, found.source, state)
        return close(tx, found, actor, tx.now_us(), notes.put(tx, actor, reason))

    return space.write(act)


def give_up(tx: Tx, endpoint: str, at_us: int, reason: str) -> None:
    """Leave a look that failed to the next one, which sees all that this one did not."""
    looked_us = queries.looked_us(tx, endpoint)
    if looked_us is None or looked_us < at_us:
        queries.put_look(tx, endpoint, at_us)
        data = {"endpoint": endpoint, "reason": reason}
        ledger.append(tx, ACTOR, FEED_LOST, subject_of(endpoint), data, at_us=at_us)


def held_spans(tx: Tx, endpoint: str) -> list[tuple[int, int | None]]:
    """The times [since, until) whose requests could see a broken feed, in order; None = it goes on."""
    spoilt = [e for e in queries.episodes(tx, endpoint) if e.what != "volume" or e.source not in (REQUESTS, LABELS)]
    return sorted(((e.since_us, e.until_us) for e in spoilt), key=lambda span: (span[0], span[1] or 0))


def _job(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    look(space, args["endpoint"], args["at_us"], log=True)
    return {}


JOBS = {FEEDS: _job}

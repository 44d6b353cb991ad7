"""The product's own loop driven in this process over a recorded stream: every decision is made by the package.

Only HTTP, workers and spools are left out: the prediction log is held in arrays and handed over at the one function
through which monitors, gates and trainings read it; a training is done once and kept by what it may know.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from loopwright import house
from loopwright.artifacts import names
from loopwright.kernel import canonical
from loopwright.kernel.op import silent
from loopwright.kernel.times import format_time, parse_time
from loopwright.loop import jobs as loop_jobs
from loopwright.loop import moments
from loopwright.loop import service as loop
from loopwright.models import service as models
from loopwright.models.value import Model
from loopwright.monitors import drift
from loopwright.monitors.model import DriftReport
from loopwright.pipelines import queue
from loopwright.project import entry
from loopwright.project.declare import ENDPOINTS
from loopwright.releases import service as releases
from loopwright.releases import work
from loopwright.serving import labels, predictions, routes
from loopwright.serving.columns import quoted
from loopwright.serving.scoring import arm_of
from loopwright.store import clock as clocks
from loopwright.store import ledger
from loopwright.store.space import Space, bind

Array = np.ndarray[Any, Any]
CHUNK = 60_000  # rows that a version scores at once
LATENCY_US = 50


@dataclass(frozen=True)
class Stream:
    """A project with all its files, and from when to when it is lived through.

    Args:
        project: the folder with loopwright.toml, the project file and its data.
        policy: settings of `lw.warm` in place of the project's.
        truth: the file of labels (id, label, known_at).
    """

    name: str
    project: Path
    endpoint: str
    start: str
    until: str
    truth: str = "data/labels.parquet"
    policy: dict[str, Any] = field(default_factory=dict)


@dataclass
class Rows:
    """Every request of a stream in the order (at, id), with its features, its label and when that was known."""

    ids: Array
    at_us: Array
    inputs: dict[str, Array]
    kinds: dict[str, str]
    label: Array
    known_us: Array
    scores: dict[int, Array] = field(default_factory=dict)
    routed: dict[int, Array] = field(default_factory=dict)  # where a version was in the routes
    version: Array = field(default_factory=lambda: np.empty(0))

    def between(self, low: int | None, high: int | None) -> slice:
        """The rows asked in [low, high)."""
        first = 0 if low is None else int(np.searchsorted(self.at_us, low, "left"))
        last = len(self.at_us) if high is None else int(np.searchsorted(self.at_us, high, "left"))
        return slice(first, last)


class Drive:
    """One life of a stream under the package's policy."""

    def __init__(self, stream: Stream, work_dir: Path, cache: Path) -> None:
        texts = canonical.digest(_texts(stream.project))[:8]
        self.stream, self.cache = stream, cache / f"{stream.name}-{texts}"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.root = work_dir / "project"
        self.trained: dict[int, int] = {}  # moment -> version of every challenger
        self._models: dict[int, tuple[Model, str]] = {}
        self._prepare()

    # --- the space ---

    def _prepare(self) -> None:
        """A Space in which the first version serves; made once per stream and span, then copied."""
        stream = self.stream
        key = canonical.digest([stream.start, stream.until, _texts(stream.project)])[:16]
        ready = self.cache / f"deployed-{key}"
        if not ready.exists():
            fresh = ready.with_suffix(f".{os.getpid()}")
            _copy(stream.project, fresh)
            toml = (fresh / "loopwright.toml").read_text()
            lines = [line for line in toml.splitlines() if not line.startswith("start")]
            (fresh / "loopwright.toml").write_text("\n".join([*lines, f'start = "{stream.start}"', ""]))
            self.space = house.init(fresh, settings=_settings(fresh))
            with self._bound(fresh):
                import loopwright as lw

                lw.run(ENDPOINTS[stream.endpoint].model)
                releases.deploy(self.space, "local:me", stream.endpoint, submit=self.submit)
                self._write_rows(fresh)
            self.space.close()
            fresh.rename(ready)
        _copy(ready, self.root)
        self.space = house.open(self.root)
        self.rows = _read_rows(self.root, stream)
        self.rows.version = np.zeros(len(self.rows.ids), dtype=np.int64)

    def _write_rows(self, folder: Path) -> None:
        from loopwright.data import training

        spec = ENDPOINTS[self.stream.endpoint].features
        training.write_rows(
            self.space, getattr(spec, "spec", spec), since=self.stream.start, until=self.stream.until,
            out=folder / "rows.parquet",
        )  # fmt: skip

    @contextmanager
    def _bound(self, root: Path) -> Iterator[None]:
        bind(self.space)
        ENDPOINTS.clear()
        work.set_step_finder(lambda space, endpoint: ENDPOINTS[endpoint].model)
        here = os.getcwd()
        os.chdir(root)
        try:
            entry.load(root / _settings(root).entry)
            yield
        finally:
            os.chdir(here)
            bind(None)

    # --- jobs ---

    def submit(self, space: Space, action_id: str) -> None:
        """Do a queued job here."""
        while (job := queue.get(space, action_id)) is not None and job.state in ("queued", "running"):
            mine = queue.claim(space)
            assert mine is not None
            handler = self._train if mine.kind == loop_jobs.TRAIN else house.jobs()[mine.kind]
            try:
                result = handler(space, mine.args, silent)
            except Exception as error:  # noqa: BLE001 - the boundary around a job, as the job server has it
                queue.finish(space, mine, error=repr(error))
                continue
            queue.finish(space, mine, result=result)

    def _train(self, space: Space, args: dict[str, Any], progress: Any) -> dict[str, Any]:
        """The package's training, or what it gave before for the same moment of the same stream."""
        ask = msgspec.convert(args, loop_jobs.TrainAsk)
        kept = self.cache / "models" / f"{ask.until_us}.pkl"
        if kept.exists():
            package = models.store(space, _unpickle(kept))
            name = routes.endpoint(space, ask.endpoint).model
            made = {"version": space.write(lambda tx: models.register(tx, "loop", name, package)).number}
        else:
            made = loop_jobs.train(space, args, progress)
            found = self.model(int(made["version"]))[0]
            kept.parent.mkdir(exist_ok=True)
            fresh = kept.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(pickle.dumps((found.name, found.files)))
            fresh.replace(kept)
        self.trained[ask.until_us] = int(made["version"])
        return made

    # --- traffic ---

    def model(self, version: int) -> tuple[Model, str]:
        """A version's package, and the digest that its scores are kept by."""
        if version not in self._models:
            spec = routes.endpoint(self.space, self.stream.endpoint)
            digest = names.get(self.space, spec.model, version).digest
            found = models.load(self.space, digest)
            key = canonical.digest([{k: canonical.digest([v.hex()]) for k, v in sorted(found.files.items())}])
            self._models[version] = (found, key[:24])
        return self._models[version]

    def score(self, version: int, span: slice) -> Array:
        """The scores that a version gives to some rows; kept on disk in chunks."""
        model, key = self.model(version)
        column = self.rows.scores.setdefault(version, np.full(len(self.rows.ids), np.nan))
        folder = self.cache / "scores"
        for first in range(span.start - span.start % CHUNK, span.stop, CHUNK):
            last = min(first + CHUNK, len(column))
            if np.isnan(column[first:last]).any():
                digest = canonical.digest([key, str(self.rows.ids[first]), str(self.rows.ids[last - 1]), last - first])
                path = folder / f"{digest[:32]}.npy"
                if not path.exists():
                    folder.mkdir(exist_ok=True)
                    wanted = [f.name for f in model.card.signature.inputs]
                    columns = [self.rows.inputs[name][first:last].tolist() for name in wanted]
                    said = model.load().predict_values(zip(*columns, strict=True))
                    fresh = path.with_suffix(f".{os.getpid()}.npy")
                    np.save(fresh, np.array(said, dtype=np.float64))
                    fresh.replace(path)
                column[first:last] = np.load(path)
        return column[span]

    def serve(self, since_us: int, until_us: int) -> None:
        """Answer the requests of [since, until), and send the labels that became known by then."""
        span = self.rows.between(since_us, until_us)
        name = self.stream.endpoint
        current = routes.current(self.space, name)
        live = [route for route in current if route.role == "live"]
        if span.stop > span.start:
            for route in current:
                self.score(route.version, span)
                self.rows.routed.setdefault(route.version, np.zeros(len(self.rows.ids), dtype=bool))[span] = True
            chosen = np.full(span.stop - span.start, live[0].version)
            for route in live[1:]:
                ids = self.rows.ids[span]
                arms = np.array([arm_of(name, route.version, str(ref)) < route.weight for ref in ids])
                chosen[arms] = route.version
            self.rows.version[span] = chosen
        known = (self.rows.known_us > since_us) & (self.rows.known_us <= until_us)
        known &= self.rows.at_us < until_us
        if known.any():
            lines = [
                json.dumps({"id": str(i), "label": float(y), "known_at": format_time(int(k))})
                for i, y, k in zip(self.rows.ids[known], self.rows.label[known], self.rows.known_us[known], strict=True)
            ]
            for first in range(0, len(lines), 5_000):
                labels.add(self.space, "local:me", name, "\n".join(lines[first : first + 5_000]).encode())

    def run(self) -> None:
        """Live from the start to the end."""
        end = parse_time(self.stream.until)
        with self._bound(self.root), self._log():
            if self.stream.policy:
                self._set_policy()
            list(loop.settle(self.space, self.submit))
            while (now := self.space.clock.now_us()) < end:
                following = loop.next_moment(self.space)
                stop = end if following is None else min(end, following)
                self.serve(now, stop)
                self.space.write(lambda tx, stop=stop: clocks.advance(tx, "replay", stop))
                list(loop.settle(self.space, self.submit))

    def _set_policy(self) -> None:
        from loopwright.releases.declare import warm

        spec = routes.endpoint(self.space, self.stream.endpoint)
        policy = msgspec.to_builtins(warm(**self.stream.policy))
        self.space.write(lambda tx: routes.declare(tx, "local:me", msgspec.structs.replace(spec, policy=policy)))

    # --- the log ---

    @contextmanager
    def _log(self) -> Iterator[None]:
        """Hand the arrays over where the package reads the prediction log.

        Feeds and drift decide nothing on a clean stream and have benches of their own: they are left out.
        """
        plain = (predictions.joined, predictions.count, moments._feeds, drift.measure)
        predictions.joined = self._joined
        moments._feeds = lambda tx, desk, first_us: []
        drift.measure = lambda con, space, ask, columns: drift.Kept(
            schemes={}, profiles=[], report=DriftReport(day=ask.day, state="unknown", reason="left out")
        )
        predictions.count = lambda space, endpoint, until_us: self.rows.between(None, until_us).stop
        try:
            yield
        finally:
            predictions.joined, predictions.count, moments._feeds, drift.measure = plain

    def _joined(
        self, con: Any, space: Space, endpoint: str, known_before_us: int, *,
        since_us: int | None = None, until_us: int | None = None,
        **further: Any,
    ) -> list[str]:  # fmt: skip
        now = space.clock.now_us()
        span = self.rows.between(since_us, now if until_us is None else min(until_us, now))
        known = self.rows.known_us[span] < known_before_us
        served = self.rows.version[span]
        table: dict[str, Any] = {
            "id": self.rows.ids[span], "at_us": self.rows.at_us[span], "received_us": self.rows.at_us[span],
            "request_id": self.rows.ids[span], "version": served, "arm": served,
        }  # fmt: skip
        said = np.full(len(served), np.nan)
        versions = []
        for version, where in sorted(self.rows.routed.items()):
            there = where[span]
            if there.any():
                versions.append(version)
                table[f"score_{version}"] = np.where(there, self.rows.scores[version][span], np.nan)
                said = np.where(served == version, table[f"score_{version}"], said)
        table["score"] = said
        table["label"] = np.where(known, self.rows.label[span], np.nan)
        table["label_known_us"] = self.rows.known_us[span]
        for name, values in self.rows.inputs.items():
            table[f"in_{name}"] = values[span]
        con.register("lw_bench_rows", _frame(table))
        cells = [
            "id, at_us, received_us, request_id, version, arm, NULL::VARCHAR AS subject",
            _null("score"),
            *(
                quoted(f"in_{name}") if kind == "VARCHAR" else _null(f"in_{name}")
                for name, kind in self.rows.kinds.items()
            ),
        ]
        for v in versions:
            cells.append(
                f"{_null(f'score_{v}')}, CASE WHEN isnan(score_{v}) THEN NULL ELSE {LATENCY_US} END::BIGINT"
                f" AS latency_us_{v}, NULL::VARCHAR AS error_{v}"
            )
        cells.append(f"{_null('label')}, CASE WHEN isnan(label) THEN NULL ELSE label_known_us END AS label_known_us")
        con.execute(f"CREATE OR REPLACE TEMP TABLE judged AS SELECT {', '.join(cells)} FROM lw_bench_rows")
        con.unregister("lw_bench_rows")
        return [row[0] for row in con.execute("DESCRIBE judged").fetchall()]

    # --- what came of it ---

    def events(self, *kinds: str) -> list[Any]:
        """The events of some kinds, oldest first."""
        with self.space.read() as tx:
            found = ledger.read(tx, kinds=ledger.decision_kinds(), limit=100_000)
        return [event for event in found if event.kind.startswith(kinds or ("",))]

    def decisions(self) -> list[dict[str, Any]]:
        """What two equal lives must agree on, as `lw events --kind decision --json --stable` prints it."""
        out = []
        for event in self.events():
            kind = ledger.kind_of(event)
            assert kind is not None
            stable = {name: event.data.get(name) for name in kind.stable}
            out.append({"at": format_time(event.at_us), "kind": event.kind, "subject": event.subject, **stable})
        return out

    def close(self) -> None:
        """Let the Space and its folder go."""
        self.space.close()
        shutil.rmtree(self.root, ignore_errors=True)


def _null(name: str) -> str:
    return f"CASE WHEN isnan({quoted(name)}) THEN NULL ELSE {quoted(name)} END AS {quoted(name)}"


def _frame(table: dict[str, Any]) -> Any:
    import pandas as pd

    return pd.DataFrame(table, copy=False)


def _unpickle(path: Path) -> Model:
    name, files = pickle.loads(path.read_bytes())
    return Model(name=name, files=files)


def _settings(folder: Path) -> Any:
    from loopwright.kernel import settings as config

    return config.read(folder)


def _copy(source: Path, target: Path) -> None:
    """A copy whose data files are links to the originals: nobody writes to them."""

    def place(path: str, to: str) -> None:
        if "/.loopwright/" in path or not path.endswith(".parquet"):
            shutil.copy2(path, to)
        else:
            os.symlink(os.path.realpath(path), to)

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=place, symlinks=True)


def _texts(folder: Path) -> dict[str, str]:
    names = ("loopwright.toml", tomllib.loads((folder / "loopwright.toml").read_text())["entry"])
    return {name: (folder / name).read_text() for name in names}


def _read_rows(root: Path, stream: Stream) -> Rows:
    import duckdb

    con = duckdb.connect(config={"threads": "1"})
    con.execute(f"CREATE VIEW asked AS SELECT * FROM '{root / 'rows.parquet'}'")
    con.execute(f"CREATE VIEW truth AS SELECT * REPLACE (CAST(id AS VARCHAR) AS id) FROM '{root / stream.truth}'")
    columns = con.execute("DESCRIBE asked").fetchall()
    kinds = {row[0]: "VARCHAR" if row[1] == "VARCHAR" else "DOUBLE" for row in columns if row[0] not in ("id", "time")}
    cells = ", ".join(f"CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in kinds.items())
    found = con.execute(
        "SELECT id, epoch_us(asked.time) AS at_us, CAST(truth.label AS DOUBLE) AS label,"
        f" epoch_us(truth.known_at) AS known_us, {cells} FROM asked LEFT JOIN truth USING (id) ORDER BY at_us, id"
    ).fetchnumpy()

    def floats(name: str) -> Array:
        return np.ma.filled(np.ma.asarray(found[name]).astype(np.float64), np.nan)

    def texts(name: str) -> Array:
        return np.where(np.ma.getmaskarray(found[name]), None, np.ma.getdata(found[name]).astype(object))

    return Rows(
        ids=np.ma.getdata(found["id"]).astype(object),
        at_us=np.ma.filled(found["at_us"], 0).astype(np.int64),
        inputs={name: texts(name) if kind == "VARCHAR" else floats(name) for name, kind in kinds.items()},
        kinds=kinds,
        label=floats("label"),
        known_us=np.ma.filled(np.ma.asarray(found["known_us"]), 1 << 62).astype(np.int64),
    )

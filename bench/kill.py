"""kill -9 of every process of `lw up` in turn, under load: what fails, what is lost, doubled or answered in two ways.

A client repeats once, with the same request id, when its connection breaks. While the supervisor is dead nobody
listens; what is refused until `lw up` was typed again is sent later and does not count.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import small
from contract import Bench, Result, stat
from small import AT, ENDPOINT, Served

VICTIMS = ("worker-0", "worker-1", "control", "jobs", "job", "supervisor")
LABELS_A_BATCH = 20
THINK_S = 0.002  # a client that never thinks would take the processor that the processes need to come back
KNOWN_AT = "2020-01-25T03:00:00Z"
_BROKEN = (ConnectionError, http.client.HTTPException, TimeoutError)


@dataclass
class Size:
    """How much is sent, and how often each process is killed, at least."""

    rows: int = 10_000
    rounds: int = 4
    clients: int = 6
    pause_s: float = 0.4


class Caller:
    """A connection of a client that repeats once when it breaks."""

    def __init__(self, load: Load, port: int) -> None:
        self._load, self._port = load, port
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, verb: str, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes] | None:
        """Status and body, or None when both tries broke."""
        tries = 0
        while True:
            try:
                return self._once(verb, path, body, kind)
            except ConnectionRefusedError:
                self.close()
                if not self._load.nobody_listens.is_set():
                    tries += 1  # somebody holds the socket: nobody may be refused
                self._load.wait_for_up()
            except _BROKEN:
                self.close()
                tries += 1
                self._load.count("broken")
                if self._load.nobody_listens.is_set():
                    self._load.wait_for_up()
            if tries > 1:
                return None

    def _once(self, verb: str, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        self._connection.request(verb, path, body, {"content-type": kind})
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass
class Load:
    """What the clients sent and what they were told."""

    served: Served
    size: Size
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)
    nobody_listens: threading.Event = field(default_factory=threading.Event)
    _unlabelled: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def wait_for_up(self) -> None:
        while self.nobody_listens.is_set():
            time.sleep(0.01)

    def fail(self, what: str) -> None:
        with self._lock:
            self.failed.append(what)

    def predict(self, slot: int) -> None:
        """Ask for predictions, one after the other, until told to stop."""
        caller, number = Caller(self, self.served.data_port), 0
        while not self.stop.is_set():
            name, x = f"r{slot}-{number}", number % 997 / 997
            found = caller.ask("POST", f"/v2/models/{ENDPOINT}/infer", body(name, x))
            self.count("requests")
            number += 1
            if found is None or found[0] != 200:
                self.fail(f"{name}: {found}")
                continue
            answer = json.loads(found[1])
            self.answers[name] = {"x": x, **answer}
            self._unlabelled.put(name)
            time.sleep(THINK_S)
        caller.close()

    def label(self) -> None:
        """Send labels for what was answered, until told to stop and none is left."""
        caller = Caller(self, self.served.port)
        path = f"/api/v1/endpoints/{ENDPOINT}/labels"
        while not (self.stop.is_set() and self._unlabelled.empty()):
            names: list[str] = []
            with contextlib.suppress(queue.Empty):
                while len(names) < LABELS_A_BATCH:
                    names.append(self._unlabelled.get(timeout=0.1))
            if not names:
                continue
            lines = [{"id": name, "label": hash_bit(name), "known_at": KNOWN_AT} for name in names]
            data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
            found = caller.ask("POST", path, data, "application/x-ndjson")
            self.count("requests")
            if found is None or found[0] != 200:
                self.fail(f"labels: {found}")
                continue
            self.labelled.update({name: hash_bit(name) for name in names})
        caller.close()

    def work(self) -> None:
        """Keep a job under way: hold the model against its gate, again and again."""
        caller = Caller(self, self.served.port)
        while not self.stop.is_set():
            found = caller.ask("POST", "/api/v1/checks", b'{"ref": "tiny@1"}')
            self.count("requests")
            if found is None or found[0] != 202:
                self.fail(f"check: {found}")
                continue
            where = json.loads(found[1])["at"]
            self.jobs.append(where)
            while not self.stop.is_set():
                found = caller.ask("GET", where, b"")
                if found is None or found[0] != 200:
                    self.fail(f"job: {found}")
                elif json.loads(found[1])["state"] in ("finished", "failed"):
                    break
                time.sleep(0.02)
        caller.close()


def hash_bit(name: str) -> int:
    return sum(name.encode()) % 2


def body(name: str, x: float) -> bytes:
    tensors = [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [x]},
        {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["north"]},
    ]
    return json.dumps({"id": name, "parameters": {"time": AT}, "inputs": tensors}).encode()


class Killer:
    """Kills one process after the other while the load goes on."""

    def __init__(self, load: Load, seed: int) -> None:
        self.load, self.served, self.random = load, load.served, random.Random(seed)
        self.ready: list[tuple[str, float]] = []
        self.killed: Counter[str] = Counter()

    def run(self) -> None:
        """Go round until every process was killed often enough and enough was sent."""
        size = self.load.size
        rounds = 0
        while rounds < size.rounds or len(self.load.answers) < size.rows or len(self.load.labelled) < size.rows:
            for victim in self.random.sample(VICTIMS, len(VICTIMS)):
                time.sleep(self.random.uniform(0.5, 1.5) * size.pause_s)
                self._kill(victim)
                self._wait_answers()
            rounds += 1
            if rounds > 40 * size.rounds:
                raise RuntimeError(f"only {len(self.load.answers)} answers after {rounds} rounds")

    def _pid(self, victim: str) -> int | None:
        if victim == "supervisor":
            assert self.served.process is not None
            return self.served.process.pid
        if victim == "job":
            jobs = self.served.children().get("jobs")
            return None if jobs is None else next(iter(small.family(jobs)[1:]), None)
        return self.served.children().get(victim)

    def _kill(self, victim: str) -> None:
        until = time.perf_counter() + 120
        while (pid := self._pid(victim)) is None:
            if time.perf_counter() > until:
                raise RuntimeError(f"there is no {victim} to kill")
            time.sleep(0.005)
        if victim == "supervisor":
            self.load.nobody_listens.set()
        begun = time.perf_counter()
        with contextlib.suppress(ProcessLookupError):  # a job may end by itself just now
            self.served.kill(pid)
            self.killed[victim] += 1
        if victim == "supervisor":
            self.ready.append((victim, self.served.start()))
            self.load.nobody_listens.clear()
        elif victim != "job":
            while self.served.children().get(victim) in (None, pid):
                time.sleep(0.005)
            self.served.wait_ready(begun + 120)
            self.ready.append((victim, time.perf_counter() - begun))

    def _wait_answers(self) -> None:
        """Let every client get on, so that one kill does not meet what another has left."""
        before, until = len(self.load.answers), time.perf_counter() + 120
        while len(self.load.answers) < before + 50:
            if time.perf_counter() > until:
                raise RuntimeError("no answers come any more")
            time.sleep(0.01)


def attack(served: Served, size: Size, seed: int) -> tuple[Load, Killer]:
    """Load, kill, and wait until all that was begun is told."""
    load = Load(served, size)
    killer = Killer(load, seed)
    threads = [threading.Thread(target=load.predict, args=(slot,)) for slot in range(size.clients)]
    threads += [threading.Thread(target=load.label), threading.Thread(target=load.work)]
    for thread in threads:
        thread.start()
    try:
        killer.run()
    finally:
        load.nobody_listens.clear()
        load.stop.set()
        for thread in threads:
            thread.join()
    return load, killer


def audit(load: Load) -> dict[str, list[str]]:
    """Hold what the clients were told against what is kept: log, labels, jobs, and the same question asked again."""
    import duckdb

    folder, wrong = load.served.folder, {"lost": [], "doubled": [], "unlike": []}  # type: dict[str, list[str]]
    small.lw(folder, "predictions", ENDPOINT, "--out", "log.parquet")
    columns = "request_id, score, label, version"
    rows = duckdb.sql(f"SELECT {columns} FROM '{folder / 'log.parquet'}'").fetchall()
    times = Counter(row[0] for row in rows)
    wrong["doubled"] += [f"{name}: logged {count}x" for name, count in times.items() if count > 1]
    logged = {row[0]: row[1:] for row in rows}
    for name, answer in load.answers.items():
        if name not in logged:
            wrong["lost"].append(f"prediction {name}")
        elif logged[name][0] != score_of(answer):
            wrong["unlike"].append(f"{name}: answered {score_of(answer)}, logged {logged[name][0]}")
    for name, label in load.labelled.items():
        if name not in logged or logged[name][1] != label:
            wrong["lost"].append(f"label of {name}")
    with contextlib.closing(sqlite3.connect(folder / ".loopwright" / "space.db")) as db:
        found = db.execute("SELECT ref, COUNT(*) FROM labels GROUP BY ref HAVING COUNT(*) > 1").fetchall()
        wrong["doubled"] += [f"label of {ref}: kept {count}x" for ref, count in found]
        left = db.execute("SELECT action_id, error FROM jobs WHERE state = 'failed'").fetchall()
        wrong["lost"] += [f"job {action}: {error}" for action, error in left]
    wrong["unlike"] += list(asked_again(load))
    return wrong


def score_of(answer: dict[str, Any]) -> float:
    return float(answer["outputs"][0]["data"][0])


def asked_again(load: Load) -> list[str]:
    """Ask a part of the requests once more: whoever answers now, the answer is the same."""
    caller, unlike = Caller(load, load.served.data_port), []
    for name, answer in list(load.answers.items())[:: max(1, len(load.answers) // 500)]:
        found = caller.ask("POST", f"/v2/models/{ENDPOINT}/infer", body(name, answer["x"]))
        again = json.loads(found[1]) if found is not None and found[0] == 200 else None
        if again is None or (score_of(again), again["model_version"]) != (score_of(answer), answer["model_version"]):
            unlike.append(f"{name}: asked again it is {found}")
    caller.close()
    return unlike


def measure(bench: Bench) -> None:
    """The three rows of `kill.`."""
    size = Size(rows=600, rounds=1) if bench.args.quick else Size(rounds=2) if short(bench) else Size()
    work = bench.evidence / "kill"
    served = Served(small.make(work))
    served.start()
    try:
        load, killer = attack(served, size, bench.args.seed)
        wrong = audit(load)
    finally:
        served.stop()
    asked = load.counts["requests"]
    acknowledged = len(load.answers) + len(load.labelled)
    bench.keep("kill.json", {
        "killed": killer.killed, "ready": killer.ready, "failed": load.failed, "wrong": wrong, "counts": load.counts,
        "predictions": len(load.answers), "labels": len(load.labelled), "jobs": len(load.jobs),
    })  # fmt: skip
    kills = ", ".join(f"{name} {count}x" for name, count in sorted(killer.killed.items()))
    failed = Result(
        stat([len(load.failed)], "count"),
        counts={"attempted": asked, "checked": asked, "failed": len(load.failed)},
        reason=f"killed {kills}; {load.counts['broken']} connections broke",
    )
    bench.put("kill.failed_requests", failed)
    bad = sum(map(len, wrong.values()))
    counts = {
        "attempted": acknowledged, "checked": acknowledged,
        "lost": len(wrong["lost"]), "wrong": len(wrong["doubled"]) + len(wrong["unlike"]),
    }  # fmt: skip
    why = f"{len(load.answers):,} predictions, {len(load.labelled):,} labels, {len(load.jobs)} jobs"
    bench.put("kill.doubled", Result(stat([bad], "count"), counts=counts, reason=why))
    times = [seconds for _, seconds in killer.ready]
    slowest = stat(times, "wall") | {"median": max(times)}
    by = {name: max(s for n, s in killer.ready if n == name) for name, _ in killer.ready}
    told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in sorted(by.items()))
    bench.put("kill.ready_s", Result(slowest, counts={"attempted": len(times)}, reason=f"slowest of each: {told}"))
    if not bad:
        shutil.rmtree(work, ignore_errors=True)


def short(bench: Bench) -> bool:
    return bool(getattr(bench.args, "short", False))

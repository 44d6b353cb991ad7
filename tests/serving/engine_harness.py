"""An engine without an event loop, and predictors that wait until a test lets them go, for the tests of the engine."""

import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import orjson
from worker_harness import VALUES

from loopwright.models.runtime import Cost, Predictor
from loopwright.serving import record
from loopwright.serving.engine import Answer, Ask, Engine
from loopwright.serving.scoring import Served, target_of


class Slow:
    """A predictor whose every call waits until it is let go."""

    def __init__(self, real: Predictor, row_us: float = 1000.0) -> None:
        self.real = real
        self.cost = Cost(row_us, 1.0)
        self.signature, self.failure = real.signature, ""
        self.go = threading.Event()
        self.calls: list[int] = []

    def score(self, rows: Sequence[bytes]) -> list[float]:
        self.calls.append(len(rows))
        assert self.go.wait(20)
        return self.real.score(rows)


class Loop:
    """An event loop that a test turns by hand."""

    def __init__(self) -> None:
        self.told: Queue[Any] = Queue()

    def tell(self, work: Any) -> None:
        self.told.put(work)

    def turn(self, timeout_s: float = 20.0) -> None:
        """Do one thing that a lane has told."""
        self.told.get(timeout=timeout_s)()

    def rest(self) -> None:
        """Do all that was told."""
        while True:
            try:
                self.turn(0.2)
            except Empty:
                return


def serve(engine: Engine, *predictors: Any, name: str = "delay") -> None:
    versions = [
        Served(version=n, weight=1.0 if n == 1 else 0.0, live=n == 1, predictor=p, signature=p.signature)
        for n, p in enumerate(predictors, 1)
    ]
    engine.targets = {**engine.targets, name: target_of(name, "kept", versions)}


def request(engine: Engine, id: str = "", name: str = "delay", hour: int = 7) -> Ask:
    values = {**VALUES, "hour": hour}
    target = engine.targets[name]
    return Ask(target=target, rows=[[values[field.name] for field in target.fields]], request_id=id)


def body(_: Ask, answer: Answer) -> bytes:
    return orjson.dumps([answer.version, list(answer.scores)])


def logged(home: Path, name: str = "delay") -> list[Any]:
    files = sorted((home / "spool" / name).glob("*.spool"))
    return [row for path in files for _, rows in record.read(path) for row in rows]


class Transport:
    """What a connection writes to."""

    def __init__(self) -> None:
        self.out = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.out += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Later:
    """Of an event loop what a server needs."""

    def call_soon(self, work: Any) -> None:
        pass

    def call_later(self, after_s: float, work: Any) -> None:
        pass

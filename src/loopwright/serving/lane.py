"""A lane: the one thread in which the rows of an endpoint with a slow model are scored, off the event loop.

It takes all that waits at once; whatever its models do there, the loop goes on, and says so when one hangs.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from loopwright.kernel.clock import monotonic_s
from loopwright.serving.scoring import Judged, Packed, Served, Target, packed_for, score_version

# A model that says nothing for so long has failed.
HANG_S = 10.0
# As many rows as one turn of a lane takes, unless one request alone has more.
TURN_ROWS = 4096


class Turn:
    """The rows that a lane is at work on, and how far it has come; `asks` are whose rows they are."""

    def __init__(self, target: Target, asks: Sequence[Any], rows: Sequence[Sequence[Any]]) -> None:
        self.target = target
        self.asks = asks
        self.rows = rows
        self.judged: list[Judged] = []
        self._packed: list[Packed | None] = [None] * len(target.packers)
        self._lock = threading.Lock()
        self._at: Served | None = None
        self._since_s = 0.0
        self._given_up = False

    def score(self) -> bool:
        """Score the rows by every version; false when the turn was given up meanwhile."""
        for served in self.target.versions:
            self._at, self._since_s = served, monotonic_s()
            packed = packed_for(self.target, served, self.rows, self._packed)
            judged = score_version(served, packed, len(self.rows))
            with self._lock:
                if self._given_up:
                    return False
                self._at = None
            self.judged.append(judged)
        return True

    def give_up(self) -> Served | None:
        """The version that hangs, if one does; after that the thread leaves this turn alone."""
        with self._lock:
            if self._at is None or monotonic_s() - self._since_s < HANG_S:
                return None
            self._given_up = True
            return self._at


class Lane:
    """The queue of one endpoint and the thread that works it off."""

    def __init__(self, name: str, tell: Callable[[Callable[[], None]], object]) -> None:
        self._name = name
        self._tell = tell
        self._work: SimpleQueue[Turn | None] | None = None
        self.waiting: deque[Any] = deque()
        self.turn: Turn | None = None

    def start(self, turn: Turn, done: Callable[[Turn], None]) -> None:
        """Let the thread score a turn; `done` is called on the loop."""
        self.turn = turn
        if self._work is None:
            work = self._work = SimpleQueue()
            # A daemon, so that a model that hangs cannot keep the process.
            run = threading.Thread(target=self._run, args=(work, done), name=f"lane-{self._name}", daemon=True)
            run.start()
        self._work.put(turn)

    def _run(self, work: "SimpleQueue[Turn | None]", done: Callable[[Turn], None]) -> None:
        while (turn := work.get()) is not None:
            if not turn.score():
                return
            try:
                self._tell(lambda turn=turn: done(turn))  # type: ignore[misc]
            except RuntimeError:
                return  # the loop has closed

    def abandon(self) -> None:
        """Leave the thread to itself; the next turn gets another."""
        self._work = self.turn = None

    def close(self) -> None:
        """Let the thread end."""
        if self._work is not None:
            self._work.put(None)
        self._work = None

"""The courier of control: a thread that sends what people are to be told, while this host leads."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable

from loopwright.loop import notify
from loopwright.store.space import Space

EVERY_S = 1.0


class Courier:
    """Looks into the ledger and the outbox once a second; a wire that hangs keeps nobody else waiting."""

    def __init__(self, space: Space, leads: Callable[[], bool]) -> None:
        self._space, self._leads = space, leads
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._go_round, name="loopwright-courier", daemon=True)

    def start(self) -> None:
        """Begin, when there is a channel to send to."""
        if self._space.settings.notify:
            self._thread.start()

    def stop(self) -> None:
        """End; what was not sent waits in the outbox."""
        self._stopping.set()

    def _go_round(self) -> None:
        while not self._stopping.wait(EVERY_S):
            if not self._leads():
                continue
            try:
                notify.turn(self._space, self._space.settings.notify)
            except Exception:  # noqa: BLE001 - a look that failed is told and made again; the loop goes on meanwhile
                if not self._stopping.is_set():
                    traceback.print_exc(file=sys.stderr)

"""A running control seals the events by itself, on the host that leads and on no other."""

import contextlib
from collections.abc import Iterator

import pytest

from loopwright.audit import service as audit
from loopwright.faces import scheduler
from loopwright.kernel.event import EventKind
from loopwright.store import ledger
from loopwright.store.space import Space

KIND = EventKind("thing.made@1", "{subject} was made")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "SEAL_EVERY_S", 0.0)


@contextlib.contextmanager
def running(space: Space) -> Iterator[scheduler.Scheduler]:
    made = scheduler.Scheduler(space, lambda: None)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        for thread in made._threads:
            thread.join(30)


def test_control_seals(space: Space, often: None) -> None:
    space.write(lambda tx: ledger.append(tx, "loop", KIND, "thing:1", {}))
    with running(space) as made:
        while audit.unsealed(space):
            made._stopping.wait(0.01)
    assert audit.verify(space, "loop").ok


def test_who_does_not_lead_seals_nothing(space: Space) -> None:
    space.write(lambda tx: ledger.append(tx, "loop", KIND, "thing:1", {}))
    scheduler.Scheduler(space, lambda: None)._seal()
    assert audit.unsealed(space) == 1

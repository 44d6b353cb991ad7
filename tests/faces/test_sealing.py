"""What a running control does by itself: it seals the events where it leads, and publishes again what failed."""

import contextlib
from collections.abc import Iterator

import msgspec
import pytest

from loopwright.audit import service as audit
from loopwright.faces import scheduler
from loopwright.kernel.event import EventKind
from loopwright.kernel.files import replace_file
from loopwright.serving import publish
from loopwright.serving.model import RouteFile
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


def test_what_could_not_be_published_is_tried_again(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MEND_EVERY_S", 0.0)
    with running(space) as made:
        path = space.home / "run" / publish.ROUTE_FILE
        while made._busy or not path.exists():
            made._stopping.wait(0.01)
        found = msgspec.json.decode(path.read_bytes(), type=RouteFile)
        broken = msgspec.structs.replace(found, problems={"delay": "the store was away for a moment"})
        replace_file(path, msgspec.json.encode(broken))
        while publish.problems(space):
            made._stopping.wait(0.01)
    assert msgspec.json.decode(path.read_bytes(), type=RouteFile) == found

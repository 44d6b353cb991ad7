"""Leases: one holder at a time, fenced off from those before it, on both databases."""

import pytest

from loopwright.kernel.errors import Conflict
from loopwright.store import leases
from loopwright.store.space import Space


def test_one_holds_it_at_a_time_and_the_next_is_fenced_off_from_it(space: Space) -> None:
    first = leases.take(space, "loop", "a", 60)
    assert first is not None and first.fence == 1
    assert leases.take(space, "loop", "b", 60) is None
    assert leases.take(space, "loop", "a", 60) == first, "a renewal keeps the number"
    with space.read() as tx:
        assert [(held.name, held.holder, held.live) for held in leases.held(tx)] == [("loop", "a", True)]
    leases.release(space, first)
    second = leases.take(space, "loop", "b", 60)
    assert second is not None and second.fence == 2
    with pytest.raises(Conflict) as caught:
        space.write(lambda tx: leases.hold(tx, first))
    assert caught.value.code == "lease.lost"
    space.write(lambda tx: leases.hold(tx, second))
    leases.release(space, first)  # of who holds it no more: nothing happens
    assert leases.take(space, "loop", "a", 60) is None


def test_a_lease_that_has_ended_is_anyones_and_its_old_holder_is_refused(space: Space) -> None:
    old = leases.take(space, "loop", "a", 0)
    new = leases.take(space, "loop", "b", 60)
    assert old is not None and new is not None and new.fence == old.fence + 1
    with space.guarded(lambda tx: leases.hold(tx, old)), pytest.raises(Conflict):
        space.write(lambda tx: tx.execute("DELETE FROM leases"))
    with space.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM leases") == 1, "what an old holder writes does not happen"


def test_a_holder_that_begins_anew_fences_off_its_earlier_life(space: Space) -> None:
    before = leases.take(space, "loop", "a", 60)
    after = leases.take(space, "loop", "a", 60, anew=True)
    assert before is not None and after is not None
    with pytest.raises(Conflict):
        space.write(lambda tx: leases.hold(tx, before))

"""Waiting for a deploy: until the version has the place, is refused, or waits for a person."""

import time

from loopwright.kernel.errors import GateFailed
from loopwright.kernel.op import Progress
from loopwright.kernel.verdict import Verdict
from loopwright.releases import approvals, queries
from loopwright.releases import desk as desks
from loopwright.releases.model import Released, Rollout
from loopwright.store.space import Space

PAUSE_S = 0.2


def until_placed(space: Space, done: Released, progress: Progress) -> Released:
    """Wait for what a deploy began; returns it when the version has the place.

    Raises:
        GateFailed: it got no further, or it waits for a person.
    """
    with space.read() as tx:
        desk = desks.find(tx, done.endpoint)
        going = next((r for r in queries.open_rollouts(tx, done.endpoint) if r.candidate == done.version), None)
    while going is not None and going.phase in ("shadow", "canary"):
        progress(0, None, f"{desk.spec.model}@{going.candidate} is in its {going.phase}")
        with space.read() as tx:
            asked = [a for a in approvals.waiting(tx, done.endpoint) if a.id == going.request]
            if asked:
                raise approvals.refuse(asked[0])
            going = queries.rollout(tx, going.id)
        time.sleep(PAUSE_S)
    if going is not None and going.outcome in ("refused", "stopped"):
        raise _failed(space, going, f"{desk.spec.model}@{going.candidate}")
    return done


def _failed(space: Space, ended: Rollout, ref: str) -> GateFailed:
    with space.read() as tx:
        said = queries.verdicts(tx, ended.endpoint, ended.candidate)
    verdict = said[-1] if said else Verdict(outcome="fail", check="rollout", reason=ended.outcome)
    return GateFailed(f"{ref} was {ended.outcome}: {verdict.reason}", verdict=verdict, code=f"deploy.{ended.outcome}")

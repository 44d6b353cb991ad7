"""Releases as text for a terminal."""

from loopwright.kernel.verdict import Verdict
from loopwright.releases.model import GateResult, Hold, Released

MARKS = {"pass": "pass", "warn": "warn", "fail": "FAIL", "unknown": "?"}


def gate(result: GateResult) -> str:
    """A gate's verdicts, a line each."""
    head = f"{result.endpoint}@{result.version}: {'passed' if result.verdict.passed else 'REFUSED'}"
    against = "" if result.champion is None else f" against @{result.champion}"
    return "\n".join([f"{head} by the gate{against}", *(_line(verdict) for verdict in result.checks)])


def _line(verdict: Verdict) -> str:
    return f"  {MARKS[verdict.outcome]:<5} {verdict.check:<14} {verdict.reason}"


def released(done: Released) -> str:
    """What a deploy or rollback did."""
    reason = "" if done.verdict is None else f"\n  {done.verdict['reason']}"
    who = "no server runs: it holds from the next `lw up` on" if not done.workers else _workers(done.workers)
    return f"{done.endpoint}@{done.version}: {done.what}{reason}\n  routes {done.routes}; {who}"


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'} answer{'s' if count == 1 else ''} by them"


def hold(held: Hold) -> str:
    """A hold that was placed or lifted."""
    if held.lifted_us is not None:
        return f"the hold on {held.endpoint} is lifted; what was due meanwhile is not made up for"
    return f"{held.endpoint} is held: no training, no gate, no promotion until `lw hold {held.endpoint} --lift`"

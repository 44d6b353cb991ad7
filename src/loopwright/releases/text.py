"""Releases as text for a terminal."""

from loopwright.kernel.pages import Page
from loopwright.kernel.verdict import Verdict
from loopwright.notes.approvals import Approval
from loopwright.releases.model import GateResult, Hold, Released

MARKS = {"pass": "pass", "warn": "warn", "fail": "FAIL", "unknown": "?"}


def gate(result: GateResult) -> str:
    """A gate's verdicts, a line each."""
    head = f"{result.endpoint}@{result.version}: {'passed' if result.verdict.passed else 'REFUSED'}"
    against = "" if result.champion is None else f" against @{result.champion}"
    waits = [f"  waits for a person: lw approve {result.waits}"] if result.waits else []
    return "\n".join([f"{head} by the gate{against}", *(_line(verdict) for verdict in result.checks), *waits])


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
    """An endpoint that was paused or goes on."""
    if held.lifted_us is not None:
        return f"{held.endpoint} goes on; what was due meanwhile is not made up for"
    return f"{held.endpoint} is paused: no training, no gate, no promotion until `lw resume {held.endpoint}`"


def approval(found: Approval) -> str:
    """A request for leave, and what was answered."""
    return f"{found.id}  {found.address}: {found.state}; {found.reason}"


def approvals(found: Page[Approval]) -> str:
    """Requests, a line each."""
    return "\n".join(approval(one) for one in found.items) or "nothing was asked for"

"""Tells in the ledger when a worker's log takes no rows, and when it takes them again."""

from loopwright.kernel.clock import monotonic_s
from loopwright.serving import publish
from loopwright.serving.model import LOG_FAILED, LOG_RECOVERED, WorkerReport
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

CALM_S = 15.0  # a log that fails now and then is one trouble, not many
_PLACES = 64


class Pager:
    """Compares what the workers report with what was told last."""

    def __init__(self, actor: str) -> None:
        self._actor = actor
        self._open: dict[str, bool] = {}
        self._quiet_since: dict[str, float] = {}

    def look(self, space: Space) -> None:
        """Write an event for each log that has begun to fail, or has been well for some time.

        Raises:
            Unavailable: the database takes none either; the next look tries again.
        """
        for report in publish.workers(space):
            place = str(report.slot % _PLACES)
            subject = f"worker:{space.host}/{place}" if space.shared else f"worker:{place}"
            if subject not in self._open:
                with space.read() as tx:
                    self._open[subject] = _told(tx, subject)
            failing = bool(report.log_problem)
            if failing:
                self._quiet_since.pop(subject, None)
            if failing != self._open[subject] and (failing or self._calm(subject)):
                self._tell(space, subject, report)

    def _calm(self, subject: str) -> bool:
        now = monotonic_s()
        return now - self._quiet_since.setdefault(subject, now) >= CALM_S

    def _tell(self, space: Space, subject: str, report: WorkerReport) -> None:
        failing = bool(report.log_problem)
        kind = LOG_FAILED if failing else LOG_RECOVERED
        data = {"unlogged": report.unlogged, "failed_syncs": report.failed_syncs}
        space.write(lambda tx: ledger.append(tx, self._actor, kind, subject, data))
        self._open[subject] = failing
        self._quiet_since.pop(subject, None)


def _told(tx: Tx, subject: str) -> bool:
    return ledger.last_of(tx, subject, (LOG_FAILED, LOG_RECOVERED)) == LOG_FAILED.name

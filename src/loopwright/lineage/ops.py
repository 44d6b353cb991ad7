"""Op rows of lineage: show, log, trace, events."""

from loopwright.kernel.op import Op
from loopwright.lineage import text
from loopwright.lineage.events import events
from loopwright.lineage.show import log, show
from loopwright.lineage.trace import trace

OPS = [
    Op(fn=show, http="GET /api/v1/show", action="names.read", cli="show", positional=("ref",), render=text.of_shown),
    Op(fn=log, http="GET /api/v1/log", action="events.read", cli="log", positional=("ref",), render=text.of_lines),
    Op(
        fn=trace,
        http="GET /api/v1/trace/{prediction:path}",
        action="predictions.read",
        cli="trace",
        positional=("prediction",),
        render=text.of_trace,
    ),
    Op(fn=events, http="GET /api/v1/events", action="events.read", cli="events", render=text.of_lines),
]

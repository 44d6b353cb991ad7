"""Op rows of lineage: show, log, trace, events; push, pull and reproduce, which use folders of this machine."""

from loopwright.kernel.op import Op
from loopwright.lineage import bundles, text
from loopwright.lineage import reproduce as again
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
    Op(fn=bundles.push, action="store.transfer", cli="push", positional=("ref",), render=bundles.text),
    Op(fn=bundles.pull, action="store.transfer", cli="pull", positional=("ref",), render=bundles.text),
    Op(
        fn=again.reproduce,
        action="runs.start",
        cli="reproduce",
        positional=("ref",),
        render=again.text,
        exit_code=lambda done: 0 if done.equal else 1,
    ),
    Op(fn=events, http="GET /api/v1/events", action="events.read", cli="events", render=text.of_lines),
]

"""Op rows of project: run, status."""

from loopwright.kernel.op import Op
from loopwright.project import run, status

OPS = [
    Op(
        fn=run.run_target,
        http="POST /api/v1/project/run",
        action="runs.start",
        cli="run",
        shape="job",
        positional=("target",),
        schema="lw.run/1",
        render=run.text,
    ),
    Op(
        fn=status.status,
        http="GET /api/v1/status",
        action="names.read",
        cli="status",
        schema="lw.status/1",
        render=status.text,
    ),
]

"""Op rows of project: run, status, backup."""

from loopwright.kernel.op import Op
from loopwright.project import backup, run, status

OPS = [
    Op(
        fn=run.run_target,
        http="POST /api/v1/project/run",
        action="runs.start",
        cli="run",
        shape="job",
        positional=("target",),
        render=run.text,
    ),
    Op(
        fn=status.status,
        http="GET /api/v1/status",
        action="names.read",
        cli="status",
        render=status.text,
        exit_code=lambda found: 5 if any(endpoint.waits for endpoint in found.endpoints) else 0,
    ),
    Op(
        fn=backup.backup,
        action="store.backup",
        cli="backup",
        positional=("folder",),
        render=backup.text,
        exit_code=lambda report: 0 if report.ok else 1,
    ),
]

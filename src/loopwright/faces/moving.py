"""`lw restore`: a backup back into an empty folder; by its options it also moves a project to another ground."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loopwright.faces import output, progress

if TYPE_CHECKING:
    from loopwright.faces.rooms import House


def restore(house: Callable[[], House]) -> click.Command:
    """`lw restore`."""

    @click.command("restore")
    @click.argument("backup", type=click.Path(exists=True, file_okay=False, path_type=Path))
    @click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
    @click.option("--at", help="The backup of a time, such as 2026-11-24 or 2026-11-24T22:50. [the newest]")
    @click.option("--database", help="Keep it in PostgreSQL from now on: postgresql://user@host:port/db.")
    @click.option("--schema", help="The schema there; it must be empty. [loopwright]")
    @click.option("--blobs", help="Keep its blobs in an object store from now on: s3://bucket/prefix.")
    @click.option("--blobs-endpoint", help="Where that store answers: http(s)://host:port.")
    @output.as_json
    def bring(backup: Path, folder: Path, at: str | None, as_json: bool, **ground: str | None) -> None:
        """Bring a backup back into an empty folder, or move it to another database and store."""
        from loopwright.project import restore as restoring
        from loopwright.store import space as spaces

        rooms = {"store": spaces.MIGRATIONS, **house().migrations()}
        asked = {name: value for name, value in ground.items() if value is not None}
        one = restoring.Restore(restoring.pick(backup, at), folder, restoring.Ground(**asked), rooms)
        with progress.shown() as tell:
            report = one.run(house().open, tell)
        output.say(report, schema="lw.restore/1", as_json=as_json, render=restoring.text)

    return bring

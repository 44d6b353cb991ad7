"""Progress of long work on a terminal: a bar there, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from loopwright.kernel.op import Progress, silent


@contextmanager
def shown() -> Iterator[Progress]:
    """A Progress that draws on standard error while the block runs, if that is a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        task = bars.add_task("", total=None)

        def tell(done: int, total: int | None = None, what: str = "") -> None:
            bars.update(task, completed=done, total=total, description=what)

        yield tell

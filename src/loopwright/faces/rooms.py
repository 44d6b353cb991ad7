"""What the faces need of the house above them: its op rows, event kinds, job kinds, and how a Space is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from loopwright.kernel.event import EventKind
from loopwright.kernel.op import Op, Progress
from loopwright.kernel.settings import Settings
from loopwright.store.space import Space

Job = Callable[[Space, dict[str, Any], Progress], dict[str, Any]]


class House(Protocol):
    """The rooms taken together; `loopwright.house` is the one that ships."""

    def ops(self) -> Mapping[str, Op]:
        """The op rows of all rooms, by name."""

    def events(self) -> Mapping[str, EventKind]:
        """The event kinds of all rooms, by name."""

    def jobs(self) -> Mapping[str, Job]:
        """The kinds of jobs of all rooms, by name."""

    def migrations(self) -> Mapping[str, Sequence[str]]:
        """The migrations of all rooms."""

    def open(self, root: Path | None = None) -> Space:
        """The Space of a folder, or of the nearest one upward."""

    def init(self, root: Path, settings: Settings | None = None) -> Space:
        """Make a folder a project."""

"""What project keeps: the accepted code of a project."""

import msgspec

from loopwright.kernel.event import EventKind
from loopwright.runs.model import Code


class AcceptedProject(msgspec.Struct, frozen=True, kw_only=True):
    """The code that triggers run: a tree of files, the one that declares things, and git's word on the folder."""

    digest: str
    entry: str
    code: Code
    at_us: int


PROJECT_ACCEPTED = EventKind("project.accepted@1", "the project {entry} was accepted as {short}")
EVENTS = [PROJECT_ACCEPTED]

"""Op rows: one typed function, its route, the action it needs and, where named, its command."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import msgspec

Shape = Literal["answer", "stream", "job"]
# a text that a command reads from a file of the caller's; over a wire it is the text itself
FileText = Annotated[str, msgspec.Meta(extra={"file": True})]


class Progress(Protocol):
    """Told how far a long work has come."""

    def __call__(self, done: int, total: int | None = None, what: str = "") -> None:
        """Report `done` of `total` units."""


def silent(done: int, total: int | None = None, what: str = "") -> None:
    """A Progress that tells nobody."""


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One operation; HTTP, OpenAPI, the remote client, the permission check and the command come from it.

    Args:
        fn: `fn(space, actor, *, ...)`, typed; its first docstring line is the help text.
        http: verb and path, such as `GET /api/v1/names/{name}`; empty when only this machine's own door offers it,
            because it takes paths of this machine.
        action: what `authorize` is asked for, such as `names.read`.
        subject: what the action is done to, such as `endpoint:{endpoint}`, filled from the arguments before `authorize`
            is asked; empty when it is the whole Space.
        secret: whether the answer holds a secret, which no one may keep: no job, no stored answer, no log.
        repeatable: whether doing it twice is the same as doing it once, so that it may be done again in doubt.
        cli: the command, such as `show` or `features rows`; none when absent.
        positional: parameters that the command takes by position.
        reads: the parameter that is the caller's own file; over a wire its bytes are the body, never a path.
        writes: the parameter that is a file made for the caller; over a wire its bytes are the answer.
        shape: how it answers: at once, piece by piece, or later; the verb says whether it is a query or a command.
        render: turns the result into the text a person reads.
        exit_code: turns the result into the command's exit code when it is not 0.
    """

    fn: Callable[..., Any]
    http: str = ""
    action: str
    subject: str = ""
    secret: bool = False
    repeatable: bool = False
    cli: str | None = None
    shape: Shape = "answer"
    positional: tuple[str, ...] = ()
    reads: str = ""
    writes: str = ""
    render: Callable[[Any], str] | None = None
    exit_code: Callable[[Any], int] | None = None

    @property
    def schema(self) -> str:
        """The `schema` of the document that the command prints with `--json`."""
        return f"lw.{(self.cli or self.name).replace(' ', '.')}/1"

    @property
    def name(self) -> str:
        """`room.function`, as in `data.add`."""
        return f"{self.fn.__module__.split('.')[1]}.{self.fn.__name__}"

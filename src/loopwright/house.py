"""The house: all rooms in floor order, and what each publishes, collected.

Alone knows every room; rooms are imported when asked for, so that a command loads only what it needs.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.kernel import settings as config
from loopwright.kernel.errors import Invalid
from loopwright.kernel.event import EventKind
from loopwright.kernel.files import replace_file
from loopwright.kernel.op import Op, Progress
from loopwright.store import check, erasure, ledger, roots
from loopwright.store import space as spaces
from loopwright.store.erasure import Holdings

if TYPE_CHECKING:
    from loopwright.faces.remote import Remote
    from loopwright.store.space import Space

# module -> what it publishes, in floor order
MIGRATIONS_IN = {
    "access": "access.queries",
    "notes": "notes.service",
    "artifacts": "artifacts.service",
    "data": "data.service",
    "runs": "runs.queries",
    "pipelines": "pipelines.queue",
    "serving": "serving.queries",
    "monitors": "monitors.queries",
    "releases": "releases.queries",
    "audit": "audit.service",
    "loop": "loop.queries",
    "project": "project.service",
    "faces": "faces.repeats",
}
EVENTS_IN = (
    "store.clock",
    "access.model",
    "artifacts.model",
    "data.model",
    "runs.model",
    "pipelines.model",
    "models.model",
    "serving.model",
    "monitors.model",
    "monitors.feed_model",
    "releases.model",
    "lineage.model",
    "audit.model",
    "loop.model",
    "loop.messages",
    "project.model",
)
OPS_IN = (
    "access.ops",
    "artifacts.ops",
    "data.ops",
    "runs.ops",
    "pipelines.ops",
    "models.ops",
    "serving.ops",
    "monitors.ops",
    "releases.ops",
    "loop.ops",
    "lineage.ops",
    "audit.ops",
    "project.ops",
)
JOBS_IN = ("serving.seal", "monitors.blocks", "monitors.windows", "monitors.feeds", "releases.evidence", "loop.jobs")
ROOTS_IN = (
    "artifacts.names",
    "runs.queries",
    "runs.current",
    "pipelines.queue",
    "serving.queries",
    "serving.routes",
    "project.service",
)
# in the order in which they forget: copies before what they were made from, and last what says whose the rows are
HOLDINGS_IN = (
    *("faces", "project", "loop", "audit", "lineage", "releases", "monitors", "models", "pipelines", "runs", "notes"),
    *("access", "artifacts", "serving", "data"),
)
CHECKS_IN = ("runs.current", "serving.seal", "audit.service")
LEFTOVERS_IN = ("runs.service", "pipelines.queue", "serving.seal", "project.service")

_NOTED = "run/migrations.json"

JobHandler = Callable[["Space", dict[str, Any], Progress], dict[str, Any]]


def _module(name: str) -> Any:
    return import_module(f"loopwright.{name}")


@cache
def migrations() -> dict[str, list[str]]:
    """The migrations of every room."""
    return {room: _module(name).MIGRATIONS for room, name in MIGRATIONS_IN.items()}


@cache
def events() -> dict[str, EventKind]:
    """Every event kind by its name."""
    return {kind.name: kind for name in EVENTS_IN for kind in _module(name).EVENTS}


@cache
def ops() -> dict[str, Op]:
    """Every op by its name."""
    return {op.name: op for name in OPS_IN for op in _module(name).OPS}


@cache
def jobs() -> dict[str, JobHandler]:
    """Every kind of job and the function that does it."""
    return {kind: handler for name in JOBS_IN for kind, handler in _module(name).JOBS.items()}


@cache
def plug() -> None:
    """Connect the rooms above to the ports of the rooms below, once a process."""
    _module("data.logged").set_log_reader(_LogReader())
    _module("data.facts").set_shower(lambda space: _module("serving.publish").show(space))
    codecs = _module("artifacts.codecs")
    codecs.register(
        codecs.Codec(
            name="model",
            kind="model",
            accepts=lambda value: type(value).__module__ == "loopwright.models.value" and _codec().accepts(value),
            encode=lambda value, folder: _codec().encode(value, folder),
            decode=lambda stored: _codec().decode(stored),
        )
    )
    hooks = _module("pipelines.hooks")
    hooks.on_finish("model", lambda *given: _module("models.service").register_output(*given))
    hooks.set_code(lambda space: _module("project.service").stored_code(space))
    _module("serving.held").set_held_reader(lambda tx, endpoint: _module("monitors.feeds").held_spans(tx, endpoint))
    _module("loop.notify").set_senders(lambda kind: _module(f"bridges.{kind}").send)
    work = _module("releases.work")
    work.set_step_finder(lambda space, endpoint: _module("project.entry").step_of(space, endpoint))
    work.set_submit(_do_here)


def _codec() -> Any:
    return _module("models.service").CODEC


class _LogReader:
    """The reader of the prediction log, whose room is imported when it is asked."""

    def __call__(self, space: "Space", con: Any, features: str, until_us: int) -> int | None:
        found: int | None = _module("serving.predictions").LOG_READER(space, con, features, until_us)
        return found

    def state(self, space: "Space", features: str, until_us: int) -> Any:
        return _module("serving.predictions").LOG_READER.state(space, features, until_us)


def _do_here(space: "Space", action_id: str) -> None:
    with spaces.bound(space, job=True):
        _module("faces.jobs").here(sys.modules[__name__])(space, action_id)


def open(root: Path | None = None, *, create: bool = False) -> "Space":
    """Open the Space of a project folder; by default that of the nearest folder upward.

    Raises:
        NotFound: there is none, and `create` is not set.
    """
    root = (root or spaces.find_root(Path.cwd())).resolve()
    mark = _mark()
    counts = _counts(root, mark)
    space = spaces.open_space(root, migrations=migrations, counts=counts, create=create)
    if counts is None:
        _remember(root, mark)
    plug()
    return space


def _mark() -> str:
    """What tells one state of the rooms' migrations from another, without importing them."""
    parts = [__file__]
    for name in MIGRATIONS_IN.values():
        found = (Path(__file__).parent / f"{name.replace('.', '/')}.py").stat()
        parts.append(f"{found.st_size}:{found.st_mtime_ns}")
    return " ".join(parts)


def _counts(root: Path, mark: str) -> dict[str, int] | None:
    """How many migrations each room has, when that was noted here for this very code."""
    try:
        noted = msgspec.json.decode((root / spaces.HOME / _NOTED).read_bytes(), type=tuple[str, dict[str, int]])
    except (OSError, msgspec.MsgspecError):
        return None
    return noted[1] if noted[0] == mark else None


def _remember(root: Path, mark: str) -> None:
    counts = {room: len(scripts) for room, scripts in migrations().items()}
    with contextlib.suppress(OSError):  # a full or read-only disk: it is found out again the next time
        replace_file(root / spaces.HOME / _NOTED, msgspec.json.encode((mark, counts)), durable=False)


def init(root: Path, settings: config.Settings | None = None) -> "Space":
    """Open the Space of a folder and make it when there is none; `settings` are written to loopwright.toml.

    Raises:
        Invalid: loopwright.toml is there and says something else.
    """
    root.mkdir(parents=True, exist_ok=True)
    if settings is not None and not (root / config.FILE).exists():
        config.write(root, settings)
    elif settings is not None and not config.same(config.overlay(settings), config.read(root)):
        raise Invalid(
            f"{config.FILE} is there and says something else", code="settings.differ", hint=f"edit {config.FILE}"
        )
    return open(root, create=True)


def connect(url: str | None = None, *, token: str | None = None) -> "Remote":
    """A Space elsewhere by the address of its `lw up`: every op as a method, such as `it.runs.get_run(run="run_...")`.

    Address and token are LOOPWRIGHT_URL and LOOPWRIGHT_TOKEN (or a file named by LOOPWRIGHT_TOKEN_FILE) by default.

    Raises:
        Invalid: there is no address, or it is none.
    """
    found: Remote = _module("faces.remote").connect(sys.modules[__name__], url, token=token)
    return found


def holdings() -> list[Holdings]:
    """What every room answers of a subject, in the order in which they forget."""
    return [*(_module(f"{room}.holdings").HOLDINGS for room in HOLDINGS_IN), erasure.HOLDINGS]


spaces.set_opener(open)
erasure.set_holdings(holdings)
ledger.set_kinds(events)
check.set_sources(lambda: [_module(name).CHECKS for name in CHECKS_IN])
roots.set_sources(
    lambda: [_module(name).ROOTS for name in ROOTS_IN], lambda: [_module(name).LEFTOVERS for name in LEFTOVERS_IN]
)

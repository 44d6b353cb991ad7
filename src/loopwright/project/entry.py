"""Load a project file, from its folder or as it was accepted. User code runs here, inside one boundary."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from loopwright.kernel.errors import Invalid, LoopwrightError, NotFound
from loopwright.project import service
from loopwright.project.declare import ENDPOINTS
from loopwright.store.space import Space

if TYPE_CHECKING:
    from loopwright.pipelines.step import Step


class ProjectFailed(Invalid):
    """The project's own code raised while it was loaded; the cause is what it raised."""


def entry_path(space: Space) -> Path:
    """The project file that loopwright.toml names.

    Raises:
        NotFound: it names none, or none is there.
    """
    entry = space.settings.entry
    if entry is None:
        raise NotFound(
            "loopwright.toml names no project file",
            code="project.entry",
            field="entry",
            hint='add entry = "project.py" to loopwright.toml',
        )
    path = space.root / entry
    if not path.is_file():
        raise NotFound(f"no project file {entry} in {space.root}", code="project.entry", field="entry")
    return path


def step_of(space: Space, endpoint: str) -> "Step[..., Any]":
    """The step that trains an endpoint's model, from the accepted project, which is loaded when it is not yet.

    Raises:
        NotFound: the project declares no such endpoint.
    """
    if endpoint not in ENDPOINTS:
        load(service.materialised(space, service.accepted(space)))
    if endpoint not in ENDPOINTS:
        raise NotFound(f"the accepted project declares no endpoint {endpoint}", field="endpoint", hint="lw run")
    step: Step[..., Any] = ENDPOINTS[endpoint].model
    return step


def load(path: Path) -> ModuleType:
    """Import a project file under its own name, with its folder first on the path.

    Raises:
        ProjectFailed: its code raised.
    """
    folder, name = str(path.parent.resolve()), path.stem
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Invalid(f"{path.name} is no Python file", code="project.entry", field="entry")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except LoopwrightError:
        raise
    except (Exception, SystemExit) as error:  # the boundary around user code
        raise ProjectFailed(
            f"{path.name} failed while it was loaded: {type(error).__name__}: {error}", code="project.failed"
        ) from error
    return module

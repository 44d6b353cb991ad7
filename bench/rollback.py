"""`lw rollback` while 64 connections send as fast as they can: how long it takes, what fails, and who answers after it.

The sender is a process of its own: plain sockets, one request at a time on each, and for every answer the moment, the
status and the version that the answer names.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import contract
import small
from contract import Bar, Bench, Result, Row, stat

CONNECTIONS, AROUND_S, TIMES, LEAST = 64, 2.0, 5, 10_000
ROWS = (
    Row("rollback.s", "`lw rollback` while 64 connections send", "s", "lower", (Bar("<=", 1),)),
    Row("rollback.failed", "requests that failed around a rollback", "", "lower", (Bar("==", 0),)),
    Row("rollback.stale_answers", "answers of the old version after the rollback", "", "lower", (Bar("==", 0),)),
)


# --- the sender: `python rollback.py PORT FILE`, until its input is closed --------------------------------------------


class Line:
    """One connection with one request on its way."""

    def __init__(self, port: int, place: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.place, self.count, self.held = place, 0, b""

    def send(self) -> None:
        self.count += 1
        body = json.dumps(
            {
                "id": f"{os.getpid()}-{self.place}-{self.count}",  # an id that came before is answered as before
                "parameters": {"time": small.AT},
                "inputs": [
                    {"name": "x", "shape": [1], "datatype": "FP64", "data": [0.25]},
                    {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["south"]},
                ],
            }
        ).encode()
        head = f"POST /v2/models/{small.ENDPOINT}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        self.socket.send(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)

    def read(self) -> list[tuple[int, str]]:
        """(status, version) of the answers that are whole; status 0 = the connection was closed on a request."""
        try:
            piece = self.socket.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            piece = b""
        if not piece:
            return [(0, "")]
        self.held += piece
        head, mark, rest = self.held.partition(b"\r\n\r\n")
        if not mark:
            return []
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return []
        self.held = rest[length:]
        version = rest.partition(b'"model_version":"')[2].partition(b'"')[0].decode()
        return [(int(head[9:12]), version)]


def send(port: int, target: Path) -> None:
    """Send until standard input ends; write a line for every answer: seconds, status, version."""
    found: list[tuple[float, int, str]] = []
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        for place in range(CONNECTIONS):
            line = Line(port, place)
            selector.register(line.socket, selectors.EVENT_READ, line)
            line.send()
        going = True
        while going:
            for key, _ in selector.select():
                line = key.data
                if line is None:
                    going = False
                    continue
                for status, version in line.read():
                    found.append((time.time(), status, version))
                    if status == 0:
                        selector.unregister(line.socket)
                        line = Line(port, line.place + CONNECTIONS)
                        selector.register(line.socket, selectors.EVENT_READ, line)
                    line.send()
    target.write_text("\n".join(f"{at:.6f} {status} {version}" for at, status, version in found))


# --- measuring --------------------------------------------------------------------------------------------------------


def once(served: small.Served, number: int) -> dict[str, Any]:
    """Put the second version in place, roll it back under load, and say what the sender saw."""
    folder = served.folder
    small.lw(folder, "deploy", f"{small.ENDPOINT}@2", "--override", "--reason", "to roll it back")
    target = folder / f"answers-{number}.txt"
    words = [str(small.PYTHON), __file__, str(served.data_port), str(target)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=small.environment()) as sender:
        assert sender.stdin is not None
        time.sleep(AROUND_S + 0.5)
        begun = time.time()
        small.lw(folder, "rollback", small.ENDPOINT)
        ended = time.time()
        time.sleep(AROUND_S)
        sender.stdin.close()
        if sender.wait(60):
            raise RuntimeError("the sender failed")
    lines = [line.split(" ") for line in target.read_text().splitlines()]
    near = [(float(at), int(status), version) for at, status, version in lines]
    near = [answer for answer in near if begun - AROUND_S <= answer[0] <= ended + AROUND_S]
    versions = {version for _, status, version in near if status == 200}
    return {
        "s": ended - begun,
        "answers": len(near),
        "failed": sum(status != 200 for _, status, _ in near),
        "stale": sum(at > ended and version != "1" for at, _, version in near),
        "versions": sorted(versions),
        "last_old_s": max((at for at, _, version in near if version == "2"), default=begun) - ended,
    }


def measure(bench: Bench) -> None:
    """Five rollbacks of the same served project."""
    work = bench.evidence / "rollback"
    work.mkdir()
    runs: list[dict[str, Any]] = []
    served = small.Served(small.make(work / "project"))
    try:
        small.lw(served.folder, "run", "-p", "trees=5")
        served.start()
        runs = [once(served, number) for number in range(TIMES)]
    finally:
        served.stop()
        bench.keep("rollback.json", runs)
        shutil.rmtree(work / "project", ignore_errors=True)
    answers, wrong = [run["answers"] for run in runs], [run for run in runs if run["versions"] != ["1", "2"]]
    enough = min(answers) >= LEAST and not wrong
    said = f"{min(answers)} to {max(answers)} answers from {AROUND_S:g} s before to {AROUND_S:g} s after each"
    reason = said if enough else f"{said}; at least {LEAST}, of both versions, are needed"
    failed, stale = sum(run["failed"] for run in runs), sum(run["stale"] for run in runs)
    counts = {"attempted": sum(answers), "checked": sum(answers), "failed": failed, "wrong": stale}
    bench.put("rollback.s", Result(stat([run["s"] for run in runs], "wall"), reason=reason))
    short = 0 if enough else LEAST  # too few answers show nothing
    bench.put("rollback.failed", Result(stat([failed + short], "count"), counts=counts, reason=reason))
    bench.put("rollback.stale_answers", Result(stat([stale + short], "count"), counts=counts, reason=reason))


def main() -> int:
    """Send when told a port and a file; else the bench by itself."""
    if len(sys.argv) == 3 and sys.argv[1].isdigit():
        send(int(sys.argv[1]), Path(sys.argv[2]))
        return 0
    args = contract.parser(__doc__).parse_args()
    if not args.list:
        contract.use_venv()
    return contract.main("rollback", ROWS, args, measure)


if __name__ == "__main__":
    sys.exit(main())

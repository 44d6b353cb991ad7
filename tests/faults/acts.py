"""What the fault tests do with a project besides its commands, and what they read of it, in a copy of the driver."""

import contextlib
import hashlib
import io
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from loopwright.faces import cli

ENDPOINT = "small"
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
# Made once and kept while the project lives, whatever happens: locks, the database, the keys, what is served now.
_STANDING = re.compile(
    r"gate|space\.db(-wal|-shm)?|\.gitignore|keys/[^/]+|blobs/[0-9a-f]{2}/[0-9a-f]{64}|spool/[^/]+/[^/]+\.spool"
    r"|projects/[0-9a-f]{64}/.+|run/(jobs\.lock|routes\.lock|routes\.json|gc\.lock|access\.json|blobs\.lock)"
)


def spools(house: Any, first: int, rows: int, named: str = "") -> list[str]:
    """Log rows as two workers do, let go of the spools, and return the requests' ids."""
    from loopwright.kernel.times import MINUTE
    from loopwright.serving.record import Columns, LogRow
    from loopwright.serving.spool import Spool

    space = house.open()
    columns, now = Columns(("x", "shop"), ("float64", "string")), space.clock.now_us()
    names = []
    for slot in (0, 1):
        spool = Spool(space.home, ENDPOINT, slot, lambda work: work())
        for number in range(first, first + rows):
            at, name = now + number * MINUTE, named or f"ask-{slot}-{number}"
            row = LogRow(spool.next_id(at), at, at, name, 1, 1, None, [number / 7, "north"])
            row.scores = {1: number / 1000}
            spool.append(columns, [row])
            names.append(name)
        spool.rotate()
    return names


def seal(house: Any) -> dict[str, Any]:
    """Seal the spools, as the job does."""
    done: dict[str, Any] = house.jobs()["serving.seal"](house.open(), {}, lambda *_: None)
    return done


def register(house: Any, name: str, text: str) -> dict[str, Any]:
    """Register a tree of two files under a name, as a library user does."""
    from loopwright.artifacts import names
    from loopwright.artifacts import service as artifacts

    space = house.open()
    files = {"notes.txt": text.encode(), "more/notes.txt": text.encode() * 500}
    tree = artifacts.put_tree(space, files, kind="notes", meta={})
    version = space.write(lambda tx: names.register(tx, "local:me", name, tree, always=False))
    return {"version": version.number, "digest": version.digest}


def promote(house: Any, version: int) -> str:
    """Let a version take the place of the champion, as a finished canary does."""
    from loopwright.kernel.verdict import Verdict
    from loopwright.releases import desk as desks
    from loopwright.releases import machine, moves, service
    from loopwright.serving import publish

    space = house.open()

    def act(tx: Any) -> None:
        desk = desks.find(tx, ENDPOINT)
        going = service.open_rollout(tx, desk, version, 1, at_us=tx.now_us())
        verdict = Verdict(outcome="pass", check="asked", reason="the tests need two reigns")
        moves.apply(tx, desk, machine.Move(kind="promote", rollout=going, verdict=verdict), tx.now_us())

    space.write(act)
    publish.publish(space)
    return "promoted"


def state(house: Any) -> dict[str, Any]:
    """All that was promised to be kept, without ids and times that each run makes anew."""
    from loopwright.serving import predictions, routes

    space = house.open()
    with space.read() as tx:
        out: dict[str, Any] = {
            "versions": [list(r) for r in tx.query("SELECT name, number, digest FROM versions ORDER BY name, number")],
            "labels": [list(r) for r in tx.query("SELECT endpoint, ref, value FROM labels ORDER BY seq")],
            "moves": [list(r) for r in tx.query("SELECT name, label, number FROM label_moves ORDER BY seq")],
            "sealed": [list(r) for r in tx.query("SELECT spool, rows FROM prediction_log ORDER BY spool")],
            "reigns": [list(r) for r in tx.query("SELECT version, ended FROM reigns ORDER BY seq")],
            "runs": [list(r) for r in tx.query("SELECT name, metrics FROM runs WHERE state = 'finished' ORDER BY id")],
            "events": [list(r) for r in tx.query(_EVENTS)],
        }
        out["routes"] = routes.state_of(routes.routes_in(tx, ENDPOINT))
    out["served"] = _served(space.home)
    out["unreadable"] = _unreadable(space, {row[2] for row in out["versions"]})
    with predictions.connect() as con:
        logged = "in_x" in predictions.view(con, space, ENDPOINT)
        out["predictions"] = [list(r) for r in con.execute(_ROWS).fetchall()] if logged else []
    return out


_ROWS = "SELECT request_id, score, in_x, in_shop FROM predictions ORDER BY at_us, request_id"
_EVENTS = "SELECT kind, COUNT(*) FROM events WHERE kind NOT LIKE 'run.%' GROUP BY kind ORDER BY kind"


def _unreadable(space: Any, digests: set[str]) -> list[str]:
    """The blobs of registered versions that are not there whole."""
    from loopwright.artifacts import service as artifacts
    from loopwright.kernel.errors import Erased, LoopwrightError
    from loopwright.store import erasure

    out = []
    for digest in digests:
        try:
            files = artifacts.files(space, digest).values() if artifacts.get(space, digest).is_tree else ()
            with space.read() as tx:  # of a sample whose rows were erased there is a smaller one
                held = [erasure.latest(tx, each) for each in (digest, *files)]
            out += [each for each in held if not space.blobs.verify(each)]
        except Erased:
            continue
        except LoopwrightError:
            out.append(digest)
    return sorted(out)


def _served(home: Path) -> Any:
    """What workers are told to serve; a command that says it is done has told them."""
    import msgspec

    path = home / "run" / "routes.json"
    if not path.exists():
        return None
    found = msgspec.json.decode(path.read_bytes())
    return [[route["version"] for route in endpoint["routes"]] for endpoint in found["endpoints"]]


def blobs(house: Any) -> dict[str, str]:
    """The SHA-256 of every blob, read past the package."""
    folder = house.open().home / "blobs"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("??/*")}


def readable(house: Any, digests: list[str]) -> dict[str, str]:
    """The SHA-256 of blobs as the package hands them out; what it refuses is left out."""
    from loopwright.kernel.errors import LoopwrightError

    space, out = house.open(), {}
    for digest in digests:
        try:
            out[digest] = hashlib.sha256(space.blobs.read(digest)).hexdigest()
        except LoopwrightError as error:
            out[digest] = f"refused: {error.code}"
    return out


def settled(house: Any, digests: list[str]) -> dict[str, Any]:
    """What is there, what fsck says, the bytes that are handed out, and what is left over after gc without grace."""
    with contextlib.closing(house.open()) as space:  # gc without grace wants to be alone
        opened = SimpleNamespace(open=lambda: space)
        out: dict[str, Any] = {"state": state(opened), "readable": readable(opened, digests)}
    for name, words in (("fsck", ["fsck", "--json"]), ("gc", ["gc", "--grace", "0s", "--json"])):
        said = io.TextIOWrapper(io.BytesIO(), write_through=True)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cli.main(lambda: house, words)
        out[name] = [code, said.buffer.getvalue().decode("utf-8", "replace")[-1500:]]  # type: ignore[attr-defined]
    return {**out, "leftover": leftover(house)}


def leftover(house: Any) -> list[str]:
    """Files that no whole act leaves: half-made ones, and blobs that no text of the database names."""
    space = house.open()
    space.close()
    home = space.home
    found = []
    named = set(_reached(home))
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if path.is_dir():
            if name.startswith(("tmp/", "runs/")):
                found.append(name + "/")
            continue
        if not _STANDING.fullmatch(name) or (name.startswith("blobs/") and path.name not in named):
            found.append(name)
    extra = {p.name for p in home.parent.iterdir()} - KNOWN
    return found + sorted(extra)


KNOWN = {
    *("project.py", "loopwright.toml", "notes.txt", "asks.csv", "outcomes.csv", "labels.csv", "more.csv"),
    *("__pycache__", ".loopwright", "batch.ndjson"),
}


def _reached(home: Path) -> Iterator[str]:
    """Every digest that the database names, and those that the trees among them name."""
    con = sqlite3.connect(f"file:{home / 'space.db'}?mode=ro", uri=True)
    tables = [r[0] for r in con.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    waiting = set()
    for table in tables:
        if table == "artifacts":
            continue  # a row there says what a blob is, not that anybody wants it
        for row in con.execute(f"SELECT * FROM {table}"):
            for value in row:
                waiting.update(_DIGEST.findall(value) if isinstance(value, str) else ())
    con.close()
    seen = set()
    while waiting:
        digest = waiting.pop()
        seen.add(digest)
        path = home / "blobs" / digest[:2] / digest
        if path.exists() and path.stat().st_size < 1 << 20:
            data = path.read_bytes()
            if b"loopwright-tree-1" in data[:60]:
                waiting.update(set(_DIGEST.findall(data.decode("utf-8", "replace"))) - seen)
    yield from seen


def litter(house: Any) -> str:
    """Leave what killed commands leave: a half-made file, a blob that nothing names, a spool that got no name."""
    space = house.open()
    for name in ("tmp/half", "tmp/half.parquet", f"spool/{ENDPOINT}/001k11n1688zz.new"):
        (space.home / name).write_bytes(b"half" * 100)
    for number in range(3):
        space.blobs.put_bytes(f"nobody names this {number}".encode())
    return "littered"


# --- operations that are wrong on purpose: each must be seen ---


def lies(house: Any, name: str, text: str) -> dict[str, Any]:
    """Says that it is done, whatever happened."""
    try:
        return register(house, name, text)
    except Exception as error:  # noqa: BLE001 - the lie
        return {"version": 0, "digest": str(type(error))}


_ARTIFACT = """
    INSERT INTO artifacts(digest, kind, size_bytes, is_tree, meta, at_us) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""


def tears(house: Any, name: str, text: str) -> dict[str, Any]:
    """Registers a version and only then writes its bytes, in place."""
    from loopwright.artifacts import names
    from loopwright.artifacts.model import Artifact
    from loopwright.kernel import canonical

    space, data = house.open(), text.encode()
    digest = canonical.digest_bytes(data)
    made = Artifact(digest=digest, kind="notes", size_bytes=len(data), is_tree=False, meta={})
    row = (digest, "notes", len(data), 0, "{}", 0)
    space.write(lambda tx: tx.execute(_ARTIFACT, row))
    version = space.write(lambda tx: names.register(tx, "local:me", name, made, always=False))
    path = space.blobs.path(digest)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb", buffering=0) as out:
        out.write(data[:3])
        out.write(data[3:])
    return {"version": version.number, "digest": digest}


def litters(house: Any, name: str, text: str) -> dict[str, Any]:
    """Leaves a file behind in a folder that nobody looks into."""
    (house.open().home / "half-made").write_text(text)
    return register(house, name, text)


def forgets(house: Any, name: str, text: str) -> dict[str, Any]:
    """Moves what others have acknowledged out of the way while it works."""
    space = house.open()
    space.write(lambda tx: tx.execute("CREATE TABLE kept AS SELECT * FROM labels"))
    space.write(lambda tx: tx.execute("DELETE FROM labels"))
    done = register(house, name, text)
    space.write(lambda tx: tx.execute("INSERT INTO labels SELECT * FROM kept"))
    space.write(lambda tx: tx.execute("DROP TABLE kept"))
    return done


# --- what goes on beside ---


def work(house: Any, port_file: str, slot: int = 0) -> int:
    """Be a real worker on a socket of its own; its port is written down."""
    import socket

    from loopwright.serving import publish, worker

    space = house.open()
    publish.publish(space)
    space.close()
    listener = socket.create_server(("127.0.0.1", 0))
    Path(port_file).write_text(str(listener.getsockname()[1]))
    return worker.main(["--home", str(space.home), "--slot", str(slot), "--fd", str(listener.detach())])


def log_points(house: Any) -> None:
    """Be a run that logs points until it is killed; says each with the moment at which it was kept."""
    import time

    from loopwright.runs import service as runs

    space = house.open()
    recorder = runs.start(space, "local:me", "step", "points")
    print(recorder.run_id, flush=True)
    number = 0
    while True:
        recorder.metrics({"number": number})
        print(number, time.monotonic(), flush=True)
        number += 1
        time.sleep(0.004)


def points(house: Any, run: str) -> list[float]:
    """The values of the points of a run."""
    from loopwright.runs import service as runs

    space = house.open()
    runs.sweep(space)
    return [point.value for point in runs.points(space, run)]


def write(house: Any, number: int, rounds: int) -> list[Any]:
    """Be one of several writers: versions, labels and runs' points; says what was acknowledged."""
    import json as plain

    from loopwright.artifacts import names
    from loopwright.artifacts import service as artifacts
    from loopwright.serving import labels

    space, out = house.open(), []
    for turn in range(rounds):
        text = f"writer {number} turn {turn}".encode()
        blob = artifacts.put_blob(space, text, kind="notes", meta={})
        version = space.write(lambda tx, blob=blob: names.register(tx, "local:me", "shared", blob))
        line = plain.dumps({"id": f"w-{number}-{turn}", "label": turn % 2}).encode()
        labels.add(space, "local:me", ENDPOINT, line)
        out.append([version.number, blob.digest, f"w-{number}-{turn}"])
    return out


def endure(house: Any, free: str) -> dict[str, Any]:
    """Write until the disk is full, let it be freed, and go on in the same process."""
    from loopwright.artifacts import names
    from loopwright.artifacts import service as artifacts
    from loopwright.kernel.errors import LoopwrightError

    space, done, told = house.open(), [], ""
    for turn in range(2000):
        try:
            blob = artifacts.put_blob(space, bytes([turn % 256]) * 20_000 + str(turn).encode(), kind="notes", meta={})
            version = space.write(lambda tx, blob=blob: names.register(tx, "local:me", "filling", blob))
        except (LoopwrightError, OSError) as error:
            told = f"{error}"
            break
        done.append([version.number, blob.digest])
    Path(free).unlink()
    blob = artifacts.put_blob(space, b"room again", kind="notes", meta={})
    version = space.write(lambda tx: names.register(tx, "local:me", "filling", blob))
    return {"kept": [*done, [version.number, blob.digest]], "told": told}

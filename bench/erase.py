"""What is left of an erased person: their name is planted in every kind of place, erased, and looked for in all bytes.

The look knows nothing of the product: every file of the store as it lies there (the database with its WAL and free
pages among them), and once more unpacked: Parquet cell by cell, gzip, zstandard. Before the erasure it must see plenty.
"""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import contract
from contract import Bar, Result, Row, stat

ROWS = (Row("erase.left_bytes", "bytes of an erased value that are left in any file", "", "lower", (Bar("==", 0),)),)
KILLS = 4  # of one erasure, at moments of its last undisturbed length


def unpacked(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what they unpack to."""
    data = path.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        import duckdb

        with duckdb.connect() as con:
            for row in con.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchall():
                yield "\n".join(str(cell) for cell in row).encode()
    elif data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        yield zstandard.ZstdDecompressor().decompressobj().decompress(data)


def left(folder: Path, value: bytes) -> tuple[int, int, list[str]]:
    """Bytes of the value in all files of a folder, how many files were looked into, and where it was."""
    total, files, where = 0, 0, list[str]()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            files += 1
            if found := sum(piece.count(value) for piece in unpacked(path)):
                total += found * len(value)
                where.append(str(path.relative_to(folder)))
    return total, files, where


def _prepare(root: Path) -> None:
    """The project of the tests: sources, a trained model, a sealed and an open log, labels, a note, a console."""
    sys.path.insert(0, str(contract.ROOT / "tests" / "audit"))
    import people

    from loopwright import house
    from loopwright.kernel.settings import Settings
    from loopwright.store.space import bind

    space = house.init(root, Settings(clock="replay", start="2013-04-01T04:00:00Z"))
    bind(space)
    before = Path.cwd()
    try:
        os.chdir(root)
        people.prepare(space)
    finally:
        os.chdir(before)
        bind(None)
        space.close()


def _erase(root: Path, subject: str, kill_s: float | None = None) -> float:
    """Run `lw erase`, killed after so long when asked; returns how long it took."""
    command = [str(contract.VENV / "bin" / "lw"), "erase", "--subject", subject, "--json"]
    start = time.monotonic()
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            out, told = child.communicate(timeout=kill_s)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            return time.monotonic() - start
    if child.returncode != 0:
        raise RuntimeError(f"lw erase ended with {child.returncode}: {(told or out).decode()[-300:]}")
    return time.monotonic() - start


def measure(bench: contract.Bench) -> None:
    """Plant, look, erase, look; once undisturbed and once killed again and again."""
    sys.path.insert(0, str(contract.ROOT / "tests" / "audit"))
    from planted import NAME, SUBJECT

    found, looked, planted, where, took_s = list[int](), 0, 0, list[str](), 0.0
    draw = random.Random(7)
    for kills in (0, KILLS):
        with tempfile.TemporaryDirectory(dir=contract.OUT) as folder:
            root = Path(folder) / "people"
            _prepare(root)
            planted, _, _ = left(root / ".loopwright", NAME.encode())
            if not planted:
                raise RuntimeError("the look is blind: it does not see what was planted")
            for _ in range(kills):
                _erase(root, SUBJECT, draw.uniform(0.3, 1.0) * took_s)
            took_s = _erase(root, SUBJECT)
            bytes_left, files, places = left(root / ".loopwright", NAME.encode())
            found.append(bytes_left)
            looked += files
            where += places
    counts = {"attempted": looked, "checked": looked, "wrong": len(where)}
    reason = f"{planted} bytes planted; once undisturbed, once killed {KILLS} times"
    reason += f"; left in {', '.join(where[:3])}" if where else ""
    bench.put("erase.left_bytes", Result(stat(found, "bytes"), counts=counts, reason=reason))


def main() -> int:
    """Run the bench by itself."""
    args = contract.parser(__doc__).parse_args()
    if not args.list:
        contract.use_venv()
    return contract.main("erase", ROWS, args, measure)


if __name__ == "__main__":
    sys.exit(main())

"""What loopwright weighs: processor seconds to start, memory of an idle `lw up`, seconds to ready, the base install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
import venv
from pathlib import Path

import contract
import small
from contract import Bench, Result, stat
from small import LW, PYTHON, Served

IDLE_S = 20.0
_PIN = re.compile(r"^([A-Za-z0-9._-]+==[^ \\;]+)(.*?)\\?$", re.MULTILINE)
# what a virtual environment brings itself
_TOOLS = ("pip", "setuptools", "_distutils_hack", "pkg_resources", "distutils-precedence.pth")


def ratios(bench: Bench) -> None:
    """CPU of the two ways in, in turn with a bare interpreter."""
    commands = {
        "bare": [str(PYTHON), "-c", "pass"],
        "help": [str(LW), "--help"],
        "import": [str(PYTHON), "-c", "import loopwright"],
    }
    tasks = {name: (lambda c=command: contract.run_cpu(c)[0]) for name, command in commands.items()}
    found = contract.interleave(tasks, max(9, bench.args.reps))
    bench.keep("start.json", found)
    floor = bench.floors["bare_python_cpu_s"] = stat(found["bare"], "cpu")
    for name in ("help", "import"):
        times = stat([s / floor["median"] for s in found[name]], "cpu")
        against = ("floor", "bare_python_cpu_s", floor)
        result = Result(times, against=against, ratio=1 / times["median"], reason=f"{min(found[name]):.3f} s")
        bench.put(f"start.{name}_ratio", result)


def commands(bench: Bench, folder: Path) -> None:
    """CPU of everyday commands on a small project; the slowest of those that only look stands for them."""
    _import_late(folder)
    small.lw(folder, "run")  # so that the runs to be measured find everything cached
    number = iter(range(10**6))

    def cpu(*words: str) -> float:
        used, _, code = contract.run_cpu([str(LW), *words], cwd=folder, env=small.environment())
        if code:
            raise RuntimeError(f"lw {' '.join(words)} ended with {code}")
        return used

    def add() -> float:
        rows = "".join(f"r{line},{next(number)}.5,north\n" for line in range(1000))
        (folder / "fresh.csv").write_text("id,x,shop\n" + rows)
        return cpu("add", "fresh.csv")

    tasks = {
        "add": add,
        "add again": lambda: cpu("add", "fresh.csv"),
        "status": lambda: cpu("status"),
        "log": lambda: cpu("log", small.ENDPOINT),
        "cached run": lambda: cpu("run"),
    }
    found = contract.interleave(tasks, max(3, bench.args.reps))
    bench.keep("commands.json", found)
    again = stat(found["add again"], "cpu")["median"]
    why = f"1,000 new rows each time; the same file again {again:.3f} s"
    bench.put("start.add_cpu_s", Result(stat(found["add"], "cpu"), reason=why))
    medians = {name: stat(found[name], "cpu")["median"] for name in ("status", "log", "cached run")}
    slowest = max(medians, key=lambda name: medians[name])
    told = ", ".join(f"{name} {value:.3f}" for name, value in medians.items())
    bench.put("start.status_cpu_s", Result(stat(found[slowest], "cpu"), reason=f"the slowest of {told} s"))


def _import_late(folder: Path) -> None:
    """Let the project import its learner in the step that trains: what a cached run costs is then loopwright's own."""
    file = folder / "project.py"
    text = file.read_text().replace("import lightgbm as lgb\n\n", "")
    file.write_text(text.replace("    x, y = data\n", "    import lightgbm as lgb\n\n    x, y = data\n"))


def idle(bench: Bench, folder: Path) -> None:
    """Start `lw up` some times, ask it a little, leave it alone, and weigh all its processes."""
    served = Served(folder)
    starts = []
    for _ in range(2 if bench.args.quick else max(5, bench.args.reps)):
        served.stop()
        starts.append(served.start())
    bench.put("up.ready_s", Result(stat(starts, "wall"), reason=f"slowest {max(starts):.2f} s, two workers"))
    try:
        _ask(served, 50)
        time.sleep(2.0 if bench.args.quick else IDLE_S)
        assert served.process is not None
        sizes = {pid: pss_kb(pid) for pid in small.family(served.process.pid)}
        names = {pid: _name(pid) for pid in sizes}
        bench.keep("idle.json", {names[pid]: size for pid, size in sizes.items()})
        told = ", ".join(f"{names[pid]} {size / 1000:.0f}" for pid, size in sizes.items())
        bench.put("up.idle_pss_mb", Result(stat([sum(sizes.values()) / 1000], "bytes"), reason=f"{told} MB"))
    finally:
        served.stop()


def _ask(served: Served, count: int) -> None:
    import http.client

    from kill import body

    for number in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", served.data_port, timeout=30)
        path = f"/v2/models/{small.ENDPOINT}/infer"
        connection.request("POST", path, body(f"idle-{number}", 0.5), {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {answer.read()!r}")
        answer.read()
        connection.close()


def pss_kb(pid: int) -> float:
    """The memory of a process in thousands of bytes, what it shares counted by its share."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)[1]) * 1.024  # type: ignore[index]


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    kind = next((w for w in words if w in ("up", "_control", "_jobs", "loopwright.serving.worker")), "other")
    return f"{kind.strip('_').rpartition('.')[2]}:{pid}"


def install(bench: Bench) -> None:
    """Install the wheel alone, with the pinned versions, into an environment of its own, and weigh that."""
    with tempfile.TemporaryDirectory(dir=contract.OUT) as work:
        python = str(contract.VENV / "bin" / "python")
        wheels = Path(work) / "wheels"
        _run(python, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels), cwd=contract.ROOT)
        [wheel] = wheels.glob("loopwright-*.whl")
        pins = Path(work) / "pins.txt"
        text = (contract.ROOT / "requirements" / "dev.txt").read_text()
        pins.write_text("".join(f"{pin[1]}{pin[2].rstrip()}\n" for pin in _PIN.finditer(text)))
        folder = Path(work) / "env"
        venv.create(folder, with_pip=True)
        own = str(folder / "bin" / "python")
        _run(own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(pins), str(wheel))
        _run(own, "-m", "pip", "check")
        [packages] = (folder / "lib").glob("python*/site-packages")
        dists = sorted(place.name for place in packages.glob("*.dist-info") if not place.name.startswith(_TOOLS))
        size = sum(_size(place) for place in packages.iterdir() if not place.name.startswith(_TOOLS))
        size += sum(_size(place) for place in (folder / "bin").iterdir() if place.name in ("lw", "loopwright"))
        compiled = sum(place.stat().st_size for place in packages.rglob("*.pyc") if not _is_tool(place, packages))
    bench.keep("install.json", {"bytes": size, "compiled_bytes": compiled, "distributions": dists})
    why = f"every file of the environment but pip and setuptools, {compiled / 1e6:.0f} MB of it compiled modules"
    bench.put("install.mb", Result(stat([round(size / 1e6, 1)], "bytes"), reason=why))
    bench.put("install.dists", Result(stat([len(dists)], "count"), reason=", ".join(d.split("-")[0] for d in dists)))


def _is_tool(place: Path, packages: Path) -> bool:
    return place.relative_to(packages).parts[0].startswith(_TOOLS)


def _size(place: Path) -> int:
    if place.is_dir():
        return sum(file.lstat().st_size for file in place.rglob("*") if not file.is_dir())
    return place.lstat().st_size


def _run(*command: str, cwd: Path | None = None) -> None:
    ran = subprocess.run(command, cwd=cwd, env={**os.environ}, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(ran.stdout + ran.stderr).strip()[-500:]}")


def measure(bench: Bench) -> None:
    """The rows of `start.`, `up.` and `install.`."""
    bench.part(lambda: ratios(bench), "start.help", "start.import")
    work = bench.evidence / "weight"
    if bench.wants("start.add", "start.status", "up."):
        small.make(work)
    try:
        bench.part(lambda: idle(bench, work), "up.")
        bench.part(lambda: commands(bench, work), "start.add", "start.status")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    bench.part(lambda: install(bench), "install.")

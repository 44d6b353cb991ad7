"""Disks that fail for real: an ext4 image whose power is cut, one that is full, one that is read-only. Needs root."""

import contextlib
import ctypes
import fcntl
import http.client
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driver import EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH
from lab import Lab, Tally
from points import OPERATIONS, Operation, between

IMAGE_MB = 64
# Kept data are on the disk a second after they were acknowledged.
KEPT_S = 1.0
# Nothing is written back by itself meanwhile: what survives was fsynced.
_LAZY = "loop,commit=600"
_CLONE_NEWNS = 0x00020000


def why_no_mounts() -> str:
    """Why disks cannot be mounted here; empty when they can."""
    if os.geteuid() != 0:
        return "mounting a disk needs root"
    for name in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return ""


class NoMount(Exception):
    """The kernel refuses the mount, as in a container without the right to."""


def _run(*words: str) -> None:
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NoMount(f"{' '.join(words)}: {ran.stderr.strip()}")


def own_mounts() -> None:
    """Give this thread and its children a list of mounts of their own.

    Whoever makes a name space of his own meanwhile would take a copy of a mount along and keep a disk alive that was
    unmounted here. Call it before the Lab is made: its driver must see the same mounts.

    Raises:
        NoMount: the kernel does not let us.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise NoMount(f"unshare: {os.strerror(ctypes.get_errno())}")
    _run("mount", "--make-rprivate", "/")


class Disk:
    """An ext4 image with a copy of a project, mounted on a folder."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.place = lab, lab.folder / f"disk-{name}"
        self.place.mkdir(exist_ok=True)
        self._image = lab.folder / f"{name}.img"
        self._full = lab.folder / f"{name}.ready.img"
        self.project = self.place / "project"
        if not self._full.exists():
            with self._full.open("wb") as out:
                out.truncate(IMAGE_MB << 20)
            _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._full))
            _run("mount", "-o", "loop", str(self._full), str(self.place))
            try:
                shutil.copytree(lab.folder / name, self.project, symlinks=True)
            finally:
                _run("umount", str(self.place))

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        """The project on a fresh image; unmounted afterwards."""
        subprocess.run(["cp", "--sparse=always", str(self._full), str(self._image)], check=True)
        _run("mount", "-o", _LAZY, str(self._image), str(self.place))
        try:
            yield self.project
        finally:
            _run("umount", str(self.place))
            self._image.unlink()

    def cut(self) -> float:
        """Take its power, and say when."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            at_s = time.monotonic()
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(handle)
        return at_s

    def again(self) -> None:
        """Take the disk out and put it in again, as a machine does that comes back."""
        _run("umount", str(self.place))
        _run("mount", "-o", _LAZY, str(self._image), str(self.place))

    def read_only(self, yes: bool) -> None:
        """Let the disk take no more writes, or take them again."""
        _run("mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(self.place))


@contextlib.contextmanager
def small_disk(lab: Lab, size_kb: int) -> Iterator[Path]:
    """A tmpfs of a size."""
    place = lab.folder / "small-disk"
    place.mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(place))
    try:
        yield place
    finally:
        _run("umount", "-l", str(place))


@dataclass
class Asked:
    """What a client was told: request ids with the moment of their answers."""

    rows: list[tuple[str, float]]
    unlogged: int = 0
    refused: int = 0


class Client(threading.Thread):
    """Asks a worker for predictions, one after the other, until it is told to stop or the worker is gone."""

    def __init__(self, port: int, pause_s: float = 0.005) -> None:
        super().__init__(daemon=True)
        self.asked = Asked([])
        self._port, self._pause_s = port, pause_s
        self._ended = threading.Event()

    def run(self) -> None:
        """The asking."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            number = 0
            while not self._ended.is_set():
                number += 1
                answer = ask(connection, f"live-{number}")
                if answer is None:
                    self.asked.refused += 1
                elif answer["parameters"].get("logged", True):
                    self.asked.rows.append((f"live-{number}", time.monotonic()))
                else:
                    self.asked.unlogged += 1
                self._ended.wait(self._pause_s)

    def stop(self) -> Asked:
        """End it and say what it was told."""
        self._ended.set()
        self.join()
        return self.asked


def ask(connection: http.client.HTTPConnection, name: str) -> dict[str, Any] | None:
    """One prediction; None when it was refused for want of a log."""
    tensors = [
        {"name": "x", "datatype": "FP64", "shape": [1], "data": [0.5]},
        {"name": "shop", "datatype": "BYTES", "shape": [1], "data": ["north"]},
    ]
    body = json.dumps({"id": name, "inputs": tensors, "parameters": {"time": "2020-01-20T05:00:00Z"}})
    connection.request("POST", "/v2/models/small/infer", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    told: dict[str, Any] = json.loads(response.read())
    if response.status == 503:
        return None
    assert response.status == 200, told
    return told


@contextlib.contextmanager
def worker(lab: Lab, project: Path, strace: tuple[str, ...] = ()) -> Iterator[int]:
    """A real worker of a project, under strace when that is told what to do; its port. It is killed at the end."""
    port_file = lab.folder / "port.txt"
    port_file.unlink(missing_ok=True)
    begun = lab.begin(project, "work", port_file=str(port_file))
    try:
        port = int(wait_for(lambda: port_file.exists() and port_file.read_text()))
        wait_for(lambda: _ready(port))
        if strace:
            out = str(lab.traces / "worker.txt")
            tracer = subprocess.Popen(["strace", "-f", "-q", *strace, "-o", out, "-p", str(begun.pid)])
            wait_for(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{begun.pid}/status").read_text())
        yield port
    finally:
        begun.kill()
        if strace:
            tracer.wait()


def _ready(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
    return False


def wait_for(look: Any, limit_s: float = 30) -> Any:
    """What a look finds, once it finds anything."""
    until = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.01)
    return found


DURABLE = tuple(operation for operation in OPERATIONS if operation.name != "gc")


class PowerCuts:
    """Cuts the power at the acknowledgement of an operation while a worker answers, and looks what is there after."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.tally = lab, Tally()
        self.rows = 0
        self._after: dict[str, Any] = {}
        self._took_s: dict[str, float] = {}
        self.cut_short = 0

    def cut(self, operation: Operation, live_s: float) -> None:
        """One cut; `live_s` is for how long predictions are asked for before it."""
        disk = Disk(self.lab, operation.base)
        with disk.mounted() as project:
            operation.arrange(self.lab, project)
            wanted = self._wanted(operation)
            os.sync()
            asked, done, cut_s = self._lived(disk, project, operation, live_s)
            disk.again()
            self.tally.attempted += 1
            if done.code != 0:
                self.tally.false_success.append(f"{operation.name}: it did not end well: {done.err[-300:]}")
            self._check(project, operation, wanted, asked, cut_s)

    def cut_within(self, operation: Operation, share: float) -> None:
        """One cut after a share of the operation's usual time: done whole or not at all, and done when repeated."""
        disk, told = Disk(self.lab, operation.base), f"power cut after {share:.0%} of {operation.name}"
        wanted = self._wanted(operation)
        with disk.mounted() as project:
            operation.arrange(self.lab, project)
            before = self.lab.ask(project, "state")
            os.sync()
            after_s = share * self._took_s[operation.name]
            done = operation.run(self.lab, project, {"cut": str(disk.place), "cut_after_s": after_s})
            disk.again()
            self.tally.attempted += 1
            seen = self.lab.ask(project, "state")
            parts = [part for part in wanted if part not in ("served", "runs", "events")]
            odd = [part for part in parts if not between(seen[part], before[part], wanted[part])]
            if odd or any(run not in seen["runs"] for run in before["runs"]) or seen["unreadable"]:
                self.tally.lost.append(f"{told}: {odd or 'runs or bytes'}")
            self.cut_short += not done.acknowledged
            if done.acknowledged and any(seen[part] != wanted[part] for part in parts):
                self.tally.false_success.append(f"{told}: {done.out[-200:]}")
            again = operation.run(self.lab, project, None)
            refused = any(code in again.out + again.err for code in operation.refusals)
            if again.code != 0 and not refused:
                self.tally.stuck.append(f"{told}: again exits {again.code}: {again.err[-300:]}")
            seen = self.lab.ask(project, "state")
            if any(seen[part] != wanted[part] for part in parts):
                self.tally.lost.append(f"{told}: not as wanted after the repeat")
            checked = self.lab.lw(project, "fsck", "--json")
            if checked.code != 0:
                self.tally.wrong_bytes.append(f"{told}: fsck: {checked.out[-400:]}")

    def _lived(self, disk: Disk, project: Path, operation: Operation, live_s: float) -> tuple[Asked, Any, float]:
        how = {"cut": str(disk.place)}
        if operation.base == "fresh":  # nothing is served yet
            done = operation.run(self.lab, project, how)
            return Asked([]), done, 0.0
        with worker(self.lab, project) as port:
            client = Client(port)
            client.start()
            time.sleep(live_s)
            done = operation.run(self.lab, project, how)
            asked = client.stop()
        return asked, done, float(done.err.rpartition("cut at ")[2] or 0)

    def _wanted(self, operation: Operation) -> dict[str, Any]:
        if operation.name not in self._after:
            with self.lab.copy(operation.base) as project:
                operation.arrange(self.lab, project)
                done = operation.run(self.lab, project, None)
                self.lab.must(done)
                self._took_s[operation.name] = done.took_s
                self._after[operation.name] = self.lab.ask(project, "state")
        found: dict[str, Any] = self._after[operation.name]
        return found

    def _check(self, project: Path, operation: Operation, wanted: dict[str, Any], asked: Asked, cut_s: float) -> None:
        told = f"power cut after {operation.name}"
        found = self.lab.call(project, "state")
        if found.code != 0:
            self.tally.lost.append(f"{told}: the project cannot be read: {found.err[-300:]}")
            return
        seen = json.loads(found.out)
        logged = {row[0] for row in seen["predictions"]}
        before = [row for row in seen["predictions"] if not row[0].startswith("live-")]
        lost = [part for part in wanted if part not in ("predictions", "served") and seen[part] != wanted[part]]
        if lost or before != wanted["predictions"]:
            self.tally.lost.append(f"{told}: {lost or 'predictions'} not as acknowledged")
        due = [name for name, at_s in asked.rows if at_s < cut_s - KEPT_S]
        self.rows += len(due)
        gone = [name for name in due if name not in logged]
        if gone:
            self.tally.lost.append(f"{told}: {len(gone)} of {len(due)} predictions older than {KEPT_S} s are gone")
        checked = self.lab.lw(project, "fsck", "--json")
        if checked.code != 0:
            self.tally.wrong_bytes.append(f"{told}: fsck: {(checked.out + checked.err)[-500:]}")


def power(lab: Lab, count: int, live_s: float = 2.2) -> PowerCuts:
    """Cut the power at the acknowledgement `count` times, over all durable operations in turn."""
    cuts = PowerCuts(lab)
    for number in range(count):
        cuts.cut(DURABLE[number % len(DURABLE)], live_s + number % 5 * 0.19)
    return cuts


def power_within(lab: Lab, count: int) -> PowerCuts:
    """Cut the power within an operation `count` times, later and later, over all durable operations in turn."""
    cuts = PowerCuts(lab)
    for number in range(count):
        cuts.cut_within(DURABLE[number % len(DURABLE)], (number * 0.37 + 0.1) % 1.1)
    return cuts


def fill(place: Path, leave_kb: int) -> Path:
    """Fill a disk up to some KB, and return the file that does it."""
    filler = place / "filler"
    free = shutil.disk_usage(place).free - (leave_kb << 10)
    with filler.open("wb") as out:
        out.write(bytes(max(0, free)))
    return filler


def full(lab: Lab, rooms_kb: tuple[int, ...], size_kb: int = 4096) -> Tally:
    """Every operation on a disk with little room: refused with the reason or done, and well when there is room."""
    tally = Tally()
    for operation in DURABLE:
        with lab.copy(operation.base) as clean:
            operation.arrange(lab, clean)
            before = lab.ask(clean, "state")
            lab.must(operation.run(lab, clean, None))
            after = lab.ask(clean, "state")
        for room in rooms_kb:
            tally.attempted += 1
            with small_disk(lab, size_kb) as place:
                project = place / "project"
                shutil.copytree(lab.folder / operation.base, project, symlinks=True)
                operation.arrange(lab, project)
                _on_full(lab, operation, project, fill(place, room), tally, before, after)
    return tally


def _on_full(
    lab: Lab,
    operation: Operation,
    project: Path,
    filler: Path,
    tally: Tally,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    told = f"{operation.name} with {shutil.disk_usage(project).free >> 10} KB left"
    done = operation.run(lab, project, None)
    said = (done.err + done.out).lower()
    if done.code != 0 and not ("no space left" in said or "disk is full" in said):
        tally.stuck.append(f"{told}: refused without saying why: {said[-300:]}")
    filler.unlink()
    seen = lab.ask(project, "state")
    own = {*operation.loose} - {"runs", "served", "events"}
    parts = [part for part in after if part not in own | {"runs", "served", "events"}]
    odd = [part for part in parts if not between(seen[part], before[part], after[part])]
    if odd and not operation.takes_away:
        tally.lost.append(f"{told}: {odd}")
    if done.acknowledged and any(seen[part] != after[part] for part in after if part not in own):
        tally.false_success.append(f"{told}: {done.out[-200:]}")
    again = operation.run(lab, project, None)
    if again.code != 0 and not any(code in again.out + again.err for code in operation.refusals):
        tally.stuck.append(f"{told}: with room again exit {again.code}: {again.err[-300:]}")
    if any(lab.ask(project, "state")[part] != after[part] for part in after if part not in own | {"runs", "served"}):
        tally.lost.append(f"{told}: after the repeat")
    if lab.lw(project, "fsck", "--json").code != 0:
        tally.wrong_bytes.append(f"{told}: fsck")

"""Who a folder is among the hosts that share a Space: a name that stays, and that a copy of it does not take."""

import contextlib
import socket
from pathlib import Path
from zlib import crc32

from loopwright.kernel.files import make_file, replace_file
from loopwright.kernel.ids import new_id

FILE = "host"


def identity(home: Path) -> str:
    """The name of this folder on this machine; made when it has none, or when the folder came from elsewhere."""
    path, place = home / FILE, _place(home)
    found = _read(path)
    if found is not None and found[1] == place:
        return found[0]
    write = make_file if found is None else replace_file
    write(path, f"{new_id('host')} {place}\n".encode())
    made = _read(path)
    assert made is not None
    return made[0]


def _read(path: Path) -> tuple[str, str] | None:
    try:
        name, place = path.read_text("utf-8").split()
    except (FileNotFoundError, ValueError):
        return None
    return name, place


def _place(home: Path) -> str:
    """This machine and folder, told apart from a copy of it."""
    machine = ""
    with contextlib.suppress(OSError):
        machine = Path("/etc/machine-id").read_text("utf-8")
    return f"{crc32(f'{machine}{socket.gethostname()}{home.resolve()}'.encode()):08x}"

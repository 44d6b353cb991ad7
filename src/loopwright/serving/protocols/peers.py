"""Who is at the other end of a connection: whether it is this machine, and whose process holds the client's socket.

The kernel is asked by the four numbers of the connection, so nothing that a client says takes part.
"""

import ipaddress
import os
import socket
import struct
from pathlib import Path
from typing import Any, NamedTuple

KEY = "peer"  # where a listener keeps what it found out, for all requests of a connection
# A request with one of these was handed on: whoever holds the socket is not who asks.
FORWARDED = frozenset(
    (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")
)
_SOCK_DIAG_BY_FAMILY, _REQUEST, _NETLINK_SOCK_DIAG, _ERROR = 20, 1, 4, 2
_HEAD = struct.Struct("=IHHII")
_ASK = struct.Struct("=BBBBI")
_ANSWER = struct.Struct("=BBBB48sIIIII")
_NO_COOKIE = b"\xff" * 8
# A listener or a socket that its process has let go of would name the wrong owner: the latter counts as root's.
_HELD = (1, 4, 5, 8)  # established, fin-wait-1, fin-wait-2, close-wait
_WAIT_S = 0.5


class Peer(NamedTuple):
    """The client of one connection.

    Args:
        here: whether it is on this machine.
        uid: the user of its process; None when that is not known.
    """

    here: bool
    uid: int | None

    @property
    def own(self) -> bool:
        """Whether it is a process of this server's own user on this machine."""
        return self.here and self.uid is not None and self.uid == os.geteuid()


FOREIGN = Peer(False, None)
Address = tuple[Any, ...]


def of_transport(transport: Any) -> Peer:
    """The client behind an asyncio transport."""
    return of_addresses(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))


def of_addresses(client: Address | None, server: Address | None) -> Peer:
    """The client of the open connection between two addresses (host, port)."""
    try:
        here, there = _plain(client), _plain(server)
    except (ValueError, TypeError, IndexError):
        return FOREIGN
    # No other machine can hold a connection from an address of this one: loopback, or the very one that it called.
    if not (here[0] == there[0] or (here[0].is_loopback and there[0].is_loopback)):
        return FOREIGN
    if here[0].version != there[0].version:
        return FOREIGN
    return Peer(True, _owner(here, there))


_Plain = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def _plain(address: Address | None) -> _Plain:
    if address is None:
        raise ValueError("no address")
    found = ipaddress.ip_address(str(address[0]).partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found), int(address[1])


def _owner(client: _Plain, server: _Plain) -> int | None:
    try:
        return _by_netlink(client, server)
    except (OSError, AttributeError, struct.error):
        return _by_table(client, server)


def _by_netlink(client: _Plain, server: _Plain) -> int | None:
    """Ask for exactly this socket (sock_diag(7)): one message, whatever the number of connections."""
    family = socket.AF_INET if client[0].version == 4 else socket.AF_INET6
    wanted = struct.pack(">HH", client[1], server[1]) + client[0].packed.ljust(16, b"\0")
    wanted += server[0].packed.ljust(16, b"\0")
    states = sum(1 << state for state in _HELD)
    body = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0, states) + wanted + struct.pack("=I", 0) + _NO_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(_WAIT_S)
        asking.sendto(_HEAD.pack(_HEAD.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0) + body, (0, 0))
        answer, (sender, _) = asking.recvfrom(8192)
    if sender != 0:
        raise OSError("an answer that is not the kernel's")
    kind = _HEAD.unpack_from(answer)[1]
    if kind == _ERROR:
        code = -struct.unpack_from("=i", answer, _HEAD.size)[0]
        if code == 2:  # ENOENT: there is no such socket any more
            return None
        raise OSError(code, "sock_diag")
    if kind != _SOCK_DIAG_BY_FAMILY:
        raise OSError("an answer of another kind")
    _, state, _, _, found, _, _, _, uid, inode = _ANSWER.unpack_from(answer, _HEAD.size)
    if state not in _HELD or not inode or not _same(found, wanted, family):
        return None
    return int(uid)


def _same(found: bytes, wanted: bytes, family: int) -> bool:
    width = 4 if family == socket.AF_INET else 16
    spans = ((0, 4), (4, 4 + width), (20, 20 + width))
    return all(found[first:last] == wanted[first:last] for first, last in spans)


def _by_table(client: _Plain, server: _Plain) -> int | None:
    """The same from /proc/net, where the kernel has no sock_diag; None on a system that has neither."""
    table = Path("/proc/net/tcp" if client[0].version == 4 else "/proc/net/tcp6")
    wanted = (_hex(client), _hex(server))
    try:
        with table.open("r", encoding="ascii") as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                if (fields[1], fields[2]) == wanted:
                    held = int(fields[3], 16) in _HELD and int(fields[9]) != 0
                    return int(fields[7]) if held else None
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return None


def _hex(address: _Plain) -> str:
    words = struct.unpack(f">{len(address[0].packed) // 4}I", address[0].packed)
    turned = b"".join(struct.pack("=I", word) for word in words)
    return "".join(f"{word:08X}" for word in struct.unpack(f">{len(words)}I", turned)) + f":{address[1]:04X}"

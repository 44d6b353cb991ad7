"""Checkpoints: the state of the chain as a signed note that can be kept elsewhere.

The text form is C2SP's tlog-checkpoint (origin, size, root, then what is ours), signed as a C2SP signed-note with
Ed25519. The key is a file of mode 0600 in the Space; PyNaCl is loaded only to sign and to verify.
"""

import base64
import binascii
import os
import re
from hashlib import sha256
from pathlib import Path

import msgspec

from loopwright.kernel.errors import Corrupt, Invalid
from loopwright.kernel.files import make_file

LIMIT_BYTES = 64 * 1024
_ED25519 = b"\x01"
_DASH = "\u2014"
_NAME = re.compile(r"[!-*,-~]{1,200}")  # printable, no blank, no plus
_SIGNATURE = re.compile(f"{_DASH} ({_NAME.pattern}) ([A-Za-z0-9+/]+={{0,2}})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint as read: what it says, the text that was signed, and its signatures."""

    origin: str
    size: int
    root: bytes
    more: tuple[str, ...]
    body: str
    signatures: tuple[tuple[str, bytes], ...]


def body(origin: str, size: int, root: bytes, *more: str) -> str:
    """The text that is signed."""
    return "".join(f"{line}\n" for line in (origin, size, base64.b64encode(root).decode(), *more))


def parse(text: str) -> Checkpoint:
    """Read the text of a checkpoint; says nothing of its signatures' worth.

    Raises:
        Invalid: it is no checkpoint.
    """
    if len(text) > LIMIT_BYTES:
        raise _wrong("it is too long")
    signed, blank, notes = text.replace("\r\n", "\n").rpartition("\n\n")
    lines = signed.split("\n")
    if not blank or len(lines) < 3 or not all(lines):
        raise _wrong("it needs origin, size and root, an empty line and a signature")
    if not _SIZE.fullmatch(lines[1]):
        raise _wrong("its second line is no size")
    root = _decoded(lines[2])
    if root is None or len(root) != 32:
        raise _wrong("its third line is no root")
    signatures = []
    for line in notes.removesuffix("\n").split("\n"):
        found = _SIGNATURE.fullmatch(line)
        raw = _decoded(found[2]) if found else None
        if found is None or raw is None or len(raw) < 5:
            raise _wrong("a line behind the empty one is no signature")
        signatures.append((found[1], raw))
    return Checkpoint(
        origin=lines[0],
        size=int(lines[1]),
        root=root,
        more=tuple(lines[3:]),
        body=signed + "\n",
        signatures=tuple(signatures),
    )


def _wrong(why: str) -> Invalid:
    return Invalid(f"this is no checkpoint: {why}", code="audit.checkpoint-form", field="against",
                   hint="lw audit checkpoint --out FILE")  # fmt: skip


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes by which a signature names its key."""
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def public_text(name: str, public: bytes) -> str:
    """A public key in the form of signed notes: NAME+ID+KEY."""
    return f"{name}+{key_id(name, public).hex()}+{base64.b64encode(_ED25519 + public).decode()}"


def read_public(text: str) -> tuple[str, bytes]:
    """The name and the bytes of a public key.

    Raises:
        Invalid: it is none.
    """
    name, _, rest = text.strip().partition("+")
    number, _, encoded = rest.partition("+")
    raw = _decoded(encoded)
    wanted = raw is not None and len(raw) == 33 and raw[:1] == _ED25519 and _NAME.fullmatch(name)
    if raw is None or not wanted or key_id(name, raw[1:]).hex() != number:
        raise Invalid("this is no public key", code="audit.key-form", field="key", hint="lw audit checkpoint")
    return name, raw[1:]


def sign(text: str, name: str, seed: bytes) -> str:
    """The text with a signature under it."""
    from nacl.signing import SigningKey

    key = SigningKey(seed)
    raw = key_id(name, bytes(key.verify_key)) + key.sign(text.encode()).signature
    return f"{text}\n{_DASH} {name} {base64.b64encode(raw).decode()}\n"


def signed_by(found: Checkpoint, public: str) -> bool:
    """Whether a public key's owner signed the checkpoint."""
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    name, raw = read_public(public)
    for signer, signature in found.signatures:
        if signer == name and signature[:4] == key_id(name, raw) and len(signature) == 68:
            try:
                VerifyKey(raw).verify(found.body.encode(), signature[4:])
            except BadSignatureError:
                continue
            return True
    return False


def own_key(folder: Path) -> tuple[str, bytes, str]:
    """The name, the seed and the public text of this store's key, which is made when there is none.

    Raises:
        Corrupt: the key file is there and holds no key.
    """
    from nacl.signing import SigningKey

    path = folder / "audit.key"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        make_file(path, f"loopwright/{os.urandom(8).hex()} {os.urandom(32).hex()}\n".encode())
    found = re.fullmatch(r"(loopwright/[0-9a-f]{16}) ([0-9a-f]{64})\n", path.read_text("ascii", "replace"))
    if found is None:
        raise Corrupt(f"{path} holds no key", code="audit.key-file", hint="move it away; a new one is made")
    seed = bytes.fromhex(found[2])
    return found[1], seed, public_text(found[1], bytes(SigningKey(seed).verify_key))

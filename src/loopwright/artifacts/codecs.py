"""Codecs: how a value becomes files of an artifact and comes back equal. Nothing is pickled.

Plain JSON values, tuples, lists and dicts, bytes, files, numpy arrays, pandas frames; rooms above register their own.
"""

import base64
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from loopwright.artifacts import parquet, service
from loopwright.artifacts.model import Artifact
from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt, LoopwrightError, Unsupported
from loopwright.store.space import Space

KIND = "value"
MANIFEST = "value.json"
FORMAT = "loopwright-value/1"
_PLAIN_SCALARS = (type(None), bool, int, str)
_LIBRARIES_OF_MODELS = ("lightgbm", "sklearn", "xgboost", "catboost", "torch", "tensorflow", "keras")

Content = bytes | Path


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """A value as files, and what else its codec must be told to read them."""

    files: Mapping[str, Content]
    meta: dict[str, Any] = {}


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The stored files of one value, path -> digest."""

    space: Space
    files: dict[str, str]
    meta: dict[str, Any]

    def read(self, path: str) -> bytes:
        """The bytes of one file, checked against their digest.

        Raises:
            Corrupt: the value has no such file.
        """
        return self.space.blobs.read(self._digest(path))

    def local(self, path: str) -> Path:
        """Where the bytes of one file lie; not to be written to."""
        return self.space.blobs.path(self._digest(path))

    def _digest(self, path: str) -> str:
        if path not in self.files:
            raise Corrupt(f"the stored value has no file {path!r}", code="value.file", hint="lw fsck")
        return self.files[path]


class Codec(msgspec.Struct, frozen=True, kw_only=True):
    """How values of one type are kept.

    Args:
        name: what the codec is called in stored values, for ever.
        accepts: whether a value is of the type; must not import the type's library.
        encode: the value as files; bytes, or files written into the folder that it is given.
        decode: the value out of its stored files.
        kind: kind of the artifact when a value is stored alone; such values are artifacts of their own everywhere.
    """

    name: str
    accepts: Callable[[Any], bool]
    encode: Callable[[Any, Path], Encoded]
    decode: Callable[[Stored], Any]
    kind: str | None = None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A stored value: its artifact, and the artifacts of the parts that are of a kind of their own."""

    artifact: Artifact
    parts: tuple[Artifact, ...]


_codecs: dict[str, Codec] = {}


def register(codec: Codec) -> None:
    """Add a codec for a type of a room above, or put it in place of the one of the same name."""
    _codecs[codec.name] = codec


def keep(space: Space, value: Any) -> Kept:
    """Store a value as an artifact; equal values give equal digests.

    Raises:
        Unsupported: a part of the value is of a type that is not kept.
    """
    scratch = Path(tempfile.mkdtemp(dir=space.home / "tmp", prefix="value-"))
    try:
        codec = _codec_of(value)
        if codec is not None and codec.kind is not None:
            encoded = codec.encode(value, scratch)
            whole = service.put_tree(space, encoded.files, kind=codec.kind, meta=encoded.meta)
            return Kept(artifact=msgspec.structs.replace(whole, meta=encoded.meta), parts=(whole,))
        packer = _Packer(space, scratch)
        try:
            node = packer.node(value)
        except RecursionError:
            raise Unsupported("the value is nested too deeply, or holds itself", code="value.depth") from None
        manifest = _json({"format": FORMAT, "value": node})
        artifact = service.put_tree(space, {MANIFEST: manifest, **packer.files}, kind=KIND, meta={})
        return Kept(artifact=artifact, parts=tuple(packer.parts))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(space: Space, digest: str, kind: str, meta: Mapping[str, Any]) -> Any:
    """Read a stored value back.

    Raises:
        Corrupt: what is stored is no value of that kind.
        Erased: it held rows that were erased.
        Unsupported: no codec here reads it.
    """
    with service.told(space):
        return _load(space, digest, kind, meta)


def _load(space: Space, digest: str, kind: str, meta: Mapping[str, Any]) -> Any:
    files = service.files(space, digest)
    if kind != KIND:
        for codec in _codecs.values():
            if codec.kind == kind:
                return codec.decode(Stored(space=space, files=files, meta=dict(meta)))
        raise Unsupported(f"no codec reads values of kind {kind!r}", code="value.kind", field="kind")
    whole = Stored(space=space, files=files, meta={})
    try:
        manifest = json.loads(whole.read(MANIFEST))
        if manifest["format"] != FORMAT:
            raise Unsupported(f"this value has format {manifest['format']!r}; this version reads {FORMAT}")
        return _unpack(whole, manifest["value"])
    except LoopwrightError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Corrupt(f"the stored value {digest} cannot be read: {error}", code="value.form", hint="lw fsck") from None


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def is_plain(value: Any) -> bool:
    """Whether JSON gives the value back as it is."""
    kind = type(value)
    if kind in _PLAIN_SCALARS or (kind is float and math.isfinite(value)):
        return True
    if kind is list:
        return all(is_plain(item) for item in value)
    return kind is dict and all(type(key) is str and is_plain(item) for key, item in value.items())


class _Packer:
    """Turns a value into a node of the manifest and its files."""

    def __init__(self, space: Space, scratch: Path) -> None:
        self.files: dict[str, Content] = {}
        self.parts: list[Artifact] = []
        self._space = space
        self._scratch = scratch
        self._count = 0

    def node(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if is_plain(value):
            return {"json": value}
        if kind is float:
            return {"float": repr(value)}
        if kind is tuple or kind is list:
            return {kind.__name__: [self.node(item) for item in value]}
        if kind is dict:
            return {"dict": [[self._key(key), self.node(item)] for key, item in value.items()]}
        codec = _codec_of(value)
        if codec is None:
            raise _unsupported(value)
        return self._coded(codec, value)

    def _key(self, key: Any) -> dict[str, Any]:
        if type(key) in (*_PLAIN_SCALARS, float, tuple):
            return self.node(key)
        raise Unsupported(
            f"a dict in the value has a key of type {type(key).__name__}",
            code="value.key",
            hint="use text or numbers as keys",
        )

    def _coded(self, codec: Codec, value: Any) -> dict[str, Any]:
        folder = self._scratch / str(self._count)
        prefix = f"{self._count}/"
        self._count += 1
        folder.mkdir()
        encoded = codec.encode(value, folder)
        self.files.update({prefix + path: content for path, content in encoded.files.items()})
        if codec.kind is not None:
            part = service.put_tree(self._space, encoded.files, kind=codec.kind, meta=encoded.meta)
            self.parts.append(msgspec.structs.replace(part, meta=encoded.meta))
        return {"codec": codec.name, "at": prefix, "meta": encoded.meta}


def _unpack(whole: Stored, node: Mapping[str, Any]) -> Any:
    if "json" in node:
        return node["json"]
    if "float" in node:
        return float(node["float"])
    if "tuple" in node:
        return tuple(_unpack(whole, item) for item in node["tuple"])
    if "list" in node:
        return [_unpack(whole, item) for item in node["list"]]
    if "dict" in node:
        return {_unpack(whole, key): _unpack(whole, item) for key, item in node["dict"]}
    codec = _built_in().get(node["codec"]) or _codecs.get(node["codec"])
    if codec is None:
        raise Unsupported(f"no codec {node['codec']!r} here", code="value.codec", field="codec")
    prefix = node["at"]
    files = {path.removeprefix(prefix): file for path, file in whole.files.items() if path.startswith(prefix)}
    return codec.decode(Stored(space=whole.space, files=files, meta=node["meta"]))


def _codec_of(value: Any) -> Codec | None:
    for codec in (*_built_in().values(), *_codecs.values()):
        if codec.accepts(value):
            return codec
    return None


def _unsupported(value: Any) -> Unsupported:
    kind = type(value)
    origin = kind.__module__.partition(".")[0]
    hint = "return JSON values, numpy arrays, pandas frames, bytes, Path of a file, lw.model(...), or tuples and dicts"
    if origin in _LIBRARIES_OF_MODELS:
        hint = "return lw.model(NAME, fitted, sample=x)"
    elif kind.__name__ in ("set", "frozenset", "dict_keys", "dict_values"):
        hint = "return sorted(values)"
    elif kind.__name__ in ("generator", "coroutine", "map", "filter", "zip"):
        hint = "return list(values): the step must have done its work when it returns"
    elif hasattr(value, "isoformat"):
        hint = "return value.isoformat()"
    elif kind.__name__ == "ndarray":
        hint = "give the array numbers, booleans, times or text of a fixed width: .astype(float)"
    name = kind.__name__ if origin == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return Unsupported(f"a step cannot return a value of type {name}", code="value.type", field="value", hint=hint)


# the codecs that stand here


def _built_in() -> dict[str, Codec]:
    return _BUILT_IN


def _is_array(value: Any) -> bool:
    kind = type(value)
    if kind.__module__ != "numpy" or not hasattr(value, "dtype"):
        return False
    return kind.__name__ == "ndarray" and not value.dtype.hasobject and value.dtype.kind in "biufcmMSUV"


def _encode_array(value: Any, folder: Path) -> Encoded:
    from numpy.lib import format as npy

    with open(folder / "array.npy", "wb") as stream:
        npy.write_array(stream, value, allow_pickle=False)
    return Encoded(files={"array.npy": folder / "array.npy"})


def _decode_array(stored: Stored) -> Any:
    from numpy.lib import format as npy

    with open(stored.local("array.npy"), "rb") as stream:
        return npy.read_array(stream, allow_pickle=False)


def _is_number(value: Any) -> bool:
    if type(value).__module__ != "numpy" or getattr(value, "shape", None) != () or type(value).__name__ == "ndarray":
        return False
    return hasattr(value, "dtype") and not value.dtype.hasobject and value.dtype.kind in "biufcmMSU"


def _encode_number(value: Any, folder: Path) -> Encoded:
    return Encoded(files={}, meta={"dtype": value.dtype.str, "data": base64.b64encode(value.tobytes()).decode("ascii")})


def _decode_number(stored: Stored) -> Any:
    from numpy import frombuffer

    return frombuffer(base64.b64decode(stored.meta["data"]), dtype=stored.meta["dtype"])[0]


def _encode_bytes(value: Any, folder: Path) -> Encoded:
    return Encoded(files={"data.bin": bytes(value)})


def _encode_path(value: Path, folder: Path) -> Encoded:
    name = value.resolve().name or "root"
    if value.is_file():
        return Encoded(files={"file": value}, meta={"name": name})
    if not value.is_dir():
        raise Unsupported(
            f"a step returned the path {value}, where there is no file", code="value.path", hint="write it first"
        )
    files: dict[str, Content] = {}
    for path in sorted(value.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Unsupported(f"{path} is neither a file nor a folder", code="value.path", hint="copy what it names")
        if path.is_file():
            files[f"folder/{path.relative_to(value).as_posix()}"] = path
    return Encoded(files=files, meta={"name": name, "folder": True})


def _decode_path(stored: Stored) -> Path:
    """The file or folder under its own name, in a place of its own that many may read."""
    name = str(stored.meta["name"])
    home = stored.space.home / "values"
    home.mkdir(mode=0o700, exist_ok=True)
    place = home / canonical.digest([name, sorted(stored.files.items())])
    if not place.exists():
        work = Path(tempfile.mkdtemp(dir=stored.space.home / "tmp", prefix="value-"))
        if stored.meta.get("folder"):
            (work / name).mkdir()
        for path in stored.files:
            inside = work / name if path == "file" else work / name / path.removeprefix("folder/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_bytes(stored.read(path))
        try:
            os.rename(work, place)
        except OSError:
            shutil.rmtree(work, ignore_errors=True)
            if not place.exists():
                raise
    return place / name


def _encode_frame(value: Any, folder: Path) -> Encoded:
    path = folder / "frame.parquet"
    meta = parquet.write(value, path)
    return Encoded(files={"frame.parquet": path} if path.exists() else {}, meta=meta)


def _decode_frame(stored: Stored) -> Any:
    path = stored.local("frame.parquet") if stored.files else None
    return parquet.read(path, stored.meta)


_BUILT_IN = {
    codec.name: codec
    for codec in (
        Codec(name="array", accepts=_is_array, encode=_encode_array, decode=_decode_array),
        Codec(name="number", accepts=_is_number, encode=_encode_number, decode=_decode_number),
        Codec(
            name="bytes",
            accepts=lambda value: type(value) is bytes,
            encode=_encode_bytes,
            decode=lambda stored: stored.read("data.bin"),
        ),
        Codec(
            name="path",
            accepts=lambda value: isinstance(value, Path),
            encode=_encode_path,
            decode=_decode_path,
        ),
        Codec(name="frame", accepts=parquet.is_frame, encode=_encode_frame, decode=_decode_frame),
    )
}

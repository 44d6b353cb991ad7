"""A Space elsewhere: every op of the house by HTTP, with the same typed results and the same errors.

Commands carry an idempotency key, so that one whose answer was lost is sent again and done once. Files of the caller
are sent and fetched as bytes; jobs are waited for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.faces import bind, client, files, restore
from loopwright.kernel import errors
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Conflict, Invalid, NotFound, Unavailable, Unsupported
from loopwright.kernel.files import fresh_file
from loopwright.kernel.ids import new_id
from loopwright.kernel.op import Op

if TYPE_CHECKING:
    from loopwright.faces.rooms import House

URL = "LOOPWRIGHT_URL"
_PIECE_BYTES = 1 << 18
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.05, 1.0
_ACCEPTED = 202


def connect(house: House, url: str | None = None, *, token: str | None = None, timeout_s: float = 30.0) -> Remote:
    """A Space elsewhere, by the address of its `lw up`; address and token are those of the environment by default.

    Raises:
        Invalid: there is no address, or it is none.
    """
    place = url or os.environ.get(URL)
    if not place:
        raise Invalid("connect needs the address of an `lw up`", code="url.missing", field="url", hint=f"set {URL}")
    return Remote(house, client.Client(place, token=token or client.token_of_environment(), timeout_s=timeout_s))


class Caller:
    """Calls ops by their rows over one connection."""

    def __init__(self, connection: client.Client) -> None:
        self._client = connection

    def __repr__(self) -> str:
        return f"<loopwright at {self._client.url}>"

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def call(self, op: Op, args: Mapping[str, Any]) -> Any:
        """What the op's function would return, from the server.

        Raises:
            LoopwrightError: what the function would raise.
            Unavailable: the server does not answer.
            Unsupported: the op takes paths of the machine it runs on, so no wire offers it.
        """
        if not op.http:
            raise Unsupported(
                f"{op.name} works on the machine of the Space only", code="op.local", hint="call it there"
            )
        given = msgspec.to_builtins(bind.bind(op, args), enc_hook=bind.plain, builtin_types=(bytes,))
        if op.shape == "stream":
            return self._stream(op, given)
        if op.writes:
            return self._fetched(op, given)
        status, answered = self._answer(op, given)
        if op.shape == "job" and status == _ACCEPTED:
            return self._waited(op, msgspec.json.decode(answered))
        return restore.typed(answered, bind.result_type(op))

    def _answer(self, op: Op, args: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body; what broke off is sent once more, a command under the same key."""
        verb = bind.verb(op)
        key = {} if verb == "GET" or op.secret else {"idempotency-key": new_id("key")}
        send = self._sender(op, args, key)

        def ask() -> tuple[client.Reply, bytes]:
            reply = send()
            return reply, self._client.take(reply)

        try:
            reply, answered = ask()
        except Unavailable:
            if verb != "GET" and not key:
                raise
            reply, answered = ask()
        until = monotonic_s() + (self._client.timeout_s or 0.0)
        while reply.status >= 300:
            error = client.error_of(reply.status, answered)
            if not (isinstance(error, Conflict) and error.code == "request.under-way" and monotonic_s() < until):
                raise error
            time.sleep(_FIRST_LOOK_S)
            reply, answered = ask()
        return reply.status, answered

    def _sender(self, op: Op, args: dict[str, Any], headers: dict[str, str]) -> Callable[[], client.Reply]:
        """A function that sends the op's request, as often as it is called."""
        verb, whole = bind.verb(op), bind.body_param(op)
        path, left = client.target(op, args)
        if op.reads:
            place = Path(str(left[op.reads]))
            if not place.is_file():
                raise NotFound(f"no file {place}", code="file.missing", field=op.reads)
            left[op.reads] = place.name
            told = {**headers, "content-type": client.BYTES, "content-length": str(place.stat().st_size)}
            return lambda: self._client.send(verb, path + client.query_of(left), _pieces(place), told)
        if whole is not None:
            body = left.pop(whole.name)
            told = {**headers, "content-type": client.NDJSON}
            return lambda: self._client.send(verb, path + client.query_of(left), body, told)
        if verb in ("GET", "DELETE"):
            return lambda: self._client.send(verb, path + client.query_of(left), None, headers)
        told = {**headers, "content-type": client.JSON}
        return lambda: self._client.send(verb, path, bind.to_json(left), told)

    def _stream(self, op: Op, args: dict[str, Any]) -> Iterator[bytes]:
        reply = self._sender(op, args, {})()
        if reply.status >= 300:
            raise client.error_of(reply.status, self._client.take(reply))

        def pieces() -> Iterator[bytes]:
            while piece := reply.response.read(_PIECE_BYTES):
                yield piece

        return pieces()

    def _fetched(self, op: Op, args: dict[str, Any]) -> Any:
        """The result of an op that makes a file, which is put where the caller wants it, whole or not at all."""
        given = args.get(op.writes)
        out = None if given is None else Path(str(given))
        if out is not None and (not out.name or not out.parent.is_dir() or out.is_dir()):
            raise Invalid(f"{out} must be a file in a folder that is there", code="out.form", field=op.writes)
        reply = self._sender(op, {**args, op.writes: None if out is None else out.name}, {})()
        told = reply.response.headers.get_all(files.RESULT_HEADER)
        if reply.status >= 300 or told is None or out is None:
            answered = self._client.take(reply)
            if reply.status >= 300:
                raise client.error_of(reply.status, answered)
            return restore.typed(answered, bind.result_type(op))
        with contextlib.closing(reply.response), fresh_file(out) as fresh:
            with open(fresh, "wb") as stream:
                while piece := reply.response.read(_PIECE_BYTES):
                    stream.write(piece)
            if reply.response.length:
                raise Unavailable(f"{self._client.url} broke off in the middle of the file", code="up.silent")
        named = restore.renamed(msgspec.json.decode(files.read_header(told)), out.name, str(given))
        return restore.typed(msgspec.json.encode(named), bind.result_type(op))

    def _waited(self, op: Op, taken: dict[str, Any]) -> Any:
        """The result of a job, when it has one."""
        wait_s = _FIRST_LOOK_S
        while True:
            job = self._client.json("GET", taken["at"])
            if job["state"] == "finished":
                return restore.typed(msgspec.json.encode(job["result"]["result"]), bind.result_type(op))
            if job["state"] == "failed":
                raise errors.rebuilt(job.get("failure") or {"code": "job.failed", "message": job.get("error")})
            time.sleep(wait_s)
            wait_s = min(_LONGEST_LOOK_S, wait_s * 1.5)


class Remote(Caller):
    """A Space elsewhere: `remote.ROOM.OP(...)`, such as `remote.runs.get_run(run="run_...")`."""

    def __init__(self, house: House, connection: client.Client) -> None:
        super().__init__(connection)
        self._house = house

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Room:
        ops = {op.name.partition(".")[2]: op for op in self._house.ops().values() if op.name.startswith(f"{name}.")}
        if not ops:
            raise AttributeError(f"there is no room {name!r}: {', '.join(self.__dir__())}")
        return Room(self, ops)

    def __dir__(self) -> list[str]:
        return sorted({op.name.partition(".")[0] for op in self._house.ops().values() if op.http})


class Room:
    """The ops of one room, as methods."""

    def __init__(self, remote: Remote, ops: Mapping[str, Op]) -> None:
        self._remote, self._ops = remote, ops

    def __getattr__(self, name: str) -> Callable[..., Any]:
        op = self._ops.get(name)
        if op is None:
            raise AttributeError(f"there is no operation {name!r}: {', '.join(self._ops)}")
        remote = self._remote

        def call(**args: Any) -> Any:
            return remote.call(op, args)

        call.__name__, call.__doc__ = name, op.fn.__doc__
        return call

    def __dir__(self) -> list[str]:
        return sorted(self._ops)


def _pieces(place: Path) -> Iterator[bytes]:
    with open(place, "rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece

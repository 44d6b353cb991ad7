"""Every op through every door: function, HTTP, remote client, command, command with --url: one answer, one refusal.

A row says what an op is asked; `{door}` stands for a name of the door's own, where asking changes something.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loopwright import house
from loopwright.access import service as access
from loopwright.faces import bind, cli, client, output, remote
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Forbidden, LoopwrightError, Unsupported
from loopwright.kernel.op import Op
from loopwright.kernel.verdict import Verdict
from loopwright.monitors import feed_queries
from loopwright.monitors.feed_model import Episode
from loopwright.project import server
from loopwright.releases import approvals, moves, queries
from loopwright.releases import desk as desks
from loopwright.store import ledger
from loopwright.store import space as spaces
from loopwright.store.database import Tx
from loopwright.store.space import Space

Served = tuple[Any, server.Running]
DOORS = ("function", "http", "remote", "command", "url")


class House:
    """The house and its doors, open on one served project."""

    def __init__(self, folder: Path, where: server.Running, space: Space) -> None:
        self.folder, self.url, self.space = folder, where.control_url, space
        self.actor = access.local_actor()
        self.remote = remote.connect(house, where.control_url, token=None)  # type: ignore[arg-type]
        self.http = client.Client(where.control_url)
        self.names: dict[str, str] = {}

    def function(self, op: Op, args: dict[str, Any]) -> Any:
        """The function itself."""
        return op.fn(self.space, self.actor, **bind.bind(op, args))

    def by_http(self, op: Op, args: dict[str, Any]) -> Any:
        """A plain HTTP call; the JSON that it answers."""
        path, left = client.target(op, args)
        verb, whole = bind.verb(op), bind.body_param(op)
        if whole is not None:
            body = left.pop(whole.name)
            return client.read(*self.http.request(verb, path + client.query_of(left), body, client.NDJSON))
        if verb in ("GET", "DELETE"):
            return client.read(*self.http.request(verb, path + client.query_of(left)))
        return self.http.json(verb, path, left)

    def by_remote(self, op: Op, args: dict[str, Any]) -> Any:
        """The remote client."""
        room, name = op.name.split(".")
        return getattr(getattr(self.remote, room), name)(**args)

    def command(self, op: Op, args: dict[str, Any], *, url: bool = False) -> tuple[int, Any]:
        """Exit code and document of the command that the row names, else of `lw api`."""
        line = ["--url", self.url] if url else []
        return call([*line, *self._words(op, args), "--json"])

    def _words(self, op: Op, args: Mapping[str, Any]) -> list[str]:
        given = {}
        for name, value in args.items():
            if isinstance(value, bytes):
                (self.folder / "body.ndjson").write_bytes(value)
            given[name] = "body.ndjson" if isinstance(value, bytes) else value
        known = {p.name for p in bind.params(op)}
        if op.cli is None or not set(given) <= known:
            return ["api", op.name, *(f"{name}={bind.to_json(value).decode()}" for name, value in given.items())]
        line = op.cli.split(" ")
        for param in bind.params(op):
            value = given.get(param.name)
            if isinstance(value, dict):
                line += [word for key, item in value.items() for word in (param.option, f"{key}={item}")]
            elif value is not None and value is not False:
                shown = [str(value)]
                line += shown if param.name in op.positional else [param.option, *([] if value is True else shown)]
        return line

    def do(self, name: str, /, **args: Any) -> Any:
        """Prepare something by a function."""
        return self.function(house.ops()[name], args)


def call(words: list[str]) -> tuple[int, Any]:
    """Exit code and document of a command, run in this process."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        code = cli.main(lambda: house, words)  # type: ignore[arg-type, return-value]
    out.flush()
    return code, msgspec.json.decode(out.buffer.getvalue())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Ask:
    """What an op is asked, what is made ready for each door, and the fields that tell one asking from the next.

    `{door}` in an argument is the door's name, `{SOMETHING}` what `ready` made.
    """

    args: Mapping[str, Any] = field(default_factory=dict)
    ready: Callable[[House, str], Mapping[str, str] | None] = lambda rooms, door: None
    passing: tuple[str, ...] = ()

    def of(self, rooms: House, door: str) -> dict[str, Any]:
        known = {**rooms.names, **(self.ready(rooms, door) or {}), "door": f"at-{door}"}
        fill = {"{" + name + "}": value for name, value in known.items()}

        def filled(value: Any) -> Any:
            for mark, text in fill.items():
                value = value.replace(mark, text) if isinstance(value, str) else value
            return value

        return {name: filled(value) for name, value in self.args.items()}

    def shown(self, result: Any, door: str) -> Any:
        """A result without what tells one asking from the next."""
        own = any("{door}" in value for value in self.args.values() if isinstance(value, str))
        return without(msgspec.json.decode(bind.to_json(result)), self.passing, door if own else "")


def without(value: Any, passing: tuple[str, ...], door: str) -> Any:
    if isinstance(value, dict):
        return {key: without(item, passing, door) for key, item in value.items() if key not in passing}
    if isinstance(value, list):
        return [without(item, passing, door) for item in value]
    return value.replace(f"at-{door}", "DOOR") if isinstance(value, str) and door else value


def user(rooms: House, door: str) -> None:
    """A user of this door's own."""
    with contextlib.suppress(LoopwrightError):
        rooms.do("access.invite", name=f"user-at-{door}", role="viewer")


def granted(rooms: House, door: str) -> None:
    user(rooms, door)
    with contextlib.suppress(LoopwrightError):
        rooms.do("access.grant", name=f"user-at-{door}", role="operator")


def enabled(rooms: House, door: str) -> None:
    user(rooms, door)
    with contextlib.suppress(LoopwrightError):
        rooms.do("access.enable", name=f"user-at-{door}")


def disabled(rooms: House, door: str) -> None:
    user(rooms, door)
    with contextlib.suppress(LoopwrightError):
        rooms.do("access.disable", name=f"user-at-{door}")


def token(rooms: House, door: str) -> Mapping[str, str]:
    made = rooms.do("access.create_token", role="viewer")
    return {"TOKEN": made.id}


def free(rooms: House, door: str) -> None:
    """The endpoint is not paused."""
    with contextlib.suppress(LoopwrightError):
        rooms.do("releases.resume", endpoint="tiny")


def paused(rooms: House, door: str) -> None:
    free(rooms, door)
    rooms.do("releases.pause", endpoint="tiny", reason="to see")


def asked(rooms: House, door: str) -> Mapping[str, str]:
    """A version waits for a person."""

    def act(tx: Tx) -> str:
        desk = desks.find(tx, "tiny")
        spec = msgspec.structs.replace(desk.spec, approve="approver")
        plea = approvals.Plea(version=2, champion=1, evidence=[door], askers=["loop"], reason="to see", cause=None)
        return approvals.ask(tx, msgspec.structs.replace(desk, spec=spec), plea, "loop", tx.now_us()).id

    return {"REQUEST": rooms.space.write(act)}


def broken(rooms: House, door: str) -> Mapping[str, str]:
    """A feed of the endpoint is broken."""
    fault = Episode(
        id=f"feed_{door}", endpoint="tiny", source="weather", column="temp", what="jump", opened_us=1, since_us=1,
        holds=True, reason="to see",
    )  # fmt: skip
    rooms.space.write(lambda tx: feed_queries.put_episode(tx, fault))
    return {"EPISODE": fault.id}


def promoted(rooms: House, door: str) -> None:
    """The second version holds the place."""

    def act(tx: Tx) -> None:
        desk = desks.find(tx, "tiny")
        queries.crown(tx, "tiny", 2, tx.now_us(), "promoted")
        passed = Verdict(outcome="pass", check="made ready", reason="for a test")
        moves.reroute(tx, desk, moves.Leave(verdict=passed, evidence=[], cause=ledger.last_seq(tx)))

    rooms.space.write(act)


def sealed(rooms: House, door: str) -> None:
    """No event is unsealed."""
    rooms.do("audit.seal")


UNKNOWN = Ask({"nonsense": "x"})
NOTHING = Ask({"endpoint": "nothing"})
TINY, WHOLE = Ask({"endpoint": "tiny"}), Ask()
ROWS = {"name": "signals", "since": "2020-01-26", "until": "2020-01-27"}
ROW = b'{"id": "new", "asked_at": "2098-01-01T00:00:00Z", "x": 0.5, "shop": "north"}\n'
LABEL = b'{"id": "first", "label": 1}\n'

# what tells one asking of a user or a token from the next
OF_A_USER = ("id", "at_us", "grants")
OF_A_TOKEN = ("id", "token", "prefix", "shown", "secret", "at_us", "created_us", "expires_us", "revoked_us", "where")
OF_A_REQUEST = ("id", "bound", "at_us", "expires_us", "answered_us", "seq")
OF_A_CHAIN = ("size", "root", "events", "last_seq", "text")
NO_ONE = {"name": "no-one", "role": "viewer"}

# op -> what it is asked for an answer, and for a refusal
ASKED: dict[str, tuple[Ask, Ask]] = {
    "access.me": (WHOLE, UNKNOWN),
    "access.list_users": (WHOLE, UNKNOWN),
    "access.invite": (Ask({"name": "new-{door}", "role": "viewer"}, passing=OF_A_TOKEN), Ask({**NO_ONE, "role": "x"})),
    "access.grant": (Ask({"name": "user-{door}", "role": "operator"}, user, OF_A_USER), Ask(NO_ONE)),
    "access.revoke": (Ask({"name": "user-{door}", "role": "operator"}, granted, OF_A_USER), Ask(NO_ONE)),
    "access.disable": (Ask({"name": "user-{door}"}, enabled, OF_A_USER), Ask({"name": "no-one"})),
    "access.enable": (Ask({"name": "user-{door}"}, disabled, OF_A_USER), Ask({"name": "no-one"})),
    "access.list_tokens": (WHOLE, UNKNOWN),
    "access.create_token": (Ask({"role": "viewer"}, passing=OF_A_TOKEN), Ask({"role": "nobody"})),
    "access.revoke_token": (Ask({"token": "{TOKEN}"}, token, OF_A_TOKEN), Ask({"token": "nothing"})),
    "artifacts.list_names": (WHOLE, UNKNOWN),
    "artifacts.list_versions": (Ask({"name": "tiny", "limit": 1}), Ask({"name": "tiny", "limit": 0})),
    "artifacts.get_version": (Ask({"name": "tiny", "number": 1}), Ask({"name": "tiny", "number": 99})),
    "artifacts.list_label_moves": (Ask({"name": "tiny", "label": "prod"}), Ask({"name": "tiny", "label": "No Label"})),
    "artifacts.fsck": (WHOLE, UNKNOWN),
    "artifacts.gc": (Ask({"dry_run": True}), Ask({"grace": "nothing"})),
    "audit.chain": (Ask({"verify": True}), Ask({"key": "nothing"})),
    "audit.seal": (Ask(ready=sealed), UNKNOWN),
    "audit.erase": (Ask({"subject": "who=nobody", "dry_run": True}), Ask({"subject": "nobody"})),
    "audit.erasures": (Ask(), UNKNOWN),
    "audit.checkpoint": (Ask({"out": "{door}.txt"}, passing=OF_A_CHAIN), Ask({"out": "no/folder/x.txt"})),
    "data.add": (Ask({"path": "asks.csv"}), Ask({"path": "asks.csv", "as_": "Not A Name"})),
    "data.add_rows": (Ask({"name": "asks", "body": ROW}), Ask({"name": "asks", "body": b"{"})),
    "data.get": (Ask({"name": "asks"}), Ask({"name": "Not A Name"})),
    "data.get_features": (Ask({"name": "signals"}), Ask({"name": "nothing"})),
    "data.features_rows": (
        Ask({**ROWS, "out": "{door}.parquet"}),
        Ask({**ROWS, "name": "nothing", "out": "x.parquet"}),
    ),
    "runs.list_runs": (Ask({"limit": 2}), Ask({"limit": 0})),
    "runs.get_run": (Ask({"run": "{RUN}"}), Ask({"run": "run_0000"})),
    "runs.list_points": (Ask({"run": "{RUN}"}), Ask({"run": "run_0000"})),
    "runs.get_console": (Ask({"run": "{RUN}"}), Ask({"run": "run_0000"})),
    "pipelines.list_jobs": (Ask({"state": "finished", "limit": 1}), Ask({"before": "nothing"})),
    "models.get_model": (Ask({"name": "tiny", "number": 1}), Ask({"name": "asks", "number": 1})),
    "serving.list_endpoints": (WHOLE, UNKNOWN),
    "serving.get_endpoint": (TINY, NOTHING),
    "serving.list_routes": (TINY, NOTHING),
    "serving.list_workers": (Ask(passing=("at_us",)), UNKNOWN),
    "serving.add_labels": (Ask({"endpoint": "tiny", "body": LABEL}), Ask({"endpoint": "tiny", "body": b"{"})),
    "serving.check_features": (Ask({"name": "signals"}), Ask({"name": "nothing"})),
    "serving.get_prediction": (Ask({"endpoint": "tiny", "id": "first"}), Ask({"endpoint": "tiny", "id": "second"})),
    "serving.write_predictions": (
        Ask({"endpoint": "tiny", "out": "{door}.parquet", "since": "2020-01-25"}),
        Ask({"endpoint": "tiny", "out": "x.txt"}),
    ),
    "monitors.quality": (Ask({"endpoint": "tiny", "days": 3}), Ask({"endpoint": "tiny", "days": 0})),
    "monitors.drift": (TINY, NOTHING),
    "monitors.list_alarms": (TINY, NOTHING),
    "monitors.list_flags": (TINY, NOTHING),
    "monitors.list_feeds": (TINY, NOTHING),
    "monitors.accept_feed": (
        Ask({"endpoint": "tiny", "episode": "{EPISODE}", "reason": "x"}, broken, ("id", "closed_us", "until_us")),
        Ask({"endpoint": "tiny", "episode": "nothing", "reason": "x"}),
    ),
    "releases.check": (Ask({"ref": "tiny@2"}, passing=("permit", "at_us", "id")), Ask({"ref": "nothing"})),
    "releases.deploy": (Ask({"ref": "tiny@2", "shadow": True}, passing=("generation",)), Ask({"ref": "nothing"})),
    "releases.rollback": (Ask({"endpoint": "tiny"}, promoted, ("generation",)), NOTHING),
    "releases.pause": (Ask({"endpoint": "tiny", "reason": "x"}, free), Ask({"endpoint": "nothing", "reason": "x"})),
    "releases.resume": (Ask({"endpoint": "tiny"}, paused, ("placed_us", "lifted_us")), NOTHING),
    "releases.approve": (Ask({"request": "{REQUEST}"}, asked, OF_A_REQUEST), Ask({"request": "nothing"})),
    "releases.list_approvals": (Ask({"waiting": True, "limit": 1}), Ask({"limit": 0})),
    "releases.list_quarantine": (TINY, NOTHING),
    "releases.list_verdicts": (Ask({"endpoint": "tiny", "version": 1}), Ask({"endpoint": "nothing", "version": 1})),
    "releases.list_reigns": (TINY, NOTHING),
    "releases.list_rollouts": (TINY, NOTHING),
    "loop.endpoint_state": (TINY, NOTHING),
    "loop.list_notifications": (WHOLE, Ask({"limit": 0})),
    "loop.try_channel": (Ask({"channel": "ops"}), Ask({"channel": "nothing"})),
    "lineage.show": (Ask({"ref": "tiny@1"}), Ask({"ref": "nothing"})),
    "lineage.log": (Ask({"ref": "tiny", "limit": 5}), Ask({"ref": "nothing"})),
    "lineage.trace": (Ask({"prediction": "{PREDICTION}"}), Ask({"prediction": "pred_0000"})),
    "lineage.events": (Ask({"kind": "decision", "stable": True}), Ask({"after": "x"})),
    "lineage.push": (Ask({"ref": "tiny@1"}, passing=("moved",)), Ask({"ref": "nothing"})),
    "lineage.pull": (Ask({"ref": "tiny@1"}, passing=("moved",)), Ask({"ref": "tiny@99"})),
    "lineage.reproduce": (Ask({"ref": "tiny@1"}), Ask({"ref": "asks@1"})),
    "project.run_target": (Ask({"params": {"trees": 5}}, passing=("took_us",)), Ask({"target": "nothing"})),
    "project.status": (Ask(passing=("parts",)), UNKNOWN),
    "project.backup": (
        Ask({"folder": "../{door}"}, passing=("name", "at", "took_s", "folder", "bytes")),
        Ask({"folder": ".loopwright/x"}),
    ),
}  # fmt: skip
# what a row must not be asked through: the door needs another answer, and a test of its own
FILES = {"data.add", "data.features_rows", "serving.write_predictions", "audit.checkpoint"}


@pytest.fixture(scope="module")
def rooms(served: Served) -> Iterator[House]:
    """One prediction, a second version of the model, and the project open in this process."""
    project, where = served
    tensors = [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [0.25]},
        {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["south"]},
    ]
    fields = {"id": "first", "parameters": {"time": "2020-01-25T05:00:00Z"}, "inputs": tensors}
    with contextlib.closing(client.Client(where.data_url)) as caller:
        answer = caller.json("POST", "/v2/models/tiny/infer", fields)
    before, space = Path.cwd(), house.open(project.folder)
    os.chdir(project.folder)
    with spaces.bound(space):
        made = House(project.folder, where, space)
        version = made.do("artifacts.get_version", name="tiny", number=1)
        made.names = {"PREDICTION": answer["parameters"]["prediction_id"], "RUN": version.run}
        made.do("project.run_target", params={"trees": 5})
        for name in ("serving.add_labels", "data.add_rows"):
            made.function(house.ops()[name], dict(ASKED[name][0].args))
        made.do("audit.seal")
        made.do("lineage.push", ref="tiny@1")
        yield made
    os.chdir(before)
    made.remote.close()
    made.http.close()
    space.close()


def test_every_op_is_asked() -> None:
    assert set(house.ops()) == set(ASKED)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_door_gives_the_same(rooms: House, name: str) -> None:
    op, ask = house.ops()[name], ASKED[name][0]
    wanted = rooms.function(op, ask.of(rooms, "function"))
    shown = ask.shown(wanted, "function")
    if op.http:
        far = rooms.by_remote(op, ask.of(rooms, "remote"))
        assert type(far) is type(wanted)
        assert ask.shown(far, "remote") == shown
    if op.http and name not in FILES and op.shape != "job":
        assert ask.shown(rooms.by_http(op, ask.of(rooms, "http")), "http") == shown
    exit_code = op.exit_code(wanted) if op.exit_code else 0
    schema = op.schema
    for door in ("command", "url") if op.http else ("command",):
        code, document = rooms.command(op, ask.of(rooms, door), url=door == "url")
        assert ask.shown(document, door) == ask.shown(output.document(wanted, schema), "function")
        assert code == exit_code


@pytest.mark.parametrize("name", sorted(FILES - {"data.add", "audit.checkpoint"}))
def test_files_are_the_same_through_every_door(rooms: House, name: str) -> None:
    made = {door: (rooms.folder / f"at-{door}.parquet") for door in ("function", "remote", "command", "url")}
    op, ask = house.ops()[name], ASKED[name][0]
    rooms.function(op, ask.of(rooms, "function"))
    rooms.by_remote(op, ask.of(rooms, "remote"))
    for door in ("command", "url"):
        assert rooms.command(op, ask.of(rooms, door), url=door == "url")[0] == 0
    assert len({path.read_bytes() for path in made.values()}) == 1


@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_door_refuses_alike(rooms: House, name: str) -> None:
    op, ask = house.ops()[name], ASKED[name][1]
    with pytest.raises(LoopwrightError) as caught:
        rooms.function(op, ask.of(rooms, "function"))
    told = msgspec.json.decode(bind.to_json(caught.value.to_dict()))
    kind = type(caught.value).kind_name()
    if not op.http:
        code, document = rooms.command(op, ask.of(rooms, "command"))
        assert (code, document) == (cli.exit_code(caught.value), {"schema": "lw.error/1", **told})
        return
    with pytest.raises(LoopwrightError) as caught:
        rooms.by_remote(op, ask.of(rooms, "remote"))
    assert (msgspec.json.decode(bind.to_json(caught.value.to_dict())), caught.value.kind_name()) == (told, kind)
    if name not in FILES and op.shape != "job":
        with pytest.raises(LoopwrightError) as caught:
            rooms.by_http(op, ask.of(rooms, "http"))
        assert msgspec.json.decode(bind.to_json(caught.value.to_dict())) == told
    for door in ("command", "url"):
        code, document = rooms.command(op, ask.of(rooms, door), url=door == "url")
        assert document == {"schema": "lw.error/1", **told}
        assert code == cli.exit_code(caught.value)


def test_what_takes_paths_of_the_machine_is_offered_by_no_wire(rooms: House) -> None:
    local = [name for name, op in house.ops().items() if not op.http]
    assert "project.backup" in local
    for name in local:
        op, args = house.ops()[name], ASKED[name][0].of(rooms, "remote")
        with pytest.raises(Unsupported) as caught:
            rooms.by_remote(op, args)
        assert caught.value.code == "op.local"
        code, document = rooms.command(op, args, url=True)
        assert (code, document["code"]) == (2, "op.local")
    kinds = {name: [p.name for p in bind.params(op) if bind.bare(p.type) is Path] for name, op in house.ops().items()}
    for name, paths in kinds.items():
        op = house.ops()[name]
        assert not op.http or set(paths) <= {op.reads, op.writes}, f"{name} opens a path that a client names"


def test_a_token_opens_what_its_role_may(rooms: House) -> None:
    made = rooms.do("access.create_token", role="viewer")
    with remote.connect(house, rooms.url, token=made.secret) as it:  # type: ignore[arg-type]
        assert it.access.me().actor == f"token:{made.id}"
        assert len(it.artifacts.list_names()) > 1
        with pytest.raises(Forbidden) as caught:
            it.data.add(path="asks.csv")
        assert caught.value.code == "access.refused" and made.secret not in str(caught.value.to_dict())
        rooms.do("access.revoke_token", token=made.id)
        with pytest.raises(Forbidden) as caught:
            until_s = monotonic_s() + 10
            while monotonic_s() < until_s:  # the server looks once in a while whether tokens have changed
                it.artifacts.list_names()
        assert caught.value.code == "access.unknown"

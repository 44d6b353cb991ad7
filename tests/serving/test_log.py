"""The prediction log: nothing acknowledged is lost, sealing can be repeated from every half-way point, reads agree."""

import contextlib
import resource
import threading
from typing import Any

import httpx
import pytest
from waiting import until
from worker_harness import AT, ME, VALUES, Running, ask, change, prepare, row, spools, write_spool

from loopwright.kernel.errors import Unavailable
from loopwright.kernel.times import DAY, HOUR, parse_time
from loopwright.serving import labels, predictions, publish, record, routes, seal
from loopwright.serving.columns import gather
from loopwright.serving.model import EndpointSpec, Route
from loopwright.serving.record import Columns
from loopwright.store import frames, ledger
from loopwright.store.space import Space, bound


def rows_of(space: Space) -> list[tuple[object, ...]]:
    with predictions.connect() as con:
        predictions.view(con, space, "delay")
        return con.execute("SELECT request_id, at_us, version, score FROM predictions").fetchall()


def test_a_killed_worker_loses_no_answered_row(worker: Running, ready: Space) -> None:
    answered: list[str] = []
    stop = threading.Event()

    def send(name: str) -> None:
        count = 0
        while not stop.is_set():
            with contextlib.suppress(httpx.TransportError):
                with httpx.Client(base_url=worker.http.base_url, trust_env=False, timeout=10) as client:
                    while not stop.is_set():
                        count += 1
                        client.post("/v2/models/delay/infer", json=ask(id=f"{name}-{count}")).raise_for_status()
                        answered.append(f"{name}-{count}")

    senders = [threading.Thread(target=send, args=(name,)) for name in "abc"]
    for sender in senders:
        sender.start()
    for goal in (200, 400):
        until(lambda goal=goal: len(answered) > goal)
        worker.kill()
        worker.again()
    until(lambda: len(answered) > 600)
    stop.set()
    for sender in senders:
        sender.join()
    logged = {row[0] for row in rows_of(ready)}
    assert set(answered) <= logged and len(spools(ready)) == 3
    assert seal.seal(ready).spools == 2
    assert {row[0] for row in rows_of(ready)} == logged


def test_a_torn_tail_is_cut_and_told(worker: Running, ready: Space) -> None:
    for n in range(5):
        worker.infer(ask(id=f"t{n}"))
    worker.kill()
    (path,) = spools(ready)
    torn = frames.encode(record.rows_payload([row("torn", parse_time(AT))]))[:-3]
    with open(path, "ab") as spool:
        spool.write(torn)
    assert [r[0] for r in rows_of(ready)] == [f"t{n}" for n in range(5)]
    done = seal.seal(ready)
    assert (done.spools, done.rows, done.cut_bytes) == (1, 5, len(torn))
    assert [r[0] for r in rows_of(ready)] == [f"t{n}" for n in range(5)]
    with ready.read() as tx:
        (event,) = ledger.read(tx, kinds=["prediction-log.sealed@1"])
    assert (event.data["rows"], event.data["cut_bytes"]) == (5, len(torn))


def test_rows_before_a_damage_are_sealed_and_the_spool_is_kept(worker: Running, ready: Space) -> None:
    for n in range(5):
        worker.infer(ask(id=f"t{n}"))
    worker.kill()
    (path,) = spools(ready)
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    done = seal.seal(ready)
    (kept,) = done.damaged
    assert path.with_suffix(".damaged").read_bytes() == bytes(data)
    assert kept == str(path.relative_to(ready.root))
    before = [f"t{n}" for n in range(5)]
    assert [r[0] for r in rows_of(ready)] == before[: done.rows] and 0 < done.rows < 5
    (told,) = [finding for finding in seal.check(ready) if finding.part == "log"]
    assert told.what.startswith("the rows after its damage") and path.stem in told.name


def test_one_spool_that_cannot_be_sealed_does_not_hold_up_the_others(ready: Space) -> None:
    columns = Columns(("wind",), ("float64",))
    folder = ready.home / "spool" / "delay"
    folder.mkdir(parents=True)
    for number in range(3):
        made = row("r", parse_time(AT))
        made.values = [1.0]
        path = folder / f"0{number}1k11n1688gd.spool"
        good = frames.encode(record.header(columns)) + frames.encode(record.rows_payload([made]))
        path.write_bytes(good if number else frames.encode(b"no rows at all"))
    with pytest.raises(Unavailable, match="1 of 3 spools could not be sealed") as caught:
        seal.seal(ready)
    assert "001k11n1688gd" in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["001k11n1688gd.spool"]


def test_an_open_spool_is_left_alone(worker: Running, ready: Space) -> None:
    worker.infer(ask(id="open"))
    assert not seal.due(ready) and seal.seal(ready).spools == 0
    worker.kill()
    assert seal.due(ready) and seal.seal(ready).spools == 1
    assert spools(ready) == [] and not seal.due(ready)
    found = predictions.find(ready, "open")
    assert found.segment is not None and found.inputs == VALUES
    assert predictions.find(ready, found.id) == found


def test_sealing_can_be_repeated_from_every_half_way_point(ready: Space) -> None:
    rows = [row(f"h{n}", 1000 - n) for n in range(20)]
    for number, entered in enumerate((0, 1, 2)):
        write_spool(ready, f"000000000000{number}", rows[5 * number : 5 * number + 5])
        (path,) = spools(ready)
        artifact = seal.convert(ready, path, gather(record.read(path)))
        for _ in range(entered):
            ready.write(lambda tx, p=path, a=artifact: seal.enter(tx, p, a, 0))
        before = rows_of(ready)
        assert len(before) == 5 * number + 5
        assert seal.seal(ready).spools == 1 and seal.seal(ready).spools == 0
        assert rows_of(ready) == before
    with ready.read() as tx:
        assert len(ledger.read(tx, kinds=["prediction-log.sealed@1"])) == 3
        assert predictions.manifest(tx, "delay") == (3, 15)


@pytest.mark.parametrize("early", [True, False])
def test_a_spool_that_is_sealed_while_it_is_read_is_read_once(
    ready: Space, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    write_spool(ready, "0000000000001", [row(f"r{n}", 1000 + n) for n in range(5)])
    manifest, sealed = predictions.segments, []

    def during(*args: Any) -> Any:
        if early:
            sealed.append(seal.seal(ready).spools)
        found = manifest(*args)
        sealed.append(seal.seal(ready).spools)
        return found

    monkeypatch.setattr(predictions, "segments", during)
    assert [r[0] for r in rows_of(ready)] == [f"r{n}" for n in range(5)]
    assert sum(sealed) == 1 and spools(ready) == []


def test_the_first_of_a_request_within_a_day_is_read(ready: Space) -> None:
    at = parse_time(AT)
    moments = {"a": 0, "b": 20 * HOUR, "c": 50 * HOUR}
    write_spool(ready, "0000000000001", [row("same", at + moments["c"]), row("other", at + 5)])
    write_spool(ready, "0000000000002", [row("same", at + moments["a"]), row("same", at + moments["b"])])
    want = [("same", at), ("other", at + 5), ("same", at + 50 * HOUR)]
    assert [r[:2] for r in rows_of(ready)] == want
    seal.seal(ready)
    assert [r[:2] for r in rows_of(ready)] == want
    with predictions.connect() as con:
        predictions.view(con, ready, "delay", since_us=at + HOUR, until_us=at + 2 * DAY)
        assert con.execute("SELECT * FROM predictions").fetchall() == []


def test_a_request_may_be_named_like_a_prediction(ready: Space) -> None:
    name = record.prediction_id(5, record.spool_id(0, 77), 1)
    write_spool(ready, "0000000000001", [row(name, 5)])
    for _ in range(2):
        assert predictions.find(ready, name, "delay").id == f"pred_{name}"
        seal.seal(ready)


def test_columns_that_come_and_go_and_change_type(ready: Space) -> None:
    wide = Columns(("wind", "odd 'name\""), ("int64", "string"))
    made = row("w", 7)
    made.values, made.errors, made.latency_us = [3, "x"], {4: "broke"}, {1: 9, 4: 0}
    write_spool(ready, "0000000000001", [row("n", 5)])
    seal.seal(ready)
    write_spool(ready, "0000000000002", [made], wide)
    for _ in range(2):
        with predictions.connect() as con:
            columns = predictions.view(con, ready, "delay")
            got = con.execute('SELECT in_wind, "in_odd \'name""", error_4 FROM predictions').fetchall()
        assert got == [(1.0, None, None), (3.0, "x", "broke")]
        assert {"in_wind", "in_odd 'name\"", "score_1", "error_4", "score"} <= set(columns)
        seal.seal(ready)
    assert predictions.find(ready, "w").errors == {"4": "broke"}


def test_a_full_disk_marks_answers_or_refuses(space: Space) -> None:
    prepare(space)
    change(space, [Route(1, 1.0, "live")])
    running = Running(space)
    try:
        assert "logged" not in running.infer(ask(id="before")).json()["parameters"]
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        marked = running.infer(ask(id="full")).json()
        assert marked["parameters"]["logged"] is False and marked["outputs"]
        required = EndpointSpec(name="delay", model="delay", features="asked", log="required")
        space.write(lambda tx: routes.declare(tx, ME, required))
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        publish.wait_applied(space, publish.publish(space))
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        refused = running.infer(ask(id="must"))
        assert (refused.status_code, refused.json()["code"]) == (503, "log.full")
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for name in ("full", "must"):
            assert "logged" not in running.infer(ask(id=name)).json()["parameters"]
        until(lambda: running.report.unlogged == 1)
    finally:
        running.stop()
    assert sorted(r[0] for r in rows_of(space)) == ["before", "full", "must"]


def test_the_log_as_frames_and_as_training_rows(worker: Running, ready: Space) -> None:
    at = parse_time(AT)
    for n in range(4):
        worker.infer(ask({**VALUES, "hour": n}, id=f"q{n}", time=f"2013-04-01T1{n}:00:00Z"))
    for id, label, hour in (("q0", 1, 12), ("q2", 0, 15)):
        line = f'{{"id":"{id}","label":{label},"known_at":"2013-04-01T{hour}:00:00Z"}}'
        labels.add(ready, "me", "delay", line.encode())
    reader = predictions.LOG_READER
    with predictions.connect() as con:
        assert reader(ready, con, "other", at + DAY) is None
        assert reader(ready, con, "asked", at) is None
        assert reader(ready, con, "asked", at + 3 * HOUR) == at
        got = con.execute("SELECT id, at_us, hour, dest, label, label_known_us FROM logged").fetchall()
        assert got == [("q0", at, 0, "D007", 1.0, at + 2 * HOUR)]
        reader(ready, con, "asked", at + DAY)
        assert con.execute("SELECT id, label FROM logged ORDER BY at_us").fetchall() == [("q0", 1.0), ("q2", 0.0)]
    worker.infer(ask(id="stray", time="2012-01-01T00:00:00Z"))
    labels.add(ready, "me", "delay", b'{"id":"stray","label":1,"known_at":"2012-01-02T00:00:00Z"}')
    with predictions.connect() as con:
        assert reader(ready, con, "asked", at + DAY) == at, "asked for a time before anything was served"
        assert "stray" not in [row[0] for row in con.execute("SELECT id FROM logged").fetchall()]
    assert reader.state(ready, "asked", at + 3 * HOUR) == [["delay", 4, 2, 3]]
    assert reader.state(ready, "asked", at + DAY) == [["delay", 5, 3, 3]]
    with bound(ready):
        frame = predictions.predictions("delay")
    assert list(frame["request_id"]) == ["stray", "q0", "q1", "q2", "q3"]

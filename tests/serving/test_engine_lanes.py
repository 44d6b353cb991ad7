"""Slow models score in a lane of their own: the loop goes on, order, log and repeats hold, and a hang is an error."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from engine_harness import Later, Loop, Slow, Transport, body, logged, request, serve
from worker_harness import ask, make_model, post

from loopwright.models.runtime import Predictor
from loopwright.serving import lane
from loopwright.serving.engine import Engine
from loopwright.serving.protocols.http import Server
from loopwright.serving.protocols.oip import Oip, render
from loopwright.serving.record import Columns


@pytest.fixture(scope="module")
def real() -> Predictor:
    return make_model(1).load()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def engine(tmp_path: Path, loop: Loop) -> Iterator[Engine]:
    made = Engine(tmp_path, 0, lambda work: work(), loop.tell)
    made.subject_key = b"k" * 32
    yield made
    made.close()


def test_slow_rows_wait_together_while_another_endpoint_answers(engine: Engine, loop: Loop, real: Predictor) -> None:
    slow = Slow(real)
    serve(engine, slow)
    serve(engine, real, name="quick")
    first, later = request(engine, "a"), [request(engine, f"b{n}", hour=n) for n in range(5)]
    engine.answer([first], body)
    for each in later:
        engine.answer([each], body)
    quick = request(engine, "q", "quick")
    engine.answer([quick], body)
    assert quick.answer is not None and not quick.pending
    assert first.pending and first.answer is None
    slow.go.set()
    loop.turn()
    assert first.answer is not None and not first.pending and later[0].pending
    loop.turn()
    assert all(each.answer is not None and each.answer.outcome == "answered" for each in later)
    assert slow.calls == [1, 5]


def test_answers_of_a_lane_are_logged_before_they_are_given(
    engine: Engine, loop: Loop, real: Predictor, tmp_path: Path
) -> None:
    slow = Slow(real)
    serve(engine, slow)
    seen: list[int] = []
    engine.settled = lambda: seen.append(len(logged(tmp_path)))
    engine.answer([request(engine, "a"), request(engine, "b", hour=9)], body)
    assert logged(tmp_path) == [] and seen == []
    slow.go.set()
    loop.turn()
    assert seen == [2] and [row.request_id for row in logged(tmp_path)] == ["a", "b"]


def test_repeats_of_what_is_under_way_get_its_answer_and_are_not_scored(
    engine: Engine, loop: Loop, real: Predictor, tmp_path: Path
) -> None:
    slow = Slow(real)
    serve(engine, slow)
    first, again, other = request(engine, "a"), request(engine, "a"), request(engine, "a", hour=9)
    engine.answer([first, again], body)
    engine.answer([other], body)
    assert first.pending and again.pending and other.pending
    slow.go.set()
    loop.turn()
    assert first.answer is not None and again.answer is not None and again.answer.body == first.answer.body != b""
    assert other.answer is not None and other.answer.outcome == "conflict"
    assert slow.calls == [1] and len(logged(tmp_path)) == 1
    late = request(engine, "a")
    engine.answer([late], body)
    assert late.answer is not None and (late.answer.outcome, late.answer.body) == ("repeated", first.answer.body)


def test_a_large_batch_goes_off_the_loop_and_what_follows_stays_behind_it(
    engine: Engine, loop: Loop, real: Predictor
) -> None:
    slow = Slow(real, row_us=10.0)
    slow.go.set()
    serve(engine, slow)
    one = request(engine)
    engine.answer([one], body)
    assert one.answer is not None
    many = request(engine)
    many.rows = list(many.rows) * 6000
    slow.go.clear()
    engine.answer([many], body)
    behind = request(engine)
    engine.answer([behind], body)
    assert many.pending and behind.pending
    slow.go.set()
    loop.rest()
    assert many.answer is not None and len(many.answer.scores) == 6000 and behind.answer is not None


def test_a_model_that_hangs_is_an_arm_error_and_the_others_answer(
    engine: Engine, loop: Loop, real: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "HANG_S", 0.0)
    good, hung = Slow(real), Slow(real)
    good.go.set()
    serve(engine, good, hung)
    first = request(engine, "a")
    engine.answer([first], body)
    while not hung.calls:
        assert first.pending
    engine.tick()
    loop.turn()
    assert first.answer is not None and (first.answer.outcome, first.answer.version) == ("answered", 1)
    (row,) = logged(tmp_path)
    assert row.errors == {2: "the model gave no answer in 10 s"} and list(row.scores) == [1]
    assert hung.failure and engine.targets["delay"].versions[1].predictor is None
    second = request(engine, "b")
    engine.answer([second], body)
    loop.turn()
    assert second.answer is not None and hung.calls == [1]
    hung.go.set()  # its thread comes back and finds that it was given up
    loop.rest()
    assert [row.request_id for row in logged(tmp_path)] == ["a", "b"]


def test_whatever_a_model_throws_counts_against_it_alone(engine: Engine, loop: Loop, real: Predictor) -> None:
    class Broken(Slow):
        def score(self, rows: Sequence[bytes]) -> list[float]:
            raise MemoryError("no room")

    good = Slow(real)
    good.go.set()
    serve(engine, good, Broken(real))
    one = request(engine)
    engine.answer([one], body)
    loop.turn()
    assert one.answer is not None and one.answer.outcome == "answered"
    serve(engine, Broken(real), good)
    one = request(engine)
    engine.answer([one], body)
    loop.turn()
    assert one.answer is not None and one.answer.outcome == "failed"


def test_a_connection_gets_its_answers_in_order_though_the_first_is_slow(
    engine: Engine, loop: Loop, real: Predictor
) -> None:
    slow = Slow(real)
    serve(engine, slow)
    serve(engine, real, name="quick")
    server = Server(Later(), engine, Oip(engine, "1", lambda: True), render)  # type: ignore[arg-type]
    connections = [(server.connection(), Transport()) for _ in range(2)]
    for connection, transport in connections:
        connection.connection_made(transport)  # type: ignore[arg-type]
    (one, first), (two, second) = connections
    one.data_received(post(ask(id="slow")) + post(ask(id="quick"), path="/v2/models/quick/infer"))
    two.data_received(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    server.flush()
    assert first.out == b"" and second.out.endswith(b'{"live":true}')
    slow.go.set()
    loop.turn()
    assert 0 < first.out.index(b'"id":"slow"') < first.out.index(b'"id":"quick"')
    assert first.out.count(b"200 OK") == 2


def test_what_is_remembered_for_repeats_has_a_limit_in_bytes(
    engine: Engine, real: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(engine, real)
    monkeypatch.setattr("loopwright.serving.engine.REMEMBERED_BYTES", 1000)

    def outcome(id: str) -> str:
        asked = request(engine, id)
        engine.answer([asked], lambda ask, answer: bytes(300))
        assert asked.answer is not None
        return asked.answer.outcome

    assert [outcome(id) for id in "abc"] == ["answered"] * 3
    assert [outcome(id) for id in "abc"] == ["repeated"] * 3
    assert [outcome(id) for id in "dbca"] == ["answered", "repeated", "repeated", "answered"], "the oldest goes first"
    assert [outcome(id) for id in "ba"] == ["answered", "repeated"]


def test_a_repeat_is_none_of_other_inputs_because_the_routes_ask_for_other_columns(
    engine: Engine, loop: Loop, real: Predictor
) -> None:
    slow = Slow(real)
    slow.go.set()
    serve(engine, slow)
    first, under_way = request(engine, "a"), request(engine, "b")
    engine.answer([first], body)
    loop.turn()
    slow.go.clear()
    engine.answer([under_way], body)
    serve(engine, real)
    fields = engine.targets["delay"].fields
    engine.targets["delay"].fields = tuple(reversed(fields))
    columns = engine.targets["delay"].columns
    engine.targets["delay"].columns = Columns(columns.names[::-1], columns.dtypes[::-1])
    again, with_others, joined = request(engine, "a"), request(engine, "a", hour=9), request(engine, "b")
    engine.answer([again, with_others, joined], body)
    assert joined.pending
    slow.go.set()
    loop.turn()
    assert again.answer is not None and first.answer is not None
    assert (again.answer.outcome, again.answer.body) == ("repeated", first.answer.body)
    assert with_others.answer is not None and with_others.answer.outcome == "repeated", "the first answer stands"
    assert joined.answer is not None and joined.answer is under_way.answer

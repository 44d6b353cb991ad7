"""Blocks against their own arithmetic: losses, pairs, late labels, what a version may be judged on, flags, windows."""

import json
import math
from typing import Any

import msgspec
import pytest
from world import World

from loopwright.kernel.errors import Invalid, NotFound
from loopwright.kernel.op import silent
from loopwright.kernel.times import DAY, HOUR, format_time, parse_time
from loopwright.monitors import blocks, ops, queries, windows
from loopwright.monitors.model import SERVED
from loopwright.serving import labels, predictions, record
from loopwright.serving.record import Columns, LogRow
from loopwright.store import frames

DAY_ONE = parse_time("2013-04-02T00:00:00Z")
ASK: dict[str, Any] = {
    "endpoint": "demo", "day": "2013-04-02", "since_us": DAY_ONE, "until_us": DAY_ONE + DAY,
    "close_us": DAY_ONE + DAY + 4 * HOUR, "last_close_us": DAY_ONE + 4 * HOUR, "metric": "log_loss", "task": "binary",
    "champion": 1, "trained_us": {"1": 0, "2": DAY_ONE + 12 * HOUR},
}  # fmt: skip

NEXT = {
    **ASK, "day": "2013-04-03", "since_us": DAY_ONE + DAY, "until_us": DAY_ONE + 2 * DAY,
    "close_us": DAY_ONE + 2 * DAY + 4 * HOUR, "last_close_us": ASK["close_us"],
}  # fmt: skip


def _rows() -> list[LogRow]:
    """24 requests, one an hour; version 2 scores all of them but was trained at noon; one call of it failed."""
    out = []
    for hour in range(24):
        score = {1: 0.2 + hour / 100, 2: 0.4}
        row = LogRow(
            f"pred_{hour}", DAY_ONE + hour * HOUR, 0, f"q{hour}", 1, 1, None, [0.5, "b"], score, {}, {1: 10, 2: 90}
        )
        out.append(row)
    out[20].scores.pop(2)
    out[20].errors[2] = "it broke"
    out[3].values = [99.0, "never seen"]
    return out


@pytest.fixture
def day(trained: World) -> World:
    """A served day with 24 requests, of which 20 have a label in time."""
    trained.deploy()
    path = trained.space.home / "spool" / "demo" / f"{record.spool_id(0, 1)}.spool"
    path.parent.mkdir(parents=True)
    header = record.header(Columns(("x", "c"), ("float64", "string")))
    path.write_bytes(frames.encode(header) + frames.encode(record.rows_payload(_rows())))
    known = [(f"q{hour}", hour % 3 == 0, DAY_ONE + (hour + 2) * HOUR) for hour in range(20)]
    late = [("q23", 1, DAY_ONE + DAY + 4 * HOUR), ("stranger", 1, DAY_ONE + 20 * HOUR)]
    body = b"\n".join(
        json.dumps({"id": ref, "label": int(value), "known_at": format_time(at)}).encode()
        for ref, value, at in known + late
    )
    labels.add(trained.space, "local:me", "demo", body)
    blocks.close_block(trained.space, ASK, silent)
    return trained


def _loss(hours: list[int], score: Any) -> float:
    parts = []
    for hour in hours:
        said = score(hour)
        parts.append(-math.log(said if hour % 3 == 0 else 1 - said))
    return math.fsum(parts)


def test_a_block_sums_what_was_known_in_time(day: World) -> None:
    with day.space.read() as tx:
        found = {block.version: block for block in queries.blocks(tx, "demo")}
        closed = queries.closed_days(tx, "demo")[0]
    first = found[1]
    assert (first.n, first.n_labelled, first.errors) == (24, 20, 0)
    assert first.loss_sum == pytest.approx(_loss(list(range(20)), lambda hour: 0.2 + hour / 100), rel=1e-12)
    assert first.score_sum == pytest.approx(sum(0.2 + hour / 100 for hour in range(20)))
    assert (first.label_sum, first.p95_us) == (7.0, 10)
    assert found[SERVED].loss_sum == first.loss_sum
    assert (closed.n, closed.n_labelled, closed.n_late) == (
        24,
        20,
        1,
    )  # the stranger; the label of q23 is not known yet


def test_a_version_is_judged_on_nothing_asked_before_it_was_trained(day: World) -> None:
    hours = list(range(12, 20))
    with day.space.read() as tx:
        found = {block.version: block for block in queries.blocks(tx, "demo")}
        pair = queries.pairs(tx, "demo")[0]
    assert (found[2].n, found[2].n_labelled, found[2].errors) == (11, 8, 1)
    assert (pair.a, pair.b, pair.n) == (1, 2, 8)
    assert pair.loss_a == pytest.approx(_loss(hours, lambda hour: 0.2 + hour / 100))
    assert pair.loss_b == pytest.approx(_loss(hours, lambda hour: 0.4))


def test_a_closed_day_stays_as_it_is(day: World) -> None:
    labels.add(day.space, "local:me", "demo", b'{"id": "q21", "label": 1, "known_at": "2013-04-02T23:30:00Z"}')
    blocks.close_block(day.space, ASK, silent)
    with day.space.read() as tx:
        assert queries.closed_days(tx, "demo")[0].n_labelled == 20


def test_a_late_label_is_counted_with_the_next_day(day: World) -> None:
    blocks.close_block(day.space, NEXT, silent)
    with day.space.read() as tx:
        closed = queries.closed_days(tx, "demo")[-1]
    assert (closed.n, closed.n_labelled, closed.n_late) == (0, 0, 1)


def test_rows_that_break_the_contract_are_named_and_kept(day: World) -> None:
    found = {(flag.column, flag.what): flag for flag in ops.list_flags(day.space, "me", endpoint="demo").items}
    assert found["x", "range"].examples == ["pred_3"]
    assert found["c", "unseen"].examples == ["pred_3"]
    with day.space.read() as tx:
        told = tx.value("SELECT data FROM events WHERE kind = 'contract.broken@1'")
    assert "never seen in training in c" in told
    assert "99" not in told  # an event holds no feature values
    assert predictions.find(day.space, "pred_3").inputs["c"] == "never seen"


def test_a_column_that_was_a_text_before_does_not_keep_a_day_open(day: World) -> None:
    for number, (dtype, value) in enumerate((("string", "low"), ("float64", 99.0)), 2):
        at = DAY_ONE + DAY + number * HOUR
        rows = [LogRow(f"pred_n{number}", at, 0, f"n{number}", 1, 1, None, [value, "b"], {1: 0.5}, {}, {1: 10})]
        path = day.space.home / "spool" / "demo" / f"{record.spool_id(0, number)}.spool"
        header = record.header(Columns(("x", "c"), (dtype, "string")))
        path.write_bytes(frames.encode(header) + frames.encode(record.rows_payload(rows)))
    blocks.close_block(day.space, NEXT, silent)
    with day.space.read() as tx:
        found = queries.flags(tx, "demo", since="2013-04-03")
    assert [(flag.column, flag.what, flag.examples) for flag in found] == [("x", "range", ["pred_n3"])]


def test_a_guard_window_counts_calls_failures_and_latency(day: World) -> None:
    ask = {
        "action_id": "w1", "endpoint": "demo", "since_us": DAY_ONE, "until_us": DAY_ONE + DAY, "champion": 1,
        "candidate": 2, "task": "binary", "slow_us": 50,
    }  # fmt: skip
    found = msgspec.convert(windows.measure_window(day.space, ask, silent), windows.GuardWindow)
    assert (found.requests, found.calls, found.alone) == (24, 24, 1)
    assert found.slow == found.paired == 24
    assert windows.measure_window(day.space, ask, silent) == msgspec.to_builtins(found)


def test_a_block_that_cannot_be_measured_counts_for_nothing(trained: World) -> None:
    trained.deploy()
    ask = msgspec.convert(ASK, blocks.BlockAsk)
    trained.space.write(lambda tx: blocks.give_up(tx, ask, "the disk is gone"))
    with trained.space.read() as tx:
        assert queries.closed_days(tx, "demo")[0].n == 0
        assert queries.blocks(tx, "demo") == []


def test_labels_of_a_day_that_could_not_be_measured_are_not_late_for_the_next(trained: World) -> None:
    trained.deploy()
    known = [(f"q{hour}", DAY_ONE + hour * HOUR) for hour in range(20)] + [("q23", ASK["close_us"])]
    lines = [json.dumps({"id": ref, "label": 1, "known_at": format_time(at)}).encode() for ref, at in known]
    labels.add(trained.space, "local:me", "demo", b"\n".join(lines))
    ask = msgspec.convert(ASK, blocks.BlockAsk)
    trained.space.write(lambda tx: blocks.give_up(tx, ask, "the disk is gone"))
    blocks.close_block(trained.space, NEXT, silent)
    with trained.space.read() as tx:
        assert queries.closed_days(tx, "demo")[-1].n_late == 1


def test_quality_of_the_day_and_bad_questions(day: World) -> None:
    found = ops.quality(day.space, "me", endpoint="demo")
    assert found.days[0].served.labelled == 20
    assert found.days[0].served.auc == pytest.approx(found.days[0].versions["1"].auc or 0)
    with pytest.raises(Invalid):
        ops.quality(day.space, "me", endpoint="demo", days=0)
    with pytest.raises(NotFound):
        ops.quality(day.space, "me", endpoint="other")

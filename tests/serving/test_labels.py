"""Labels: late, repeated, corrected, early and out of order; joined as they stood at a moment."""

import json

import pytest
from worker_harness import prepare, row, write_spool

from loopwright.kernel.errors import Invalid, NotFound
from loopwright.kernel.times import HOUR, MINUTE, format_time
from loopwright.serving import labels, predictions, routes, seal
from loopwright.serving.labels import Taken
from loopwright.serving.model import EndpointSpec
from loopwright.store.space import Space

AT = 1_364_800_000_000_000


@pytest.fixture
def asked(space: Space) -> Space:
    """A Space with four logged requests."""
    space.write(lambda tx: routes.declare(tx, "me", EndpointSpec(name="delay", model="delay", features="asked")))
    write_spool(space, "0000000000001", [row(f"r{n}", AT + n * MINUTE) for n in range(4)])
    return space


def send(space: Space, *lines: tuple[str, float, int | None]) -> Taken:
    made = [
        {"id": ref, "label": label} | ({} if known is None else {"known_at": format_time(AT + known)})
        for ref, label, known in lines
    ]
    return labels.add(space, "me", "delay", "\n".join(json.dumps(line) for line in made).encode())


def known(space: Space, before: int) -> dict[str, float | None]:
    with predictions.connect() as con:
        predictions.joined(con, space, "delay", AT + before)
        return dict(con.execute("SELECT request_id, label FROM judged ORDER BY at_us").fetchall())


def test_labels_are_joined_as_they_stood(asked: Space) -> None:
    first = send(asked, ("r0", 1, HOUR), ("r1", 0, 2 * HOUR), ("pred_r2", 1, HOUR), ("early", 1, HOUR))
    assert (first.accepted, first.repeated) == (4, 0)
    assert send(asked, ("r0", 1, HOUR), ("r1", 0, 2 * HOUR)).repeated == 2
    none = {"r3": None}
    assert known(asked, HOUR) == {"r0": None, "r1": None, "r2": None} | none
    assert known(asked, HOUR + 1) == {"r0": 1.0, "r1": None, "r2": 1.0} | none
    assert known(asked, 3 * HOUR) == {"r0": 1.0, "r1": 0.0, "r2": 1.0} | none
    send(asked, ("r0", 0, 3 * HOUR), ("r1", 1, HOUR), ("r2", 0, 4 * HOUR))
    assert known(asked, 2 * HOUR) == {"r0": 1.0, "r1": 1.0, "r2": 1.0} | none
    assert known(asked, 9 * HOUR) == {"r0": 0.0, "r1": 0.0, "r2": 0.0} | none
    seal.seal(asked)
    assert known(asked, 9 * HOUR) == {"r0": 0.0, "r1": 0.0, "r2": 0.0} | none
    found = predictions.find(asked, "r2")
    assert (found.label, found.label_known_us) == (0.0, AT + 4 * HOUR)
    assert [(label.ref, label.value) for label in found.labels] == [("pred_r2", 1.0), ("r2", 0.0)]


def test_a_label_may_name_the_repeat_that_its_client_knows(asked: Space) -> None:
    """A worker died between its log and its answer; another one has answered the repeat, under an id of its own."""
    again = row("r0", AT + 1)
    again.id = "pred_again"
    write_spool(asked, "0000000000002", [again])
    send(asked, ("pred_again", 1, HOUR), ("r1", 0, HOUR))
    want = {"r0": 1.0, "r1": 0.0, "r2": None, "r3": None}
    assert known(asked, 2 * HOUR) == want
    seal.seal(asked)
    assert known(asked, 2 * HOUR) == want
    send(asked, ("pred_r0", 0, 2 * HOUR))
    assert known(asked, 3 * HOUR)["r0"] == 0.0
    assert known(asked, 2 * HOUR)["r0"] == 1.0


def test_of_equal_moments_the_last_to_arrive_stands(asked: Space) -> None:
    for ref, value in (("r0", 1), ("pred_r0", 0), ("r1", 0), ("r1", 1), ("pred_r3", 1), ("r3", 0)):
        send(asked, (ref, value, HOUR))
    assert known(asked, 2 * HOUR) == {"r0": 0.0, "r1": 1.0, "r2": None, "r3": 0.0}
    assert send(asked, ("r1", 0, HOUR)).repeated == 1
    assert known(asked, 2 * HOUR)["r1"] == 1.0


def test_a_label_without_a_time_is_known_now(asked: Space) -> None:
    assert send(asked, ("r0", 1, None)).accepted == 1
    assert send(asked, ("r0", 1, None)).repeated == 1
    assert send(asked, ("r0", 0, None)).accepted == 1
    with asked.read() as tx:
        assert {label.known_at_us for label in labels.of(tx, "delay", ["r0"])} == {asked.clock.now_us()}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"\n\n", "body"),
        (b"{", "line 2"),
        (b'{"id":"r1"}', "line 2"),
        (b'{"id":"r1","label":"1"}', "line 2"),
        (b'{"id":"r1","label":1,"extra":1}', "line 2"),
        (b'{"id":7,"label":1}', "line 2"),
        (b'{"id":"","label":1}', "line 2, id"),
        (b'{"id":"r1","label":2}', "line 2, label"),
        (b'{"id":"r1","label":null}', "line 2"),
        (b'{"id":"r1","label":1e999}', "line 2"),
        (b'{"id":"r1","label":1,"known_at":"soon"}', "line 2, known_at"),
        (b"[1]", "line 2"),
        (b"\xff", "line 2"),
    ],
)
def test_a_line_that_is_no_label_refuses_all(asked: Space, body: bytes, field: str) -> None:
    good = b'{"id":"r0","label":1}\n' if field != "body" else b""
    with pytest.raises(Invalid) as refused:
        labels.add(asked, "me", "delay", good + body)
    assert refused.value.field == field
    with asked.read() as tx:
        assert labels.state(tx, "delay", 1 << 60) == (0, 0)


def test_labels_need_their_endpoint(asked: Space) -> None:
    with pytest.raises(NotFound):
        labels.add(asked, "me", "nobody", b'{"id":"r0","label":1}')


def test_regression_takes_any_finite_number(space: Space) -> None:
    prepare(space, count=0, task="regression")
    assert labels.add(space, "me", "delay", b'{"id":"r0","label":-12.5}').accepted == 1

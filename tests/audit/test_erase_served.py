"""Erasing beside a worker that goes on answering: spools are let go, remembered answers forgotten, nothing is lost."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from waiting import until
from worker_harness import ME, Running, ask, change, prepare

from loopwright.audit.erase import erase
from loopwright.kernel.errors import Erased
from loopwright.serving import predictions
from loopwright.serving.model import Route
from loopwright.store.space import Space

WHO = "who=Qvortrup77"


@pytest.mark.parametrize("ground", ["sqlite"], indirect=True)
def test_a_subject_is_erased_while_a_worker_answers(space: Space) -> None:
    prepare(space)
    change(space, [Route(1, 1.0, "live"), Route(2)])
    running = Running(space)
    stopped, answered = threading.Event(), []

    def load() -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            reply = running.http.post("/v2/models/delay/infer", json=ask(id=f"other-{number}", subject="who=Other"))
            answered.append((f"other-{number}", reply.status_code))

    try:
        mine = [running.http.post("/v2/models/delay/infer", json=ask(id=f"mine-{n}", subject=WHO)) for n in range(20)]
        before = {reply.json()["parameters"]["prediction_id"] for reply in mine}
        thread = threading.Thread(target=load)
        thread.start()
        until(lambda: len(answered) >= 20)
        receipt = erase(space, ME, subject=WHO)
        stopped.set()
        thread.join()
        again = running.http.post("/v2/models/delay/infer", json=ask(id="mine-0", subject="who=Other")).json()
    finally:
        stopped.set()
        running.stop()
    assert {(one.place, one.rows) for one in receipt.places} == {("prediction log", 20)}
    assert {status for _, status in answered} == {200}
    assert again["parameters"]["prediction_id"] not in before, "a forgotten request is answered anew"
    with predictions.connect() as con:
        predictions.view(con, space, "delay")
        logged = {row[0] for row in con.execute("SELECT request_id FROM predictions").fetchall()}
    assert logged == {name for name, _ in answered} | {"mine-0"}
    for old in sorted(before)[:2]:
        with pytest.raises(Erased):
            predictions.find(space, old)

"""Inference by a real worker over real sockets: scores, batches, arms, repeats, and what the log holds of them."""

import lightgbm as lgb
import numpy as np
import pytest
from worker_harness import AT, PARAMS, VALUES, Running, ask, change, frame, make_model, post

from loopwright.artifacts import names
from loopwright.kernel.errors import Unavailable
from loopwright.kernel.times import parse_time
from loopwright.models import service as models
from loopwright.models.package import model
from loopwright.serving import predictions, publish
from loopwright.serving.model import Route
from loopwright.serving.scoring import arm_of
from loopwright.store.space import Space


def expected(seed: int, rows: list[dict[str, object]]) -> list[float]:
    loaded = make_model(seed).load()
    return loaded.predict_values([[row[name] for name in loaded.encoder.names] for row in rows])


def test_a_row_is_answered_logged_and_found(worker: Running, ready: Space) -> None:
    answer = worker.infer(ask(id="r-1", subject="passenger=17"))
    assert answer.status_code == 200
    body = answer.json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("r-1", "delay", "1")
    score = expected(1, [VALUES])[0]
    assert body["outputs"] == [{"name": "probability", "datatype": "FP64", "shape": [1], "data": [score]}]
    row = predictions.find(ready, "r-1")
    assert row == predictions.find(ready, body["parameters"]["prediction_id"])
    assert (row.at_us, row.version, row.arm, row.score) == (parse_time(AT), 1, 1, score)
    assert row.scores == {"1": score, "2": expected(2, [VALUES])[0]}
    assert row.inputs == VALUES
    assert row.subject is not None and "passenger" not in row.subject and set(row.latency_us) == {"1", "2"}


def test_batches_score_byte_for_byte_as_single_rows(worker: Running, ready: Space) -> None:
    rows = frame(120, seed=9).astype(object).where(lambda f: f.notna(), None).to_dict("records")
    single = [worker.infer(ask(row)).json()["outputs"][0]["data"][0] for row in rows]
    body = worker.infer(ask({name: [row[name] for row in rows] for name in VALUES}, id="many")).json()
    assert body["outputs"][0]["shape"] == [120]
    assert body["outputs"][0]["data"] == single == expected(1, rows)
    third = predictions.find(ready, "many/2")
    assert third.id == body["parameters"]["prediction_id"] + "/2" and third.score == single[2]


def test_pipelined_requests_are_one_tick_and_come_back_in_order(worker: Running, ready: Space) -> None:
    rows = [{**VALUES, "hour": hour} for hour in range(24)]
    sent = b"".join(post(ask(row, id=f"p-{row['hour']}")) for row in rows)
    got = worker.raw(sent + b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    places = [got.index(b'"id":"p-%d"' % row["hour"]) for row in rows]
    assert places == sorted(places) and got.endswith(b'{"live":true}')
    assert [predictions.find(ready, f"p-{hour}").score for hour in range(24)] == expected(1, rows)


def test_nested_data_unseen_levels_and_nulls(worker: Running) -> None:
    body = ask({**VALUES, "dest": "NOWHERE"})
    for tensor in body["inputs"]:
        tensor["shape"], tensor["data"] = [1, 1], [tensor["data"]]
    odd = worker.infer(body).json()["outputs"][0]["data"]
    assert odd == worker.infer(ask({**VALUES, "dest": None})).json()["outputs"][0]["data"]
    assert worker.infer(ask({**VALUES, "wind": 3})).status_code == 200


def test_repeats_get_the_same_bytes_and_other_inputs_a_conflict(worker: Running, ready: Space) -> None:
    first = worker.infer(ask(id="again"))
    assert worker.infer(ask(id="again")).content == first.content
    refused = worker.infer(ask({**VALUES, "hour": 8}, id="again"))
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (409, "id.conflict", "id")
    twins = worker.raw(
        post(ask(id="twin")) + post(ask(id="twin")) + post(ask({**VALUES, "hour": 9}, id="twin"), "Connection: close")
    )
    assert twins.count(b"200 OK") == 2 and twins.count(b"409 Conflict") == 1
    later = {**ask({**VALUES, "hour": 8}, id="again"), "parameters": {"time": "2013-04-03T10:00:00Z"}}
    assert worker.infer(later).status_code == 200
    with predictions.connect() as con:
        predictions.view(con, ready, "delay")
        ids = [row[0] for row in con.execute("SELECT request_id FROM predictions").fetchall()]
    assert sorted(ids) == ["again", "again", "twin"]


def test_repeats_to_two_workers_are_read_once(worker: Running, ready: Space) -> None:
    other = Running(ready, slot=1)
    try:
        for running in (worker, other):
            assert running.infer(ask(id="both")).status_code == 200
    finally:
        other.stop()
    with predictions.connect() as con:
        predictions.view(con, ready, "delay")
        assert con.execute("SELECT COUNT(*) FROM predictions").fetchone() == (1,)


def test_arms_are_the_same_everywhere_and_only_grow(worker: Running, ready: Space) -> None:
    ids = [f"r{n}" for n in range(400)]
    share = {"a": 0.05, "b": 0.25}
    taken = {}
    for name, weight in share.items():
        live = [Route(1, 1 - weight, "live"), Route(2, weight, "live")]
        publish.wait_applied(ready, change(ready, live))
        got = {id: worker.infer(ask(id=f"{name}{id}")).json()["model_version"] for id in ids}
        taken[name] = {id for id, version in got.items() if version == "2"}
        assert taken[name] == {id for id in ids if arm_of("delay", 2, f"{name}{id}") < weight}
    places = np.array([arm_of("delay", 2, f"x{n}") for n in range(20_000)])
    assert abs((places < 0.05).mean() - 0.05) < 0.01
    assert predictions.find(ready, f"b{min(taken['b'])}").arm == 2


def test_an_arm_that_cannot_answer_falls_back_to_the_champion(worker: Running, ready: Space) -> None:
    damage_third(ready, -100)
    publish.wait_applied(ready, change(ready, [Route(1, 0.5, "live"), Route(3, 0.5, "live")]))
    answers = [worker.infer(ask(id=f"f{n}")) for n in range(30)]
    assert {answer.json()["model_version"] for answer in answers} == {"1"}
    rows = [predictions.find(ready, f"f{n}") for n in range(30)]
    assert {row.version for row in rows} == {1} and {row.arm for row in rows} == {1, 3}
    assert all("3" in row.errors and "3" not in row.scores for row in rows)


def test_a_version_that_takes_a_text_for_a_number_fails_alone(worker: Running, ready: Space) -> None:
    x = frame(seed=3)
    x["dest"] = x["dest"].cat.codes.astype("float64")
    fitted = lgb.train(PARAMS, lgb.Dataset(x, (x["hour"] > 11).astype(int)), 5)
    stored = models.store(ready, model("delay", fitted, sample=x))
    ready.write(lambda tx: models.register(tx, "local:tester", "delay", stored))
    publish.wait_applied(ready, change(ready, [Route(1, 1.0, "live"), Route(3)]))
    assert worker.infer(ask(id="odd")).status_code == 200
    found = predictions.find(ready, "odd")
    assert (found.version, sorted(found.scores)) == (1, ["1"])
    assert found.errors == {"3": "not asked: dest is string in the requests, and this version takes float64"}


def damage_third(space: Space, keep_bytes: int) -> None:
    """Register a third version whose native file is damaged on this disk."""
    stored = models.store(space, make_model(3))
    space.write(lambda tx: models.register(tx, "local:tester", "delay", stored))
    native = models.files(space, names.get(space, "delay", 3).digest).native
    native.chmod(0o600)
    native.write_bytes(native.read_bytes()[:keep_bytes])


@pytest.mark.parametrize("ground", ["sqlite"], indirect=True)  # an object store would give the right bytes again
def test_a_champion_that_cannot_be_loaded_keeps_the_old_routes(worker: Running, ready: Space) -> None:
    damage_third(ready, 100)
    publish.wait_applied(ready, change(ready, [Route(3, 1.0, "live")]))
    with pytest.raises(Unavailable, match="does not hold what was stored"):
        publish.require_served(ready, "delay")
    assert worker.infer(ask()).json()["model_version"] == "1"
    worker.kill()
    worker.again()
    answer = worker.infer(ask())
    assert (answer.status_code, answer.json()["code"]) == (503, "endpoint.unrouted")
    assert worker.http.get("/v2/models/delay/ready").status_code == 503
    publish.wait_applied(ready, change(ready, [Route(2, 1.0, "live")]))
    assert worker.infer(ask()).json()["model_version"] == "2"


def test_a_version_can_be_asked_for_only_while_it_is_live(worker: Running) -> None:
    assert worker.infer(ask(), "/v2/models/delay/versions/1/infer").status_code == 200
    refused = worker.infer(ask(), "/v2/models/delay/versions/2/infer")
    assert (refused.status_code, refused.json()["code"]) == (404, "version.missing")


def test_an_endpoint_without_routes_says_so(worker: Running, ready: Space) -> None:
    publish.wait_applied(ready, change(ready, []))
    answer = worker.infer(ask())
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "endpoint.unrouted", "1")
    assert worker.http.get("/v2/models/delay/ready").status_code == 503


def test_time_comes_from_the_space_when_the_asker_gives_none(worker: Running, ready: Space) -> None:
    body = ask(id="now")
    del body["parameters"]
    assert worker.infer(body).status_code == 200
    assert predictions.find(ready, "now").at_us == ready.clock.now_us()

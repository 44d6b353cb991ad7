"""A pipeline of scikit-learn and a model of XGBoost in a real worker: right scores, of nulls and strangers too."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from worker_harness import ME, VALUES, Running, ask, change, frame

from loopwright.models import service as models
from loopwright.models.package import model
from loopwright.serving import predictions, routes
from loopwright.serving.model import EndpointSpec, Route
from loopwright.store.space import Space


def pipeline() -> Any:
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["dest", "wet"]), (SimpleImputer(), ["wind", "hour"])
    )
    return make_pipeline(encoder, LogisticRegression(max_iter=500))


def fitted(made: Any, x: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.fit(x, (x["hour"] + x["wind"].fillna(0) > 22).astype(int))


@pytest.fixture
def served(space: Space) -> Iterator[tuple[Running, Any, Any]]:
    """A worker with the pipeline live and the boosted model in shadow."""
    space.write(lambda tx: routes.declare(tx, ME, EndpointSpec(name="delay", model="delay", features="asked")))
    x = frame()
    first = fitted(pipeline(), x)
    second = fitted(xgb.XGBClassifier(n_estimators=20, n_jobs=1), x[["wind", "hour"]])
    for made, sample in ((first, x), (second, x[["wind", "hour"]])):
        stored = models.store(space, model("delay", made, sample=sample))
        space.write(lambda tx, stored=stored: models.register(tx, ME, "delay", stored))
    change(space, [Route(1, 1.0, "live"), Route(2)])
    running = Running(space)
    yield running, first, second
    running.stop()


def test_the_worker_scores_as_the_libraries_do(served: tuple[Running, Any, Any], space: Space) -> None:
    worker, first, second = served
    x = frame(60, seed=4)
    x["dest"] = x["dest"].astype(object).where(np.arange(60) % 4 > 0, "NOWHERE")
    right, also = first.predict_proba(x)[:, 1], second.predict_proba(x[["wind", "hour"]])[:, 1]
    rows = x.astype(object).where(x.notna(), None).to_dict("records")
    body = worker.infer(ask({name: [row[name] for row in rows] for name in VALUES}, id="many")).json()
    assert np.abs(np.array(body["outputs"][0]["data"]) - right).max() <= 1e-5
    assert body["outputs"][0]["name"] == "probability"
    for place in (0, 7, 11, 28):
        alone = worker.infer(ask(rows[place], id=f"r{place}")).json()["outputs"][0]["data"][0]
        row = predictions.find(space, f"r{place}")
        assert alone == body["outputs"][0]["data"][place] == row.score
        assert abs(row.scores["2"] - also[place]) <= 1e-5


def test_a_boolean_or_number_of_the_wrong_type_is_refused(served: tuple[Running, Any, Any]) -> None:
    worker, _, _ = served
    refused = worker.infer(ask({**VALUES, "wet": None}))
    assert (refused.status_code, refused.json()["field"]) == (422, "wet")
    assert worker.infer(ask({**VALUES, "wind": None, "dest": None})).status_code == 200

"""Packages: the packed model scores as the fitted one does, bit for bit, and equal models give equal bytes."""

from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from loopwright.artifacts import service as artifacts
from loopwright.kernel.errors import Corrupt, Invalid, Unsupported
from loopwright.models import service
from loopwright.models.model import CARD_FILE, NATIVE_FILE
from loopwright.models.package import model
from loopwright.models.runtime import Predictor, values_of
from loopwright.models.value import Model
from loopwright.store.space import Space

PARAMS: dict[str, Any] = {
    "objective": "binary", "num_leaves": 15, "min_data_in_leaf": 20, "verbose": -1, "num_threads": 1,
    "deterministic": True, "force_row_wise": True, "seed": 3, "min_data_per_group": 5, "cat_smooth": 1,
}  # fmt: skip


def frame(rows: int = 4000, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    out = pd.DataFrame(
        {
            "wind": random.gamma(2, 5, rows),
            "dest": pd.Categorical([f"D{k:03d}" for k in random.integers(0, 105, rows)]),
            "hour": random.integers(0, 24, rows),
            "wet": random.random(rows) < 0.3,
            "gate": pd.Categorical(random.integers(3, 9, rows)),
        }
    )
    out.loc[::7, "wind"] = np.nan
    out.loc[::11, "dest"] = None
    return out


def target(x: pd.DataFrame) -> pd.Series:
    noise = np.random.default_rng(9).normal(size=len(x))
    return (x["wind"].fillna(0) / 10 + x["dest"].cat.codes % 7 / 3 + x["hour"] / 12 + noise > 3.5).astype(int)


def fitted(x: pd.DataFrame, trees: int = 30, **more: Any) -> lgb.Booster:
    return lgb.train({**PARAMS, **more}, lgb.Dataset(x, target(x)), trees)


def test_packed_scores_equal_the_fitted_ones() -> None:
    x = frame()
    booster = fitted(x)
    packed = model("delay", booster, sample=x)
    new = frame(3000, seed=5)
    new["dest"] = new["dest"].astype("str").where(np.arange(3000) % 3 > 0, "NOWHERE").astype("category")
    assert np.array_equal(packed.predict(new), booster.predict(new))
    assert "D100" in packed.card.signature.inputs[1].levels


def test_scores_do_not_depend_on_the_company_of_a_row() -> None:
    x = frame()
    loaded = model("delay", fitted(x), sample=x).load()
    rows = [loaded.encoder.pack(row) for row in values_of(x[:500], loaded.signature)]
    alone = [loaded.score([row])[0] for row in rows]
    for size in (2, 7, 23, 24, 25, 500):
        together = [score for place in range(0, 500, size) for score in loaded.score(rows[place : place + size])]
        assert together == alone


def test_unseen_level_scores_as_null() -> None:
    x = frame()
    loaded = model("delay", fitted(x), sample=x).load()
    rows = [[5.0, "NOWHERE", 7, True, 4], [5.0, None, 7, True, 4]]
    assert len(set(loaded.predict_values(rows))) == 1


def test_equal_models_give_equal_bytes() -> None:
    x = frame()
    assert model("delay", fitted(x), sample=x) == model("delay", fitted(x), sample=x)
    assert model("delay", fitted(x), sample=x) != model("delay", fitted(x, seed=4, bagging_fraction=0.5), sample=x)


def test_signature_and_contract_say_what_training_saw() -> None:
    x = frame()
    x.attrs["loopwright"] = {"features": "asked", "until_us": 17, "nullable": ["hour"]}
    packed = model("delay", fitted(x), sample=x)
    fields = {field.name: (field.dtype, field.nullable) for field in packed.card.signature.inputs}
    assert fields == {
        "wind": ("float64", True), "dest": ("string", True), "hour": ("int64", True),
        "wet": ("bool", False), "gate": ("int64", False),
    }  # fmt: skip
    assert (packed.card.features, packed.card.trained_until_us) == ("asked", 17)
    assert packed.card.signature.inputs[4].levels == (3, 4, 5, 6, 7, 8)


def test_estimators_are_packed_as_their_booster() -> None:
    x = frame()
    classifier = lgb.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(x, target(x))
    assert np.array_equal(model("delay", classifier, sample=x).predict(x), classifier.predict_proba(x)[:, 1])
    regressor = lgb.LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1).fit(x, x["hour"] * 1.5)
    packed = model("delay", regressor, sample=x)
    assert (packed.card.task, packed.card.signature.output) == ("regression", "value")
    assert np.array_equal(packed.predict(x), regressor.predict(x))


def test_what_cannot_be_packed_is_refused_by_name() -> None:
    x = frame(500)
    booster = fitted(x)
    with pytest.raises(Unsupported, match="dict"):
        model("delay", {}, sample=x)
    with pytest.raises(Invalid, match="'hour'"):
        model("delay", booster, sample=x.drop(columns=["hour"]))
    with pytest.raises(Invalid, match="for binary, not for regression"):
        model("delay", booster, sample=x, task="regression")
    with pytest.raises(Invalid, match="not been fitted"):
        model("delay", lgb.LGBMClassifier(), sample=x)
    with pytest.raises(Unsupported, match="multiclass"):
        model("delay", lgb.LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(x, x["hour"] % 3), sample=x)
    with pytest.raises(Invalid, match="0 and 1"):
        y = target(x).map({0: "on time", 1: "late"})
        model("delay", lgb.LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(x, y), sample=x)
    with pytest.raises(Invalid, match="name"):
        model("Delay!", booster, sample=x)
    with pytest.raises(Invalid, match="infinite"):
        model("delay", booster, sample=x.assign(wind=np.inf))


def test_columns_that_differ_by_case_alone_are_refused() -> None:
    x = frame(500)
    rows = x.rename(columns={"wind": "HOUR"})
    booster = lgb.train(PARAMS, lgb.Dataset(rows, target(x)), 2)
    with pytest.raises(Unsupported, match="case") as caught:
        model("delay", booster, sample=rows)
    assert caught.value.code == "model.column-case"


def test_store_register_and_read_back(space: Space) -> None:
    x = frame()
    packed = model("delay", fitted(x), sample=x)
    stored = service.store(space, packed)
    first = space.write(lambda tx: service.register(tx, "local:me", "delay", stored))
    again = space.write(lambda tx: service.register(tx, "local:me", "delay", artifacts.get(space, stored.digest)))
    assert (first.number, again.number, first.kind) == (1, 1, "model")
    assert service.load(space, stored.digest) == packed
    assert service.verify(space, stored.digest)
    assert [c.name for c in service.contract(space, stored.digest)] == ["wind", "dest", "hour", "wet", "gate"]


def test_damaged_packages_are_corrupt() -> None:
    x = frame(500)
    packed = model("delay", fitted(x), sample=x)
    for name, data in {CARD_FILE: b"{}", NATIVE_FILE: packed.files[NATIVE_FILE][:400]}.items():
        with pytest.raises(Corrupt):
            Model(name="delay", files={**packed.files, name: data}).load()
    with pytest.raises(Corrupt, match="columns"):
        narrow = model("delay", fitted(x[["wind", "dest", "hour"]]), sample=x)
        Predictor(packed.card, narrow.files[NATIVE_FILE])

"""Flavours beside LightGBM: what is packed scores as what was fitted, nulls and unseen levels too, or is refused."""

import warnings
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier

from loopwright.artifacts import service as artifacts
from loopwright.kernel.errors import Corrupt, Invalid, Unsupported
from loopwright.models import convert, parity, service
from loopwright.models.model import ONNX_FILE, UBJ_FILE
from loopwright.models.package import model
from loopwright.models.value import Model
from loopwright.store.space import Space
from tests.models.frames import NUMBERS, frame, late, minutes

Made = Callable[[], Any]


def ones() -> OneHotEncoder:
    """Ones and zeros, and only zeros for what training has not seen."""
    return OneHotEncoder(handle_unknown="ignore")


def columns() -> ColumnTransformer:
    """Numbers filled and scaled, texts and categories as ones and zeros."""
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
            ("levels", ones(), ["dest", "gate", "wet"]),
        ]
    )


def mixed() -> ColumnTransformer:
    """Encoders of several kinds, whole numbers as levels, and what remains passed through."""
    return ColumnTransformer(
        [
            ("filled", make_pipeline(SimpleImputer(strategy="most_frequent"), ones()), ["dest", "gate"]),
            (
                "codes",
                OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2),
                ["wet", "hour"],
            ),
        ],
        remainder="passthrough",
    )


def fit(made: Any, x: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.fit(x, y)


def scores(fitted: Any, x: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fitted.predict_proba(x)[:, 1] if hasattr(fitted, "predict_proba") else fitted.predict(x)


BINARY: dict[str, Made] = {
    "logistic": lambda: make_pipeline(columns(), LogisticRegression(max_iter=300)),
    "forest": lambda: make_pipeline(mixed(), SimpleImputer(), RandomForestClassifier(15, random_state=0)),
    "network": lambda: make_pipeline(columns(), MLPClassifier((8,), max_iter=10, random_state=0)),
    "lightgbm": lambda: make_pipeline(columns(), lgb.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1)),
    "xgboost": lambda: make_pipeline(columns(), xgb.XGBClassifier(n_estimators=10, n_jobs=1)),
    "target": lambda: make_pipeline(
        make_column_transformer((TargetEncoder(random_state=0), ["dest", "gate"]), (SimpleImputer(), NUMBERS)),
        LogisticRegression(max_iter=300),
    ),
}


@pytest.mark.parametrize("made", BINARY.values(), ids=BINARY)
def test_pipelines_score_as_the_fitted_ones_on_rows_they_have_not_seen(made: Made) -> None:
    x = frame()
    fitted = fit(made(), x, late(x))
    packed = model("late", fitted, sample=x)
    new = frame(400, seed=5)
    new.loc[::5, "dest"] = "NOWHERE"
    assert np.abs(packed.predict(new) - scores(fitted, new)).max() <= 1e-5
    runtime = packed.card.runtime
    assert (packed.card.flavour, runtime.engine, packed.card.task) == ("sklearn", "onnx", "binary")
    assert runtime.parity is not None and runtime.parity.passed and runtime.parity.made > 0
    assert runtime.parity.rows >= len(x) and runtime.parity.error <= runtime.parity.tolerance == 1e-5
    assert {"scikit-learn", "onnxruntime", "skl2onnx"} <= set(runtime.versions)
    assert sorted(packed.files) == ["contract.json", "environment.json", "model.json", ONNX_FILE, "sample.json"]


def test_numbers_alone_with_gaps_and_without_names() -> None:
    x = frame()
    boosted = fit(HistGradientBoostingClassifier(max_iter=10), x[NUMBERS], late(x))
    packed = model("late", boosted, sample=x[NUMBERS])
    assert np.abs(packed.predict(x) - scores(boosted, x[NUMBERS])).max() <= 1e-5
    matrix = x[NUMBERS].fillna(0).to_numpy()
    plain = fit(GradientBoostingRegressor(n_estimators=10), matrix, minutes(x))
    packed = model("minutes", plain, sample=matrix)
    assert [field.name for field in packed.card.signature.inputs] == ["x0", "x1", "x2"]
    found = packed.card.runtime.parity
    assert found is not None and found.tolerance == pytest.approx(1e-5 * plain.predict(matrix).max(), rel=0.1)
    assert np.abs(packed.predict(matrix) - plain.predict(matrix)).max() <= found.tolerance


def test_large_whole_numbers_take_the_wide_model() -> None:
    x = pd.DataFrame({"big": np.random.default_rng(0).integers(0, 10, 400) + 2**26, "hour": np.arange(400) % 24})
    fitted = make_pipeline(StandardScaler(), Ridge()).fit(x, x["big"] - 2.0**26)
    packed = model("big", fitted, sample=x)
    assert packed.card.runtime.width == "float64"
    assert np.abs(packed.predict(x) - fitted.predict(x)).max() < 1e-4


def test_a_column_that_the_pipeline_drops_is_not_asked_for() -> None:
    x = frame(400)
    x["note"] = pd.Categorical(["free text"] * len(x))
    logged = make_pipeline(SimpleImputer(), FunctionTransformer(np.log1p))
    encoder = ColumnTransformer([("numbers", logged, ["wind"]), ("levels", ones(), ["dest"])])
    fitted = make_pipeline(encoder, LogisticRegression(max_iter=300)).fit(x, late(x))
    packed = model("late", fitted, sample=x)
    assert [field.name for field in packed.card.signature.inputs] == ["wind", "dest"]
    assert np.abs(packed.predict(x[["dest", "wind"]]) - fitted.predict_proba(x)[:, 1]).max() <= 1e-5


def test_types_of_pandas_that_hold_a_null_are_columns_too() -> None:
    x = frame(300)
    x["seats"] = pd.array([None if n % 9 == 0 else n % 50 for n in range(300)], dtype="Int64")
    x["flag"] = pd.array([None if n % 13 == 0 else n % 2 == 0 for n in range(300)], dtype="boolean")
    encoder = make_column_transformer((ones(), ["flag"]), (SimpleImputer(), ["seats"]))
    fitted = make_pipeline(encoder, LogisticRegression(max_iter=300)).fit(x, late(x))
    packed = model("late", fitted, sample=x)
    assert [(f.name, f.dtype, f.nullable) for f in packed.card.signature.inputs] == [
        ("seats", "int64", True),
        ("flag", "bool", True),
    ]
    assert np.abs(packed.predict(x) - fitted.predict_proba(x)[:, 1]).max() <= 1e-5


def test_a_column_cannot_be_a_number_and_a_level_at_once() -> None:
    x = frame(300)
    encoder = ColumnTransformer([("numbers", StandardScaler(), ["hour"]), ("levels", ones(), ["hour"])])
    fitted = make_pipeline(encoder, LogisticRegression(max_iter=300)).fit(x, late(x))
    with pytest.raises(Unsupported, match="a number in one place"):
        model("late", fitted, sample=x)


def test_a_row_scores_the_same_in_whatever_company() -> None:
    x = frame()
    for made in (BINARY["logistic"], BINARY["forest"]):
        packed = model("late", fit(made(), x, late(x)), sample=x)
        loaded = packed.load()
        values = [[None if v is None or v != v else v for v in row] for row in x[:200].astype(object).values.tolist()]
        names = list(x.columns)
        order = [names.index(name) for name in loaded.encoder.names]
        rows = [loaded.encoder.pack([row[place] for place in order]) for row in values]
        alone = [loaded.score([row])[0] for row in rows]
        for size in (2, 7, 31, 200):
            together = [s for place in range(0, 200, size) for s in loaded.score(rows[place : place + size])]
            assert together == alone


def test_a_level_that_the_encoder_refuses_is_an_error_and_a_null_it_refuses_cannot_stand() -> None:
    x = frame().dropna()
    encoder = make_column_transformer((OneHotEncoder(), ["dest", "gate"]))
    fitted = make_pipeline(encoder, LogisticRegression(max_iter=300)).fit(x, late(x))
    x.attrs["loopwright"] = {"nullable": ["dest"]}
    packed = model("late", fitted, sample=x)
    fields = {field.name: field for field in packed.card.signature.inputs}
    assert (fields["dest"].unseen, fields["dest"].nullable) == ("refused", False)
    with pytest.raises(Invalid, match="'dest' has a value that the model was not trained on"):
        packed.load().predict_values([_row(packed, "NOWHERE")])
    two = x[["wind", "hour"]]
    two.attrs["loopwright"] = {"nullable": ["wind"]}
    packed = model("n", make_pipeline(StandardScaler(), LogisticRegression()).fit(two, late(x)), sample=two)
    assert [field.nullable for field in packed.card.signature.inputs] == [False, False]


def _row(packed: Model, dest: str) -> list[Any]:
    values = {"wind": 5.0, "dest": dest, "hour": 3, "wet": True, "gate": 4, "speed": 0.5}
    return [values[field.name] for field in packed.card.signature.inputs]


def test_xgboost_is_packed_in_its_own_form_and_as_onnx() -> None:
    x = frame()
    fitted = xgb.XGBClassifier(n_estimators=20, n_jobs=1).fit(x[NUMBERS], late(x))
    packed = model("late", fitted, sample=x[NUMBERS])
    assert packed.card.runtime.engine == "onnx" and {ONNX_FILE, UBJ_FILE} <= set(packed.files)
    assert np.abs(packed.predict(x) - fitted.predict_proba(x[NUMBERS])[:, 1]).max() <= 1e-5
    own = model("late", fitted, sample=x[NUMBERS], runtime="native")
    assert ONNX_FILE not in own.files
    assert np.array_equal(own.predict(x), fitted.predict_proba(x[NUMBERS])[:, 1])
    regressor = xgb.XGBRegressor(n_estimators=20, n_jobs=1).fit(x[NUMBERS].to_numpy(), minutes(x))
    packed = model("minutes", regressor, sample=x[NUMBERS].to_numpy(), runtime="native")
    assert np.array_equal(packed.predict(x[NUMBERS].to_numpy()), regressor.predict(x[NUMBERS].to_numpy()))


def test_what_the_converter_does_not_know_falls_back_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    x = frame().assign(dest=lambda f: f["dest"].astype("category"))
    fitted = xgb.XGBClassifier(n_estimators=20, n_jobs=1, enable_categorical=True).fit(x, late(x))
    packed = model("late", fitted, sample=x)
    assert packed.card.runtime.engine == "native" and "categorical" in packed.card.runtime.reason
    assert np.array_equal(packed.predict(x), fitted.predict_proba(x)[:, 1])
    booster = lgb.LGBMClassifier(n_estimators=30, verbose=-1, n_jobs=1).fit(x, late(x))
    monkeypatch.setattr(parity, "TOLERANCE", 1e-12)
    packed = model("late", booster, sample=x, runtime="onnx")
    found = packed.card.runtime.parity
    assert packed.card.runtime.engine == "native" and found is not None and not found.passed
    assert "scores differ by" in packed.card.runtime.reason
    assert np.array_equal(packed.predict(x), booster.predict_proba(x)[:, 1])


def test_lightgbm_scores_by_itself_unless_asked() -> None:
    x = frame()[NUMBERS]
    booster = lgb.LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1).fit(x, minutes(frame()))
    assert model("m", booster, sample=x).card.runtime.parity is None
    packed = model("m", booster, sample=x, runtime="onnx")
    assert packed.card.runtime.engine == "onnx" and {ONNX_FILE, "model.txt"} <= set(packed.files)


def test_equal_models_give_equal_bytes() -> None:
    x = frame(300)
    for made in (BINARY["logistic"], BINARY["xgboost"]):
        assert model("m", fit(made(), x, late(x)), sample=x) == model("m", fit(made(), x, late(x)), sample=x)


def test_what_cannot_be_served_is_refused_with_a_reason() -> None:
    x = frame(300)
    numbers = x[NUMBERS].fillna(0)
    refused: list[tuple[Any, Any, type[Exception], str]] = [
        (SGDClassifier().fit(numbers, late(x)), numbers, Unsupported, "no probabilities"),
        (LogisticRegression(max_iter=300).fit(numbers, x["hour"] % 3), numbers, Unsupported, "multiclass"),
        (KMeans(2, n_init=1).fit(numbers), numbers, Unsupported, "neither classifies nor regresses"),
        (LogisticRegression(), numbers, Invalid, "not been fitted"),
        (LogisticRegression(max_iter=300).fit(numbers, late(x).map({0: "no", 1: "yes"})), numbers, Invalid, "0 and 1"),
        (LogisticRegression(max_iter=300).fit(numbers, late(x)), numbers[["hour"]], Invalid, "lacks"),
        (xgb.XGBClassifier(n_estimators=2).fit(numbers, x["hour"] % 3), numbers, Unsupported, "multiclass"),
        (xgb.XGBClassifier(), numbers, Invalid, "not been fitted"),
    ]
    for fitted, sample, kind, said in refused:
        with pytest.raises(kind, match=said):
            model("m", fitted, sample=sample)
    with pytest.raises(Unsupported, match="no file of its own"):
        model("m", Ridge().fit(numbers, minutes(x)), sample=numbers, runtime="native")
    with pytest.raises(Invalid, match="runtime must be"):
        model("m", Ridge().fit(numbers, minutes(x)), sample=numbers, runtime="pickle")  # type: ignore[arg-type]


def test_a_conversion_that_is_not_the_model_is_refused_with_the_figure() -> None:
    x = frame()
    tree = DecisionTreeClassifier(max_depth=5).fit(x[NUMBERS], late(x))
    with pytest.raises(Invalid, match=r"scores differ by [\d.]+, more than 1e-05, over \d+ rows"):
        model("m", tree, sample=x[NUMBERS])


def test_columns_that_an_encoder_mixes_cannot_be_taken_apart() -> None:
    x = frame(300).dropna()
    crossed = make_pipeline(OneHotEncoder(sparse_output=False), PolynomialFeatures(2))
    fitted = make_pipeline(make_column_transformer((crossed, ["dest", "gate"])), Ridge()).fit(x, minutes(x))
    with pytest.raises(Unsupported, match="mixes the columns"):
        model("m", fitted, sample=x)


def test_without_the_extra_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    x = frame(300)[NUMBERS].fillna(0)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(Unsupported) as caught:
        model("m", Ridge().fit(x, minutes(frame(300))), sample=x)
    assert (caught.value.extra, caught.value.hint) == ("onnx", "pip install 'loopwright[onnx]'")


def test_stored_packages_are_verified_within_their_tolerance(space: Space) -> None:
    x = frame(300)
    packed = model("late", fit(BINARY["logistic"](), x, late(x)), sample=x)
    stored = service.store(space, packed)
    assert service.verify(space, stored.digest) and service.load(space, stored.digest) == packed
    assert artifacts.get(space, stored.digest).meta["flavour"] == "sklearn"


def test_a_calibrated_model_and_a_search_are_packed_by_what_they_hold() -> None:
    from sklearn.model_selection import GridSearchCV

    x = frame()[NUMBERS].fillna(0)
    y = late(frame())
    for fitted in (
        CalibratedClassifierCV(LogisticRegression(max_iter=300), cv=2).fit(x, y),
        GridSearchCV(LogisticRegression(max_iter=300), {"C": [0.1, 1.0]}, cv=2).fit(x, y),
    ):
        assert np.abs(model("m", fitted, sample=x).predict(x) - fitted.predict_proba(x)[:, 1]).max() <= 1e-5


def test_conversion_leaves_the_converter_as_it_was() -> None:
    from skl2onnx.common import _container

    before = _container.make_node
    with pytest.raises(Unsupported, match="to ONNX"):
        convert.scikit(object(), 3, "float32")
    assert _container.make_node is before


def test_a_damaged_file_is_corrupt() -> None:
    x = frame(300)[NUMBERS]
    packed = model("m", xgb.XGBClassifier(n_estimators=5, n_jobs=1).fit(x, late(frame(300))), sample=x)
    own = model("m", xgb.XGBClassifier(n_estimators=5, n_jobs=1).fit(x, late(frame(300))), sample=x, runtime="native")
    for made, name in ((packed, ONNX_FILE), (own, UBJ_FILE)):
        for data in (b"", b"junk" * 50, made.files[name][: len(made.files[name]) // 2]):
            with pytest.raises(Corrupt):
                Model(name="m", files={**made.files, name: data}).load()

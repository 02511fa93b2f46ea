from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from polytask import Binary, Multiclass, MultiTaskEstimator, Regression, Table, Trainer
from polytask.errors import PolytaskError
from tests.houses import houses

QUICK = {"epochs": 3}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4))
SUM, SIGN = X.sum(1), np.where(X[:, 0] > 0, "up", "down")


def frames(n_rows: int = 200) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = houses(n_rows)
    frame.index = frame.index + 1000
    return frame[["rooms", "age", "suburb", "lot", "sold"]], frame[["price", "condition", "waterfront"]]


# Of scikit-learn's checks; it skips `check_array_api_input` itself unless SCIPY_ARRAY_API is set.
NOT_CHECKED = {
    "check_methods_subset_invariance": "asks for 1e-7, and a float32 product of one row differs by that from one of many: see "
    "test_a_row_is_answered_alike_alone_and_among_others",
    "check_sample_weight_equivalence_on_dense_data": "a row repeated is split, ordered and batched otherwise than one that "
    "counts twice: see test_weights_are_how_many_rows_a_row_stands_for",
}


@pytest.mark.slow
@parametrize_with_checks(
    [MultiTaskEstimator(kind, encoder=Table(width=16), trainer={"epochs": 30}) for kind in ("regression", "multiclass")]
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    reason = next((reason for name, reason in NOT_CHECKED.items() if name in str(check)), None)
    if reason is not None:
        pytest.skip(reason)
    check(estimator)


def test_a_row_is_answered_alike_alone_and_among_others() -> None:
    estimator = MultiTaskEstimator("regression", trainer=QUICK).fit(X, SUM)
    alone = np.concatenate([estimator.predict(X[i : i + 1]) for i in range(len(X))])
    np.testing.assert_allclose(alone, estimator.predict(X), rtol=1e-4, atol=1e-5)


def test_the_form_of_y_is_the_form_of_the_answers() -> None:
    estimator = MultiTaskEstimator("regression", trainer=QUICK)
    assert estimator.fit(X, SUM).predict(X).shape == (120,)
    assert estimator.fit(X, np.c_[SUM, X[:, 0]]).predict(X).shape == (120, 2)
    assert list(estimator.fit(X, {"sum": SUM, "first": X[:, 0]}).predict(X)) == ["sum", "first"]
    inputs, targets = frames()
    answers = MultiTaskEstimator(trainer=QUICK).fit(inputs, targets).predict(inputs.iloc[5:9])
    assert isinstance(answers, pd.DataFrame)
    assert list(answers) == list(targets)
    assert list(answers.index) == [1005, 1006, 1007, 1008]
    in_polars = MultiTaskEstimator(trainer=QUICK).fit(pl.from_pandas(inputs), pl.from_pandas(targets))
    polars_answers = in_polars.predict(pl.from_pandas(inputs.iloc[5:9]))
    assert isinstance(polars_answers, pl.DataFrame)
    np.testing.assert_allclose(polars_answers["price"], answers["price"])


def test_kinds_are_given_guessed_or_named() -> None:
    inputs, targets = frames()

    def kinds(tasks: Any) -> dict[str, str]:
        fitted = MultiTaskEstimator(tasks, trainer={"epochs": 1}).fit(inputs, targets)
        return {name: task.task.kind for name, task in fitted.run_.bundle.tasks.items()}

    guessed = {"price": "regression", "condition": "ordinal", "waterfront": "binary"}
    assert kinds(None) == guessed
    assert kinds(["regression", "ordinal", "binary"]) == guessed
    assert kinds({"price": "regression", "waterfront": "binary"}) == {"price": "regression", "waterfront": "binary"}
    assert kinds([Regression("lake", column="waterfront")]) == {"lake": "regression"}


def test_task_objects_name_the_columns_of_an_array() -> None:
    estimator = MultiTaskEstimator([Regression("sum", weight=2.0), Binary("sign")], trainer=QUICK)
    y = np.c_[SUM, X[:, 0] > 0]
    answers = estimator.fit(X, y).predict(X)
    assert list(estimator.run_.bundle.tasks) == ["sum", "sign"]
    assert set(answers[:, 1]) <= {0.0, 1.0}


def test_probabilities_and_classes() -> None:
    one = MultiTaskEstimator("binary", trainer=QUICK).fit(X, SIGN)
    assert one.classes_.tolist() == ["down", "up"]
    shares = one.predict_proba(X)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert (one.classes_[shares.argmax(1)] == one.predict(X)).all()

    level = np.digitize(X[:, 1], [-0.5, 0.5])
    several = MultiTaskEstimator(["regression", "binary", "multiclass"], trainer=QUICK)
    several.fit(X, {"sum": SUM, "sign": SIGN, "level": level})
    assert {name: array.shape for name, array in several.predict_proba(X).items()} == {"sign": (120, 2), "level": (120, 3)}
    assert [list(classes) for classes in several.classes_] == [["down", "up"], [0, 1, 2]]

    assert not hasattr(MultiTaskEstimator("regression"), "predict_proba")
    assert not hasattr(MultiTaskEstimator("regression", trainer=QUICK).fit(X, SUM), "predict_proba")


def test_it_is_a_classifier_a_regressor_or_neither() -> None:
    assert is_classifier(MultiTaskEstimator(["binary", Multiclass("level")]))
    assert is_regressor(MultiTaskEstimator("regression"))
    mixed = MultiTaskEstimator(["regression", "binary"])
    assert not is_classifier(mixed)
    assert not is_regressor(mixed)


def test_missing_labels_and_missing_cells() -> None:
    inputs, targets = frames()
    targets.loc[targets.index[:80], "price"] = np.nan
    inputs.loc[inputs.index[50:90], "lot"] = np.nan
    estimator = MultiTaskEstimator(trainer=QUICK).fit(inputs, targets)
    assert estimator.run_.record["rows"]["training"] == 170
    assert estimator.predict(inputs).notna().all().all()
    assert estimator.score(inputs, targets.assign(condition=np.nan, waterfront=np.nan)) < 1


def test_weights_are_how_many_rows_a_row_stands_for() -> None:
    inputs = np.repeat([[0.0, 1.0], [1.0, 0.0]], 40, axis=0)
    labels = np.tile([0.0, 1.0], 40)  # as often the one as the other, whatever the input
    weights = np.where(np.arange(80) < 40, np.where(labels == 1, 3.0, 1.0), np.where(labels == 1, 1.0, 4.0))
    trainer = {"epochs": 100, "optimizer": {"lr": 0.01}}
    estimator = MultiTaskEstimator("regression", encoder=Table(width=16), trainer=trainer, validation=0)
    np.testing.assert_allclose(estimator.fit(inputs, labels).predict(inputs[[0, -1]]), [0.5, 0.5], atol=0.05)
    estimator.fit(inputs, labels, sample_weight=weights)
    np.testing.assert_allclose(estimator.predict(inputs[[0, -1]]), [0.75, 0.2], atol=0.05)


def test_a_row_that_weighs_nothing_says_nothing() -> None:
    weights = np.where(np.arange(120) % 3 == 0, 0.0, 2.0)
    estimator = MultiTaskEstimator(["regression", "binary"], trainer=QUICK)
    one = estimator.fit(X, {"sum": SUM, "sign": SIGN}, sample_weight=weights).predict(X)
    lies = {"sum": np.where(weights > 0, SUM, 1e6), "sign": np.where(weights > 0, SIGN, "up")}
    two = estimator.fit(X, lies, sample_weight=list(weights)).predict(X)
    np.testing.assert_array_equal(one["sum"], two["sum"])
    np.testing.assert_array_equal(one["sign"], two["sign"])
    assert estimator.run_.record["rows"]["training"] + estimator.run_.record["rows"]["validation"] == 80


def test_a_weighted_score_is_scikit_learns() -> None:
    estimator = MultiTaskEstimator(["regression", "binary"], trainer=QUICK)
    answers = estimator.fit(X, {"sum": SUM, "sign": SIGN}).predict(X)
    truth = SUM.copy()
    truth[:9] = np.nan
    weights = RNG.uniform(size=120)
    expected = [
        r2_score(truth[9:], answers["sum"][9:], sample_weight=weights[9:]),
        accuracy_score(SIGN, answers["sign"], sample_weight=weights),
    ]
    assert estimator.score(X, {"sum": truth, "sign": SIGN}, sample_weight=weights) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (np.ones(5), "sample_weight"),
        (np.full(120, -1.0), "Negative values in data passed to `sample_weight`"),
        (np.full(120, np.nan), "contains NaN"),
        (np.zeros(120), "zero"),
    ],
)
def test_weights_that_cannot_be_are_told(weights: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MultiTaskEstimator("regression", trainer=QUICK).fit(X, SUM, sample_weight=weights)


def test_weights_do_not_go_with_a_tasks_own_and_may_have_any_name() -> None:
    frame = pd.DataFrame({"sum": SUM, "often": np.ones(120)})
    own = MultiTaskEstimator([Regression("sum", weight_column="often")], trainer=QUICK)
    with pytest.raises(ValueError, match=r"sample_weight: the tasks 'sum' have a weight column already\. Give the one or"):
        own.fit(X, frame, sample_weight=np.ones(120))
    inputs = pd.DataFrame({"sample_weight": X[:, 0], "b": X[:, 1]})
    fitted = MultiTaskEstimator("regression", trainer=QUICK).fit(inputs, SUM, sample_weight=np.ones(120))
    assert fitted.run_.bundle.manifest.inputs[0].codec.names == ("sample_weight", "b")


def test_cloned_and_searched() -> None:
    inputs, targets = frames()
    estimator = MultiTaskEstimator(trainer=Trainer(epochs=2), encoder=Table(width=16), balancer="dwa")
    again = clone(estimator).set_params(
        trainer__optimizer__lr=0.01, balancer__temperature=1.5, encoder__width=8, validation=0.2
    )
    assert again.trainer["optimizer"]["lr"] == 0.01
    assert again.trainer["epochs"] == 2
    assert again.balancer == {"kind": "dwa", "temperature": 1.5}
    assert estimator.trainer == Trainer(epochs=2)
    search = GridSearchCV(estimator, {"trainer__epochs": [1, 8]}, cv=2).fit(inputs, targets)
    assert search.best_params_ == {"trainer__epochs": 8}
    assert list(search.predict(inputs)) == list(targets)


def test_cross_validated() -> None:
    inputs, targets = frames()
    answers = cross_val_predict(MultiTaskEstimator(trainer=QUICK), inputs, targets, cv=3)
    assert answers.shape == (200, 3)
    shares = cross_val_predict(MultiTaskEstimator("binary", trainer=QUICK), X, SIGN, cv=2, method="predict_proba")
    assert shares.shape == (120, 2)
    scores = cross_val_score(
        make_pipeline(StandardScaler(), MultiTaskEstimator("regression", trainer={"epochs": 40})), X, SUM, cv=2
    )
    assert (scores > 0.5).all()


@pytest.mark.parametrize(("name", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_output_in_a_frame_of_choice(name: str, kind: type) -> None:
    estimator = MultiTaskEstimator(["regression", "binary"], trainer=QUICK).set_output(transform=name)
    answers = estimator.fit(X, {"sum": SUM, "sign": SIGN}).predict(X)
    assert isinstance(answers, kind)
    assert list(answers.columns) == ["sum", "sign"]
    assert isinstance(estimator.set_output(transform="default").predict(X), dict)


def test_pickled_and_brought_back() -> None:
    inputs, targets = frames()
    estimator = MultiTaskEstimator(trainer=QUICK).fit(inputs, targets)
    again = pickle.loads(pickle.dumps(estimator))
    pd.testing.assert_frame_equal(again.predict(inputs), estimator.predict(inputs))


@pytest.mark.parametrize(
    ("tasks", "y", "told"),
    [
        (["regression"], np.c_[SUM, SUM], "tasks: not one task per column of y. Found: 1 tasks, 2 columns of y."),
        (["regresion"], SUM, "no task of kind 'regresion'. Did you mean 'regression'?"),
        ({"sum": "regression"}, {"sun": SUM}, "task 'sum': no column 'sum' in X and y. Did you mean 'sun'?"),
        ("multiclass", np.array(["a"] * 120), "a task with classes needs two of them in the training rows"),
        ("multiclass", SUM, "Unknown label type: continuous"),
        ("regression", SUM[:5], "inconsistent numbers of samples"),
        ("regression", {"x0": SUM}, "columns of y are columns of X too: 'x0'"),
        ("regression", SUM[:, None, None], "y is not an array of one or two dimensions. Found: shape (120, 1, 1)."),
    ],
)
def test_mistakes(tasks: Any, y: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        MultiTaskEstimator(tasks, trainer=QUICK).fit(X, y)


def test_a_mistake_is_a_polytask_error_too() -> None:
    with pytest.raises(PolytaskError, match="Trainer has no field 'epoch'"):
        MultiTaskEstimator("regression", trainer={"epoch": 3}).fit(X, SUM)
    with pytest.raises(ValueError, match="set_output: no kind of output 'panda'"):
        MultiTaskEstimator().set_output(transform="panda")

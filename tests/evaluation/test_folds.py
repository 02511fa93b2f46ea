from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from polytask import Binary, Frame, Ordinal, Recipe, Regression, Split, cross_validate
from polytask.errors import PolytaskError
from polytask.evaluation.folds import FoldScore, FoldScores
from polytask.preparation import prepare
from polytask.splitting import FREE, TEST, TRAIN, UNUSED, VALIDATION, assign_fold
from tests.houses import houses

N = 203
DRAW = np.random.default_rng(0)
CLASSES = DRAW.choice(3, N, p=[0.7, 0.2, 0.1])


def recipe(n_rows: int = 200, **fields: Any) -> Recipe:
    given: dict[str, Any] = {
        "sources": [Frame(houses(n_rows))],
        "tasks": [Regression("price"), Ordinal("condition"), Binary("waterfront")],
        "drop": ["id"],
        "trainer": {"epochs": 4},
    }
    return Recipe(**given | fields)


def folds_of(n_folds: int, **options: Any) -> Any:
    split = options.pop("split", Split())
    return np.stack([assign_fold(split, N, fold, n_folds, seed=0, **options) for fold in range(n_folds)])


@pytest.mark.parametrize("n_folds", [2, 5, 10])
def test_every_row_judges_once(n_folds: int) -> None:
    parts = folds_of(n_folds, labels={"c": CLASSES})
    assert ((parts == TEST).sum(0) == 1).all()
    sizes = (parts == TEST).sum(1)
    assert sizes.max() - sizes.min() <= 1
    assert ((parts == VALIDATION).sum(1) == np.round(0.15 * (N - sizes))).all()


def test_the_folds_are_stratified() -> None:
    parts = folds_of(5, labels={"c": CLASSES})
    counts = np.stack([np.bincount(CLASSES[part == TEST], minlength=3) for part in parts])
    assert (counts.max(0) - counts.min(0)).max() <= 1


def test_groups_stay_together() -> None:
    groups = np.arange(N) // 4
    for part in folds_of(5, groups=groups, labels={"c": CLASSES}):
        for kind in (TRAIN, VALIDATION, TEST):
            assert not set(groups[part == kind]) & set(groups[part != kind])


def test_a_sources_own_parts_are_respected() -> None:
    fixed = np.full(N, FREE, np.int8)
    fixed[:20], fixed[20:40] = TEST, VALIDATION
    parts = folds_of(4, fixed=fixed)
    assert (parts[:, :20] == UNUSED).all()
    assert ((parts == VALIDATION) == (np.arange(N) // 20 == 1)).all()
    assert ((parts[:, 40:] == TEST).sum(0) == 1).all()


def test_scores_over_folds() -> None:
    seen: list[tuple[int, int]] = []
    found = cross_validate(recipe(), 3, on_fold=lambda *numbers: seen.append(numbers))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(found.tasks) == ["price", "condition", "waterfront"]
    assert dict(found.n_rows) == {"price": 200, "condition": 200, "waterfront": 200}
    rmse = found["price"]["rmse"]
    assert len(rmse.values) == 3
    assert rmse.mean == pytest.approx(np.mean(rmse.values))
    assert rmse.mean < rmse.constant
    assert "price" in str(found)
    assert str(found).splitlines()[0].split()[:4] == ["task", "metric", "mean", "sd"]
    assert json.loads(json.dumps(found.to_dict()))["tasks"]["price"]["rmse"]["mean"] == rmse.mean


def test_each_fold_is_what_a_fit_on_its_parts_would_be() -> None:
    prepared = [prepare(recipe(), (fold, 4)) for fold in range(4)]
    assert sum(part.test.n_rows for part in prepared) == 200
    truth = np.sort(np.concatenate([p.tasks[0].task.truth(p.test.targets["price"], p.tasks[0].codec) for p in prepared]))
    np.testing.assert_allclose(truth, np.sort(houses(200)["price"]), rtol=1e-5)


def test_labels_missing_in_a_fold_and_tasks_of_their_own_source() -> None:
    frame = houses(120)
    frame.loc[:100, "price"] = np.nan
    sources = [Frame(frame, name="a"), Frame(houses(60, 1).drop(columns="price"), name="b")]
    tasks = [Regression("price"), Regression("area", column="sqft_living", source="b")]
    found = cross_validate(recipe(sources=sources, tasks=tasks, drop=["id", "condition", "waterfront"]), 3)
    assert dict(found.n_rows) == {"price": 19, "area": 60}


@pytest.mark.parametrize(
    ("fields", "folds", "told"),
    [
        ({}, 1, "folds: at least two folds are needed. Found: 1."),
        ({"n_rows": 30}, 40, "too few rows for 40 parts. Found: 30 rows."),
        ({"split": Split(time="sold")}, 3, "split.time: rows in the order of time have no folds"),
    ],
)
def test_mistakes(fields: dict[str, Any], folds: int, told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        cross_validate(recipe(**fields), folds)
    assert told in str(caught.value)


def test_what_cannot_be_told_is_a_dash() -> None:
    scores = FoldScores({"t": {"auc": FoldScore((0.5, float("nan")), 0.5, True)}}, {"t": 9}, 2)
    assert "-" in str(scores).splitlines()[1]
    assert scores.to_dict()["tasks"]["t"]["auc"]["values"] == [0.5, None]

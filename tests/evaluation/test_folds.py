from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from polytask import Binary, Frame, Multiclass, Ordinal, Recipe, Regression, Split, cross_validate
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
        "encoder": {"kind": "table", "width": 16},
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
    epochs: list[tuple[int, int]] = []
    seen: dict[int, float] = {}
    found = cross_validate(
        recipe(),
        3,
        on_fold=lambda number, scores: seen.update({number: scores["price"].scores["rmse"].value}),
        on_epoch=lambda number, epoch: epochs.append((number, epoch.epoch)),
    )
    assert epochs == [(number, epoch) for number in (1, 2, 3) for epoch in (1, 2, 3, 4)]
    assert list(seen) == [1, 2, 3]
    assert found["price"]["rmse"].values == tuple(seen.values())
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
        ({"n_rows": 30}, 40, "too few rows for 40 folds. Found: 30 rows. Give more rows, or ask for fewer folds."),
        ({"split": Split(group="suburb")}, 4, "too few groups for 4 folds. Found: 3 groups."),
        ({"split": Split(time="sold")}, 3, "split.time: rows in the order of time have no folds"),
    ],
)
def test_mistakes(fields: dict[str, Any], folds: int, told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        cross_validate(recipe(**fields), folds)
    assert told in str(caught.value)


def test_what_a_fold_cannot_tell_is_left_out_of_the_mean() -> None:
    nan = float("nan")
    metrics = {"auc": FoldScore((0.5, nan, 0.7), (0.5, nan, 0.5), True), "f1": FoldScore((nan, 0.25, nan), (nan,) * 3, True)}
    scores = FoldScores({"t": metrics, "u": {"auc": FoldScore((nan,), (0.5,), True)}}, {"t": 9, "u": 3}, 3)
    cells = [line.split() for line in str(scores).splitlines()[1:4]]
    assert cells[0] == ["t", "auc", "0.600", "0.141", "0.500", "0.700", "0.500", "2", "9"]
    assert cells[1] == ["f1", "0.250", "-", "0.250", "0.250", "-", "1"]
    assert cells[2] == ["u", "auc", "-", "-", "-", "-", "-", "0", "3"]
    assert scores.to_dict()["tasks"]["t"]["auc"]["values"] == [0.5, None, 0.7]
    assert scores.to_dict()["tasks"]["t"]["f1"]["deviation"] is None


def test_a_class_of_a_fold_that_its_training_rows_lack_is_told_before_any_training() -> None:
    frame = houses(60)
    frame["town"] = np.where(frame["id"] % 2, "east", "west")
    frame.loc[7, "town"] = "alone"
    asked = recipe(sources=[Frame(frame)], tasks=[Multiclass("town")])
    lone = next(number for number in range(1, 6) if not prepared_without_error(asked, number))
    epochs: list[int] = []
    told = r"fold \d of 5, task 'town', column 'town': 1 label is not among those of the training rows"
    with pytest.raises(PolytaskError, match=told if lone > 1 else told.partition(", ")[2]):
        cross_validate(asked, 5, on_epoch=lambda number, _: epochs.append(number))
    assert epochs == []
    frame.loc[11, "town"] = "alone"  # two of them: one of these trains wherever the other judges
    found = cross_validate(recipe(sources=[Frame(frame)], tasks=[Multiclass("town")]), 5)
    assert found.n_rows == {"town": 60}


def prepared_without_error(asked: Recipe, number: int) -> bool:
    try:
        prepare(asked, (number - 1, 5))
    except PolytaskError:
        return False
    return True


def test_a_note_says_in_which_folds_it_was_noticed() -> None:
    frame = houses(60)
    frame["rare"] = (frame["id"] == 7).astype(int)  # it varies in the training rows of two folds at most
    found = cross_validate(recipe(sources=[Frame(frame)], trainer={"epochs": 1}), 3)
    notes = [note for note in found.notes if note.endswith("it is the same in every training row: 'rare'")]
    assert len(notes) == 1
    assert notes[0].startswith("fold ")


def test_losses_that_are_not_finite_are_noted() -> None:
    frame = houses(60)

    def broken(output: Tensor, target: Tensor) -> Tensor:
        return torch.where((target > 1) & (len(target) < 20), torch.nan, (output[:, 0] - target).square())

    asked = recipe(
        sources=[Frame(frame)],
        tasks=[Binary("waterfront"), Regression("price", loss=broken)],
        trainer={"epochs": 4, "batch_size": 16},
    )
    found = cross_validate(asked, 2)
    assert any("task 'price' was left out of " in note for note in found.notes)

"""Boosted trees as a rival: the task's own losses, weights, and where they do not apply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from polytask import Frame, PolytaskError, Recipe
from polytask.evaluation.boosting import LOGITS, best_boosted, boosted
from polytask.fitted import FittedTask
from polytask.fitting import task_losses
from polytask.preparation import Prepared, prepare
from polytask.tasks import Binary, Count, Multiclass, Multilabel, Ordinal, Quantile, Regression
from tests.houses import houses

TASKS: list[Any] = [
    Regression("sqft_living", loss="absolute"),
    Count("rooms"),
    Binary("waterfront", class_weights="balanced"),
    Multiclass("suburb"),
    Ordinal("condition"),
]


def prepared(tasks: list[Any], **fields: Any) -> Prepared:
    given = {"sources": [Frame(houses(240))], "tasks": tasks, "drop": ["id", "sold"]}
    return prepare(Recipe(**(given | fields)))


@pytest.fixture(scope="module")
def data() -> Prepared:
    return prepared(TASKS)


def test_every_kind_is_learned_in_its_own_loss(data: Prepared) -> None:
    for fitted in data.tasks:
        loss = float(task_losses(fitted, boosted(fitted, data)(data.test), data.test).mean())
        assert loss < 0.9, fitted.task.kind


@pytest.mark.parametrize("task", [Binary("x"), Multiclass("x"), Ordinal("x")])
def test_probabilities_come_back_from_the_outputs(task: Any) -> None:
    shares = torch.tensor([[0.2, 0.8], [0.5, 0.5]] if task.kind == "binary" else [[0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]).double()
    estimate = task.estimate(LOGITS[task.kind](shares.log()))
    torch.testing.assert_close(estimate, shares[:, 1] if task.kind == "binary" else shares)


def test_the_better_of_two_settings_is_taken_by_validation(data: Prepared) -> None:
    fitted = data.tasks[-1]
    losses = [
        float(task_losses(fitted, fit(fitted, data)(data.validation), data.validation).mean())
        for fit in (boosted, best_boosted)
    ]
    assert losses[1] <= losses[0]


def test_rows_that_weigh_nothing_teach_nothing() -> None:
    frame = houses(240)
    frame["wrong"] = np.where(np.arange(240) % 2, frame["price"], 1e6 - frame["price"])
    frame["weight"] = np.where(np.arange(240) % 2, 1.0, 1e-6)
    tasks = [Regression("wrong", weight_column="weight"), Regression("price")]
    told = prepared(tasks, sources=[Frame(frame)])
    weighed, plain = (boosted(fitted, told)(told.training)[:, 0].numpy() for fitted in told.tasks)
    right = told.training.weights["wrong"].numpy() > 0.5
    assert np.corrcoef(weighed[right], plain[right])[0, 1] > 0.9


def own_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output[:, 0] - target).abs()


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (Quantile("price"), "a quantile task is something else"),
        (Multilabel("price", columns=("waterfront", "rooms")), "a multilabel task is something else"),
        (Regression("price", loss=own_loss), "its loss is a function of its own"),
    ],
)
def test_what_trees_do_not_learn_is_told(task: Any, told: str, data: Prepared) -> None:
    with pytest.raises(PolytaskError, match=told):
        boosted(FittedTask(task, data.tasks[0].codec), data)


def test_sources_with_other_columns() -> None:
    one, two = houses(120, 1), houses(120, 2).drop(columns=["lot", "price"])
    told = prepared([Regression("price"), Binary("waterfront")], sources=[Frame(one, name="one"), Frame(two, name="two")])
    price, waterfront = told.tasks
    output = boosted(price, told)(told.test)
    there = told.test.present["price"]
    assert bool(output[there].isfinite().all())
    assert bool(output[told.test.sources["two"]].isnan().all())
    with pytest.raises(PolytaskError, match="its rows are of sources with different columns"):
        boosted(waterfront, told)

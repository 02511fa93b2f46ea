"""Together against alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polytask import Frame, Multiclass, PolytaskError, Recipe, Regression, Table, Trainer, fit
from polytask.evaluation.comparison import Comparison, compare
from polytask.preparation import prepare
from tests.houses import houses

SMALL = {"encoder": Table(width=16, depth=1, embedding="plain"), "trainer": Trainer(epochs=3, device="cpu")}
TASKS = [Regression("price"), Multiclass("suburb")]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    recipe = Recipe(sources=[Frame(houses())], tasks=TASKS, drop=["id", "waterfront"], **SMALL)
    fitted: list[tuple[str, int, int]] = []
    found = compare(recipe, prepare(recipe), 2, lambda *step: fitted.append(step))
    assert [name for name, _, _ in fitted] == ["all together", "price", "suburb"] * 2
    assert fitted[-1][1:] == (6, 6)
    return found


def test_every_task_has_a_verdict_and_every_metric_a_line(comparison: Comparison) -> None:
    assert [task.task for task in comparison.tasks] == ["price", "suburb"]
    assert {task.verdict for task in comparison.tasks} <= {"helped", "hurt", "can't tell"}
    assert [metric for task, metric, _, _ in comparison.metrics if task == "price"] == ["r2", "rmse", "mae"]
    assert comparison.parameters[0] > comparison.parameters[1]


def test_it_prints_and_is_plain_values(comparison: Comparison) -> None:
    text = str(comparison)
    assert "95 % interval" in text
    assert max(map(len, text.splitlines())) <= 120
    assert json.loads(json.dumps(comparison.to_dict()))["seeds"] == [0, 1]


def test_a_task_that_is_trained_alone_is_the_same_whatever_the_others_are() -> None:
    frame = houses()
    results = []
    for other in ("suburb", "condition"):
        recipe = Recipe(
            sources=[Frame(frame)],
            tasks=[Regression("price"), Multiclass(other)],
            drop=["id", "suburb", "condition"],
            split={"stratify": False},
            **SMALL,
        )
        results.append(compare(recipe, prepare(recipe), 1).tasks[0].alone)
    assert results[0] == results[1]


def test_one_task_alone_cannot_be_compared() -> None:
    run = fit(Recipe(sources=[Frame(houses())], tasks=[Regression("price")], **SMALL))
    with pytest.raises(PolytaskError, match="there is one task only"):
        run.compare(1)


def test_a_copy_of_a_task_is_helped_by_its_twin_with_many_labels() -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(1200, 12))
    y = X @ draw.normal(size=12)
    few = np.where(np.arange(1200) % 12 == 0, y, np.nan)
    frame = {f"x{i}": X[:, i] for i in range(12)} | {"many": y + draw.normal(size=1200), "few": few}
    settings = {"encoder": Table(width=32, depth=1, embedding="plain"), "trainer": Trainer(epochs=30, patience=8, device="cpu")}
    recipe = Recipe(sources=[Frame(frame)], tasks=[Regression("many"), Regression("few")], split={"test": 0.4}, **settings)
    found = compare(recipe, prepare(recipe), 2)
    assert {task.task: task.verdict for task in found.tasks}["few"] == "helped"

"""What class tasks learn from the validation rows: decision thresholds and temperatures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import Tensor

import polytask
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.recipe import Recipe
from polytask.task import Task
from polytask.tasks._classes import best_threshold
from polytask.tasks.binary import Binary
from polytask.tasks.multiclass import Multiclass
from polytask.tasks.multilabel import Multilabel
from polytask.tasks.ordinal import Ordinal
from polytask.testing import check_task

SCORES = {"f1": lambda y, p: f1_score(y, p, zero_division=0), "balanced_accuracy": balanced_accuracy_score}


def fitted(task: Task, target: Tensor) -> FittedTask:
    return FittedTask.fit(task, pa.array(target.numpy()))


def drawn(logits: Tensor, seed: int = 1) -> Tensor:
    return torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)


@pytest.mark.parametrize(
    "task",
    [
        Binary("y", threshold="f1"),
        Binary("y", threshold=0.2, calibration="temperature"),
        Multiclass("y", calibration="temperature"),
        Ordinal("y", calibration="temperature"),
    ],
)
def test_a_variant_keeps_the_contract(task: Task) -> None:
    check_task(task)


@pytest.mark.parametrize("goal", SCORES)
@given(
    rows=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({yes for _, yes in rows}) == 2
    )
)
def test_no_threshold_is_better(goal: str, rows: list[tuple[int, bool]]) -> None:
    probability = torch.tensor([tenth / 10 for tenth, _ in rows])
    target = torch.tensor([yes for _, yes in rows]).long()
    found = best_threshold(probability, target, torch.ones(len(rows)), goal)  # type: ignore[arg-type]
    score = SCORES[goal](target, probability > found)
    assert score >= max(SCORES[goal](target, probability > cut) for cut in np.linspace(0.05, 0.95, 10)) - 1e-9


def test_rows_of_one_class_leave_the_threshold() -> None:
    assert best_threshold(torch.tensor([0.1, 0.9]), torch.tensor([1, 1]), torch.ones(2), "f1") == 0.5


def test_a_threshold_may_be_given() -> None:
    task = fitted(Binary("y", threshold=0.2), torch.tensor([0, 1, 1, 0]))
    assert task.views(torch.tensor([[-1.0], [-2.0]]))["label"].tolist() == [1, 0], "0.27 and 0.12"
    with pytest.raises(PolytaskError, match="threshold"):
        Binary("y", threshold=1.5)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("kind", [Binary, Multiclass])
def test_the_temperature_of_logits_that_are_too_large_is_found(kind: type[Task], factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 2 if kind is Binary else 4, generator=generator) * 1.5
    target = drawn(logits)
    output = factor * (logits[:, 1:] - logits[:, :1] if kind is Binary else logits)
    task = fitted(kind("y", calibration="temperature"), target)
    tuned = task.tuned(output, target)
    assert tuned.codec.temperature == pytest.approx(factor, rel=0.1)
    assert torch.equal(tuned.views(output)["label"], task.views(output)["label"]), "the likeliest class stays"
    ece, log_loss = (task.task.scorers(task.codec)[name] for name in ("ece", "log_loss"))
    before, after = task.views(output)["probability"], tuned.views(output)["probability"]
    assert float(log_loss.compute(after, target)) <= float(log_loss.compute(before, target)) + 1e-9
    assert float(ece.compute(after, target)) < 0.03
    if factor == 3.0:
        assert float(ece.compute(before, target)) > 0.08


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_the_temperature_of_several_labels_is_found_where_they_are_told(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 3, generator=generator)
    target = torch.bernoulli(torch.sigmoid(logits), generator=generator).long()
    target[::2, 1] = -1
    texts = [",".join(name for name, on in zip("abc", row, strict=True) if on == 1) for row in target.tolist()]
    task = FittedTask.fit(Multilabel("y", calibration="temperature", threshold="f1"), pa.array(texts))
    tuned = task.tuned(logits * factor, target)
    assert tuned.codec.temperature == pytest.approx(factor, rel=0.1)
    found = tuned.views(logits * factor)["probability"]
    torch.testing.assert_close(found, torch.sigmoid(logits.double()), atol=0.03, rtol=0)
    assert tuned.codec.thresholds != (0.5, 0.5, 0.5)
    plain = FittedTask.fit(Multilabel("y", threshold="f1"), pa.array(texts)).tuned(logits, target)
    assert tuned.codec.thresholds == pytest.approx(plain.codec.thresholds, abs=0.03)


def test_one_member_at_a_temperature_is_a_softmax_of_divided_logits() -> None:
    task = fitted(Multiclass("y", calibration="temperature"), torch.tensor([0, 1, 2]))
    hot = FittedTask(task.task, task.codec.model_copy(update={"temperature": 2.5}))
    output = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(hot.views(output)["probability"], (output.double() / 2.5).softmax(1), atol=1e-6)


def test_both_are_tuned_on_validation_rows_and_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=1200)
    rare = rng.random(1200) < 1 / (1 + np.exp(3 - 2 * x))
    data = pa.table({"x": x, "rare": rare}).to_pandas()
    tasks = [
        Binary("plain", column="rare", metrics=("f1", "ece")),
        Binary("tuned", column="rare", threshold="f1", calibration="temperature", metrics=("f1", "ece")),
    ]
    recipe = Recipe(sources=[data], tasks=tasks, trainer={"epochs": 8})
    run = polytask.fit(recipe, tmp_path / "run")
    codec = polytask.load(tmp_path / "run").bundle.tasks["tuned"].codec
    assert codec.thresholds == run.bundle.tasks["tuned"].codec.thresholds < (0.5,)
    assert codec.temperature != 1
    scores = run.evaluate(data)
    assert scores["tuned"].scores["f1"].value > scores["plain"].scores["f1"].value + 0.02


def test_without_validation_rows_nothing_can_be_tuned() -> None:
    data = pa.table({"x": np.arange(40.0), "y": np.arange(40) % 2}).to_pandas()
    recipe = Recipe(sources=[data], tasks=[Binary("y", threshold="f1")], split={"validation": 0.0})
    with pytest.raises(PolytaskError) as caught:
        polytask.fit(recipe)
    assert str(caught.value) == (
        "task 'y': no validation row has a label to tune on. "
        "Give the split a share for validation, or leave out the task's calibration and tuned threshold."
    )

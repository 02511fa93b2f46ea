"""An ensemble is judged by the mean of its members' estimates."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from polytask.fitted import FittedTask
from polytask.task import Task
from polytask.tasks import Binary, Count, Multiclass, Ordinal, Regression

TASKS = (Regression("y"), Count("y"), Binary("y"), Multiclass("y"), Ordinal("y"))


def ensemble_of(task: Task, members: int = 3) -> tuple[FittedTask, torch.Tensor]:
    labels = pa.array([0, 1, 1, 0] if task.kind == "binary" else [0, 1, 2, 3])
    fitted = FittedTask.fit(task, labels)
    return FittedTask(task, fitted.codec, members), task.encode(labels, fitted.codec)[0]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_the_mean_estimate_loses_less_than_the_members_do(task: Task) -> None:
    fitted, target = ensemble_of(task)
    outputs = torch.randn(4, 3, fitted.codec.width, generator=torch.Generator().manual_seed(0))
    assert (fitted.answer_losses(outputs, target) < fitted.losses(outputs, target)).all()  # all these losses are convex


def test_two_sure_members_who_disagree_make_one_who_is_not() -> None:
    fitted, target = ensemble_of(Binary("y"), 2)
    outputs = torch.tensor([[[200.0], [-200.0]]]).expand(4, 2, 1)
    torch.testing.assert_close(fitted.answer_losses(outputs, target), torch.full((4,), 0.5).log().neg())
    assert fitted.losses(outputs, target).tolist() == [100.0] * 4


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_extreme_members_merge_to_finite_losses(task: Task) -> None:
    fitted, target = ensemble_of(task)
    for size in (30.0, -100.0):
        outputs = torch.full((4, 3, fitted.codec.width), size)
        assert torch.isfinite(fitted.answer_losses(outputs, target)).all()


def test_a_task_that_cannot_merge_is_judged_by_the_mean_of_its_members() -> None:
    fitted, target = ensemble_of(Task.find("ranking")("y"))
    outputs = torch.randn(4, 3, fitted.codec.width, generator=torch.Generator().manual_seed(0))
    assert fitted.task.merged(outputs) is None
    torch.testing.assert_close(fitted.answer_losses(outputs, target), fitted.losses(outputs, target))

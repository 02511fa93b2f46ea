"""An ensemble is judged by the mean of its members' estimates."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from polytask.fitted import FittedTask
from polytask.task import Task
from polytask.tasks import Binary, Count, Multiclass, Multilabel, Ordinal, Quantile, Regression

TASKS = (
    Regression("y"),
    Regression("y", transform="log1p"),
    Regression("y", transform="quantile"),
    Regression("y", loss="absolute"),
    Count("y"),
    Quantile("y"),
    Quantile("y", transform="log1p"),
    Binary("y"),
    Binary("y", focal=2.0),
    Multiclass("y"),
    Ordinal("y"),
    Multilabel("y"),
    Multilabel("y", focal=2.0, class_weights="balanced"),
)
CONVEX = [task for task in TASKS if not getattr(task, "focal", 0)]


def labels_for(task: Task) -> pa.Array:
    named = {"binary": [0, 1, 1, 0], "multilabel": ["a, b", "a", "", "b"]}
    return pa.array(named.get(task.kind, [0, 1, 2, 3]))


def ensemble_of(task: Task, members: int = 3) -> tuple[FittedTask, torch.Tensor]:
    labels = labels_for(task)
    fitted = FittedTask.fit(task, labels)
    return FittedTask(task, fitted.codec, members), task.encode(labels, fitted.codec)[0]


def named(task: Task) -> str:
    given = task.model_dump(exclude_defaults=True, exclude={"name"})
    return "-".join([task.kind, *(str(value) for value in given.values() if value is not None)])


def test_every_kind_is_here() -> None:
    found = [Task.find(kind) for kind in Task.kinds()]  # those of pixels, or that compare rows, are tried by check_task
    ours = {t.kind for t in found if t.__module__.startswith("polytask.") and t.spatial is None and not t.couples_rows}
    assert {task.kind for task in TASKS} == ours


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_the_merged_output_says_the_mean_of_what_the_members_say(task: Task) -> None:
    fitted, _ = ensemble_of(task)
    outputs = 3 * torch.randn(4, 3, fitted.codec.width, generator=torch.Generator().manual_seed(1))
    merged = task.merged(outputs)
    assert merged is not None
    mean = torch.stack([task.estimate(member) for member in outputs.unbind(1)]).mean(0)
    torch.testing.assert_close(task.estimate(merged), mean)


@pytest.mark.parametrize("task", CONVEX, ids=named)
def test_the_mean_estimate_loses_less_than_the_members_do(task: Task) -> None:
    fitted, target = ensemble_of(task)
    outputs = torch.randn(4, 3, fitted.codec.width, generator=torch.Generator().manual_seed(0))
    merged, alone = fitted.answer_losses(outputs, target), fitted.losses(outputs, target)
    assert (merged <= alone + 1e-6).all(), "all these losses are convex"
    assert merged.sum() < alone.sum()


def test_two_sure_members_who_disagree_make_one_who_is_not() -> None:
    fitted, target = ensemble_of(Binary("y"), 2)
    outputs = torch.tensor([[[200.0], [-200.0]]]).expand(4, 2, 1)
    torch.testing.assert_close(fitted.answer_losses(outputs, target), torch.full((4,), 0.5).log().neg())
    assert fitted.losses(outputs, target).tolist() == [100.0] * 4


@pytest.mark.parametrize("task", TASKS, ids=named)
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

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest
import torch
from sklearn.metrics import log_loss

from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.tasks.binary import Binary

INCOME = ["<=50K", ">50K", None, "<=50K", "<=50K", ">50K", "<=50K"]
CODES = [0, 1, 0, 0, 1, 0]


def fitted(values: Sequence[object], **fields: object) -> FittedTask:
    return FittedTask.fit(Binary("income", **fields), pa.array(values))


def complaint(values: Sequence[object], **fields: object) -> str:
    with pytest.raises(PolytaskError) as caught:
        fitted(values, **fields)
    return str(caught.value)


def test_the_null_loss_is_the_entropy() -> None:
    codec = fitted(INCOME).codec
    assert codec.classes == ("<=50K", ">50K")
    assert codec.null_loss == pytest.approx(log_loss(CODES, [2 / 6] * 6), rel=1e-6)


def test_the_mean_loss_is_the_log_loss() -> None:
    task = fitted(INCOME)
    output = torch.randn(6, 1, generator=torch.Generator().manual_seed(0))
    probability = task.views(output)["probability"]
    assert task.losses(output, torch.tensor(CODES)).mean().item() == pytest.approx(log_loss(CODES, probability), rel=1e-5)


def test_answers_are_labels_and_probabilities_of_both() -> None:
    task = fitted(INCOME)
    answer = task.task.answer(task.views(torch.tensor([[-1.0], [2.0]])), task.codec, probabilities=True)
    assert answer["income"].to_pylist() == ["<=50K", ">50K"]
    assert list(answer) == ["income", "income:<=50K", "income:>50K"]
    assert answer["income:>50K"].to_pylist() == pytest.approx([0.26894, 0.88080], abs=1e-5)


def test_members_vote_by_their_mean_probability() -> None:
    single = fitted(INCOME)
    task = FittedTask(single.task, single.codec, members=3)
    output = torch.tensor([[[4.0], [-0.5], [-0.5]]])
    assert task.views(output)["probability"].item() == pytest.approx(torch.sigmoid(output).mean().item())
    assert task.views(output)["label"].item() == 1, "the mean logit is above zero only because one member is sure"


def test_classes_may_be_given() -> None:
    codec = fitted(["no", "no", None], classes=("no", "yes")).codec
    assert codec.classes == ("no", "yes")
    assert codec.null_loss is not None
    assert 0 < codec.null_loss < 0.7


def test_mistakes_in_the_labels_are_told() -> None:
    where = "task 'income', column 'income': "
    assert complaint(["a", "b", "c"]) == where + (
        "a binary task has two classes. Found: 3 values in 3 rows: 'a', 'b', 'c'. "
        "Use multiclass or ordinal, or regression for amounts."
    )
    assert complaint(["a", "a", None]) == where + (
        "a task with classes needs two of them in the training rows. Found: 'a' in each of 2 rows. "
        "Leave this task out, or give its classes."
    )
    assert "Found: no label in 0 rows." in complaint(pa.nulls(3, pa.string()))

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from sklearn.metrics import log_loss
from torch.nn import functional

from polytask.fitted import FittedTask
from polytask.tasks.multiclass import Multiclass

ANIMALS = ["dog", "cat", None, "eel", "dog", "dog"]
CODES = [1, 0, 2, 1, 1]


def fitted() -> FittedTask:
    return FittedTask.fit(Multiclass("animal"), pa.array(ANIMALS))


def test_the_null_loss_is_the_entropy() -> None:
    codec = fitted().codec
    assert codec.width == 3
    assert codec.null_loss == pytest.approx(log_loss(CODES, [[0.2, 0.6, 0.2]] * 5), rel=1e-6)
    assert torch.tensor(codec.start).softmax(0).tolist() == pytest.approx([0.2, 0.6, 0.2])


def test_the_mean_loss_is_the_log_loss() -> None:
    task = fitted()
    output = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    probability = functional.normalize(task.views(output)["probability"], p=1)  # it is of float32
    assert probability.sum(1).tolist() == pytest.approx([1] * 5)
    assert task.losses(output, torch.tensor(CODES)).mean().item() == pytest.approx(log_loss(CODES, probability), rel=1e-5)


def test_answers_are_the_likeliest_labels() -> None:
    task = fitted()
    answer = task.task.answer(task.views(torch.eye(3)[[2, 0]]), task.codec, probabilities=True)
    assert answer["animal"].to_pylist() == ["eel", "cat"]
    assert list(answer) == ["animal", "animal:cat", "animal:dog", "animal:eel"]


def test_a_class_that_is_given_but_not_seen_has_a_small_share() -> None:
    codec = FittedTask.fit(Multiclass("animal", classes=("cat", "dog", "eel", "fox")), pa.array(ANIMALS)).codec
    shares = torch.tensor(codec.start).softmax(0)
    assert 0 < shares[3] < shares[0]
    assert shares.argmax() == 1

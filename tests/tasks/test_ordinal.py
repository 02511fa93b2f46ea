from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch.nn import functional

from polytask.fitted import FittedTask
from polytask.tasks.ordinal import Ordinal

STARS = [1, 3, 2, None, 5, 3, 1, 1]
CODES = [0, 2, 1, 3, 2, 0, 0]


def fitted() -> FittedTask:
    return FittedTask.fit(Ordinal("stars"), pa.array(STARS))


@given(st.integers(1, 8), st.floats(0.1, 50), st.integers(0, 1000))
def test_probabilities_sum_to_one_and_the_loss_is_their_cross_entropy(width: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    output = (scale * torch.randn(20, width, generator=generator)).double()
    target = torch.randint(width + 1, (20,), generator=generator)
    task = Ordinal("stars")
    probabilities = task.estimate(output)
    assert torch.allclose(probabilities.sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)
    chosen = probabilities.gather(1, target.unsqueeze(1))[:, 0]
    likely = chosen > 1e-300
    assert torch.allclose(task.row_losses(output, target)[likely], -chosen.log()[likely], rtol=1e-9, atol=1e-12)


def test_with_two_classes_it_is_a_binary_task() -> None:
    output, target = torch.tensor([[0.3], [-2.0]]), torch.tensor([1, 0])
    losses = functional.binary_cross_entropy_with_logits(output[:, 0], target.float(), reduction="none")
    assert torch.allclose(Ordinal("stars").row_losses(output, target), losses)


def test_a_question_is_asked_only_of_rows_that_reach_it() -> None:
    output = torch.zeros(3, 3, requires_grad=True)
    Ordinal("stars").row_losses(output, torch.tensor([0, 1, 3])).sum().backward()
    assert output.grad is not None
    assert (output.grad != 0).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert output.grad.sign()[:, 0].tolist() == [1, -1, -1], "the lowest row should not pass the first question"


def test_the_null_loss_is_the_entropy_of_the_classes() -> None:
    task = fitted()
    shares = [3 / 7, 1 / 7, 2 / 7, 1 / 7]
    assert task.codec.classes == (1, 2, 3, 5)
    assert task.task.estimate(torch.tensor([task.codec.start]))[0].tolist() == pytest.approx(shares, rel=1e-5)
    assert task.codec.null_loss == pytest.approx(log_loss(CODES, [shares] * 7), rel=1e-6)


def test_the_mean_loss_is_the_log_loss() -> None:
    task = fitted()
    output = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    probability = functional.normalize(task.views(output)["probability"], p=1)  # it is of float32
    assert task.losses(output, torch.tensor(CODES)).mean().item() == pytest.approx(log_loss(CODES, probability), rel=1e-5)


def test_classes_have_the_order_that_is_given() -> None:
    order = ("low", "medium", "high")
    codec = FittedTask.fit(Ordinal("level", classes=order), pa.array(["high", "low", "medium", None])).codec
    assert codec.classes == order
    target, _ = Ordinal("level", classes=order).encode(pa.array(["high", "low"]), codec)
    assert target.tolist() == [2, 0]


def test_losses_are_finite_however_sure_the_network_is() -> None:
    output = torch.full((2, 3), 1e4, requires_grad=True)
    losses = Ordinal("stars").row_losses(output, torch.tensor([0, 3]))
    assert losses.tolist() == [1e4, 0]
    (gradient,) = torch.autograd.grad(losses.sum(), output)
    assert torch.isfinite(gradient).all()

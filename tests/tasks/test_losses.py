"""The losses that a field or a name chooses: against torch, scikit-learn and closed forms, with the best constant of each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional

from polytask.component import Component
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.task import Task
from polytask.tasks.binary import Binary
from polytask.tasks.multiclass import Multiclass
from polytask.tasks.ordinal import Ordinal
from polytask.tasks.regression import Regression
from polytask.testing import check_task

ANIMALS = ["cat", "dog", None, "cat", "eel", "cat", "dog", "cat"]
ANSWERS = [0, 1, None, 0, 0, 0, 1, 0, 0]
PRICES = [1.0, 2.0, None, 4.0, 100.0, 3.0]

VARIANTS: list[tuple[Task, list[object]]] = [
    (Multiclass("y", label_smoothing=0.1), ANIMALS),
    (Multiclass("y", label_smoothing=0.3, focal=2.0, class_weights={"eel": 5}), ANIMALS),
    (Multiclass("y", class_weights="balanced"), ANIMALS),
    (Multiclass("y", focal=0.5), ANIMALS),
    (Ordinal("y", class_weights="balanced"), ANIMALS),
    (Binary("y", focal=2.0), ANSWERS),
    (Binary("y", focal=0.5, class_weights={0: 0.25}), ANSWERS),
    (Binary("y", class_weights="balanced"), ANSWERS),
    (Regression("y", loss="absolute"), PRICES),
    (Regression("y", loss="huber"), PRICES),
    (Regression("y", loss="huber", huber_delta=0.1), PRICES),
]


def outputs(n: int, width: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def fitted(task: Task, labels: list[object]) -> tuple[FittedTask, Tensor]:
    column = pa.array(labels).drop_null()
    found = FittedTask.fit(task, column)
    return found, task.encode(column, found.codec)[0]


@pytest.mark.parametrize(("task", "labels"), VARIANTS, ids=lambda value: repr(value) if isinstance(value, Component) else "")
def test_a_variant_keeps_the_contract(task: Task, labels: list[object]) -> None:
    check_task(task, labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5)])
def test_cross_entropy_is_torchs(smoothing: float, weights: tuple[float, ...] | None) -> None:
    given_weights = None if weights is None else dict(zip(["cat", "dog", "eel"], weights, strict=True))
    task, target = fitted(Multiclass("y", label_smoothing=smoothing, class_weights=given_weights), ANIMALS)
    output = outputs(len(target), 3)
    theirs = functional.cross_entropy(output, target, reduction="none", label_smoothing=smoothing)
    if weights is not None:  # torch weighs the smoothed targets, we weigh rows
        theirs = theirs * torch.tensor(weights)[target]
    assert torch.allclose(task.losses(output, target), theirs, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_is_equation_4_of_its_paper(gamma: float) -> None:
    output, target = outputs(50, 1).double(), torch.arange(50) % 2
    p = torch.sigmoid(output[:, 0])
    p_true = torch.where(target == 1, p, 1 - p)
    expected = -((1 - p_true) ** gamma) * p_true.log()
    assert torch.allclose(Binary("y", focal=gamma).row_losses(output, target), expected, rtol=1e-9)
    two = torch.cat([torch.zeros_like(output), output], 1)
    assert torch.allclose(Multiclass("y", focal=gamma).row_losses(two, target), expected, rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_the_focal_loss_of_a_sure_answer_has_a_finite_gradient(gamma: float) -> None:
    for task in (Binary("y", focal=gamma), Multiclass("y", focal=gamma)):
        output = torch.tensor([[200.0], [-200.0], [1e4]]) if task.kind == "binary" else torch.eye(3) * 200
        output.requires_grad_()
        task.row_losses(output, torch.tensor([1, 1, 0] if task.kind == "binary" else [0, 1, 0])).sum().backward()
        assert output.grad is not None
        assert torch.isfinite(output.grad).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_best_constant_of_the_focal_loss(gamma: float) -> None:
    task, target = fitted(Binary("y", focal=gamma), ANSWERS)
    share = float(target.double().mean())

    def mean_loss(logit: float) -> float:
        p = 1 / (1 + np.exp(-logit))
        return float(-share * (1 - p) ** gamma * np.log(p) - (1 - share) * p**gamma * np.log(1 - p))

    best = minimize_scalar(mean_loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-10})
    assert task.codec.null_loss == pytest.approx(best.fun, rel=1e-6)
    assert task.codec.start[0] == pytest.approx(best.x, abs=1e-3)


def test_the_best_constant_under_label_smoothing() -> None:
    task, _ = fitted(Multiclass("y", label_smoothing=0.3), ANIMALS)
    shares = 0.7 * np.array([4, 2, 1]) / 7 + 0.1
    assert np.exp(task.codec.start) == pytest.approx(shares, rel=1e-6)
    assert task.codec.null_loss == pytest.approx(-float(shares @ np.log(shares)), rel=1e-6)


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=40).filter(lambda labels: len(set(labels)) > 1))
def test_balanced_weights_are_scikit_learns(labels: list[str]) -> None:
    codec = FittedTask.fit(Multiclass("y", class_weights="balanced"), pa.array(labels)).codec
    assert codec.class_weights == pytest.approx(compute_class_weight("balanced", classes=np.unique(labels), y=labels))
    shares = torch.tensor(codec.start).softmax(0)
    assert torch.allclose(shares, torch.full_like(shares, 1 / len(shares))), "all classes weigh the same"


@pytest.mark.parametrize("kind", [Multiclass, Ordinal, Binary])
def test_weights_are_given_by_class(kind: type[Task]) -> None:
    task, target = fitted(kind("y", class_weights={True: 3}), [True, False, False, True])
    assert task.codec.class_weights == (1.0, 3.0)
    output = outputs(4, task.codec.width)
    plain = task.task.row_losses(output, target)
    assert torch.equal(task.losses(output, target), plain * torch.tensor([3.0, 1.0, 1.0, 3.0]))
    assert Task.coerce(task.task.to_dict()) == task.task


def test_mistakes_in_class_weights_are_told() -> None:
    with pytest.raises(PolytaskError) as caught:
        fitted(Multiclass("y", class_weights={"do": 2}), ANIMALS)
    assert str(caught.value) == "task 'y', class_weights: no class 'do'. Did you mean 'dog'?"
    with pytest.raises(PolytaskError, match="class 'dog': a weight is a number above 0"):
        Multiclass("y", class_weights={"dog": 0})
    with pytest.raises(PolytaskError, match="not weights of classes"):
        Multiclass("y", class_weights="balance")


def test_the_constants_of_absolute_and_huber_loss() -> None:
    labels = [value for value in PRICES if value is not None]
    task, target = fitted(Regression("y", loss="absolute"), PRICES)
    center, scale = task.codec.center, task.codec.scale
    assert task.codec.start[0] * scale + center == pytest.approx(np.median(labels), rel=1e-6)
    assert task.codec.null_loss == pytest.approx(np.abs(np.array(labels) - np.median(labels)).mean() / scale, rel=1e-5)
    task, target = fitted(Regression("y", loss="huber", huber_delta=0.5), PRICES)
    best = minimize_scalar(
        lambda x: float(functional.huber_loss(torch.full_like(target.double(), x), target.double(), delta=0.5)),
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-12},
    )
    assert task.codec.null_loss == pytest.approx(best.fun, rel=1e-6)


def test_losses_have_names() -> None:
    with pytest.raises(PolytaskError) as caught:
        Regression("price", loss="hubr")
    assert "no loss 'hubr' for a regression task. Did you mean 'huber'?" in str(caught.value)
    assert Task.coerce(Regression("price", loss="huber").to_dict()).loss == "huber"
    same = Regression("price", loss="squared").row_losses(outputs(3, 1), torch.zeros(3))
    assert torch.equal(same, Regression("price").row_losses(outputs(3, 1), torch.zeros(3)))

"""A task with what it learned: the best constant of a user's loss."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from polytask import Regression
from polytask.fitted import FittedTask

LABELS = pa.array([1.0, 2.0, 4.0, 9.0])


def test_the_best_constant_of_a_users_loss_is_found() -> None:
    """Of |y - c|^3 it is where the sums of squares on both sides are equal."""
    fitted = FittedTask.fit(Regression("y", loss=lambda output, target: (output[:, 0] - target).abs() ** 3), LABELS)
    found = fitted.codec.start[0]
    target = fitted.task.encode(LABELS, fitted.codec)[0]
    sides = [float(((target - found).clamp(min=0) ** 2).sum()), float(((found - target).clamp(min=0) ** 2).sum())]
    assert sides[0] == pytest.approx(sides[1], rel=1e-3)


def test_a_loss_that_is_not_finite_in_some_rows_has_no_scale_of_its_own() -> None:
    fitted = FittedTask.fit(Regression("y", loss=lambda output, target: (output[:, 0] - target) ** 2 / (target > 0)), LABELS)
    assert fitted.codec.null_loss is None


def test_a_loss_that_is_not_finite_beyond_a_wall_is_minimized_before_it() -> None:
    """-3 log(2 + c) is NaN below -2 and rises without end towards it."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output[:, 0] - target).square() - 3 * torch.log(2 + output[:, 0])

    fitted = FittedTask.fit(Regression("y", loss=loss), LABELS)
    best = fitted.codec.start[0]
    target = fitted.task.encode(LABELS, fitted.codec)[0].double()
    slope = float((2 * (best - target) - 3 / (2 + best)).mean())
    assert abs(slope) < 1e-3

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import mean_poisson_deviance

from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.tasks.count import Count

VISITS = [0, 3, None, 1, 12, 0, 7]
KNOWN = np.array([value for value in VISITS if value is not None], float)


def fitted(values: Sequence[object]) -> FittedTask:
    return FittedTask.fit(Count("visits"), pa.array(values))


def complaint(values: Sequence[object]) -> str:
    with pytest.raises(PolytaskError) as caught:
        fitted(values)
    return str(caught.value)


def test_the_null_loss_is_half_the_poisson_deviance_of_the_mean() -> None:
    codec = fitted(VISITS).codec
    assert codec.null_loss is not None
    deviance = mean_poisson_deviance(KNOWN, np.full(len(KNOWN), KNOWN.mean()))
    assert codec.null_loss * codec.scale == pytest.approx(deviance / 2, rel=1e-6)


def test_the_mean_loss_is_half_the_poisson_deviance() -> None:
    task = fitted(VISITS)
    output = torch.randn(len(KNOWN), 1, generator=torch.Generator().manual_seed(0))
    target, _ = task.task.encode(pa.array(KNOWN), task.codec)
    rates = task.views(output)["value"].numpy()
    deviance = mean_poisson_deviance(KNOWN, rates)
    assert task.losses(output, target).mean().item() * task.codec.scale == pytest.approx(deviance / 2, rel=1e-5)


def test_rates_are_above_zero_and_finite() -> None:
    values = fitted(VISITS).views(torch.tensor([[-100.0], [0.0], [1e4]]))["value"]
    assert torch.isfinite(values).all()
    assert (values >= 0).all()
    assert values[1].item() == pytest.approx(KNOWN.mean())


def test_a_count_of_zero_has_a_gradient() -> None:
    task = fitted(VISITS)
    output = torch.zeros(2, 1, requires_grad=True)
    target, _ = task.task.encode(pa.array([0, 3]), task.codec)
    (gradient,) = torch.autograd.grad(task.losses(output, target).sum(), output)
    assert gradient[0].item() == pytest.approx(1.0)
    assert gradient[1].item() == pytest.approx(1 - 3 / KNOWN.mean(), rel=1e-5)


def test_mistakes_in_the_labels_are_told() -> None:
    found = complaint([3, -2, -1])
    assert found == (
        "task 'visits', column 'visits': 2 counts are negative. Found: -2 in row 2, -1 in row 3. "
        "Mend them, or use a regression task."
    )
    assert "all training labels are equal. Found: 0 in each of 2 rows." in complaint([0, 0])
    assert "1 label is not a number. Found: 'many' in row 2" in complaint(["1", "many"])


def test_a_negative_count_is_found_outside_of_training_too() -> None:
    task = fitted(VISITS)
    with pytest.raises(PolytaskError, match="1 count is negative"):
        task.task.encode(pa.array([1, -1]), task.codec)

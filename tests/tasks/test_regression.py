from __future__ import annotations

import datetime
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_squared_error
from torch import Tensor
from torch.nn import functional

from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.tasks.regression import Regression

PRICES = [310.0, 250.0, None, 990.0, 120.0, 410.0, None]


def fitted(values: Sequence[object], **fields: object) -> FittedTask:
    return FittedTask.fit(Regression("price", **fields), pa.array(values))


def complaint(values: Sequence[object] | pa.Array, **fields: object) -> str:
    with pytest.raises(PolytaskError) as caught:
        FittedTask.fit(Regression("price", **fields), pa.array(values))
    return str(caught.value)


def test_the_null_loss_is_the_variance() -> None:
    codec, known = fitted(PRICES).codec, [value for value in PRICES if value is not None]
    assert codec.null_loss is not None
    variance = mean_squared_error(known, np.full(len(known), np.mean(known)))
    assert codec.null_loss * codec.scale**2 == pytest.approx(variance, rel=1e-6)
    assert codec.null_loss == pytest.approx(1, rel=1e-6)
    assert codec.n_labels == 5


def test_the_loss_of_a_row_is_its_squared_error_in_deviations() -> None:
    task = fitted(PRICES)
    target, _ = task.task.encode(pa.array([990.0]), task.codec)
    output = torch.tensor([[0.5]])
    error = task.views(output)["value"].item() - 990
    assert task.losses(output, target).item() == pytest.approx((error / task.codec.scale) ** 2, rel=1e-5)


@given(st.lists(st.floats(-1e9, 1e9).map(lambda x: round(x, 3)), min_size=2, unique=True))
def test_targets_go_back_to_labels(values: list[float]) -> None:
    if np.ptp(values) < 1e-2:
        return
    task = fitted(values)
    target, present = task.task.encode(pa.array(values), task.codec)
    assert present.all()
    assert task.task.truth(target, task.codec).numpy() == pytest.approx(values, abs=2e-6 * np.ptp(values))
    assert task.views(target.unsqueeze(1))["value"].numpy() == pytest.approx(values, abs=2e-6 * np.ptp(values))


def test_hidden_labels_have_a_finite_target() -> None:
    task = fitted(PRICES)
    target, present = task.task.encode(pa.array([1.0, None, float("nan")]), task.codec)
    assert present.tolist() == [True, False, False]
    assert torch.isfinite(target).all()


def test_labels_may_be_text_or_booleans_or_large_integers() -> None:
    assert fitted(["1.5", " 2.5 ", None]).codec.center == 2.0
    assert fitted([True, False, None, True]).codec.center == pytest.approx(2 / 3)
    assert fitted([2**62, 2**62 + 4096]).codec.scale == 2048


@pytest.mark.parametrize("size", [1e300, 1e200, 1e-200, 1e-300])
def test_labels_of_any_size_are_standardized(size: float) -> None:
    task = fitted([size, 2 * size, 3 * size])
    target, _ = task.task.encode(pa.array([size, 2 * size, 3 * size]), task.codec)
    assert target.tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], rel=1e-6, abs=1e-6)


def test_mistakes_in_the_labels_are_told() -> None:
    where = "task 'price', column 'price': "
    assert complaint(["1", "cheap", None]).startswith(where + "1 label is not a number. Found: 'cheap' in row 2.")
    assert "Found: '1_000'" in complaint(["1", "1_000"])
    assert complaint([1.0, float("inf")]).startswith(where + "1 label is infinite. Found: inf in row 2.")
    assert "all training labels are equal. Found: 3 in each of 2 rows." in complaint([3, 3, None])
    dates = [datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1)]
    assert "the labels are not numbers. Found: a column of timestamp[us]." in complaint(dates)
    assert "column 'cost'" in complaint(["x"], column="cost")


def absolute(output: Tensor, target: Tensor) -> Tensor:
    return (output[:, 0] - target).abs()


def test_a_users_loss_takes_the_place_of_the_squared_error() -> None:
    values = [1.0, 2.0, 10.0]
    task = fitted(values, loss=absolute)
    center, scale = task.codec.center, task.codec.scale
    assert task.codec.start[0] * scale + center == pytest.approx(2.0, abs=0.05), "the median"
    assert task.codec.null_loss == pytest.approx(np.abs(np.array(values) - 2).mean() / scale, rel=1e-2)


def test_a_users_loss_has_its_own_best_constant() -> None:
    def quantile(output: Tensor, target: Tensor) -> Tensor:
        return torch.maximum(0.75 * (target - output[:, 0]), 0.25 * (output[:, 0] - target))

    def huber(output: Tensor, target: Tensor) -> Tensor:
        return functional.huber_loss(output[:, 0], target, reduction="none")

    values = np.linspace(0, 1, 101)
    task = fitted(values.tolist(), loss=quantile)
    assert task.codec.start[0] * task.codec.scale + task.codec.center == pytest.approx(0.75, abs=0.02)
    task = fitted([1.0, 2.0, 3.0, 50.0], loss=huber)
    target, _ = task.task.encode(pa.array([1.0, 2.0, 3.0, 50.0]), task.codec)
    grid = torch.linspace(-2, 2, 2001).unsqueeze(1)
    best = min(float(task.losses(constant.expand(4, 1), target).mean()) for constant in grid)
    assert task.codec.null_loss == pytest.approx(best, rel=1e-4)


def test_a_users_loss_must_give_one_value_per_row() -> None:
    assert complaint([1.0, 2.0, 4.0], loss=lambda output, target: absolute(output, target).mean()) == (
        "task 'price': the loss must give one value per row. Found: shape (). "
        "Return a tensor of shape (3,), without taking the mean."
    )
    assert "Found: shape (3, 3)" in complaint([1.0, 2.0, 4.0], loss=lambda output, target: (output - target).abs())
    assert "Found: float" in complaint([1.0, 2.0, 4.0], loss=lambda output, target: 0.5)


def test_a_loss_below_zero_is_not_scaled_by_its_floor() -> None:
    # A negative log-likelihood may be negative at its best constant: dividing by that, or by a floor, would mean nothing.
    def below(output: Tensor, target: Tensor) -> Tensor:
        return (output[:, 0] - target).square() - 5

    assert fitted([1.0, 2.0, 4.0], loss=below).codec.null_loss is None


def test_a_loss_has_no_name_but_that_of_a_callable() -> None:
    with pytest.raises(PolytaskError, match="no loss 'mae' for a regression task"):
        Regression("price", loss="mae")
    assert Regression("price", loss=absolute).to_dict()["loss"] == "external:absolute"

"""The scales that a number is learned on, and the way back to the column's units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, rankdata, skew
from sklearn.metrics import r2_score

import polytask
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.recipe import Recipe
from polytask.task import Codec, Task
from polytask.tasks._numbers import _skewness, chosen_transform, in_units
from polytask.tasks.quantile import Quantile
from polytask.tasks.regression import Regression
from polytask.testing import check_task
from tests.contracts.examples import LABELS

RNG = np.random.default_rng(0)
PRICES = np.exp(RNG.normal(12, 0.8, 400))


def fitted(values: Sequence[object], **fields: object) -> FittedTask:
    return FittedTask.fit(Regression("price", **fields), pa.array(values))


@pytest.mark.parametrize("labels", ["bits", "whole", "floats with holes", "fractions"])
@pytest.mark.parametrize("transform", ["log1p", "quantile", "auto"])
@pytest.mark.parametrize("kind", [Regression, Quantile])
def test_every_transform_keeps_the_contract(kind: type[Task], transform: str, labels: str) -> None:
    check_task(kind("y", transform=transform), LABELS[labels])


@pytest.mark.parametrize("transform", ["log1p", "quantile"])
@given(values=st.lists(st.floats(0, 1e6), min_size=2, max_size=60).filter(lambda v: np.ptp(v) > 1e-3))
def test_labels_come_back_and_keep_their_order(transform: str, values: list[float]) -> None:
    task = fitted(values, transform=transform)
    column = pa.array([*values, max(values) * 1.5])  # a label beyond those of training
    target, _ = task.task.encode(column, task.codec)
    back = task.task.truth(target, task.codec).numpy()
    assert back == pytest.approx(column.to_numpy(), rel=1e-3, abs=1e-5 * max(values))
    assert (np.diff(target.numpy()[np.argsort(column.to_numpy())]) >= 0).all()


def test_log1p_is_standardized() -> None:
    codec = fitted(PRICES, transform="log1p").codec
    assert (codec.transform, codec.center, codec.scale) == pytest.approx(
        ("log1p", np.log1p(PRICES).mean(), np.log1p(PRICES).std())
    )


def test_normal_scores_are_those_of_the_ranks() -> None:
    values = RNG.exponential(size=200) ** 3
    task = fitted(values, transform="quantile")
    target, _ = task.task.encode(pa.array(values), task.codec)
    scores = norm.ppf((rankdata(values) - 0.5) / len(values))
    assert target.numpy() == pytest.approx((scores - scores.mean()) / scores.std(), abs=1e-5)


def test_what_is_chosen() -> None:
    normal = RNG.normal(50, 5, 500)
    assert _skewness(PRICES) == pytest.approx(skew(PRICES))
    assert chosen_transform(PRICES) == "log1p"
    assert chosen_transform(normal) == "standardize", "not skewed"
    assert chosen_transform(np.append(PRICES, 0.0)) == "standardize", "not above zero"
    assert chosen_transform(PRICES * 1e-9) == "standardize", "log1p would change nothing"
    assert chosen_transform(np.where(np.arange(400) % 50, 1.0, 900.0)) == "standardize", "two values are not continuous"
    assert fitted(PRICES, transform="auto").codec.transform == "log1p"
    assert fitted(PRICES).codec.transform == "standardize"


def test_the_mean_comes_back_by_smearing() -> None:
    signal, noise = RNG.normal(3, 1, 4000), RNG.normal(0, 1, 4000)
    labels = np.expm1(signal + noise)
    for transform, error in (("log1p", 1e-5), ("quantile", 0.05)):
        task = (
            fitted(labels, transform=transform) if labels.min() >= 0 else fitted(np.clip(labels, 0, None), transform=transform)
        )
        target, _ = task.task.encode(pa.array(np.clip(labels, 0, None)), task.codec)
        # An estimate that knows nothing: its residuals are the labels' own spread, so smearing must give their mean.
        output = torch.full((len(target), 1), float(target.mean()))
        tuned = task.tuned(output, target)
        assert task.views(output)["value"][0].item() < 0.7 * np.clip(labels, 0, None).mean()
        assert tuned.views(output)["value"][0].item() == pytest.approx(np.clip(labels, 0, None).mean(), rel=error)


def test_smearing_of_log1p_is_duans_factor() -> None:
    task = fitted(PRICES, transform="log1p")
    target, _ = task.task.encode(pa.array(PRICES), task.codec)
    output = (target + torch.randn(len(target), generator=torch.Generator().manual_seed(0))).unsqueeze(1)
    residuals = (target - output[:, 0]).double().numpy() * task.codec.scale
    plain = task.views(output)["value"].numpy()
    assert task.tuned(output, target).views(output)["value"].numpy() == pytest.approx(
        (plain + 1) * np.exp(residuals).mean() - 1, rel=1e-5
    )


@pytest.mark.parametrize("loss", ["absolute", lambda output, target: (output[:, 0] - target).abs()])
def test_a_median_comes_back_as_it_is(loss: object) -> None:
    task = fitted(PRICES, transform="log1p", loss=loss)
    target, _ = task.task.encode(pa.array(PRICES), task.codec)
    assert task.tuned(torch.zeros(len(target), 1), target).codec == task.codec
    assert task.constant_views(2)["value"].numpy() == pytest.approx(np.median(PRICES), rel=0.01)


def test_the_constant_is_the_best_in_the_columns_units() -> None:
    for transform in ("standardize", "log1p", "quantile"):
        constant = fitted(PRICES, transform=transform).constant_views(3)["value"]
        assert constant.numpy() == pytest.approx(PRICES.mean(), rel=1e-6)


def test_nothing_overflows() -> None:
    codec = Codec(transform="log1p", center=12.0, scale=5.0)
    assert torch.isfinite(in_units(torch.tensor([1e4, -1e4]), codec)).all()


def test_mistakes_are_told() -> None:
    with pytest.raises(PolytaskError) as caught:
        fitted([-1.0, 2.0, 3.0], transform="log1p")
    assert str(caught.value) == (
        "task 'price', transform: 1 label is negative. Found: -1 in row 1. log1p is for labels from 0: use standardize or auto."
    )
    task = fitted([1.0, 2.0, 3.0], transform="log1p")
    with pytest.raises(PolytaskError, match="1 label is -1 or less, where log1p ends"):
        task.task.encode(pa.array([1.0, -2.0]), task.codec)


def test_a_skewed_target_is_learned_and_saved(tmp_path: Path) -> None:
    x = RNG.normal(size=1500)
    y = np.exp(10 + x + RNG.normal(0, 0.5, 1500))
    sources = [pa.table({"x": x, "y": y}).to_pandas()]
    tasks = [Regression("y", transform="auto"), Quantile("q", column="y", transform="log1p")]
    run = polytask.fit(Recipe(sources=sources, tasks=tasks, trainer={"epochs": 12}))
    run.save(tmp_path / "run")
    again = polytask.load(tmp_path / "run")
    assert len(again.bundle.tasks["y"].codec.residuals) == 1
    fresh = np.array([-1.0, 0.0, 1.0])
    answers = again.predict(pa.table({"x": fresh}))
    assert answers.equals(run.predict(pa.table({"x": fresh})))
    assert answers["y"].to_numpy() == pytest.approx(np.exp(10 + fresh + 0.125), rel=0.2), "the mean, above the median"
    assert answers["q"].to_numpy() == pytest.approx(np.exp(10 + fresh), rel=0.2)
    assert answers["q:0.9"].to_numpy() == pytest.approx(np.exp(10 + fresh + 0.5 * norm.ppf(0.9)), rel=0.25)
    scores = again.scores()
    assert scores["q"].scores["coverage_error"].value < 0.06
    assert scores["y"].scores["r2"].value > 0.4
    assert again.evaluate(pa.table({"x": x, "y": y}))["y"].scores["r2"].value == pytest.approx(
        r2_score(y, again.predict(pa.table({"x": x}))["y"].to_numpy()), abs=1e-6
    )

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_pinball_loss

from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.tasks._quantiles import weighted_quantile
from polytask.tasks.quantile import Quantile
from polytask.testing import check_task

LEVELS = (0.05, 0.5, 0.8, 0.95)
VALUES = np.random.default_rng(0).normal(10, 3, 101)


def fitted(**fields: object) -> FittedTask:
    return FittedTask.fit(Quantile("y", **fields), pa.array(VALUES))


def outputs(n: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, len(LEVELS), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.2, 0.9), LEVELS])
def test_any_levels_keep_the_contract(levels: tuple[float, ...]) -> None:
    check_task(Quantile("y", quantiles=levels), list(VALUES[:20]))


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-6])
@pytest.mark.parametrize("members", [1, 3])
def test_quantiles_never_cross(scale: float, members: int) -> None:
    single = fitted(quantiles=LEVELS)
    task = FittedTask(single.task, single.codec, members)
    output = outputs(60, scale)
    quantiles = task.views(output.view(-1, 3, len(LEVELS)) if members > 1 else output)["quantiles"]
    assert (quantiles.diff(dim=1) >= 0).all()


def test_the_loss_is_scikit_learns_on_the_ordered_outputs() -> None:
    task = fitted(quantiles=LEVELS)
    target, _ = task.task.encode(pa.array(VALUES), task.codec)
    output = outputs(len(target))
    ordered = np.sort(output.numpy(), 1)
    expected = np.mean([mean_pinball_loss(target, ordered[:, i], alpha=level) for i, level in enumerate(LEVELS)])
    assert task.losses(output, target).mean().item() == pytest.approx(expected, rel=1e-5)
    in_units = task.task.scorers(task.codec)["pinball"]
    score = float(in_units.compute(task.views(output)["quantiles"], torch.from_numpy(VALUES)))
    assert score == pytest.approx(expected * task.codec.scale, rel=1e-5)


def test_ordering_never_raises_the_loss() -> None:
    output, target = outputs(50), torch.randn(50, generator=torch.Generator().manual_seed(1))
    missing = target.unsqueeze(1) - output
    levels = torch.tensor(LEVELS)
    unordered = torch.maximum(levels * missing, (levels - 1) * missing).mean(1)
    assert (Quantile("y", quantiles=LEVELS).row_losses(output, target) <= unordered + 1e-6).all()


def test_the_best_constant_is_the_sample_quantile() -> None:
    task = fitted(quantiles=LEVELS)
    expected = np.quantile(VALUES, LEVELS, method="inverted_cdf")
    assert task.constant_views(1)["quantiles"][0].numpy() == pytest.approx(expected, rel=1e-6)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=20),
    st.sampled_from([0.1, 0.5, 0.75, 0.9]),
)
def test_a_weighted_quantile_is_that_of_repeated_rows(rows: list[tuple[int, int]], level: float) -> None:
    values, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    repeated = np.repeat([value for value, _ in rows], [weight for _, weight in rows])

    def loss(constant: float) -> float:
        return float(mean_pinball_loss(repeated, np.full(len(repeated), constant), alpha=level))

    found = loss(float(weighted_quantile(values, level, weights)))
    assert found == pytest.approx(min(loss(value) for value, _ in rows), abs=1e-9)


def test_coverage_of_known_quantiles() -> None:
    scorers = Quantile("y", quantiles=(0.1, 0.5, 0.9)).scorers(fitted().codec)
    target = torch.arange(10, dtype=torch.float64)
    quantiles = torch.tensor([[0.5, 4.5, 7.5]], dtype=torch.float64).expand(10, 3)
    found = {
        name: float(scorers[name].compute(quantiles, target)) for name in ("coverage", "width", "below:0.9", "coverage_error")
    }
    assert found == pytest.approx({"coverage": 0.7, "width": 7.0, "below:0.9": 0.8, "coverage_error": 0.1 / 3})


def test_answers_name_their_levels() -> None:
    task = fitted(quantiles=(0.1, 0.6, 0.9))
    answer = task.task.answer(task.views(outputs(2)[:, :3]), task.codec)
    assert list(answer) == ["y", "y:0.1", "y:0.6", "y:0.9"]
    assert answer["y"].equals(answer["y:0.6"])


def test_mistakes_are_told() -> None:
    with pytest.raises(PolytaskError, match=r"quantiles: the levels do not increase. Found: 0.9, 0.1"):
        Quantile("y", quantiles=(0.9, 0.1))
    with pytest.raises(PolytaskError, match="less than 1"):
        Quantile("y", quantiles=(0.5, 1.0))

"""Against Kendall, Gal and Cipolla 2018: the minimum of sum_t exp(-s_t) L_t + s_t, and Adam on the way to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polytask.balancer import Signals, State
from polytask.balancers.uncertainty import Uncertainty

TASKS = ("price", "grade", "sold")


def run(balancer: Uncertainty, batches: list[Tensor]) -> tuple[list[Tensor], State]:
    """The weights of every step, and the last state; a NaN among the losses stands for a task that is absent."""
    state, found = balancer.start(TASKS), []
    for losses in batches:
        index = losses.isfinite().nonzero()[:, 0]
        names = tuple(TASKS[i] for i in index)
        weights, new = balancer.step(state.rows(index), Signals(names, losses[index]))
        state = state.with_rows(index, new)
        found.append(torch.full_like(losses, torch.nan).index_copy(0, index, weights))
    return found, state


def test_it_begins_with_the_sum_of_losses() -> None:
    weights, _ = run(Uncertainty(), [torch.tensor([1.0, 20.0, 0.3])])
    assert weights[0].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_rest_a_weight_is_one_over_the_loss(dtype: torch.dtype) -> None:
    losses = torch.tensor([0.2, 1.0, 3.0], dtype=dtype)
    weights, state = run(Uncertainty(learning_rate=0.03), [losses] * 400)
    assert (weights[-1] * losses).tolist() == pytest.approx([1, 1, 1], rel=2e-3)
    assert state.per_task["log_variance"].tolist() == pytest.approx(losses.log().tolist(), abs=2e-3)


def test_it_is_adam_on_the_objective_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(3, generator=generator).double() + 0.1 for _ in range(50)]
    s = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([s], lr=0.05)
    expected = []
    for losses in batches:
        expected.append(torch.exp(-s.detach()))
        adam.zero_grad()
        (torch.exp(-s) * losses + s).sum().backward()
        adam.step()
    weights, _ = run(Uncertainty(learning_rate=0.05), batches)
    torch.testing.assert_close(torch.stack(weights), torch.stack(expected), rtol=1e-9, atol=0)


def test_a_task_steps_only_where_it_is_present() -> None:
    nan = torch.nan
    whole, _ = run(Uncertainty(learning_rate=0.1), [torch.tensor([2.0, 0.5, 1.0])] * 3)
    holes = [[2.0, 0.5, 1.0], [nan, 0.5, 1.0], [2.0, nan, 1.0], [nan, nan, 1.0], [2.0, 0.5, nan]]
    parted, _ = run(Uncertainty(learning_rate=0.1), [torch.tensor(row) for row in holes])
    for task in range(3):
        seen = torch.stack([weights[task] for weights in parted])
        assert torch.equal(seen[seen.isfinite()][:3], torch.stack([weights[task] for weights in whole]))


def test_a_loss_of_zero_or_a_huge_one_moves_s_by_one_learning_rate() -> None:
    _, state = run(Uncertainty(learning_rate=0.1), [torch.tensor([0.0, 1e12, 1.0])])
    assert state.per_task["log_variance"].tolist() == pytest.approx([-0.1, 0.1, 0.0], abs=1e-5)

"""Against Liu, Johns and Davison 2019: w_k(t) = K exp(r_k(t-1) / T) / sum_i exp(r_i(t-1) / T), r_k(t-1) = L_k(t-1) /
L_k(t-2)."""

from __future__ import annotations

import math

import pytest
import torch

from polytask.balancer import Signals
from polytask.balancers.dwa import DWA

TASKS = ("price", "grade", "sold")
Epoch = list[dict[str, float]]


def run(dwa: DWA, epochs: list[Epoch]) -> list[dict[str, float]]:
    """The weights of every epoch's first step; each step has the losses of the tasks present."""
    state, found = dwa.start(TASKS), []
    for number, epoch in enumerate(epochs):
        for position, losses in enumerate(epoch):
            index = torch.tensor([TASKS.index(task) for task in losses])
            signals = Signals(tuple(losses), torch.tensor(list(losses.values())).double(), position, number)
            weights, new = dwa.step(state.rows(index), signals)
            state = state.with_rows(index, new)
            if not position:
                found.append(dict(zip(losses, weights.tolist(), strict=True)))
    return found


def equation_7(epochs: list[Epoch], number: int, temperature: float) -> dict[str, float]:
    """The weights of the tasks in the first step of epoch ``number``, by the book; r = 1 where one of two epochs is lacking."""

    def mean(task: str, epoch: int) -> float:
        seen = [losses[task] for losses in epochs[epoch] if task in losses] if epoch >= 0 else []
        return sum(seen) / len(seen) if seen else math.nan

    present = list(epochs[number][0])
    ratios = {task: mean(task, number - 1) / mean(task, number - 2) for task in present}
    powers = {task: math.exp((1.0 if math.isnan(r) else r) / temperature) for task, r in ratios.items()}
    return {task: len(present) * power / sum(powers.values()) for task, power in powers.items()}


def random_epochs(n_epochs: int, absent: dict[int, set[str]]) -> list[Epoch]:
    generator = torch.Generator().manual_seed(0)
    return [
        [
            {task: float(torch.rand(1, generator=generator)) + 0.1 for task in TASKS if task not in absent.get(epoch, set())}
            for _ in range(3)
        ]
        for epoch in range(n_epochs)
    ]


@pytest.mark.parametrize("temperature", [0.5, 2.0, 50.0])
def test_weights_are_those_of_equation_7(temperature: float) -> None:
    epochs = random_epochs(6, {})
    found = run(DWA(temperature=temperature), epochs)
    assert found[0] == found[1] == dict.fromkeys(TASKS, 1.0)
    for number in range(6):
        assert found[number] == pytest.approx(equation_7(epochs, number, temperature), rel=1e-6)


def test_tasks_absent_from_some_batches_have_the_mean_over_the_others() -> None:
    epochs = random_epochs(5, {})
    for epoch in epochs:
        del epoch[1]["grade"], epoch[2]["price"]
    for number, weights in enumerate(run(DWA(), epochs)):
        assert weights == pytest.approx(equation_7(epochs, number, 2.0), rel=1e-6)


@pytest.mark.parametrize("away", [{1: {"price"}}, {2: {"price"}}, {0: {"price", "sold"}}, {2: {"grade"}, 3: {"grade"}}])
def test_a_task_that_was_away_for_an_epoch_begins_anew(away: dict[int, set[str]]) -> None:
    epochs = random_epochs(7, away)
    for number, weights in enumerate(run(DWA(), epochs)):
        assert weights == pytest.approx(equation_7(epochs, number, 2.0), rel=1e-6)


def test_weights_stand_still_within_an_epoch() -> None:
    dwa, state = DWA(), DWA().start(TASKS)
    found = []
    for epoch, loss in ((0, 1.0), (1, 0.5), (2, 0.2), (2, 0.1), (2, 7.0)):
        weights, state = dwa.step(state, Signals(TASKS, torch.tensor([loss, 1.0, 2.0]), 0, epoch))
        found.append(weights)
    assert torch.equal(found[2], found[3])
    assert torch.equal(found[2], found[4])


def test_high_temperatures_make_weights_alike() -> None:
    epochs = random_epochs(3, {})
    spread = [max(w.values()) - min(w.values()) for w in (run(DWA(temperature=t), epochs)[2] for t in (0.1, 1.0, 10.0))]
    assert spread[0] > spread[1] > spread[2] > 0

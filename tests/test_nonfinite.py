"""A task whose loss or gradient is not finite is left out of that step, and changes nothing for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from polytask import Binary, Frame, PolytaskError, Recipe, Regression, Table, Trainer, fit
from polytask.batch import Batch
from polytask.fitting import train_bundle
from polytask.keeping import Buffers
from polytask.mixing import epoch_batches
from polytask.preparation import Prepared, prepare
from polytask.sharing import module_key
from polytask.training import Epoch, left_out
from polytask.update import Updater

N_ROWS, BATCH = 120, 16
BALANCERS = ["equal", "uncertainty", "dwa", "unit_gramian", "toy_jacobian", "famo_like"]


class NaNGradient(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.nan


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output[:, 0] - target.nan_to_num(0.0)).square()


def extreme(target: Tensor) -> Tensor:
    """In a batch alone, so that the best constant is the same with and without the fault."""
    return (target > 1.9) & (len(target) <= 2 * BATCH)


def nan_loss(output: Tensor, target: Tensor) -> Tensor:
    return torch.where(extreme(target), torch.nan, squared(output, target))


def infinite_loss(output: Tensor, target: Tensor) -> Tensor:
    return torch.where(extreme(target), torch.inf, squared(output, target))


def nan_gradient(output: Tensor, target: Tensor) -> Tensor:
    return squared(NaNGradient.apply(output) if bool(extreme(target).any()) else output, target)


def nan_constant(output: Tensor, target: Tensor) -> Tensor:
    """NaN in its value, finite in its gradient."""
    return squared(output, target) + torch.where(extreme(target), torch.nan, 0.0)


FAULTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f.__name__: f for f in (nan_loss, infinite_loss, nan_gradient, nan_constant)
}


def table() -> pl.DataFrame:
    draw = np.random.default_rng(0)
    a, b, noisy = draw.normal(size=(3, N_ROWS))
    price = [None if i % 3 == 0 else x for i, x in enumerate((a + b / 3).tolist())]
    return pl.DataFrame({"a": a, "b": b, "price": price, "sold": np.where(a > b, "yes", "no"), "noisy": noisy + a})


def recipe(loss: Callable[[Tensor, Tensor], Tensor] = squared, **fields: Any) -> Recipe:
    tasks = [Regression("price"), Regression("noisy", loss=loss), Binary("sold")]
    settings: dict[str, Any] = {
        "encoder": Table(width=16, depth=1, dropout=0.3, embedding="plain"),
        "trainer": Trainer(epochs=2, batch_size=BATCH, device="cpu"),
        "split": {"validation": 0, "test": 0.1},
    }
    return Recipe(sources=[Frame(table())], tasks=tasks, **(settings | fields))


def trained(asked: Recipe, prepared: Prepared | None = None) -> tuple[dict[str, Tensor], list[Epoch]]:
    bundle, history = train_bundle(asked, prepare(asked) if prepared is None else prepared)
    return bundle.model.state_dict(), history


def faulty_steps(asked: Recipe) -> set[int]:
    """The steps in whose batch the task has an extreme label."""
    target = prepare(asked).training.targets["noisy"]
    n_epochs = asked.trainer.epochs
    batches = [rows for epoch in range(n_epochs) for rows in epoch_batches(len(target), BATCH, asked.seed, epoch)]
    return {step for step, rows in enumerate(batches) if bool((target[rows] > 1.9).any())}


@pytest.fixture
def absent_from(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """Take the labels of the task out of the batches of some steps."""

    def patch(steps: set[int]) -> None:
        whole = Updater.__call__

        def update(self: Updater, pieces: Sequence[Batch], rate: float) -> dict[str, Tensor]:
            return whole(self, [piece.without(["noisy"]) for piece in pieces] if self.step in steps else pieces, rate)

        monkeypatch.setattr(Updater, "__call__", update)

    return patch


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_fault_is_as_if_the_task_had_no_label_in_that_step(
    fault: str, balancer: str, absent_from: Callable[[set[int]], None]
) -> None:
    asked = recipe(FAULTS[fault], balancer=balancer)
    steps = faulty_steps(asked)
    assert 0 < len(steps) < 2 * len(epoch_batches(108, BATCH, 0, 0))
    weights, history = trained(asked)
    assert sum(epoch.dropped["noisy"] for epoch in history) == len(steps)
    assert all(epoch.dropped.keys() == {"noisy"} for epoch in history)
    absent_from(steps)
    expected, clean = trained(recipe(balancer=balancer))
    assert_same(weights, expected)
    assert [epoch.training for epoch in history] == [epoch.training for epoch in clean]
    assert [epoch.weights for epoch in history] == [epoch.weights for epoch in clean]


def test_a_nan_label_in_every_row_is_as_if_the_task_had_none() -> None:
    asked = recipe(lambda output, target: (output[:, 0] - target).square())
    prepared = prepare(asked)
    training, own = prepared.training, f"heads.{module_key('noisy')}."
    broken = replace(training, targets={**training.targets, "noisy": training.targets["noisy"] * torch.nan})
    hidden = replace(training, present={**training.present, "noisy": torch.zeros(training.n_rows, dtype=torch.bool)})
    weights, history = trained(asked, replace(prepared, training=broken))
    expected, _ = trained(asked, replace(prepared, training=hidden))
    assert_same({key: value for key, value in weights.items() if not key.startswith(own)}, expected)
    assert left_out(history) == [
        "task 'noisy' was left out of 14 steps, in which its loss or gradient was not finite, every step of epoch 1, 2"
    ]


def test_a_nan_label_in_a_row_is_as_if_the_task_had_no_label_in_its_batch() -> None:
    """In one epoch, so that each row has one batch."""
    asked = recipe(lambda output, target: (output[:, 0] - target).square(), trainer=Trainer(epochs=1, batch_size=BATCH))
    prepared = prepare(asked)
    training = prepared.training
    batch = epoch_batches(training.n_rows, BATCH, asked.seed, 0)[3]
    target, present = training.targets["noisy"].clone(), training.present["noisy"].clone()
    target[batch[5]], present[batch] = torch.nan, False
    weights, history = trained(
        asked, replace(prepared, training=replace(training, targets={**training.targets, "noisy": target}))
    )
    expected, _ = trained(asked, replace(prepared, training=replace(training, present={**training.present, "noisy": present})))
    assert_same(weights, expected)
    assert history[0].dropped == {"noisy": 1}


def test_batch_statistics_are_those_of_one_pass(absent_from: Callable[[set[int]], None]) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))

    asked = recipe(nan_loss, encoder=network())
    weights, history = trained(asked)
    assert any("running_mean" in key for key in weights)
    assert sum(epoch.dropped["noisy"] for epoch in history) > 0
    absent_from(faulty_steps(asked))
    assert_same(weights, trained(recipe(encoder=network()))[0])


def test_buffers_go_back_also_where_a_module_replaces_them() -> None:
    net = nn.Module()
    net.register_buffer("written", torch.zeros(2))
    net.register_buffer("replaced", torch.zeros(2))
    net.register_buffer("late", None)
    buffers = Buffers(net)
    for _ in range(2):
        buffers.keep()
        net.written.add_(1)
        net.replaced, net.late = net.replaced + 1, torch.ones(1)
        buffers.restore()
        assert net.written.tolist() == net.replaced.tolist() == [0, 0]
        assert net.late is None
    net.written.add_(1)
    buffers.keep()
    net.written.add_(1)
    buffers.restore()
    assert net.written.tolist() == [1, 1]


def test_it_is_told_at_the_end() -> None:
    run = fit(recipe(nan_loss))
    steps = len(faulty_steps(recipe()))
    assert run.history[0]["dropped"]["noisy"] + run.history[1]["dropped"]["noisy"] == steps
    told = f"task 'noisy' was left out of {steps} steps, in which its loss or gradient was not finite"
    assert told in run.record["notes"]


def test_an_epoch_whose_validation_loss_is_not_finite_is_not_chosen() -> None:
    calls = []

    def late(output: Tensor, target: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and output.requires_grad is False and len(output) == 12:
            calls.append(1)
            return squared(output, target) * (torch.nan if len(calls) > 1 else 1)
        return squared(output, target)

    trainer = Trainer(epochs=3, batch_size=BATCH, device="cpu", best="mean")
    asked = recipe(late, split={"validation": 0.1, "test": 0.1}, trainer=trainer)
    _, history = trained(asked)
    assert [epoch.best for epoch in history] == [("price", "noisy", "sold"), (), ()]
    assert [epoch.selection is None for epoch in history] == [False, True, True]
    assert left_out(history) == ["the validation loss of task 'noisy' was not finite in epoch 2, 3"]


def test_a_step_that_no_task_alone_spoils_is_left_out_for_all() -> None:
    """Either gradient fits in 32 bits, their sum does not."""
    huge = 3e38

    def steep(output: Tensor, target: Tensor) -> Tensor:
        return (output[:, 0] - output[:, 0].detach()) * huge

    tasks = [Regression(name, loss=steep) for name in ("a", "b")]
    asked = Recipe(
        sources=[Frame(pl.DataFrame({"x": [0.0, 1.0] * 20, "a": [1.0, 2.0] * 20, "b": [1.0, 3.0] * 20}))],
        tasks=tasks,
        balancer="uncertainty",
        encoder=Table(width=4, depth=1, embedding="plain"),
        trainer=Trainer(epochs=1, device="cpu"),
    )
    with pytest.raises(PolytaskError, match="epoch 1, tasks 'a', 'b': the loss is no longer finite"):
        trained(asked)


def test_weights_that_are_not_finite_stop_the_training() -> None:
    asked = recipe(trainer=Trainer(epochs=2, clip=None, optimizer={"name": "SGD", "lr": 1e38, "weight_decay": 0}))
    with pytest.raises(PolytaskError, match="epoch 1, tasks 'price', 'noisy', 'sold': the loss is no longer finite"):
        trained(asked)

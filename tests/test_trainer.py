"""The training loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from polytask import Frame, Ordinal, PolytaskError, Recipe, Regression, Table, Trainer
from polytask.fitting import train_bundle
from polytask.mixing import epoch_batches
from polytask.model import mean_losses
from polytask.optimization import Optimizer
from polytask.preparation import prepare
from tests.houses import houses

SMALL = Table(width=16, depth=1, embedding="plain")


def recipe(**trainer: Any) -> Recipe:
    settings = Trainer(**{"epochs": 4, "batch_size": 64, "device": "cpu", "best": "mean"} | trainer)
    tasks = [Regression("price"), Ordinal("condition")]
    return Recipe(sources=[Frame(houses())], tasks=tasks, encoder=SMALL, trainer=settings, drop=["id"])


def test_it_learns_and_returns_the_weights_of_the_best_epoch() -> None:
    asked = recipe(epochs=30, optimizer={"lr": 0.01}, patience=5)
    prepared = prepare(asked)
    bundle, history = train_bundle(asked, prepared)
    best = [epoch for epoch in history if epoch.best][-1]
    losses = mean_losses(bundle.model, prepared.validation)
    assert losses == pytest.approx(best.validation, rel=1e-5)
    assert losses["price"] < 0.2
    assert not bundle.model.training
    assert best.selection == min(epoch.selection for epoch in history if epoch.selection is not None)


def test_patience_ends_it_early() -> None:
    asked = recipe(epochs=50, optimizer={"lr": 1e-12}, patience=3)
    _, history = train_bundle(asked, prepare(asked))
    assert len(history) <= 50
    assert len(history) == 4  # the first is better than nothing; what such a rate gains is not counted
    assert len(train_bundle(recipe(epochs=9, optimizer={"lr": 1e-12}, patience="never"), prepare(asked))[1]) == 9


def test_a_budget_of_minutes_ends_it_within_an_epoch() -> None:
    asked = recipe(minutes=1e-9, epochs=9)
    prepared = prepare(asked)
    bundle, history = train_bundle(asked, prepared)
    assert [epoch.best for epoch in history] == [("price", "condition")]
    assert history[0].validation == pytest.approx(mean_losses(bundle.model, prepared.validation), rel=1e-5)
    one_step = train_bundle(recipe(epochs=1, batch_size=10**6), prepared)[1][0]
    whole = train_bundle(recipe(epochs=1), prepared)[1][0]
    assert set(history[0].training) == set(one_step.training)
    assert history[0].training != whole.training
    assert len(train_bundle(recipe(minutes=60, epochs=2), prepared)[1]) == 2


def test_a_plateau_lowers_the_rate() -> None:
    asked = recipe(epochs=40, schedule="plateau", patience=8, average=None, optimizer={"name": "SGD", "lr": 2.0})
    _, history = train_bundle(asked, prepare(asked))
    expected, waited, rate, least, mark = [], 0, 2.0, math.inf, math.inf
    for epoch in history:
        expected.append(rate)
        assert epoch.selection is not None
        least = min(least, epoch.selection)
        mark, waited = (least, 0) if mark == math.inf or mark - least >= 1e-3 * mark else (mark, waited + 1)
        if waited and waited % 2 == 0:
            rate *= 0.3
    assert [epoch.learning_rate for epoch in history] == pytest.approx(expected)
    assert expected[-1] < 2.0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    asked = recipe()
    prepared = prepare(asked)
    one, two, other = (train_bundle(asked, prepared, seed=seed)[0].model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_the_callers_generator_is_left_alone() -> None:
    asked = recipe()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train_bundle(asked, prepare(asked))
    assert torch.equal(torch.rand(3), expected)


def test_the_primary_task_chooses_the_epoch() -> None:
    asked = recipe().model_copy(update={"primary": ("condition",)})
    _, history = train_bundle(asked, prepare(asked))
    assert all(epoch.selection == epoch.validation["condition"] for epoch in history)


def test_losses_start_near_one() -> None:
    asked = recipe(epochs=1, optimizer={"lr": 1e-9})
    _, history = train_bundle(asked, prepare(asked))
    assert history[0].training == pytest.approx({"price": 1.0, "condition": 1.0}, abs=0.5)


def test_a_loss_that_is_not_finite_names_its_task() -> None:
    asked = recipe(optimizer={"name": "SGD", "lr": 1e30, "weight_decay": 0}, clip=None)
    with pytest.raises(PolytaskError, match=r"epoch \d+, tasks? 'price'.*: the loss is no longer finite"):
        train_bundle(asked, prepare(asked))


def test_without_validation_rows_it_trains_to_the_end() -> None:
    asked = recipe(epochs=3, patience=1).model_copy(update={"split": {"validation": 0}})
    asked = Recipe(**dict(asked))
    _, history = train_bundle(asked, prepare(asked))
    assert [epoch.selection for epoch in history] == [None] * 3


def test_clipping_bounds_the_first_step() -> None:
    asked = recipe(epochs=1, batch_size=1000, clip=0.01, average=None, optimizer={"name": "SGD", "lr": 1.0, "weight_decay": 0})
    prepared = prepare(asked)
    before = train_bundle(
        recipe(epochs=1, batch_size=1000, optimizer={"name": "SGD", "lr": 1e-30, "weight_decay": 0}), prepared
    )[0]
    after = train_bundle(asked, prepared)[0]
    moved = [a - b for a, b in zip(after.model.parameters(), before.model.parameters(), strict=True)]
    assert math.sqrt(sum(float(step.detach().square().sum()) for step in moved)) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "NAdam", "Adagrad"])
def test_any_optimizer_by_its_name(name: str) -> None:
    asked = recipe(epochs=2, optimizer={"name": name, "lr": 1e-3})
    _, history = train_bundle(asked, prepare(asked))
    assert len(history) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "AdamV"}, "trainer.optimizer: no optimizer 'AdamV'. Did you mean 'Adam'"),
        ({"name": "LBFGS"}, "no optimizer 'LBFGS'"),
        ({"name": "SGD", "momentun": 0.9}, "SGD has no option 'momentun'. Did you mean 'momentum'?"),
        ({"name": "SGD", "momentum": -1}, "SGD refused its options"),
    ],
)
def test_mistakes_in_the_optimizer_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        Optimizer(**options).build([torch.nn.Parameter(torch.zeros(2, 2))], torch.device("cpu"))
    assert message in str(caught.value)


def test_weight_decay_spares_vectors() -> None:
    layer = torch.nn.Linear(3, 2)
    groups = Optimizer(weight_decay=0.1).build(layer.parameters(), torch.device("cpu")).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [(0.1, [2]), (0.0, [1])]


def test_every_row_is_seen_once_an_epoch_in_another_order_each_time() -> None:
    first, second = (torch.cat(epoch_batches(101, 10, 0, epoch)) for epoch in (0, 1))
    assert torch.equal(first.sort().values, torch.arange(101))
    assert not torch.equal(first, second)


def test_the_batch_size_follows_the_rows() -> None:
    assert [Trainer().rows_per_step(n) for n in (10, 2_000, 10**6)] == [32, 64, 512]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_gives_about_the_same_losses() -> None:
    histories = []
    for device in ("cpu", "cuda"):
        asked = recipe(device=device)
        histories.append(train_bundle(asked, prepare(asked))[1])
    cpu, gpu = ([epoch.training["price"] for epoch in history] for history in histories)
    assert np.allclose(cpu[0], gpu[0], rtol=0.2)


def test_a_device_that_is_not_there_is_told() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has an mps device")
    with pytest.raises(PolytaskError, match=r"trainer\.device: no mps device on this machine. Use auto or cpu\."):
        Trainer(device="mps").chosen_device()

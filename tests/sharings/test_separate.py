"""A network per task: each ends as it would have alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from polytask import Binary, Frame, Multiclass, PolytaskError, Recipe, Regression, fit
from polytask.balancer import Balancer
from polytask.encoders import External
from polytask.fitting import train_bundle
from polytask.model import MultiTaskModel
from polytask.preparation import Prepared, prepare
from polytask.sharing import module_key
from polytask.sharings import separate
from polytask.sharings._batched import Batched
from polytask.training import Epoch

TASKS = ("size", "kind", "sign")
TABLE = {"kind": "table", "width": 16, "depth": 2, "dropout": 0.2, "embedding_width": 4}


def rows(n: int = 150) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(n, 4))
    noise = draw.normal(size=n)
    return pl.DataFrame(
        {f"x{i}": x[:, i] for i in range(4)}
        | {"town": np.array(["a", "b", "c"])[(x[:, 3] > 0.3).astype(int) + (x[:, 0] > 1)]}
        | {
            "size": x[:, 0] - x[:, 1] ** 2 + 0.1 * noise,
            "kind": np.array(["low", "middle", "high"])[(x[:, 1] > 0).astype(int) + (noise > 0.5)],
            "sign": (x[:, 2] + 0.3 * noise > 0).astype(int),
        }
    )


def recipe(table: pl.DataFrame | None = None, trainer: dict[str, Any] | None = None, **fields: Any) -> Recipe:
    settings = {"epochs": 4, "batch_size": 32, "device": "cpu", "optimizer": {"lr": 0.005}, **(trainer or {})}
    tasks = [Regression("size", weight=3.0), Multiclass("kind"), Binary("sign")]
    source = Frame(rows() if table is None else table)
    known: dict[str, Any] = {"encoder": TABLE, "sharing": "separate", "split": {"stratify": False}}
    return Recipe(sources=[source], tasks=tasks, trainer=settings, **(known | fields))


def weights_of(asked: Recipe, prepared: Prepared, tasks: list[str] | None = None) -> tuple[dict[str, Tensor], list[Epoch]]:
    bundle, history = train_bundle(asked, prepared, tasks=tasks)
    assert isinstance(bundle.model, MultiTaskModel)  # one network, however many epochs are best for some task
    return bundle.model.state_dict(), history


def assert_each_as_alone(asked: Recipe) -> list[Epoch]:
    """Every task has the weights and the losses that it has when it is trained by itself."""
    prepared = prepare(asked)
    together, history = weights_of(asked, prepared)
    for task in TASKS:
        alone, course = weights_of(asked, prepared, [task])
        own = {key: value for key, value in together.items() if module_key(task) in key.split(".")}
        assert own.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(own[key], value, rtol=1e-2, atol=2e-4, msg=lambda text, key=key: f"{key}: {text}")
        trained = [epoch for epoch in history if task in epoch.training]
        assert len(trained) == len(course)
        for one, two in zip(trained, course, strict=True):
            assert one.training[task] == pytest.approx(two.training[task], rel=1e-3)
            assert one.validation[task] == pytest.approx(two.validation[task], rel=1e-3)
            assert (task in one.best) == (task in two.best)
    return history


SETTINGS: dict[str, dict[str, Any]] = {
    "AdamW": {"average": None},
    "averaged, clipped hard": {"average": 0.9, "clip": 0.05},
    "SGD, not clipped": {"optimizer": {"name": "SGD", "lr": 0.02, "momentum": 0.9}, "clip": None},
    "in pieces, one epoch for all asked for": {"accumulate": 3, "best": "mean"},
    "cosine": {"schedule": "cosine", "warmup": 0.2},
    "plateau": {"schedule": "plateau", "patience": 4, "optimizer": {"lr": 0.05}, "epochs": 10},
    "scaled": {"scale_stages": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_task_ends_as_it_would_have_alone(name: str) -> None:
    assert_each_as_alone(recipe(trainer=SETTINGS[name]))


@pytest.mark.parametrize(
    "encoder",
    [
        {"kind": "tabm", "width": 8, "members": 3, "dropout": 0.2},
        TABLE | {"normalization": "batch"},
        "toy_lstm",
    ],
    ids=str,
)
def test_each_task_ends_as_it_would_have_alone_on_every_kind_of_features(encoder: Any) -> None:
    drop = [] if isinstance(encoder, dict) else ["town"]
    assert_each_as_alone(recipe(encoder=encoder, drop=drop, trainer={"epochs": 2}))


def test_a_task_that_has_stopped_getting_better_stays_as_it_is_while_others_go_on() -> None:
    history = assert_each_as_alone(recipe(trainer={"epochs": 40, "patience": 2, "optimizer": {"lr": 0.05}}))
    lasts = {task: max(epoch.epoch for epoch in history if task in epoch.training) for task in TASKS}
    assert len(set(lasts.values())) > 1
    assert len(history) == max(lasts.values()) < 40
    for task, last in lasts.items():
        assert len({epoch.validation[task] for epoch in history[last - 1 :]}) == 1


def test_the_steps_of_a_task_whose_loss_is_not_finite_are_left_out_for_it_alone() -> None:
    def broken(output: Tensor, target: Tensor) -> Tensor:
        losses = (output[:, 0] - target).square()
        return losses * torch.inf if bool((target < -3).any()) else losses

    tasks = [Regression("size", loss=broken), Multiclass("kind"), Binary("sign")]
    asked = recipe().model_copy(update={"tasks": tuple(tasks)})
    history = assert_each_as_alone(asked)
    assert 0 < sum(epoch.dropped.get("size", 0) for epoch in history) < 6 * 4
    assert {task for epoch in history for task in epoch.dropped} == {"size"}


def same(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float) -> bool:
    return all(torch.allclose(one[key].double(), two[key].double(), rtol=0, atol=tolerance) for key in one)


BATCHED: dict[str, Any] = {
    "table": TABLE,
    "batch statistics": TABLE | {"normalization": "batch"},
    "tabm": {"kind": "tabm", "width": 8, "members": 3, "dropout": 0.2},
    "tabm, layer normalization": {"kind": "tabm", "width": 8, "members": 2, "normalization": "layer", "embedding": "periodic"},
    "a network of one's own": nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8)),
    "maps": "toy_conv",
    "ensemble": "ensemble",
    "ensemble of sequences": "series_ensemble",
}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many networks each batched pass was for; all that can be are batched."""
    passes: list[int] = []
    inner = Batched.__call__

    def outer(self: Batched, inputs: Any, chosen: Any) -> Any:
        outputs = inner(self, inputs, chosen)
        passes.append(len(chosen))
        return outputs

    monkeypatch.setattr(Batched, "__call__", outer)
    monkeypatch.setattr(separate, "pays", lambda n, *_: n > 1)
    return passes


@pytest.mark.parametrize("name", BATCHED)
def test_one_batched_product_is_the_networks_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = BATCHED[name]
    drop = [] if isinstance(encoder, dict) else ["town"]
    asked = recipe(encoder=encoder, drop=drop, trainer={"epochs": 2})
    prepared, passes = prepare(asked), counted(monkeypatch)
    batched, history = weights_of(asked, prepared)
    assert passes == [3] * 8
    assert history[0].notes == ()
    monkeypatch.setattr(separate, "pays", lambda *_: False)
    one_by_one, _ = weights_of(asked, prepared)
    assert len(passes) == 8
    assert same(batched, one_by_one, 1e-5)


def test_what_cannot_be_batched_is_said_and_trained_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch)
    asked = recipe(encoder="toy_lstm", drop=["town"], trainer={"epochs": 1})
    run = fit(asked)
    assert passes == []
    assert [note for note in run.record["notes"] if "one by one" in note] == list(run.history[0]["notes"])
    assert "the networks of the tasks are trained one by one: " in run.history[0]["notes"][0]


def test_small_networks_are_batched_where_there_are_many_and_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert separate.pays(8, 1e7, cpu)
    assert not separate.pays(2, 1e7, cpu)
    assert not separate.pays(8, 1e8, cpu)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not separate.pays(8, 1e7, cpu)
    assert separate.pays(8, 1e7, torch.device("cuda"))


class Counting(nn.Module):
    """Has a buffer that changes while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1.0
        output: Tensor = self.linear(x)
        return output


def test_a_layer_whose_buffers_may_change_is_not_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(monkeypatch)
    asked = recipe(encoder=External(name="own", module=Counting()), drop=["town"], trainer={"epochs": 1, "average": None})
    weights, history = weights_of(asked, prepare(asked))
    assert passes == []
    assert "Counting has buffers" in history[0].notes[0]
    assert {float(value) for key, value in weights.items() if key.endswith(".n")} == {5.0}  # 4 steps, and validation


def test_tasks_whose_labels_are_missing_from_a_batch_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows().with_columns(size=pl.when(pl.int_range(pl.len()) < 6).then(pl.col("size")))
    passes = counted(monkeypatch)
    asked = recipe(table, trainer={"epochs": 2, "batch_size": 16})
    prepared = prepare(asked)
    batched, _ = weights_of(asked, prepared)
    assert set(passes) == {2, 3}
    monkeypatch.setattr(separate, "pays", lambda *_: False)
    assert same(batched, weights_of(asked, prepared)[0], 1e-5)
    # The labels of others change nothing for a task; its own are spread over the batches of all rows.
    fewer = {key: value for key, value in batched.items() if module_key("size") not in key.split(".")}
    whole, _ = weights_of(recipe(trainer={"epochs": 2, "batch_size": 16}), prepare(recipe()))
    assert same(fewer, whole, 1e-4)


@pytest.mark.parametrize("kind", ["separate", "soft"])
def test_balancers_of_gradients_are_refused_by_name(kind: str) -> None:
    with pytest.raises(PolytaskError, match=f"upgrad balances gradients of shared parameters, and {kind} shares none") as told:
        recipe(balancer="upgrad", sharing=kind)
    assert "dwa" in told.value.mend
    assert "pcgrad" not in told.value.mend
    asked = recipe(sharing=kind)
    other = asked.model_copy(update={"balancer": Balancer.coerce("mgda")})
    with pytest.raises(PolytaskError, match="mgda balances gradients of shared parameters"):
        train_bundle(other, prepare(asked))


@pytest.mark.parametrize("balancer", ["dwa", "uncertainty", "famo"])
def test_balancers_of_losses_weigh_the_networks(balancer: str) -> None:
    asked = recipe(balancer=balancer, trainer={"epochs": 3})
    _, history = weights_of(asked, prepare(asked))
    assert history[-1].weights.keys() == set(TASKS)
    assert sum(history[-1].training.values()) < sum(history[0].training.values())

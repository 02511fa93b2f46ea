"""The weights of the best epoch, for the mean over tasks or for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import nn

from polytask import Binary, Frame, Hard, Ordinal, PolytaskError, Recipe, Regression, Table, fit, load
from polytask.bundle import Bundle
from polytask.fitting import train_bundle
from polytask.keeping import Best, Judged
from polytask.manifest import Snapshot
from polytask.model import Snapshots, mean_losses
from polytask.preparation import prepare
from polytask.sharing import module_key
from polytask.training import Epoch
from tests.houses import houses

TASKS = ("price", "condition", "waterfront")


def recipe(best: str, **fields: Any) -> Recipe:
    settings: dict[str, Any] = {
        "encoder": Table(width=32, depth=2, embedding="plain"),
        "trainer": {"epochs": 25, "batch_size": 32, "device": "cpu", "best": best, "optimizer": {"lr": 0.02}},
        "sharing": Hard(stages=1),
        "drop": ["id"],
    }
    tasks = [Regression("price"), Ordinal("condition"), Binary("waterfront")]
    return Recipe(sources=[Frame(houses())], tasks=tasks, **(settings | fields))


def lowest(history: list[Epoch], task: str) -> Epoch:
    return min(history, key=lambda epoch: epoch.validation[task])


def test_each_task_answers_with_the_weights_of_its_own_best_epoch() -> None:
    asked = recipe("task")
    prepared = prepare(asked)
    bundle, history = train_bundle(asked, prepared)
    epochs = {task: lowest(history, task).epoch for task in TASKS}
    assert len(set(epochs.values())) > 1
    assert isinstance(bundle.model, Snapshots)
    assert len(bundle.model.networks) == len(set(epochs.values())) == len(bundle.manifest.snapshots)
    for network, own in zip(bundle.model.networks, bundle.manifest.snapshots, strict=True):
        for task, loss in mean_losses(network, prepared.validation.select(own.tasks)).items():  # type: ignore[arg-type]
            assert loss == pytest.approx(lowest(history, task).validation[task], rel=1e-5)


def test_it_trains_as_long_as_any_task_gets_better() -> None:
    trainer = {"epochs": 99, "batch_size": 32, "device": "cpu", "patience": 3, "optimizer": {"lr": 0.05}, "best": "task"}
    asked = recipe("task", trainer=trainer)
    _, history = train_bundle(asked, prepare(asked))
    best, marks, waited = dict.fromkeys(TASKS, 9.0), dict.fromkeys(TASKS, 9.0), []
    for epoch in history:
        best = {task: min(best[task], epoch.validation[task]) for task in TASKS}
        gained = sum((marks[task] - best[task]) / marks[task] for task in TASKS) / 3 >= 1e-3
        marks = best if gained else marks
        waited.append(not gained)
    assert len(history) < 99
    assert waited[-3:] == [True, True, True]
    assert all(False in waited[i : i + 3] for i in range(len(waited) - 3))


def test_the_first_epochs_do_not_depend_on_which_weights_are_kept() -> None:
    prepared = prepare(recipe("mean"))
    (_, one), (_, two) = (train_bundle(recipe(best), prepared) for best in ("mean", "task"))
    assert [epoch.validation for epoch in one] == [epoch.validation for epoch in two][: len(one)]


def test_on_disk_it_is_the_same_run(tmp_path: Path) -> None:
    run = fit(recipe("task"), tmp_path / "run")
    again = load(tmp_path / "run")
    rows = houses(50, seed=1)
    assert run.predict(rows).equals(again.predict(rows))
    assert list(run.predict(rows)) == list(TASKS)
    assert run.record["best_epochs"] == {task: lowest([Epoch.from_dict(e) for e in run.history], task).epoch for task in TASKS}
    assert "best epochs: price " in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    manifest = tmp_path / "run" / "model" / "manifest.json"
    fields = json.loads(manifest.read_text(encoding="utf-8"))
    lists = [snapshot["tasks"] for snapshot in fields["snapshots"]]
    manifest.write_text(json.dumps(fields | {"format": 1, "snapshots": lists}), encoding="utf-8")
    assert load(tmp_path / "run").predict(rows).equals(again.predict(rows)), "the first format had lists of tasks"
    fields["snapshots"][0]["tasks"] = ["price", "price"]
    manifest.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(PolytaskError, match="each task once"):
        load(tmp_path / "run")


def test_a_task_without_validation_labels_goes_with_the_mean() -> None:
    frame = pl.from_pandas(houses()).with_columns(pl.Series("rare", [i % 2 if i < 60 else None for i in range(400)]))
    tasks = [Regression("price"), Binary("waterfront"), Binary("rare")]
    asked = recipe("task", split={"validation": 0.2, "test": 0, "stratify": False}).model_copy(
        update={"tasks": tuple(tasks), "sources": (Frame(frame),), "drop": ("id", "condition")}
    )
    prepared = prepare(asked)
    mask = prepared.validation.present["rare"]
    hidden = type(prepared.validation)(
        **{**vars(prepared.validation), "present": {**prepared.validation.present, "rare": torch.zeros_like(mask)}}
    )
    bundle, history = train_bundle(asked, type(prepared)(**{**vars(prepared), "validation": hidden}))
    best = min(history, key=lambda epoch: epoch.selection or 9.0)
    assert "rare" in best.best
    assert set(bundle.tasks) == {"price", "waterfront", "rare"}
    assert "rare" not in best.validation


def test_tasks_that_are_not_primary_go_with_the_mean_of_those_that_are() -> None:
    asked = recipe("task", primary=["price", "condition"])
    bundle, history = train_bundle(asked, prepare(asked))
    mean = min(history, key=lambda epoch: epoch.selection or 9.0)
    epochs = {task: epoch.epoch for epoch in history for task in epoch.best}
    expected = {"price": lowest(history, "price"), "condition": lowest(history, "condition"), "waterfront": mean}
    assert epochs == {task: epoch.epoch for task, epoch in expected.items()}
    assert set(bundle.tasks) == set(TASKS)


def test_groups_of_one_epoch_have_one_copy() -> None:
    best, net = Best([Judged(("a",), ("a",)), Judged(("b",), ("b",))]), nn.Linear(1, 1)
    assert best.offer(1, {"a": 1.0, "b": 1.0}, net) == ("a", "b")
    assert best.offer(2, {"a": 0.5, "b": 2.0}, net) == ("a",)
    assert best.offer(3, {"a": 0.5, "b": float("inf")}, net) == ()
    assert [tasks for tasks, _ in best.chosen()] == [("b",), ("a",)]
    assert best.offer(4, {"a": 0.1, "b": 0.1}, net) == ("a", "b")
    assert list(best.weights) == [4]
    again = Best(best.groups)
    again.load_state_dict(best.state_dict())
    assert (again.epochs, again.losses) == (best.epochs, best.losses)


def test_a_task_that_never_had_a_finite_loss_goes_with_another() -> None:
    best = Best([Judged(("a",), ("a",)), Judged(("b",), ("b",))])
    best.offer(1, {"a": 1.0}, nn.Linear(1, 1))
    assert [tasks for tasks, _ in best.chosen()] == [("a", "b")]
    assert Best([Judged(("a",), ("a",))]).chosen() == []


def test_a_manifest_says_which_tasks_go_together() -> None:
    asked = recipe("mean")
    bundle, _ = train_bundle(
        asked.model_copy(update={"trainer": asked.trainer.model_copy(update={"epochs": 1})}), prepare(asked)
    )
    assert bundle.manifest.snapshots == ()
    two = bundle.manifest.of([Snapshot(tasks=("price",)), Snapshot(tasks=("condition", "waterfront"))])
    assert [set(network.tasks) for network in Bundle.build(two).model.networks] == [{"price"}, {"condition", "waterfront"}]  # type: ignore[union-attr]


def test_small_gains_of_many_tasks_are_no_hope() -> None:
    groups = [Judged((name,), (name,)) for name in "abcdefghij"]
    best, net, losses = Best(groups), nn.Linear(1, 1), dict.fromkeys("abcdefghij", 1.0)
    best.offer(1, losses, net)
    assert best.gained()
    best.offer(2, losses | {"c": 0.992}, net)  # eight thousandths of one in ten
    assert not best.gained()
    best.offer(3, losses | {"d": 0.995}, net)  # with these five they are more than a thousandth on average
    assert best.gained()
    assert not best.gained()


def test_a_kept_epoch_has_the_heads_of_its_own_tasks() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Linear(1, 1)
            self.heads = nn.ModuleDict({module_key(task): nn.Linear(1, 1) for task in ("a.1", "b", "carried")})

    best = Best([Judged(("a.1",), ("a.1",)), Judged(("b",), ("b",)), Judged(("never",), ("never",))])
    best.offer(1, {"a.1": 1.0, "b": 1.0}, Net())
    best.offer(2, {"a.1": 0.5, "b": 2.0}, Net())
    heads = {
        epoch: {key.split(".")[1] for key in weights if key.startswith("heads")} for epoch, weights in best.weights.items()
    }
    assert heads == {1: {module_key("b"), "task carried"}, 2: {module_key("a.1"), "task carried"}}
    assert all("trunk.weight" in weights for weights in best.weights.values())
    assert [tasks for tasks, _ in best.chosen()] == [("b",), ("a.1", "never")]

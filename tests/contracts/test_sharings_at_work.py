"""Every sharing scheme trains, is saved, loaded and predicts; what its tasks share is found without being named."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from polytask.balancer import Balancer
from polytask.bundle import Bundle
from polytask.encoder import Encoder
from polytask.fitting import train_bundle
from polytask.gradients.balance import Balance
from polytask.heads.linear import Linear
from polytask.model import MultiTaskModel, build_model
from polytask.preparation import prepare
from polytask.recipe import Recipe
from polytask.sharing import Sharing
from polytask.sources.frame import Frame
from polytask.tasks.binary import Binary
from polytask.tasks.regression import Regression
from polytask.training import Trainer
from tests.contracts.examples import example

N_ROWS = 48
STEPS = [f"t{i}" for i in range(5)]
LABELS = ["shared rows", "missing", "separate sources"]
ENCODERS = [{"kind": "table", "width": 8}, "toy_conv", "toy_lstm", "ensemble", "series_ensemble"]
TASKS = (Regression("price"), Binary("sold"), Regression("place"))
SETTINGS: dict[str, dict[str, object]] = {
    "branching": {"warmup": 0.0},  # in which the tree is not learned
    "tree": {"branches": {0: [["price", "place"], ["sold"]]}},
}


def rows() -> pl.DataFrame:
    """Series that end early, and a label of each task for every row."""
    rng = np.random.default_rng(0)
    series = rng.normal(size=(N_ROWS, len(STEPS)))
    level = series[:, :2].sum(1)
    series[np.arange(len(STEPS)) >= rng.integers(2, len(STEPS) + 1, (N_ROWS, 1))] = np.nan
    labels = {"price": 100 * level + 500, "sold": np.where(level > 0, "yes", "no"), "place": level + rng.normal(size=N_ROWS)}
    return pl.DataFrame(series, schema=STEPS).with_columns(**{name: pl.Series(values) for name, values in labels.items()})


def sources(labels: str) -> list[Frame]:
    table = rows()
    if labels == "missing":
        holes = pl.int_range(N_ROWS) % 4
        table = table.with_columns(pl.when(holes != i).then(pl.col(task.name)) for i, task in enumerate(TASKS))
    if labels != "separate sources":
        return [Frame(table)]
    fewer = table[: N_ROWS // 2].select(*STEPS[:4], "price", "place")
    return [Frame(fewer, name="maths"), Frame(table[N_ROWS // 2 :].select(*STEPS, "sold"), name="music")]


def asked(kind: str) -> Sharing:
    return Sharing.find(kind)(**SETTINGS[kind]) if kind in SETTINGS else example(Sharing, kind)


def recipe(kind: str, encoder: object, labels: str = "shared rows") -> Recipe:
    trainer = Trainer(epochs=1, batch_size=16, best="mean", optimizer={"lr": 1e-2}, device="cpu")
    return Recipe(sources=sources(labels), tasks=TASKS, encoder=encoder, sharing=asked(kind), trainer=trainer)


def kind_of(encoder: object) -> str:
    return Encoder.coerce(encoder).kind


def cases() -> list[tuple[str, object, str]]:
    """Every scheme on every kind of features with every kind of labels; on ensembles each with one of them."""
    plain = list(product(Sharing.kinds(), ENCODERS[:3], LABELS))
    ensembles = product(Sharing.kinds(), ENCODERS[3:])
    return plain + [(kind, encoder, labels) for (kind, encoder), labels in zip(ensembles, cycle(LABELS), strict=False)]


@pytest.mark.parametrize(
    ("kind", "encoder", "labels"), cases(), ids=lambda value: value if isinstance(value, str) else kind_of(value)
)
def test_it_trains_is_saved_loaded_and_predicts(kind: str, encoder: object, labels: str, tmp_path: Path) -> None:
    asked = recipe(kind, encoder, labels)
    bundle, epochs = train_bundle(asked, prepare(asked))
    untrained, learned = Bundle.build(bundle.manifest).model, dict(bundle.model.named_parameters())
    trained = [(name, p) for name, p in untrained.named_parameters() if p.requires_grad and p.numel()]
    if labels == "separate sources":  # a task's own stem may be for columns of rows in which it has no label
        trained = [(name, p) for name, p in trained if not ("task " in name and ".stem" in name)]
    assert [name for name, p in trained if torch.equal(p, learned[name])] == [], "these were not trained"
    assert set(epochs[-1].training) == {task.name for task in TASKS}

    bundle.save(tmp_path)
    again, table = Bundle.load(tmp_path), rows()
    for inputs in (STEPS[:4], STEPS) if labels == "separate sources" else (STEPS,):
        answers = bundle.predict(table.select(inputs).to_arrow(), probabilities=True)
        assert answers.num_rows == N_ROWS
        assert answers.equals(again.predict(table.select(inputs).to_arrow(), probabilities=True))
        backward = again.predict(table.select(inputs).reverse().to_arrow())
        for name in {"price", "place"} & set(backward.column_names):
            assert np.allclose(backward[name].to_numpy()[::-1], answers[name].to_numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", Sharing.kinds())
def test_with_weights_of_several_epochs_each_task_answers_as_with_its_own(kind: str) -> None:
    asked = recipe(kind, "toy_conv")
    prepared = prepare(asked)
    bundle, _ = train_bundle(asked, prepared)
    epochs = [bundle.model.state_dict(), Bundle.build(bundle.manifest).model.state_dict()]
    groups = ("sold",), ("place", "price")
    together = bundle.with_weights(list(zip(groups, epochs, strict=True)))
    for tasks, weights in zip(groups, epochs, strict=True):
        expected = Bundle.build(bundle.manifest)
        expected.take_weights(weights)
        together.check_answers(expected, tasks)


def given(kind: str, encoder: object) -> tuple[MultiTaskModel, Mapping[str, Tensor]]:
    """A network with the losses of a batch."""
    asked = recipe(kind, encoder)
    prepared = prepare(asked)
    codecs = [part.codec for part in prepared.inputs]
    model = build_model(asked.encoder, asked.sharing, Linear(), codecs, prepared.tasks).eval()
    return model, model.losses(next(prepared.training.batches(16)))


def gradients_of(model: nn.Module, losses: Mapping[str, Tensor]) -> dict[str, list[Tensor | None]]:
    """Of every loss by every parameter that is trained."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = [torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True) for loss in losses.values()]
    return {name: list(column) for name, column in zip(named, zip(*rows, strict=True), strict=True)}


@pytest.mark.parametrize("encoder", ENCODERS, ids=kind_of)
@pytest.mark.parametrize("kind", [kind for kind in Sharing.kinds() if Sharing.find(kind).shares])
def test_what_its_tasks_share_is_weighted_and_nothing_else(kind: str, encoder: object) -> None:
    model, losses = given(kind, encoder)
    gradients = gradients_of(model, losses)
    balance = Balance(model, "upgrad")
    balance.backward(losses)
    weights = list(balance.weights.values())
    parameters = dict(model.named_parameters())
    for name, column in gradients.items():
        reached = [gradient is not None for gradient in column]
        factors = weights if sum(reached) > 1 else [1.0] * len(weights)
        parts = [factor * g for factor, g in zip(factors, column, strict=True) if g is not None]
        expected = torch.stack(parts).sum(0) if parts else torch.zeros_like(parameters[name])
        found = parameters[name].grad
        torch.testing.assert_close(torch.zeros_like(expected) if found is None else found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS, ids=kind_of)
@pytest.mark.parametrize("kind", [kind for kind in Sharing.kinds() if Sharing.find(kind).shares])
def test_gradients_may_be_balanced_where_what_is_shared_ends(kind: str, encoder: object) -> None:
    model, losses = given(kind, encoder)
    gradients = gradients_of(model, losses)
    Balance(model, Balancer.coerce({"kind": "upgrad", "gradients": "features"})).backward(losses)
    for name, p in model.named_parameters():
        if any(gradient is not None and gradient.any() for gradient in gradients.get(name, [])):
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name

"""Parts that are frozen, thaw later, or learn at a rate of their own: in every scheme, for every balancer, and resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polytask import PolytaskError, Recipe, fit, load
from polytask.balancer import Balancer
from polytask.encoder import Pace
from polytask.model import MultiTaskModel, build_model
from polytask.preparation import Prepared, prepare
from polytask.sharing import Sharing
from polytask.sources.frame import Frame
from polytask.update import Updater
from tests.contracts.examples import TINY_RESNET, example
from tests.encoders.models import saved
from tests.resuming import same_as_whole

N = 48
TASKS = [{"kind": "binary", "name": "bright"}, {"kind": "regression", "name": "level"}]
TRAINER = {"epochs": 3, "batch_size": 16, "device": "cpu", "best": "mean", "checkpoint": 0.0}


def rows() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    bright = draw.integers(0, 2, N)
    images = (draw.integers(0, 100, (N, 8, 8)) + 120 * bright[:, None, None]).astype(np.uint8)
    beside = draw.normal(size=N)
    return {"scan": images, "beside": beside, "bright": np.where(bright, "yes", "no"), "level": bright + beside}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved("resnet", tmp_path_factory.mktemp("resnet"))


def asked(model: str = "none", **fields: Any) -> Recipe:
    """By default a network of drawn weights: a resnet of a stem and two stages."""
    encoder = {"kind": "pretrained", "model": model, "rate": 1.0, **({"config": TINY_RESNET} if model == "none" else {})}
    own = {**encoder, **fields.pop("encoder", {})}
    return Recipe(**{"sources": [Frame(rows())], "tasks": TASKS, "trainer": TRAINER, "encoder": own, **fields})


def built(recipe: Recipe) -> tuple[MultiTaskModel, Prepared]:
    prepared = prepare(recipe)
    network = build_model(recipe.encoder, recipe.sharing, recipe.head, [prepared.inputs[0].codec], prepared.tasks)
    return network, prepared


@pytest.mark.parametrize("sharing", ["hard", "cross_stitch", "mtan", "adapters"])
def test_what_is_frozen_stays_what_it_was_and_what_is_new_learns(sharing: str, model: str) -> None:
    recipe = asked(model, encoder={"frozen": "all"}, sharing=sharing)
    before = built(recipe)[0].state_dict()
    after = fit(recipe).bundle.model.state_dict()
    own = {name for name in before if "convolution" in name or "normalization" in name}
    assert len(own) > 20
    assert [name for name in own if not torch.equal(before[name], after[name])] == []
    moved = [name for name in before.keys() - own if before[name].numel() and not torch.equal(before[name], after[name])]
    assert any("columns" in name for name in moved)
    assert any(name.startswith("heads.") for name in moved)


def test_frozen_parts_stay_in_evaluation_mode_and_statistics_of_batches_are_kept(model: str) -> None:
    network, _ = built(asked(model, encoder={"frozen": 1}))
    network.train()
    trained = {name for name, p in network.trunk.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in trained if "columns" not in name} == {"1"}
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_stages_thaw_from_the_last_on_and_rates_fall_towards_the_stem(model: str) -> None:
    recipe = asked(model, encoder={"frozen": "all", "thaw_every": 2, "layer_decay": 0.5, "rate": 0.1})
    network, prepared = built(recipe)
    update = Updater(network, recipe.trainer, recipe.balancer, prepared.training.tasks)
    parts = {"stem": network.trunk.stem, "1": network.trunk.shared[0], "2": network.trunk.shared[1]}
    own = {name: [p for p in part.parameters() if p in update.paces] for name, part in parts.items()}
    assert all(own.values())
    assert sum(map(len, own.values())) == len(update.paces)
    found = []
    for epoch in range(8):
        update.begin(epoch)
        found.append("".join(name[0] for name, each in own.items() if all(p.requires_grad for p in each)))
    assert found == ["", "", "2", "2", "12", "12", "s12", "s12"]
    update([prepared.training.batch(torch.arange(16))], rate=1.0)
    rates = {p: group["lr"] for group in update.optimizer.param_groups for p in group["params"]}
    for name, rate in {"stem": 0.025, "1": 0.05, "2": 0.1}.items():
        assert [rates[p] for p in own[name]] == pytest.approx([rate] * len(own[name]))
    assert {rates[p] for p in network.heads.parameters()} == {1.0}
    assert update.optimizer.param_groups[0]["lr"] == 1.0, "the rate that is told"


def test_a_frozen_number_of_stages_that_there_is_not_is_refused(model: str) -> None:
    with pytest.raises(PolytaskError, match=r"frozen: the model has 2 stages\. Found: 3"):
        built(asked(model, encoder={"frozen": 3}))
    with pytest.raises(PolytaskError, match=r"nothing is frozen that could thaw"):
        asked(model, encoder={"thaw_every": 3})


@pytest.mark.parametrize("kind", Balancer.kinds())
def test_what_thaws_joins_what_a_balancer_balances(kind: str) -> None:
    """From its first step on a thawed stage has the gradient that it would have had if it had never been frozen."""
    balancer = example(Balancer, kind).model_copy(update={"weights": {"level": 2.0}} if kind == "fixed" else {})
    recipe = asked(
        encoder={"frozen": "all", "thaw_every": 1}, balancer=balancer, trainer={**TRAINER, "clip": None, "average": None}
    )
    network, prepared = built(recipe)
    update = Updater(network.train(), recipe.trainer, recipe.balancer, prepared.training.tasks)
    batch = [prepared.training.batch(torch.arange(16))]
    for epoch in range(4):
        update.begin(epoch)
        network.train()
        for _ in range(2):
            losses = update(batch, rate=1e-3)
            assert losses
            assert all(math.isfinite(loss) for loss in losses.values())
        with_gradient = [p for p in update.paces if p.grad is not None]
        assert all(torch.isfinite(p.grad).all() for p in with_gradient)
        assert set(with_gradient) == {p for p, pace in update.paces.items() if pace.at(epoch) > 0}


def test_thawed_at_once_is_never_frozen(model: str) -> None:
    """The step after a thaw is that of a network which was never frozen, for a balancer that keeps nothing."""
    gradients = []
    for encoder in ({}, {"frozen": "all", "thaw_every": 1}):
        recipe = asked(model, encoder=encoder, balancer="upgrad", trainer={**TRAINER, "clip": None})
        network, prepared = built(recipe)
        update = Updater(network.train(), recipe.trainer, recipe.balancer, prepared.training.tasks)
        if encoder:
            update([prepared.training.batch(torch.arange(16))], rate=1e-30)
        update.begin(9)
        network.train()
        update([prepared.training.batch(torch.arange(16, 32))], rate=1e-30)
        gradients.append([p.grad for p in network.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


def test_a_training_that_is_resumed_thaws_as_if_it_had_not_stopped(model: str, tmp_path: Path) -> None:
    recipe = asked(model, encoder={"frozen": "all", "thaw_every": 1}, balancer="upgrad", trainer={**TRAINER, "epochs": 4})
    same_as_whole(recipe, tmp_path / "run", 1, 3, again=recipe)


def test_a_run_that_was_frozen_goes_on_thawed_without_the_folder(tmp_path: Path) -> None:
    place = saved("resnet", tmp_path / "net")
    run = fit(asked(place, encoder={"frozen": "all"}), tmp_path / "run")
    (tmp_path / "net").rename(tmp_path / "gone")
    recipe = asked(place, encoder={"rate": 0.5}, warm_start={"run": tmp_path / "run"})
    again = fit(recipe, tmp_path / "again")
    assert again.history[0]["validation"] == pytest.approx(run.history[-1]["validation"], rel=0.2)
    assert load(tmp_path / "again").predict(rows())["level"].shape == (N,)
    with pytest.raises(PolytaskError, match=r"encoder.parts is 2, but 4 in the earlier run"):
        fit(asked(place, encoder={"parts": 2}, warm_start={"run": tmp_path / "run"}))


def test_weights_that_were_learned_are_not_scaled(model: str) -> None:
    with pytest.raises(PolytaskError, match=r"trainer.scale_stages: the encoder pretrained brings its weights"):
        fit(asked(model, trainer={**TRAINER, "scale_stages": True}))


@pytest.mark.parametrize("kind", Sharing.kinds())
def test_every_copy_of_a_part_begins_with_what_was_learned(kind: str, model: str) -> None:
    branches = {"branches": {0: [["bright"], ["level"]]}}
    scheme = Sharing.find(kind)(**branches) if kind == "tree" else example(Sharing, kind)
    network, _ = built(asked(model, sharing=scheme))
    parts = [part for part in network.trunk.modules() if isinstance(getattr(part, "pace", None), Pace)]
    first: dict[str, Tensor] = {}
    for part in parts:
        name = "+".join(part.state_dict())  # what it has tells which part it is
        values = torch.cat([value.flatten().float() for value in part.state_dict().values()])
        torch.testing.assert_close(values, first.setdefault(name, values), rtol=0, atol=0)
    assert len(first) >= 2

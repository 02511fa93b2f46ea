"""Somebody's own network that reads images: in the form that is promised, as vectors or as maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from polytask import PolytaskError, Recipe, fit, load
from polytask.columns import InputCodec
from polytask.encoder import Encoder, TrunkPlan
from polytask.sources.frame import Frame
from polytask.testing import _given, check_encoder

N = 40
TRAINER = {"epochs": 2, "batch_size": 16, "device": "cpu", "best": "mean"}


class LeNet(nn.Module):
    """As people write it: with view."""

    def __init__(self, n_in: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(n_in, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.out = nn.Linear(36, 6)
        self.seen: Tensor = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return self.out(self.layers(images).view(len(images), -1))


def rows(color: bool = False) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    bright = draw.integers(0, 2, N)
    shape = (N, 8, 8, 3) if color else (N, 8, 8)
    images = (draw.integers(0, 100, shape) + 120 * bright.reshape(N, *[1] * (len(shape) - 1))).astype(np.uint8)
    return {"scan": images, "bright": np.where(bright, "yes", "no"), "level": bright + 0.1 * draw.normal(size=N)}


def recipe(network: nn.Module, **fields: Any) -> Recipe:
    tasks = [{"kind": "binary", "name": "bright"}, {"kind": "regression", "name": "level"}]
    return Recipe(**{"sources": [Frame(rows())], "tasks": tasks, "trainer": TRAINER, "encoder": network, **fields})


@pytest.mark.parametrize("network", [LeNet(3), nn.Conv2d(3, 5, 3, 2)], ids=["vectors", "maps"])
def test_it_keeps_the_contract_on_images(network: nn.Module) -> None:
    check_encoder(Encoder.coerce(network), _given.pictures()[1:])


def test_it_reads_floats_less_their_mean_by_their_deviation() -> None:
    network = LeNet(3)
    table = pa.table({"photo": pa.FixedShapeTensorArray.from_numpy_ndarray(rows(color=True)["scan"])})
    codec = InputCodec.fit(table, ["photo"])
    stem = TrunkPlan(Encoder.coerce(network), [codec]).stem()
    stem([codec.encode(table)])
    (copy,) = [module for module in stem.modules() if isinstance(module, LeNet)]
    assert copy.seen.shape == (N, 3, 8, 8)
    torch.testing.assert_close(copy.seen.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(copy.seen.std((0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=0)
    assert not len(network.seen), "a copy is used, not the object that was given"


def test_a_run_is_saved_loaded_and_answers(tmp_path: Path) -> None:
    run = fit(recipe(LeNet(), trainer={**TRAINER, "epochs": 6, "optimizer": {"lr": 2e-2}}), tmp_path / "run")
    new = {"scan": rows()["scan"][:5]}
    again = load(tmp_path / "run", {"LeNet": LeNet()})
    assert (again.predict(new)["level"] == run.predict(new)["level"]).all()
    assert run.scores()["bright"].scores["accuracy"].value > 0.8
    with pytest.raises(PolytaskError, match="which is not in the file"):
        load(tmp_path / "run")


def test_a_map_is_what_tasks_of_pixels_are_learned_from() -> None:
    task = {"kind": "reconstruction", "name": "again", "column": "scan"}
    source = Frame({"scan": rows()["scan"]})
    assert fit(recipe(nn.Conv2d(1, 4, 3, padding=1), sources=[source], tasks=[task])).scores()["again"].scores
    with pytest.raises(PolytaskError, match="the head upsampling needs an encoder with maps"):
        fit(recipe(LeNet(), sources=[source], tasks=[task]))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (LeNet(3), r"LeNet: the encoder cannot read the image.*It must read floats \[B, 1, 8, 8\]: channels, height and width"),
        (nn.Flatten(2), r"Flatten: the encoder does not return vectors or maps. Found: shape \(2, 1, 64\). Return one vector"),
    ],
)
def test_a_network_that_does_not_fit_is_told(network: nn.Module, told: str) -> None:
    with pytest.raises(PolytaskError, match=told):
        fit(recipe(network))


def test_an_image_beside_other_columns_is_refused_and_a_missing_one_is_not() -> None:
    beside = {**rows(), "beside": np.arange(N) % 7}
    told = r"LeNet: a network of your own reads a table, or one image alone. Found: scan, beside. Drop the others"
    with pytest.raises(PolytaskError, match=told):
        fit(recipe(LeNet(), sources=[Frame(beside)]))
    table = pa.table({"scan": pa.FixedShapeTensorArray.from_numpy_ndarray(rows()["scan"])}).take(
        pa.array([*range(N - 1), None])
    )
    codec = InputCodec.fit(table, ["scan"])
    assert codec.numbers == ("scan is missing",)
    stem = TrunkPlan(Encoder.coerce(LeNet()), [codec]).stem()
    stem([codec.encode(table)])
    (copy,) = [module for module in stem.modules() if isinstance(module, LeNet)]
    assert copy.seen[-1].abs().max() < 0.02, "the mean color, to a byte"

"""Images per second: polytask's trainer against a plain loop over the same network, with the data in memory.

One thread, CPU time, interleaved. The plain loop has no moving average of the weights, so neither has ours. In a third column
our images are augmented (by everything but mixup), the plain loop's are not.

Run: python -m benchmarks.images [--rounds 5] [--rows 8192]
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import numpy as np
import torch
from torch import nn

from benchmarks.throughput import cpu_seconds
from polytask.augmentation import Augmentation
from polytask.augmenting import Augmenter
from polytask.balancers import Equal
from polytask.batch import Dataset
from polytask.encoder import Encoder
from polytask.model import MultiTaskModel, build_model
from polytask.optimization import Optimizer
from polytask.preparation import Prepared, prepare
from polytask.recipe import Recipe
from polytask.sources import Arrays
from polytask.trainer import train
from polytask.training import Trainer

N_CLASSES = 10
EVERYTHING = Augmentation(flip=0.5, crop=0.1, shift=0.1, rotation=10, zoom=0.1, shear=5, color=0.2, erasing=0.25)


def data(n_rows: int, side: int, channels: int) -> Recipe:
    """A recipe of noise: two tasks of ten classes."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (n_rows, side, side, channels), dtype=np.uint8)
    labels = {task: draw.integers(0, N_CLASSES, n_rows) for task in ("left", "right")}
    tasks = [{"kind": "multiclass", "name": task} for task in labels]
    return Recipe(sources=[Arrays(images, labels)], tasks=tasks)


def network(recipe: Recipe, prepared: Prepared) -> MultiTaskModel:
    """A new network."""
    codecs = [part.codec for part in prepared.inputs]
    return build_model(recipe.encoder, recipe.sharing, recipe.head, codecs, prepared.tasks)


class Plain(nn.Module):
    """The same layers as anybody would chain them."""

    def __init__(self, model: MultiTaskModel) -> None:
        super().__init__()
        self.trunk, self.heads = model.trunk, model.heads

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = self.trunk([{"image_image": images, "numbers": images[:, :0], "categories": images[:, :0]}], ["left"])[
            "left"
        ]
        return [head(features) for head in self.heads.values()]


def plain(recipe: Recipe, prepared: Prepared, images: torch.Tensor, labels: list[torch.Tensor], batch: int) -> None:
    """One epoch as anybody would write it."""
    model = Plain(network(recipe, prepared)).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2, fused=True)
    order = torch.randperm(len(images))
    for start in range(0, len(images), batch):
        rows = order[start : start + batch]
        outputs = model(images[rows])
        loss = sum(nn.functional.cross_entropy(y, label[rows]) for y, label in zip(outputs, labels, strict=True)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def ours(recipe: Recipe, prepared: Prepared, rows: Dataset, batch: int, asked: Augmentation) -> None:
    """One epoch by the trainer."""
    augmenter = Augmenter(asked, [part.codec for part in prepared.inputs], recipe.tasks, seed=0)
    settings = Trainer(epochs=1, batch_size=batch, optimizer=Optimizer(lr=1e-3), average=None, device="cpu")
    nothing = rows.where(torch.zeros(rows.n_rows, dtype=torch.bool))
    train(network(recipe, prepared), rows, nothing, settings, Equal(), augmenter=augmenter)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--encoders", nargs="+", default=["cnn"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {asked.rows} images, two tasks, median of {asked.rounds} rounds")
    heads = f"{'polytask/s':>11} {'ratio':>6} {'augmented/s':>11} {'ratio':>6}"
    print(f"{'encoder':>10} {'image':>10} {'batch':>6} {'plain/s':>9} {heads}")
    for side, channels, batch in ((32, 1, 256), (32, 3, 64)):
        recipe = data(asked.rows, side, channels)
        for kind in asked.encoders:
            chosen = recipe.model_copy(update={"encoder": Encoder.coerce(kind)})
            prepared = prepare(chosen)
            rows = prepared.training
            images = rows.inputs[0]["image_image"].index_select(0, torch.arange(rows.n_rows))
            labels = list(rows.targets.values())
            own = [partial(ours, chosen, prepared, rows, batch, asked) for asked in (Augmentation(), EVERYTHING)]
            runs = [partial(plain, chosen, prepared, images, labels, batch), *own]
            for run in runs:
                run()
            times = [[cpu_seconds(run) for run in runs] for _ in range(asked.rounds)]
            rates = [rows.n_rows / statistics.median(column) for column in zip(*times, strict=True)]
            ratios = [statistics.median(row[0] / row[place] for row in times) for place in (1, 2)]
            shape = f"{channels}x{side}x{side}"
            found = " ".join(f"{rate:>11,.0f} {ratio:>6.2f}" for rate, ratio in zip(rates[1:], ratios, strict=True))
            print(f"{kind:>10} {shape:>10} {batch:>6} {rates[0]:>9,.0f} {found}", flush=True)


if __name__ == "__main__":
    main()

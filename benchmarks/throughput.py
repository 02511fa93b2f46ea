"""Training rows per second: polytask's trainer against a plain loop over the same network. One thread, CPU time, interleaved.

Run: python -m benchmarks.throughput [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from polytask.balancers import Equal
from polytask.batch import Dataset
from polytask.columns import InputCodec
from polytask.encoders import Table
from polytask.fitted import FittedTask
from polytask.heads import Linear
from polytask.model import build_model
from polytask.optimization import Optimizer
from polytask.sharings import Hard
from polytask.tasks import Regression
from polytask.trainer import train
from polytask.training import Trainer

N_ROWS, N_COLUMNS, BATCH = 16_384, 32, 256


class Block(nn.Module):
    """The residual block of polytask's table encoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(width, width),
            nn.Dropout(0.1),
        ]
        self.block = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x)


def plain(x: torch.Tensor, y: torch.Tensor, width: int) -> None:
    """One epoch as anybody would write it."""
    trunk = nn.Sequential(nn.Linear(N_COLUMNS, width), Block(width), Block(width))
    heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(y.shape[1]))
    parameters = [*trunk.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2, fused=True)
    order = torch.randperm(len(x))
    for start in range(0, len(x), BATCH):
        rows = order[start : start + BATCH]
        inputs, targets = x[rows], y[rows]
        features = trunk(inputs)
        loss = sum(nn.functional.mse_loss(head(features)[:, 0], targets[:, t]) for t, head in enumerate(heads)) / len(heads)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def ours(data: Dataset, codec: InputCodec, tasks: list[FittedTask], width: int) -> None:
    """One epoch by the trainer."""
    model = build_model(Table(width=width, depth=2, embedding="plain"), Hard(), Linear(), [codec], tasks)
    settings = Trainer(epochs=1, batch_size=BATCH, optimizer=Optimizer(lr=1e-3), clip=1.0, device="cpu")
    nothing = data.where(torch.zeros(data.n_rows, dtype=torch.bool))
    train(model, data, nothing, settings, Equal())


def cpu_seconds(run: Callable[[], None]) -> float:
    """CPU time of one call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N_ROWS, N_COLUMNS))
    print(
        f"torch {torch.__version__}, one thread, {N_ROWS} rows, {N_COLUMNS} numbers, batch {BATCH}, median of {rounds} rounds"
    )
    print(f"{'T':>3} {'width':>6} {'plain rows/s':>14} {'polytask rows/s':>16} {'ratio':>7}")
    for n_tasks in (2, 8):
        y = x @ draw.normal(size=(N_COLUMNS, n_tasks)) + draw.normal(size=(N_ROWS, n_tasks))
        table = pa.table({f"x{i}": x[:, i] for i in range(N_COLUMNS)})
        codec = InputCodec.fit(table, table.column_names, {})
        tasks = [FittedTask.fit(Regression(f"y{t}"), pa.array(y[:, t])) for t in range(n_tasks)]
        encoded = {f.task.name: f.task.encode(pa.array(y[:, t]), f.codec) for t, f in enumerate(tasks)}
        data = Dataset((codec.encode(table),), {k: v[0] for k, v in encoded.items()}, {k: v[1] for k, v in encoded.items()})
        inputs, targets = data.inputs[0]["numbers"], torch.stack(list(data.targets.values()), 1)
        for width in (128, 512):
            runs = [partial(plain, inputs, targets, width), partial(ours, data, codec, tasks, width)]
            for run in runs:
                run()
            times = [[cpu_seconds(run) for run in runs] for _ in range(rounds)]
            rates = [N_ROWS / statistics.median(column) for column in zip(*times, strict=True)]
            ratio = statistics.median(one / two for one, two in times)
            print(f"{n_tasks:>3} {width:>6} {rates[0]:>14,.0f} {rates[1]:>16,.0f} {ratio:>7.2f}")


if __name__ == "__main__":
    main()

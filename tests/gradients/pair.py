"""Two processes that train together, each on half of the rows, and what they do at each step."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, distributed, nn

from polytask import Balance, PolytaskError
from polytask.columns import InputCodec
from polytask.encoder import TrunkPlan
from polytask.encoders import External
from polytask.sharing import Sharing, module_key

TASKS = ("price", "grade", "sold")
STEPS, ROWS = 8, 12


@dataclass(frozen=True)
class Case:
    """A training: its balancer, how tasks share, precision, and what is wrong with the second half of the rows."""

    balancer: dict[str, Any]
    dtype: torch.dtype = torch.float64
    spoiled: bool = False
    announced: bool = True
    sharing: dict[str, Any] | None = None


class Net(nn.Module):
    """A trunk that all share, a branch for two tasks, and a head for each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 12), nn.Tanh())
        self.branch = nn.Linear(12, 12)
        self.heads = nn.ModuleDict({task: nn.Linear(12, 1) for task in TASKS})

    def outputs(self, rows: Tensor) -> dict[str, Tensor]:
        features = self.trunk(rows)
        branch = torch.tanh(self.branch(features))
        return {task: head(features if task == "price" else branch)[:, 0] for task, head in self.heads.items()}

    def penalty(self) -> Tensor | None:
        return 0.01 * self.branch.weight.square().sum()


class SchemeNet(nn.Module):
    """What a scheme makes of three layers, and a head for each task."""

    def __init__(self, sharing: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        columns = [f"x{i}" for i in range(5)]
        codec = InputCodec.fit(pa.table({name: [0.0, 1.0, 2.5] for name in columns}), columns, {})
        layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        plan = TrunkPlan(External(name="layers", module=layers), [codec])
        self.trunk = Sharing.coerce(sharing).build(plan, TASKS)
        width = self.trunk.specs[-1].width
        self.heads = nn.ModuleDict({module_key(task): nn.Linear(width, 1) for task in TASKS})

    def outputs(self, rows: Tensor) -> dict[str, Tensor]:
        inputs = ({"numbers": rows, "categories": torch.zeros(len(rows), 0, dtype=torch.int64)},)
        features = self.trunk(inputs, TASKS)
        return {task: self.heads[module_key(task)](features[task][-1].tensor)[:, 0] for task in TASKS}

    def penalty(self) -> Tensor | None:
        return self.trunk.penalty()


def data(dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Rows, labels, and which labels are there: few of one task, and in every other step none of it in the second half."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(STEPS, ROWS, 5, generator=generator)
    labels = {task: (i + 1) * torch.randn(STEPS, ROWS, generator=generator) for i, task in enumerate(TASKS)}
    present = {
        task: torch.rand(STEPS, ROWS, generator=generator) < share for task, share in zip(TASKS, (1, 0.4, 0.7), strict=True)
    }
    present["grade"][::2, ROWS // 2 :] = False
    present["sold"][3] = False
    present["grade"][:, 0] = present["sold"][4:, 0] = True
    return rows.to(dtype), {task: value.to(dtype) for task, value in labels.items()}, present


def train(case: Case, part: slice = slice(None)) -> list[Tensor] | str:
    """The parameters after some steps on a part of the rows, or the words of an error."""
    net = (Net() if case.sharing is None else SchemeNet(case.sharing)).to(case.dtype)
    balance = Balance(net, case.balancer)
    if case.announced:
        balance.start(TASKS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    rows, labels, present = data(case.dtype)
    if case.spoiled:
        labels["price"][2, -1] = torch.nan

    def losses(step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        outputs = net.outputs(rows[step, part])
        found, counts = {}, {}
        for task in TASKS:
            if bool((there := present[task][step, part]).any()):
                found[task] = (outputs[task][there] - labels[task][step, part][there]).square().mean()
                counts[task] = float(there.sum())
        return found, counts

    try:
        for step in range(STEPS):
            optimizer.zero_grad()
            found, counts = losses(step)
            balance.epoch = step // 3
            balance.backward(found, net.penalty(), counts=counts)
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimizer.step()
            if balance.balancer.observes:
                with torch.no_grad():
                    after, counts = losses(step)
                balance.observe(after, counts=counts)
    except PolytaskError as error:
        return str(error)
    return [parameter.detach() for parameter in net.parameters()]


def work(rank: int, store: str, pipe: Connection) -> None:
    """What each process does: one case after the other, until there is none."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    half = ROWS // 2
    while (case := pipe.recv()) is not None:
        pipe.send(train(case, slice(rank * half, (rank + 1) * half)))
    distributed.destroy_process_group()


class Pair:
    """Both processes."""

    def __init__(self, pipes: list[Connection]) -> None:
        self.pipes = pipes

    def train(self, case: Case) -> list[list[Tensor] | str]:
        for pipe in self.pipes:
            pipe.send(case)
        return [pipe.recv() for pipe in self.pipes]


@contextmanager
def started(folder: Path) -> Iterator[Pair]:
    """Inside, two processes wait for cases."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(2):
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(rank, str(folder / "store"), theirs), daemon=True)
        process.start()
        pipes.append(mine)
        processes.append(process)
    try:
        yield Pair(pipes)
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()

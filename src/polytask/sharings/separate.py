"""Nothing shared: a network for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from polytask.batch import Inputs, n_rows
from polytask.encoder import TrunkPlan
from polytask.errors import one_line
from polytask.seeding import draws_of
from polytask.sharing import SharedTrunk, Sharing, StageOutputs, module_key
from polytask.sharings._batched import Batched

# One product for all networks saves what each operation costs beside its arithmetic, and waits less often for threads; stacking
# the weights costs a copy. Above so many multiplications in a pass of one network it loses: benchmarks/separate.py has 1e7 at
# width 128, where it wins at two threads from eight networks on and is even with four, 4e7 at 256 and 1.4e8 at 512, where it
# loses. With one thread it loses everywhere.
MOST_WORK, FEWEST = 2e7, 6


def pays(n_networks: int, work: float, device: torch.device) -> bool:
    """Whether one product for so many networks is faster than one after the other.

    Args:
        n_networks: How many.
        work: The multiplications in a pass of one of them, about.
        device: Where they are.
    """
    several = device.type != "cpu" or torch.get_num_threads() > 1
    return several and n_networks >= FEWEST and work <= MOST_WORK


class Separate(Sharing):
    """Nothing shared: every task has a stem and stages of its own.

        inputs -+- stem -> stage 1 -> stage 2 -> head   price
                |
                +- stem -> stage 1 -> stage 2 -> head   grade

    It is what sharing is measured against. Clipping, a falling rate, early stopping and what is done about numbers that are not
    finite are each task's own: a task ends as it would have alone, with the same rows and seed. Tasks that read one another
    (without a gradient) end together.

    It has the parameters of as many networks as there are tasks, and takes the time of them all; six or more small networks
    are trained as one batched product where there are several threads. Each task answers with the weights of its own best
    epoch, whatever ``trainer.best`` is. Batches are of the rows of all tasks: where labels of a task are missing, they are not
    those that it has alone. The weights of a balancer of losses are scaled to a mean of 1.

    Example:
        >>> Separate().to_dict()
        {'kind': 'separate'}
    """

    paper: ClassVar[str] = "Caruana 1997, Machine Learning 28, doi:10.1023/A:1007379606734, figure 1 (single task learning)"
    shares: ClassVar[bool] = False
    independent: ClassVar[bool] = True

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        return SeparateTrunk(plan, tasks)


class SeparateTrunk(SharedTrunk):
    """A network per task."""

    def __init__(self, plan: TrunkPlan, tasks: Sequence[str]) -> None:
        super().__init__()
        self.specs = plan.specs
        self.networks = nn.ModuleDict({module_key(task): Chain(plan, task) for task in tasks})
        self.places = {task: place for place, task in enumerate(tasks)}
        n_parameters = sum(p.numel() for p in self.parameters()) / max(1, len(tasks))
        self.work = n_parameters * max(spec.members * math.prod(spec.space) for spec in plan.specs)  # of a row, about
        self.batched: Batched | None = None
        self.refusal = ""

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        at_once = self._at_once(inputs, tasks)
        return {task: at_once[task] if task in at_once else self._network(task)(inputs) for task in tasks}

    def notes(self) -> list[str]:
        return [f"the networks of the tasks are trained one by one: {self.refusal}"] if self.refusal else []

    def _at_once(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> dict[str, StageOutputs]:
        """The outputs of the tasks whose networks are run as one: in training, where these are small.

        Answers are computed one by one, so that they are the same bit for bit whatever other tasks there are.
        """
        if self.refusal or not self.training:
            return {}
        able = [task for task in tasks if self._network(task).is_plain]
        if not pays(len(able), self.work * sum(map(n_rows, inputs)), _device(inputs)):
            return {}
        try:
            self.batched = self.batched or Batched(list(self.networks.values()))
            outputs = self.batched(inputs, [self.places[task] for task in able])
        except (RuntimeError, ValueError) as error:
            self.refusal = one_line(error)
            return {}
        return dict(zip(able, outputs, strict=True))

    def _network(self, task: str) -> Chain:
        return self.networks[module_key(task)]  # type: ignore[return-value]


class Chain(nn.Module):
    """A stem and the stages after it."""

    def __init__(self, plan: TrunkPlan, task: str) -> None:
        super().__init__()
        self.stem = plan.stem(task)
        self.stages = nn.ModuleList(plan.stage(i, task) for i in range(plan.n_stages))
        self.draws = draws_of(self.stages[0])
        self.every = [part for module in (self.stem, self.stages) for part in module.modules()]

    @property
    def is_plain(self) -> bool:
        """Whether it does in a step of a training just what its modules say: no part is frozen, and nobody listens."""
        in_step = self.draws is not None and self.draws.seed_now() is not None
        return in_step and all(part.training and not part._forward_hooks for part in self.every)

    def forward(self, inputs: Sequence[Inputs]) -> StageOutputs:
        outputs: StageOutputs = (self.stem(inputs),)
        for stage in self.stages:
            outputs = (*outputs, stage(outputs[-1]))
        return outputs


def _device(inputs: Sequence[Inputs]) -> torch.device:
    return next(tensor.device for part in inputs for tensor in part.values())

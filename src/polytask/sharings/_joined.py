"""A network per task, and after every stage a joint where each reads the others: cross-stitch, sluice and NDDR."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.encoder import TrunkPlan
from polytask.sharing import SharedTrunk, StageOutputs, module_key
from polytask.sharings._channels import channels_back, channels_last


class Reading(nn.Module):
    """What a task takes from the features of one task, its own or another: ``[..., D] -> [..., D]``."""

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Linear in the features."""

    @abstractmethod
    def strength(self) -> Tensor:
        """How much that is, as a matrix to plot: a row per part that reads, a column per part that is read."""


class Weighted(Reading):
    """Features times a weight per channel, or one for all."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), start))

    def forward(self, features: Tensor) -> Tensor:
        return self.weight * features

    def strength(self) -> Tensor:
        return self.weight.mean().reshape(1, 1)


Readings = Callable[[FeatureSpec, bool], Reading]


class Joint(nn.Module):
    """A task's features after a stage: what it reads of its own, plus the mean of what it reads of each other task.

    It is the mean, not the sum, so that the weights of one begin and mean the same however many tasks there are.
    """

    def __init__(self, key: str, keys: Sequence[str], spec: FeatureSpec, readings: Readings, last: nn.Module) -> None:
        super().__init__()
        self.key = key
        self.readings = nn.ModuleDict({source: readings(spec, source == key) for source in keys})
        self.last = last

    def forward(self, sources: Mapping[str, Tensor]) -> Tensor:
        own = self.readings[self.key](sources[self.key])
        others = [reading(sources[source]) for source, reading in self.readings.items() if source != self.key]
        return self.last(torch.stack(others).mean(0) + own if others else own)  # type: ignore[no-any-return]

    def strengths(self) -> Tensor:
        """How much of each task, ``[parts, tasks * parts]``, on the CPU."""
        n_others = max(len(self.readings) - 1, 1)
        found = {source: reading.strength().detach().cpu() for source, reading in self.readings.items()}  # type: ignore[operator]
        return torch.cat([part if source == self.key else part / n_others for source, part in found.items()], 1)


class JoinedTrunk(SharedTrunk):
    """A stem and stages of every task, and after each stage a joint per task.

    Args:
        plan: Makes the parts; a task's are named after it.
        tasks: Their names.
        readings: Makes what a task reads after a stage of such a spec; True is its own features.
        last: Makes what comes after all is summed up, of a spec.
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"mixing": ("task", "task")}

    def __init__(
        self,
        plan: TrunkPlan,
        tasks: Sequence[str],
        readings: Readings,
        last: Callable[[FeatureSpec], nn.Module] = lambda spec: nn.Identity(),
    ) -> None:
        super().__init__()
        self.specs = plan.specs
        self.keys = {task: module_key(task) for task in tasks}
        keys = list(self.keys.values())

        def joint(index: int, key: str) -> Joint:
            return Joint(key, keys, plan.specs[index + 1], readings, last(plan.specs[index + 1]))

        indices = range(plan.n_stages)
        self.stems = nn.ModuleDict({key: plan.stem(task) for task, key in self.keys.items()})
        self.stages = nn.ModuleDict(
            {key: nn.ModuleList(plan.stage(i, task) for i in indices) for task, key in self.keys.items()}
        )
        self.joints = nn.ModuleDict(
            {
                key: nn.ModuleList(plan.own(f"joint {i + 1} of {task}", partial(joint, i, key)) for i in indices)
                for task, key in self.keys.items()
            }
        )

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        outputs: dict[str, StageOutputs] = {task: (self.stems[key](inputs),) for task, key in self.keys.items()}
        n_stages = len(self.specs) - 1
        for i, spec in enumerate(self.specs[1:]):
            fresh: dict[str, Features] = {
                task: self.stages[key][i](outputs[task][-1])  # type: ignore[index]
                for task, key in self.keys.items()
            }
            sources = {self.keys[task]: channels_last(features.tensor, spec) for task, features in fresh.items()}
            for task in tasks if i == n_stages - 1 else self.keys:
                joined = self.joints[self.keys[task]][i](sources)  # type: ignore[index]
                outputs[task] = (*outputs[task], Features(channels_back(joined, spec), fresh[task].mask))
        return {task: outputs[task] for task in tasks}

    def diagnostics(self) -> dict[str, Tensor]:
        """After each stage how much every task (a row) takes of every task (a column)."""
        return {
            f"mixing after stage {i}": torch.cat([joint.strengths() for joint in joints])
            for i, joints in enumerate(zip(*self.joints.values(), strict=True), 1)
        }

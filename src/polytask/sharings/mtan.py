"""MTAN: all tasks use the same stages, and each attends to what it needs of their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from polytask.batch import Features, Inputs
from polytask.encoder import TrunkPlan
from polytask.head import pooled
from polytask.sharing import SharedTrunk, Sharing, StageOutputs, module_key
from polytask.sharings._channels import channels_back, channels_last, resampled


class MTAN(Sharing):
    """One trunk for all tasks; each has an attention of its own on the features of every stage.

        stem - stage 1 ----------- stage 2 --------------
                  |                   |
        price:  x a1 -> y1 - f2 --- x a2 -> y2 - head
        grade:  x a1 -> y1 - f2 --- x a2 -> y2 - head

    With p_j the features of stage j, y_j = a_j * p_j and a_j = sigmoid(h_j(relu(norm(g_j([p_j, f_j(y_{j-1})]))))) is between 0
    and 1 for every channel at every place. g_j and h_j are linear on the channels and a task's own; f_j (means over places
    where stage j has fewer, then linear, norm, relu) is common to all. For every task and stage of width D that is about 3 D^2
    / reduction more parameters than with ``hard``, and time for as many products and those of f; the trunk runs once.

    In the paper a stage is two convolutions, and the attention reads the output of the first; here it reads that of the whole
    stage, as all stages have one. Its convolutions f have a kernel of 3 x 3, here 1 x 1, and maxima come after them, here means
    before. Its norms are over the rows of a batch, and there is one before the sigmoid too; here they are over channels.

    Args:
        reduction: The attention has width / reduction hidden units; 1 in the paper, 4 in later code for wide stages.

    Example:
        >>> from polytask.testing import check_sharing
        >>> check_sharing(MTAN(reduction=2))
    """

    paper: ClassVar[str] = "Liu 2019, arXiv:1803.10704, equations 1 and 2"
    reduction: int = Field(default=1, ge=1)

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        return MTANTrunk(self, plan, tasks)


class MTANTrunk(SharedTrunk):
    """A stem and stages, and for each task an attention per stage.

    Attributes:
        carries: f of every stage but the first.
        attentions: g, norm, relu, h and sigmoid of every stage, per task.
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"attention": ("channel",)}

    def __init__(self, settings: MTAN, plan: TrunkPlan, tasks: Sequence[str]) -> None:
        super().__init__()
        self.specs = plan.specs
        self.stem = plan.stem()
        self.stages = nn.ModuleList(plan.stage(j) for j in range(plan.n_stages))
        widths = [spec.width for spec in plan.specs[1:]]
        read = [widths[0], *(2 * width for width in widths[1:])]
        self.carries = nn.ModuleList(
            plan.own(f"f of stage {j}", partial(_carry, before, width)) for j, (before, width) in enumerate(pairwise(widths), 2)
        )
        makers = [partial(_attention, n_in, width, settings.reduction) for n_in, width in zip(read, widths, strict=True)]
        self.attentions = nn.ModuleDict(
            {
                module_key(task): nn.ModuleList(plan.own(f"attention {j} of {task}", make) for j, make in enumerate(makers, 1))
                for task in tasks
            }
        )
        self._seen: dict[str, Tensor] = {}

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        shared: StageOutputs = (self.stem(inputs),)
        for stage in self.stages:
            shared = (*shared, stage(shared[-1]))
        return {task: (shared[0], *self._attended(task, shared[1:])) for task in tasks}

    def diagnostics(self) -> dict[str, Tensor]:
        """The mean attention of each task to every channel of a stage, in the last pass."""
        return dict(self._seen)

    def _attended(self, task: str, shared: StageOutputs) -> StageOutputs:
        attended: StageOutputs = ()
        for j, (features, spec) in enumerate(zip(shared, self.specs[1:], strict=True), 1):
            there = read = channels_last(features.tensor, spec)
            if attended:
                before = resampled(attended[-1], self.specs[j - 1], features, spec)
                read = torch.cat([there, self.carries[j - 2](before)], -1)
            weights = self.attentions[module_key(task)][j - 1](read)  # type: ignore[index]
            mean = pooled(Features(channels_back(weights.detach(), spec), features.mask), spec).flatten(0, -2).mean(0)
            self._seen[f"attention of {task} after stage {j}"] = mean
            attended = (*attended, Features(channels_back(weights * there, spec), features.mask))
        return attended


def _carry(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU())


def _attention(n_in: int, n_out: int, reduction: int) -> nn.Module:
    hidden = max(n_out // reduction, 1)
    return nn.Sequential(nn.Linear(n_in, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, n_out), nn.Sigmoid())

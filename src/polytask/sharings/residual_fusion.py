"""Residual fusion: each task encodes and decodes the features of a shared trunk, and adds to them what the others decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.encoder import TrunkPlan
from polytask.sharing import SharedTrunk, Sharing, StageOutputs, module_key
from polytask.sharings._channels import channels_back, channels_last
from polytask.sharings._joined import Joint, Reading, Weighted


class ResidualFusion(Sharing):
    """One trunk for all tasks; each adds what its own encoder and decoder make of its features, and some of what others' make.

        stem - stages - h -+- encode - decode - d1 -+- h + d1 + g12 d2 - head of price
                           |                        x
                           +- encode - decode - d2 -+- h + d2 + g21 d1 - head of grade

    With d_t = D_t relu(E_t h), task t goes on with h + d_t + sum over s != t of g_ts * d_s / (T - 1): what it decodes itself,
    and as much as it has learned to take of what every other task decodes, g_ts being a weight per channel. E_t and D_t are
    linear on the channels, the same at every place. It has 2 D ``hidden`` parameters per task and D per pair of tasks more
    than ``hard``, for stages of width D, and a step takes the time of these products more; every task's is needed for each
    answer.

    It is the residual auxiliary block of ROCK, which decodes what auxiliary tasks encode, and adds it to the features of one
    primary task. Here every task is the primary one of its own head, and an auxiliary one of the others: so its encoder
    learns from its own loss through d_t, where an auxiliary head of ROCK reads the encoder itself, and the others are added
    with learned weights and by their mean, where ROCK adds them all with weight 1.

    Args:
        hidden: Units of a task's encoder; None for as many as the features have.
        others: g_ts at the start; 0 starts with tasks that know nothing of what the others decode.

    Example:
        >>> from polytask.testing import check_sharing
        >>> check_sharing(ResidualFusion(hidden=4))
    """

    paper: ClassVar[str] = (
        "Mordan 2018 (ROCK: a deep residual auxiliary block), NeurIPS 2018, with every task as the primary one"
    )
    joint: ClassVar[bool] = True
    hidden: int | None = Field(default=None, ge=1)
    others: float = 0.1

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        return ResidualFusionTrunk(self, plan, tasks)


class ResidualFusionTrunk(SharedTrunk):
    """A stem and stages, and for each task a block and a joint.

    Attributes:
        blocks: A task's encoder and decoder.
        joints: What a task takes of what all decode.
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"fusion": ("task", "task")}

    def __init__(self, settings: ResidualFusion, plan: TrunkPlan, tasks: Sequence[str]) -> None:
        super().__init__()
        self.specs = plan.specs
        self.stem = plan.stem()
        self.stages = nn.ModuleList(plan.stage(i) for i in range(plan.n_stages))
        keys, width = {task: module_key(task) for task in tasks}, plan.specs[-1].width
        block = partial(_block, width, settings.hidden or width)
        self.blocks = nn.ModuleDict({key: plan.own(f"block of {task}", block) for task, key in keys.items()})

        def reading(spec: FeatureSpec, own: bool) -> Reading:
            return Whole() if own else Weighted(width, settings.others)

        def joint(key: str) -> Joint:
            return Joint(key, list(keys.values()), plan.specs[-1], reading, nn.Identity())

        self.joints = nn.ModuleDict({key: plan.own(f"joint of {task}", partial(joint, key)) for task, key in keys.items()})

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        outputs: StageOutputs = (self.stem(inputs),)
        for stage in self.stages:
            outputs = (*outputs, stage(outputs[-1]))
        last, spec = outputs[-1], self.specs[-1]
        features = channels_last(last.tensor, spec)
        decoded = {key: block(features) for key, block in self.blocks.items()}
        fused = {task: features + self.joints[module_key(task)](decoded) for task in tasks}
        return {task: (*outputs[:-1], Features(channels_back(x, spec), last.mask)) for task, x in fused.items()}

    def diagnostics(self) -> dict[str, Tensor]:
        """How much every task (a row) takes of what every task (a column) decodes, the mean over channels."""
        return {"fusion": torch.cat([joint.strengths() for joint in self.joints.values()])}  # type: ignore[operator]


class Whole(Reading):
    """All of the features as they are."""

    def forward(self, features: Tensor) -> Tensor:
        return features

    def strength(self) -> Tensor:
        return torch.ones(1, 1)


def _block(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

"""Task routing: every task has a fixed random part of the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec
from polytask.encoder import TrunkPlan
from polytask.sharing import SharedTrunk, Sharing
from polytask.sharings._channels import channels_back, channels_last
from polytask.sharings._per_task import PerTaskTrunk


class TaskRouting(Sharing):
    """All tasks share the weights of the stem and the stages, but each uses a random part of the channels between them.

        channels     1  2  3  4  5  6
        price        x  x  .  x  .  x      after the stem and after every stage a task keeps
        grade        x  .  x  x  x  .      the channels that were drawn for it; others are zero

    The weights between two channels are shared by the tasks that keep both. It has the parameters of hard sharing, which are
    fewer for each task, so it wants a wider network. Every task takes a pass through the stages of its own.

    The paper's code draws the same masks but calls ``sigma`` the number of channels that are taken away; it multiplies the
    data behind autograd's back, so that gradients flow through channels that are off, which is not done here.

    Args:
        sigma: The share of the channels that a task keeps; two tasks have about the share sigma * sigma in common. With 1 it
            is hard sharing.

    Example:
        >>> random_mask(6, 0.5).sum()
        tensor(3)
    """

    paper: ClassVar[str] = "Strezoski 2019, arXiv:1903.12117, the task routing layer of section 3"
    sigma: float = Field(default=0.5, gt=0, le=1)

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        return RoutedTrunk(plan, tasks, self.sigma)


class RoutedTrunk(PerTaskTrunk):
    """Shared parts with a mask per task after each."""

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"channels of": ("task", "channel"), "channels in common": ("task", "task")}

    def __init__(self, plan: TrunkPlan, tasks: Sequence[str], sigma: float) -> None:
        super().__init__(plan, tasks, "routes", lambda part, spec: Route(spec, sigma))

    def diagnostics(self) -> dict[str, Tensor]:
        """The channels that a task keeps of each output, ``[T, D]``, and the share that two have in common, ``[T, T]``."""
        kept = self.per_output("channels", lambda route: route.mask)
        every = torch.cat(list(kept.values()), 1).to(torch.get_default_dtype())
        return kept | {"channels in common": every @ every.T / every.shape[1]}


class Route(nn.Module):
    """Sets the channels to zero that a task does not keep."""

    mask: Tensor

    def __init__(self, spec: FeatureSpec, sigma: float) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mask", random_mask(spec.width, sigma))

    def forward(self, part: nn.Module, features: Features) -> Features:
        tensor, mask = part(features)
        return Features(channels_back(channels_last(tensor, self.spec) * self.mask, self.spec), mask)


def random_mask(width: int, sigma: float) -> Bool[Tensor, " D"]:
    """A random share ``sigma`` of the channels, at least one."""
    return torch.rand(width).argsort() < max(1, round(sigma * width))

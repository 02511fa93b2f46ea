"""What is kept beside a network's weights while it trains: buffers as they were, a moving average, a copy of the best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Buffers:
    """A network's buffers, such as batch statistics, as they were before a step.

    All are copied each time: batch norm writes to its own without a trace in their version.
    """

    def __init__(self, network: nn.Module) -> None:
        self.places = [(module._buffers, name) for module in network.modules() for name in module._buffers]
        self.kept: list[Tensor | None] = []
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are now."""
        now = [buffers[name] for buffers, name in self.places]
        there = [tensor for tensor in now if tensor is not None]
        if len(now) != len(self.kept) or any(one is not two for one, two in zip(now, self.kept, strict=True)):
            self.kept, self.copies = now, [tensor.clone() for tensor in there]
        elif there:
            torch._foreach_copy_(self.copies, there)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them what they were when they were kept."""
        for (buffers, name), tensor in zip(self.places, self.kept, strict=True):
            buffers[name] = tensor
        for tensor, copy in zip((tensor for tensor in self.kept if tensor is not None), self.copies, strict=True):
            tensor.copy_(copy)


class Average:
    """An exponential moving average of a network's weights, beside them.

    Buffers such as batch statistics stay the network's own. The decay at step t, from 1, is the smaller of ``decay`` and (1 +
    t) / (10 + t), so that the initial weights are soon forgotten (Tan and Le 2019 and TensorFlow's ExponentialMovingAverage
    do the same).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = [p for p in network.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averages, list(self.weights), 1 - decay)

    @torch.no_grad()
    def restore(self, steps: int, averages: Sequence[Tensor]) -> None:
        """Go on from these."""
        self.steps = steps
        torch._foreach_copy_(self.averages, [average.to(self.averages[0].device) for average in averages])

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights and their average; twice is as before."""
        for weight, average in zip(self.weights, self.averages, strict=True):
            weight.data, average.data = average.data, weight.data


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}

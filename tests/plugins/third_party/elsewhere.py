"""What somebody else's package brings: a balancer and a head, announced by its entry points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from polytask.balancer import LossBalancer, Signals, State
from polytask.batch import FeatureSpec
from polytask.head import Head, OutputSpec, PooledHead, starting_at


class InverseLoss(LossBalancer):
    """Weighs each task by the inverse of its loss in this batch."""

    weights_sum_to: ClassVar[str] = "1"

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        inverse = 1 / signals.losses.clamp(min=1e-8)
        return inverse / inverse.sum(), state


class NormedLinear(Head):
    """A layer norm, then a linear layer, on the pooled features of the last stage."""

    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        layers = [nn.LayerNorm(specs[-1].width), starting_at(nn.Linear(specs[-1].width, output.width), output.start)]
        return PooledHead(specs[-1], nn.Sequential(*layers))

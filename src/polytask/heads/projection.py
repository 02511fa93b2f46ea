"""A small multi-layer perceptron to a point on the unit sphere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from polytask.batch import FeatureSpec
from polytask.head import Head, OutputSpec, PooledHead


class Projection(Head):
    """Hidden layers on the pooled features of the last stage and a linear one, whose output is divided by its length.

    The projection of supervised contrastive learning, which as in SimCLR is learned for the loss: what the network itself has
    learned lies in the features before it, which ``run.embed`` gives.

    Args:
        hidden: The widths of the hidden layers.
    """

    paper: ClassVar[str] = "Khosla 2020 (SupCon), arXiv:2004.11362, section 3.1"
    has_start: ClassVar[bool] = False
    hidden: tuple[int, ...] = Field(default=(128,), min_length=1)

    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        layers: list[nn.Module] = []
        n_in = specs[-1].width
        for n_hidden in self.hidden:
            layers += [nn.Linear(n_in, n_hidden), nn.ReLU()]
            n_in = n_hidden
        network = nn.Sequential(*layers, nn.Linear(n_in, output.width), UnitLength())
        return PooledHead(specs[-1], network, hidden=len(layers), state_width=n_in)


class UnitLength(nn.Module):
    """Vectors divided by their length."""

    def forward(self, vectors: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        return functional.normalize(vectors, dim=-1)

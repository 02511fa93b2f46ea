"""A head that needs the output of an early stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec
from polytask.head import Head, pooled, starting_at


class EarlyHead(Head):
    """A linear layer on the pooled features of the stem and of the last stage side by side."""

    def build(self, specs: Sequence[FeatureSpec], width: int, start: Float[Tensor, " width"]) -> nn.Module:
        return FirstAndLast(specs[0], specs[-1], width, start)


class FirstAndLast(nn.Module):
    def __init__(self, first: FeatureSpec, last: FeatureSpec, width: int, start: Tensor) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.linear = starting_at(nn.Linear(first.width + last.width, width), start)

    def forward(self, features: Sequence[Features]) -> Tensor:
        both = torch.cat([pooled(features[0], self.first), pooled(features[-1], self.last)], 1)
        return self.linear(both)  # type: ignore[no-any-return]

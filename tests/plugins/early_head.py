"""A head that needs the output of an early stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec
from polytask.head import Head, OutputSpec, pooled, starting_at


class EarlyHead(Head):
    """A linear layer on the pooled features of the stem and of the last stage side by side."""

    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        return FirstAndLast(specs[0], specs[-1], output)


class FirstAndLast(nn.Module):
    def __init__(self, first: FeatureSpec, last: FeatureSpec, output: OutputSpec) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.linear = starting_at(nn.Linear(first.width + last.width, output.width), output.start)

    def forward(self, features: Sequence[Features]) -> Tensor:
        both = torch.cat([pooled(features[0], self.first), pooled(features[-1], self.last)], 1)
        return self.linear(both)  # type: ignore[no-any-return]

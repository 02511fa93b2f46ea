"""A linear layer on the pooled features of the last stage."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from polytask.batch import FeatureSpec
from polytask.head import Head, PooledHead, starting_at


class Linear(Head):
    """One linear layer; its bias starts at the best constant prediction."""

    def build(self, specs: Sequence[FeatureSpec], width: int, start: Float[Tensor, " width"]) -> nn.Module:
        return PooledHead(specs[-1], starting_at(nn.Linear(specs[-1].width, width), start))

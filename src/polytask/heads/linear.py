"""A linear layer on the pooled features of the last stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from polytask.batch import FeatureSpec
from polytask.head import Head, OutputSpec, PooledHead, output_layer


class Linear(Head):
    """One linear layer, one for each member of an ensemble; its bias starts at the best constant prediction."""

    knows_members: ClassVar[bool] = True

    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        return PooledHead(specs[-1], output_layer(specs[-1].width, output, specs[-1].members))

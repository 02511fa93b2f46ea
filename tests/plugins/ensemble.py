"""An encoder with ensemble members: vectors ``[B, members, D]``."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part


class Ensemble(Encoder):
    """One linear layer for all members, each of which scales its inputs in its own way.

    Args:
        width: D.
        members: How many networks share the weights.
    """

    paper: ClassVar[str] = "Wen, Tran and Ba 2020, arXiv:2002.06715, equation 1, with the scaling of inputs only"
    width: int = Field(default=6, ge=1)
    members: int = Field(default=3, ge=2)

    def stem(self, codec: InputCodec) -> Part:
        n_numbers = len(codec.numbers)
        return Part(self._spec(), lambda: SplitStem(n_numbers, self.width, self.members))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(self._spec(), lambda: ScaledLinear(self.width, self.width, self.members))]

    def _spec(self) -> FeatureSpec:
        return FeatureSpec("vector", self.width, members=self.members)


class SplitStem(nn.Module):
    def __init__(self, n_in: int, width: int, members: int) -> None:
        super().__init__()
        self.layer = ScaledLinear(n_in, width, members)

    def forward(self, inputs: Inputs) -> Features:
        return self.layer(Features(inputs["numbers"].unsqueeze(1)))  # type: ignore[no-any-return]


class ScaledLinear(nn.Module):
    def __init__(self, n_in: int, n_out: int, members: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(members, n_in))
        self.linear = nn.Linear(n_in, n_out)

    def forward(self, features: Features) -> Features:
        return Features(torch.tanh(self.linear(features.tensor * self.scale)))

"""An encoder whose features are sequences of ensemble members: ``[B, members, L, D]`` under one mask ``[B, L]``."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part


class SeriesEnsemble(Encoder):
    """Each number is a step, left out where its cell is missing; every member embeds it in its own way.

    Args:
        width: D.
        members: How many networks share the stage.
    """

    width: int = Field(default=5, ge=1)
    members: int = Field(default=2, ge=2)

    def stem(self, codec: InputCodec) -> Part:
        return Part(self._spec(), lambda: MemberStem(codec, self.members, self.width))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(self._spec(), lambda: Pointwise(self.width))]

    def _spec(self) -> FeatureSpec:
        return FeatureSpec("sequence", self.width, members=self.members)


class MemberStem(nn.Module):
    def __init__(self, codec: InputCodec, members: int, width: int) -> None:
        super().__init__()
        features = codec.number_features
        self.steps = [i for i, feature in enumerate(features) if feature.part != "missing"]
        flags = {feature.column: i for i, feature in enumerate(features) if feature.part == "missing"}
        self.flags = [flags.get(features[i].column) for i in self.steps]
        self.scale = nn.Parameter(torch.randn(members, 1, width))
        self.shift = nn.Parameter(torch.randn(members, 1, width))

    def forward(self, inputs: Inputs) -> Features:
        numbers = inputs["numbers"]
        steps = numbers[:, None, self.steps, None]
        there = [torch.ones_like(numbers[:, 0]) if i is None else 1 - numbers[:, i] for i in self.flags]
        return Features(steps * self.scale + self.shift, torch.stack(there, 1) > 0)


class Pointwise(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, features: Features) -> Features:
        return Features(torch.tanh(self.linear(features.tensor)), features.mask)

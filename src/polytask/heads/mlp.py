"""A small multi-layer perceptron on the pooled features of the last stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import nn

from polytask.batch import FeatureSpec
from polytask.head import Head, OutputSpec, PooledHead, output_layer


class MLP(Head):
    """Hidden layers of the task's own before its output layer, whose bias starts at the best constant prediction.

    The members of an ensemble share the hidden layers and have an output layer each.

    Args:
        hidden: The widths of the hidden layers.
        dropout: Probability of dropping a hidden unit.
    """

    knows_members: ClassVar[bool] = True
    hidden: tuple[int, ...] = Field(default=(64,), min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        layers: list[nn.Module] = []
        n_in = specs[-1].width
        for n_hidden in self.hidden:
            layers += [nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Dropout(self.dropout)]
            n_in = n_hidden
        last = output_layer(n_in, output, specs[-1].members)
        return PooledHead(specs[-1], nn.Sequential(*layers, last), hidden=len(layers), state_width=n_in)

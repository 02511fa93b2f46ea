"""The head contract: a task's features become its output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, masked_mean
from polytask.component import Component


class Head(Component, family="heads"):
    """Turns the outputs of a task's stem and stages into ``[B, width]``.

    To add one, write ``heads/<kind>.py`` with one class that has ``build``.
    """

    @classmethod
    def from_value(cls, value: object) -> Head | None:
        """An ``nn.Module`` becomes the head ``external``."""
        return (
            cls.coerce({"kind": "external", "name": type(value).__name__, "module": value})
            if isinstance(value, nn.Module)
            else None
        )

    @abstractmethod
    def build(self, specs: Sequence[FeatureSpec], width: int, start: Float[Tensor, " width"]) -> nn.Module:
        """A module ``tuple[Features, ...] -> [B, width]``.

        Args:
            specs: The shapes of the features, stem first. Ensemble members have been folded into rows.
            width: How many numbers the task reads.
            start: The output that predicts the best constant; a head should begin near it.
        """


def pooled(features: Features, spec: FeatureSpec) -> Float[Tensor, "B D"]:
    """One vector per row: the features themselves, the mean over a sequence's mask, or the mean over a map's space."""
    if spec.kind == "vector":
        return features.tensor
    if spec.kind == "map":
        return features.tensor.flatten(2).mean(2)
    mask = features.mask
    if mask is None:
        mask = torch.ones(features.tensor.shape[:2], dtype=torch.bool, device=features.tensor.device)
    return masked_mean(features.tensor, mask)


class PooledHead(nn.Module):
    """A network on the pooled features of the last stage."""

    def __init__(self, spec: FeatureSpec, network: nn.Module) -> None:
        super().__init__()
        self.spec, self.network = spec, network

    def forward(self, features: Sequence[Features]) -> Tensor:
        return self.network(pooled(features[-1], self.spec))  # type: ignore[no-any-return]


def starting_at(linear: nn.Linear, start: Float[Tensor, " width"]) -> nn.Linear:
    """Set the bias of an output layer, so that the untrained head predicts about the best constant."""
    with torch.no_grad():
        linear.bias.copy_(start)
    return linear

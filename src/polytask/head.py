"""The head contract: a task's features become its output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from tabm import LinearEnsemble
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, folded, masked_mean
from polytask.component import Component

L = TypeVar("L", bound=nn.Module)


@dataclass(frozen=True)
class OutputSpec:
    """The static shape of what a task reads from its head: ``[B, width]``, or ``[B, width, *space]`` at every place of a map.

    Attributes:
        width: How many numbers the task reads of a row, or of a place.
        start: The ``width`` numbers that predict the best constant; a head should begin near them, everywhere.
        space: The extents of the map; empty for a row as a whole.
    """

    width: int
    start: Float[Tensor, " width"]
    space: tuple[int, ...] = ()


class Head(Component, family="heads"):
    """Turns the outputs of a task's stem and stages into ``[B, width]``, or ``[B, width, *space]``.

    To add one, write ``heads/<kind>.py`` with one class that has ``build``.

    Class attributes:
        dense: Whether the output is one at every place of a map, as segmentation needs it; else it is one of the whole row.
        knows_members: Whether the head tells the members of an ensemble apart: its specs then say how many there are, its
            features are ``[B, members, ...]`` and its output ``[B, members, width]``. Else members are rows to it, so that all
            share one head.
        has_start: Whether it can begin near any output; not where its outputs are distances, or on a sphere.
    """

    dense: ClassVar[bool] = False
    knows_members: ClassVar[bool] = False
    has_start: ClassVar[bool] = True

    @classmethod
    def from_value(cls, value: object) -> Head | None:
        """An ``nn.Module`` becomes the head ``external``."""
        return (
            cls.coerce({"kind": "external", "name": type(value).__name__, "module": value})
            if isinstance(value, nn.Module)
            else None
        )

    @abstractmethod
    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        """A module ``tuple[Features, ...] -> [B, width]``, or ``[B, width, *space]`` of a head that is ``dense``.

        Where it has layers of its own before the last one, other tasks can read what they make if the module has
        ``state_width`` and takes ``with_state=True``, as PooledHead does; else they read the pooled features as its state.

        Where its weights begin with the features that training rows have once other tasks have shaped them, the module has
        ``begin(vectors [N, *members, D], seed)``, given these features pooled, and ``begun``, whether that was done, of a
        buffer that is saved; ``Task.begins`` says when.

        Args:
            specs: The shapes of the features, stem first.
            output: The shape of what the task reads.

        Raises:
            PolytaskError: Nothing of that shape can be made of such features.
        """


def pooled(features: Features, spec: FeatureSpec) -> Float[Tensor, "B *members D"]:
    """One vector per row and member: the features themselves, the mean over a sequence's mask, or over a map's space."""
    if spec.members > 1:
        vectors = pooled(folded(features, spec.members), replace(spec, members=1))
        return vectors.reshape(-1, spec.members, vectors.shape[1])
    if spec.kind == "vector":
        return features.tensor
    if spec.kind == "map":
        return features.tensor.flatten(2).mean(2)
    mask = features.mask
    if mask is None:
        mask = torch.ones(features.tensor.shape[:2], dtype=torch.bool, device=features.tensor.device)
    return masked_mean(features.tensor, mask)


class Said(NamedTuple):
    """What a head says of rows, and its state where it was asked for: what its last layer read, ``[B, *members, n]``."""

    output: Tensor
    state: Tensor | None = None


class PooledHead(nn.Module):
    """A network on the pooled features of the last stage.

    Args:
        spec: Of the last stage.
        network: Reads these.
        hidden: How many layers of a Sequential come before the last one.
        state_width: How many numbers the last layer reads; None for all features.

    Attributes:
        state_width: How many numbers are in the state that ``forward(features, with_state=True)`` gives beside the output. Of a
            head without this attribute the state is the pooled features.
    """

    def __init__(self, spec: FeatureSpec, network: nn.Module, hidden: int = 0, state_width: int | None = None) -> None:
        super().__init__()
        self.spec, self.network, self.hidden = spec, network, hidden
        self.state_width = spec.width if state_width is None else state_width

    def forward(self, features: Sequence[Features], with_state: bool = False) -> Tensor | Said:
        state, last = pooled(features[-1], self.spec), self.network
        if isinstance(last, nn.Sequential) and self.hidden:
            state, last = last[: self.hidden](state), last[self.hidden :]
        output = last(state)
        return Said(output, state) if with_state else output


class OneForAll(nn.Module):
    """A head that all members of an ensemble share: members are rows to it."""

    def __init__(self, head: nn.Module, members: int) -> None:
        super().__init__()
        self.head, self.members = head, members
        if hasattr(head, "state_width"):
            self.state_width = head.state_width

    @property
    def begun(self) -> bool:
        """Whether the head waits for nothing; see ``Head.build``."""
        return bool(getattr(self.head, "begun", True))

    def begin(self, vectors: Float[Tensor, "N members D"], seed: int) -> None:
        """Let the head begin with the features of all members; see ``Head.build``."""
        self.head.begin(vectors.flatten(0, 1), seed)  # type: ignore[operator]

    def forward(self, features: Sequence[Features], with_state: bool = False) -> Tensor | Said:
        rows = tuple(folded(part, self.members) for part in features)
        if not with_state:
            return self._unfolded(self.head(rows))
        return Said(*(self._unfolded(part) for part in self.head(rows, with_state=True)))

    def _unfolded(self, values: Tensor) -> Tensor:
        return values.view(-1, self.members, *values.shape[1:])


def output_layer(n_in: int, output: OutputSpec, members: int = 1) -> nn.Module:
    """The last layer of a head, one for each member: ``[B, n_in] -> [B, width]``, or ``[B, members, ...]`` likewise.

    Its bias makes the untrained head predict about the best constant.
    """
    width = output.width
    return starting_at(nn.Linear(n_in, width) if members == 1 else LinearEnsemble(n_in, width, k=members), output.start)


def starting_at(layer: L, start: Float[Tensor, " width"]) -> L:
    """Set the bias of an output layer, so that the untrained head predicts about the best constant."""
    with torch.no_grad():
        layer.bias.copy_(start)  # type: ignore[operator]
    return layer

"""Sluice networks: a network per task, whose subspaces read one another, and heads that read a mixture of the stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.encoder import TrunkPlan
from polytask.errors import PolytaskError
from polytask.sharing import SharedTrunk, Sharing, StageOutputs
from polytask.sharings._channels import channels_back, resampled
from polytask.sharings._joined import JoinedTrunk, Reading

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase)


class Sluice(Sharing):
    """A network per task; after every stage its subspaces read those of all, and its head reads a mixture of its stages.

        price: stem - stage 1 -+- A1 (x11 x12 x21 x22) = y1 - stage 2 -+- A1 (..) = z1 - b1 y1 + c1 z1 - head
                               x                                       x
        grade: stem - stage 1 -+- A2 (x11 x12 x21 x22) = y2 - stage 2 -+- A2 (..) = z2 - b2 y2 + c2 z2 - head

    The channels of a stage are cut into subspaces; each subspace of a task goes on with a learned weighted sum of all subspaces
    of all tasks, those of the T - 1 others by their mean. It has the parameters of T networks, (T subspaces)^2 weights after
    every stage and one per stage and task for the mixture; a step takes the time of T networks. Every network is needed for
    every answer.

    The official code starts the weights of two subspaces with a layout of 0.95 and 0.05 for two tasks, or all alike; here they
    start as its single subspace does, for any number. Stages of another shape than the last are brought to it before they are
    mixed: means over places, and a learned projection where the widths differ. The penalty is on the matrices of a stage that
    have a row, or several, for each channel; the code has those of the LSTM gates that one names, and multiplies their columns.

    Args:
        subspaces: How many; the last is smaller where the width is no multiple.
        same: The weight of a subspace on itself at the start.
        different: The weights on all subspaces of each other task together at the start.
        last: The weight of the last stage in the mixture at the start; the others share the rest.
        orthogonality: Weight of the penalty, the sum over stages of || G1 G2^T ||^2 for the rows G1 and G2 of their matrices
            that make two subspaces.

    Raises:
        PolytaskError: A stage has fewer channels than it takes.

    Example:
        >>> reading = Subspaces(2, torch.tensor([[0.9, 0.0], [0.5, 0.5]]))
        >>> reading(torch.tensor([1.0, 2.0, 3.0])).detach()  # 1 and 2, then 3
        tensor([0.9000, 1.8000, 2.0000])
    """

    paper: ClassVar[str] = "Ruder 2017, arXiv:1705.08142, figure 1; initialization: predictors.py of its code"
    joint: ClassVar[bool] = True
    subspaces: int = Field(default=2, ge=1)
    same: float = Field(default=0.9, ge=0)
    different: float = Field(default=0.1, ge=0)
    last: float = Field(default=0.9, ge=0, le=1)
    orthogonality: float = Field(default=0.0, ge=0)

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        for i, spec in enumerate(plan.specs[1:], 1):
            size = -(-spec.width // self.subspaces)
            if size * (self.subspaces - 1) >= spec.width:
                what = f"stage {i} of the encoder cannot be cut into {self.subspaces} subspaces"
                raise PolytaskError(what, where="sharing sluice", found=f"{spec.width} channels", mend="Give fewer subspaces.")
        return SluiceTrunk(self, plan, tasks)


class Subspaces(Reading):
    """Every subspace of the answer is a weighted sum of those of the features.

    Args:
        n: How many subspaces.
        start: Their weights at the start, ``[n, n]``.
    """

    def __init__(self, n: int, start: Tensor) -> None:
        super().__init__()
        self.n = n
        self.weight = nn.Parameter(start.flatten().clone())  # a vector, as it takes no weight decay

    def forward(self, features: Tensor) -> Tensor:
        width = features.shape[-1]
        size = -(-width // self.n)
        parts = functional.pad(features, (0, self.n * size - width)).unflatten(-1, (self.n, size))
        return torch.matmul(self.weight.view(self.n, self.n), parts).flatten(-2)[..., :width]

    def strength(self) -> Tensor:
        return self.weight.view(self.n, self.n)


class Mixture(nn.Module):
    """The weighted sum of a task's stages in the shape of the last."""

    def __init__(self, specs: Sequence[FeatureSpec], last: float) -> None:
        super().__init__()
        self.specs = tuple(specs)
        n_others = len(specs) - 1
        self.weight = nn.Parameter(torch.tensor([*[(1 - last) / max(n_others, 1)] * n_others, last if n_others else 1.0]))
        width = specs[-1].width
        self.projections = nn.ModuleList(
            nn.Identity() if spec.width == width else nn.Linear(spec.width, width, bias=False) for spec in specs
        )

    def forward(self, stages: Sequence[Features]) -> Tensor:
        final, spec = stages[-1], self.specs[-1]
        parts = [
            weight * project(resampled(stage, own, final, spec))
            for weight, project, stage, own in zip(self.weight, self.projections, stages, self.specs, strict=True)
        ]
        return channels_back(torch.stack(parts).sum(0), spec)


class SluiceTrunk(JoinedTrunk):
    """Joined networks, and per task a mixture of its stages in the place of the last."""

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {**JoinedTrunk.axes, "mixture of stages": ("task", "stage")}

    def __init__(self, settings: Sluice, plan: TrunkPlan, tasks: Sequence[str]) -> None:
        n = settings.subspaces
        own, other = settings.same * torch.eye(n), torch.full((n, n), settings.different / n)
        super().__init__(plan, tasks, lambda spec, same: Subspaces(n, own if same else other))
        self.n_subspaces, self.orthogonality = n, settings.orthogonality
        mixture = partial(Mixture, plan.specs[1:], settings.last)
        self.mixtures = nn.ModuleDict({key: plan.own(f"mixture of {task}", mixture) for task, key in self.keys.items()})

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        outputs = super().forward(inputs, tasks)
        mixed = {task: self.mixtures[self.keys[task]](parts[1:]) for task, parts in outputs.items()}
        return {task: (*parts[:-1], parts[-1]._replace(tensor=mixed[task])) for task, parts in outputs.items()}

    def penalty(self) -> Tensor | None:
        products = list(self._products()) if self.orthogonality else []
        return self.orthogonality * torch.stack([product.square().sum() for product in products]).sum() if products else None

    def diagnostics(self) -> dict[str, Tensor]:
        """As of joined networks, a row and a column per subspace; and how much of each stage (a column) every task takes."""
        mixtures = torch.stack([mixture.weight.detach().cpu() for mixture in self.mixtures.values()])  # type: ignore[operator]
        return super().diagnostics() | {"mixture of stages": mixtures}

    def _products(self) -> Iterator[Tensor]:
        """Of every two subspaces, the inner products of the weights that make them."""
        for stages in self.stages.values():
            for stage, spec in zip(stages, self.specs[1:], strict=True):  # type: ignore[call-overload]
                layers = [layer for layer in stage.modules() if isinstance(layer, LAYERS)]
                for matrix in (p for layer in layers for p in layer.parameters() if p.ndim > 1 and len(p) % spec.width == 0):
                    rows = matrix.flatten(1).unflatten(0, (-1, spec.width))  # an LSTM has several matrices in one
                    for one, two in combinations(rows.split(-(-spec.width // self.n_subspaces), 1), 2):
                        yield one @ two.transpose(1, 2)

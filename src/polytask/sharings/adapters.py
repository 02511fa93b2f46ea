"""Adapters: a shared trunk, and a few weights per task that change what it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec
from polytask.encoder import TrunkPlan
from polytask.sharing import SharedTrunk, Sharing
from polytask.sharings._channels import channels_back, channels_last
from polytask.sharings._per_task import PerTaskTrunk


class Adapters(Sharing):
    """All tasks share the stem and the stages, to which each adds a change of low rank.

                    +-- A_t B_t --+                 +-- A_t B_t --+
        stem ---+---+-------------+--- stage 0 -----+-------------+--- ...     form: residual

        stem ------- stage 0 ------------ stage 1 --------------- ...          form: lora
                     W + A_t B_t          W + A_t B_t

    Beyond hard sharing it has rank x (n_in + n_out) numbers per task and matrix, and every task takes a pass through the stages
    of its own. A_t B_t is zero at the beginning: all tasks have the features of hard sharing, or of an earlier run.

    A residual adapter is a linear layer beside the output of the stem and of every stage (a 1 x 1 convolution on maps); the
    paper has a full matrix and a batch normalization, after each convolution. LoRA's change is added to the matrices of a
    stage, whatever layer they are of: linear, recurrent, or a convolution, where all that leads to an output channel is a row.
    The paper keeps the trunk frozen.

    Args:
        form: residual or lora.
        rank: The rank of a change; with 0 it is hard sharing.
        scale: What a change is multiplied by; LoRA's alpha / r.
        frozen: Leave the stem and the stages as they begin, which makes sense with a ``warm_start`` from a run of hard
            sharing or of adapters: tasks then share nothing that is trained.

    Example:
        >>> adapter = Residual(FeatureSpec("vector", 3), rank=1, scale=1.0)
        >>> adapter(nn.Identity(), Features(torch.ones(1, 3))).tensor.tolist()
        [[1.0, 1.0, 1.0]]
    """

    paper: ClassVar[str] = (
        "Rebuffi 2017, arXiv:1705.08045, section 3 (series adapters); LoRA: Hu 2021, arXiv:2106.09685, equation 3"
    )
    form: Literal["residual", "lora"] = "residual"
    rank: int = Field(default=8, ge=0)
    scale: float = Field(default=1.0, gt=0)
    frozen: bool = False

    def goes_on_from(self, other: Sharing) -> bool:
        thawed = self.model_copy(update={"frozen": not self.frozen})
        return other.to_dict() in ({"kind": "hard", "stages": None}, self.to_dict(), thawed.to_dict())

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        return AdaptedTrunk(plan, tasks, self)


class AdaptedTrunk(PerTaskTrunk):
    """Shared parts with adapters per task."""

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"change": ("task",)}

    def __init__(self, plan: TrunkPlan, tasks: Sequence[str], adapters: Adapters) -> None:
        rank, scale = adapters.rank, adapters.scale

        def build(part: nn.Module, spec: FeatureSpec) -> nn.Module:
            return LowRank(part, rank, scale) if adapters.form == "lora" else Residual(spec, rank, scale)

        super().__init__(plan, tasks, f"{adapters.form} adapters", build)
        for part in (self.stem, self.shared) if adapters.frozen else ():
            part.requires_grad_(False)

    def diagnostics(self) -> dict[str, Tensor]:
        """How large the changes around each output are, ``[T]``: the root of the sum of the squares of their numbers."""
        return self.per_output("change", _size)


class Product(nn.Module):
    """A matrix ``[n_out, n_in]`` of low rank, zero at the beginning."""

    def __init__(self, n_out: int, n_in: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, n_in))
        self.up = nn.Parameter(torch.zeros(n_out, rank))
        if rank:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as LoRA's official code, and nn.Linear

    def forward(self) -> Float[Tensor, "n_out n_in"]:
        return self.up @ self.down

    def of(self, x: Tensor) -> Tensor:
        """The product with vectors ``[..., n_in]``."""
        return x @ self.down.T @ self.up.T


class Residual(nn.Module):
    """x + A B x over the channels of a part's output."""

    def __init__(self, spec: FeatureSpec, rank: int, scale: float) -> None:
        super().__init__()
        self.spec, self.scale = spec, scale
        self.product = Product(spec.width, spec.width, rank)

    def forward(self, part: nn.Module, features: Features) -> Features:
        tensor, mask = part(features)
        change = channels_back(self.product.of(channels_last(tensor, self.spec)), self.spec)
        return Features(tensor + self.scale * change, mask)


class LowRank(nn.Module):
    """W + A B in place of each matrix W of a part while a task goes through it."""

    def __init__(self, part: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        shapes = {name: parameter.shape for name, parameter in part.named_parameters() if parameter.ndim > 1}
        self.names = tuple(shapes)
        self.products = nn.ModuleList(Product(shape[0], math.prod(shape[1:]), rank) for shape in shapes.values())

    def forward(self, part: nn.Module, features: Features) -> Features:
        if not self.names:
            return part(features)  # type: ignore[no-any-return]
        changed = {}
        for name, product in zip(self.names, self.products, strict=True):
            weight = part.get_parameter(name)
            changed[name] = weight + self.scale * product().view_as(weight)
        return torch.func.functional_call(part, changed, (features,))  # type: ignore[no-any-return]


def _size(adapters: nn.Module) -> Tensor:
    squares = [product().square().sum() for product in adapters.modules() if isinstance(product, Product)]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())

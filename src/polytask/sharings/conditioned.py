"""Conditioning: shared stages that each task scales and shifts in its own way."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from tabm import LayerNormEnsemble
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from polytask.batch import Features, FeatureSpec
from polytask.encoder import TrunkPlan
from polytask.errors import PolytaskError
from polytask.sharing import SharedTrunk, Sharing
from polytask.sharings._channels import channels_back, channels_last
from polytask.sharings._per_task import PerTaskTrunk

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, LayerNormEnsemble)


class Conditioned(Sharing):
    """All tasks share the weights of the stem and the stages; channels are scaled and shifted by numbers of each task.

        stem --> x gamma_t + beta_t --> stage 0 --> x gamma_t + beta_t --> ...       by: film

        stem --> [ norm_t, shared layers ] --> [ norm_t, shared layers ] --> ...     by: normalization

    It has two numbers per task and channel beyond hard sharing, and every task takes a pass through the stages of its own. At
    the beginning all tasks have the features of hard sharing.

    FiLM makes gamma and beta from what conditions the network; here that is one of a few tasks, so they are parameters of each.
    The paper scales inside a residual block, before its nonlinearity, and here it is the output of a stage, for what is inside
    is not known; by normalization it is inside.

    Args:
        by: film: the outputs of the stem and of every stage are scaled and shifted. normalization: each task has the
            normalization layers of the stages for itself, with their statistics where they have some.

    Raises:
        PolytaskError: It is by normalization, but no stage of the encoder has a normalization layer.

    Example:
        >>> film = Film(FeatureSpec("vector", 2))
        >>> film(nn.Identity(), Features(torch.ones(1, 2))).tensor.tolist()
        [[1.0, 1.0]]
    """

    paper: ClassVar[str] = "Perez 2018, arXiv:1709.07871, equation 2; normalization: Bilen and Vedaldi 2017, arXiv:1701.07275"
    by: Literal["film", "normalization"] = "film"

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        return FilmTrunk(plan, tasks) if self.by == "film" else NormalizedTrunk(plan, tasks)


class FilmTrunk(PerTaskTrunk):
    """Shared parts whose outputs are scaled and shifted per task."""

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"gamma": ("task", "channel"), "beta": ("task", "channel")}

    def __init__(self, plan: TrunkPlan, tasks: Sequence[str]) -> None:
        super().__init__(plan, tasks, "film", lambda part, spec: Film(spec))

    def diagnostics(self) -> dict[str, Tensor]:
        """Gamma and beta of each output, ``[T, D]``."""
        return self.per_output("gamma", lambda film: film.gamma) | self.per_output("beta", lambda film: film.beta)


class Film(nn.Module):
    """gamma * x + beta, a number each per channel."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec
        self.gamma = nn.Parameter(torch.ones(spec.width))
        self.beta = nn.Parameter(torch.zeros(spec.width))

    def forward(self, part: nn.Module, features: Features) -> Features:
        tensor, mask = part(features)
        changed = self.gamma * channels_last(tensor, self.spec) + self.beta
        return Features(channels_back(changed, self.spec), mask)


class NormalizedTrunk(PerTaskTrunk):
    """Shared stages in which each task puts its own normalization layers in their places."""

    def __init__(self, plan: TrunkPlan, tasks: Sequence[str]) -> None:
        taken: dict[nn.Module, dict[str, nn.Module]] = {}

        def build(part: nn.Module, spec: FeatureSpec) -> nn.Module:
            if part not in taken:
                taken[part] = _taken_out(part)
            return Norms(copy.deepcopy(taken[part]))

        super().__init__(plan, tasks, "norms", build)
        if not any(taken.values()):
            mend = "Give the encoder one (encoder.normalization of a table), or use by: film."
            raise PolytaskError("no stage has a normalization layer", where="sharing conditioned, by: normalization", mend=mend)


class Norms(nn.Module):
    """A task's normalization layers, and their places in a part."""

    def __init__(self, norms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.places = tuple(norms)
        self.norms = nn.ModuleList(norms.values())

    def forward(self, part: nn.Module, features: Features) -> Features:
        for place, norm in zip(self.places, self.norms, strict=True):
            part.set_submodule(place, norm)
        try:
            return part(features)  # type: ignore[no-any-return]
        finally:
            for place in self.places:
                part.set_submodule(place, nn.Identity())


def _taken_out(part: nn.Module) -> dict[str, nn.Module]:
    """The normalization layers of a part by their places, where nothing is left."""
    found = {place: module for place, module in part.named_modules() if isinstance(module, NORMS)}
    for place in found:
        part.set_submodule(place, nn.Identity())
    return found

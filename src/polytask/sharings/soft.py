"""Soft parameter sharing: a network per task, and a penalty on how far apart their weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from polytask.batch import Inputs
from polytask.encoder import TrunkPlan
from polytask.errors import PolytaskError
from polytask.sharing import SharedTrunk, Sharing, StageOutputs, module_key
from polytask.sharings._penalties import (
    Penalty,
    Quadratic,
    Relationship,
    TraceNorm,
    check_graph,
    gramian_of,
    laplacian,
    to_mean,
)


class Soft(Sharing):
    """Every task has a stem and stages of its own; a penalty draws the weights of the same part together.

        x --> stem a --> stage a --> ... --> head a
                :           :
              Omega       Omega
                :           :
        x --> stem b --> stage b --> ... --> head b

    With W the weights of a part, a row per task, divided by the root of their mean square norm at the start, strength times
    Omega(W) is added to the losses for the stem and for every stage. So a strength means the same for networks of any
    width and for any number of tasks: unrelated weights have an Omega of about 1, beside losses that begin near 1. With l2, 1
    is a light touch and 100 nearly hard sharing.

    All networks begin with the same weights unless start is own: units of the same number then mean the same in all tasks.
    Between networks that begin with their own weights they do not, and drawing those together mostly destroys them.

    Omega is for l2 the mean over tasks of |W_t - mean W|^2; for trace_norm the sum of W's singular values / T, small
    where few directions explain all tasks; for laplacian the sum over a given graph's edges of A_st |W_s - W_t|^2 / T; and for
    relationship tr(W' Omega^-1 W) / T^2, with the covariance of the tasks Omega = (W W')^1/2 / tr (W W')^1/2 taken
    from the weights anew at each step. Like weight decay, trace_norm and relationship also make weights smaller.

    It costs the parameters and the time of T networks, and T x T products of their weights. The tasks share no
    parameter, so balancers that read gradients have nothing to balance. The signs in a covariance are those of weights
    below the heads, and a head may turn them.

    Args:
        penalty: Omega.
        strength: How much of Omega is added; 0 leaves the networks to themselves.
        start: Whether all networks begin with the same weights, those of hard sharing, or each with its own, those of separate.
        graph: For laplacian the weights A_st of the edges, as in {maths: {physics: 1, art: 0.1}}.

    Raises:
        PolytaskError: There is a graph without laplacian or the other way round, it names what is no task, or it says two
            things of one edge.

    Example:
        >>> Soft(penalty="relationship").strength
        1.0
    """

    paper: ClassVar[str] = (
        "l2: Duong 2015, ACL P15-2139, between all tasks and not two; trace_norm: Yang and Hospedales 2016, "
        "arXiv:1606.04038, last axis flattening, per stage and not per layer; laplacian: Evgeniou, Micchelli and Pontil 2005, "
        "JMLR 6; relationship: Zhang and Yeung 2010, arXiv:1203.3536, its ridge term left to weight decay"
    )
    shares: ClassVar[bool] = False
    penalty: Literal["l2", "trace_norm", "laplacian", "relationship"] = "l2"
    strength: float = Field(default=1.0, ge=0)
    start: Literal["same", "own"] = "same"
    graph: dict[str, dict[str, Annotated[float, Field(gt=0)]]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _graph_fits(self) -> Self:
        if (self.penalty == "laplacian") != bool(self.graph):
            mend = "Set penalty: laplacian, and graph: {a task: {another: weight of their edge, ...}, ...}."
            raise PolytaskError("a graph belongs to the penalty laplacian, and it to a graph", where="sharing soft", mend=mend)
        return self

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        return SoftTrunk(plan, tasks, self, self._penalty(tasks))

    def check(self, tasks: Sequence[str]) -> None:
        check_graph(self.graph, tasks, "sharing soft, graph")

    def _penalty(self, tasks: Sequence[str]) -> Penalty:
        if self.penalty == "laplacian":
            return Quadratic(laplacian(self.graph, tasks))
        return {"l2": Quadratic(to_mean(len(tasks))), "trace_norm": TraceNorm(), "relationship": Relationship()}[self.penalty]


class SoftTrunk(SharedTrunk):
    """A network per task, and the penalty that ties them part by part."""

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "distance": ("task", "task"),
        "covariance": ("task", "task"),
        "singular values": ("singular value",),
    }

    def __init__(self, plan: TrunkPlan, tasks: Sequence[str], sharing: Soft, omega: Penalty) -> None:
        super().__init__()
        self.specs, self.omega, self.strength = plan.specs, omega, sharing.strength
        like, stages = "shared" if sharing.start == "same" else None, range(plan.n_stages)
        own = {task: [plan.stem(task, like), *(plan.stage(i, task, like) for i in stages)] for task in tasks}
        self.networks = nn.ModuleDict({module_key(task): nn.ModuleList(parts) for task, parts in own.items()})
        with torch.no_grad():
            begun = [gramian_of(copies) for copies in self._copies()]
        self.scales = [1.0 if gramian is None else float(gramian.diagonal().mean()) or 1.0 for gramian in begun]

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        return {task: self._own(task, inputs) for task in tasks}

    def penalty(self) -> Tensor | None:
        if not self.strength:
            return None
        with self._exactly():
            terms = [self.omega(gramian) for gramian in self._gramians().values()]
            return self.strength * torch.stack(terms).sum() if terms else None

    def diagnostics(self) -> dict[str, Tensor]:
        with torch.no_grad(), self._exactly():
            shown = {part: self.omega.shown(gramian) for part, gramian in self._gramians().items()}
        return {f"{name}, {part}": value for part, values in shown.items() for name, value in values.items()}

    def _own(self, task: str, inputs: Sequence[Inputs]) -> StageOutputs:
        stem, *stages = self.networks[module_key(task)].children()
        outputs: StageOutputs = (stem(inputs),)
        for stage in stages:
            outputs = (*outputs, stage(outputs[-1]))
        return outputs

    def _copies(self) -> list[tuple[nn.Module, ...]]:
        """The modules of all tasks, part by part."""
        return list(zip(*(network.children() for network in self.networks.children()), strict=True))

    def _gramians(self) -> dict[str, Float[Tensor, "T T"]]:
        """For every part that is trained the products of its weights in the tasks' networks; at the start their trace is T."""
        found = [gramian_of(copies) for copies in self._copies()]
        names = ("stem", *(f"stage {i}" for i in range(1, len(found))))
        scaled = zip(names, found, self.scales, strict=True)
        return {name: gramian / scale for name, gramian, scale in scaled if gramian is not None}

    def _exactly(self) -> torch.autocast:
        """Close networks would be the same in bfloat16."""
        return torch.autocast(next(self.parameters(), torch.empty(0)).device.type, enabled=False)

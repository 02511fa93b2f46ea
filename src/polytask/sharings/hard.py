"""Hard parameter sharing: all tasks use the same stem and stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import nn

from polytask.batch import Features, Inputs
from polytask.encoder import TrunkPlan
from polytask.errors import PolytaskError
from polytask.sharing import SharedTrunk, Sharing, StageOutputs, module_key


class Hard(Sharing):
    """The stem and the first ``stages`` stages are shared; later stages belong to each task alone.

    With two stages, of which one is shared:

        inputs -> stem -> stage 1 -+-> stage 2 -> head of price
                                   +-> stage 2 -> head of grade

    It has the fewest parameters, and takes the least time, of all schemes: those of one network where all stages are shared.

    Args:
        stages: How many stages are shared, counted from the stem; None shares them all.

    Raises:
        PolytaskError: ``stages`` is more than the encoder has.
    """

    paper: ClassVar[str] = "Caruana 1997, Machine Learning 28, doi:10.1023/A:1007379606734"
    stages: int | None = Field(default=None, ge=0)

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        n_shared = plan.n_stages if self.stages is None else self.stages
        if n_shared > plan.n_stages:
            mend = f"Give at most {plan.n_stages}."
            raise PolytaskError(f"stages is {n_shared}, but the encoder has {plan.n_stages}", where="sharing hard", mend=mend)
        return HardTrunk(plan, tasks, n_shared)


class HardTrunk(SharedTrunk):
    """One stem, ``n_shared`` common stages, and for each task the rest."""

    def __init__(self, plan: TrunkPlan, tasks: Sequence[str], n_shared: int) -> None:
        super().__init__()
        self.specs = plan.specs
        self.stem = plan.stem()
        self.shared = nn.ModuleList(plan.stage(i) for i in range(n_shared))
        private = range(n_shared, plan.n_stages)
        own = {task: nn.ModuleList(plan.stage(i, task) for i in private) for task in tasks}
        self.private = nn.ModuleDict({module_key(task): stages for task, stages in own.items()})

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        shared: StageOutputs = (self.stem(inputs),)
        for stage in self.shared:
            shared = (*shared, stage(shared[-1]))
        return {task: self._own(task, shared) for task in tasks}

    def _own(self, task: str, shared: StageOutputs) -> tuple[Features, ...]:
        outputs = shared
        for stage in self.private[module_key(task)]:  # type: ignore[attr-defined]
            outputs = (*outputs, stage(outputs[-1]))
        return outputs

"""Hard parameter sharing: all tasks use the same stem and stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

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
        stages: How many stages are shared, counted from the stem; None shares them all, -1 all but the last, and so on.

    Raises:
        PolytaskError: ``stages`` is more than the encoder has.

    Example:
        >>> import pyarrow as pa
        >>> from polytask import Table
        >>> encoder = Table(width=4, depth=3)
        >>> plan = TrunkPlan(encoder, [encoder.fit_inputs(pa.table({"x": [0.0, 1.0]}), ["x"], {})])
        >>> trunk = Hard(stages=-1).build(plan, ["a", "b"])
        >>> {part: len(made) for part, made in plan.made.items()}  # the third is there once for each task
        {'stem': 1, 'stage 1': 1, 'stage 2': 1, 'stage 3': 2}
    """

    paper: ClassVar[str] = "Caruana 1997, Machine Learning 28, doi:10.1023/A:1007379606734"
    stages: int | None = None

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        stages, n = self.stages, plan.n_stages
        n_shared = n if stages is None else stages + n if stages < 0 else stages
        if not 0 <= n_shared <= n:
            mend = f"Give at most {n}, or at least -{n}."
            raise PolytaskError(f"stages is {stages}, but the encoder has {n}", where="sharing hard", mend=mend)
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

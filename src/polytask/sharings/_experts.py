"""What the schemes with experts share: levels of experts, copies of stages or perceptrons, that gates mix for every task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.encoder import TrunkPlan
from polytask.errors import PolytaskError
from polytask.head import pooled
from polytask.sharing import SharedTrunk, Sharing, StageOutputs, module_key
from polytask.sharings._gates import Gate, SoftmaxGate, mixture, scores

Maker = Callable[[str], nn.Module]
Step = tuple[Maker, FeatureSpec]  # makes a part of an expert with a name; what it gives
GateMaker = Callable[[int, int], Gate]


class ExpertSharing(Sharing, abstract=True):
    """A scheme in which gates mix the outputs of experts.

    Args:
        experts: What an expert is: a copy of the "stages" after a common stem, or an "mlp" on top of a common stem and common
            stages. An mlp works on every step of a sequence and every place of a map for itself.
        hidden: The widths of the layers of an mlp expert, each with a ReLU; None for one layer as wide as what it reads.
        dropout: Probability of dropping a unit of an mlp expert.
        balance: The coefficient of a penalty against experts that nobody uses: the squared coefficient of variation of how much
            the experts of a level are used by all gates together (Shazeer 2017, arXiv:1701.06538, equations 6 and 7), where
            one is what gates that use all alike would give it. Tasks may still choose different experts. 0 is none: softmax
            gates train every expert with every row, and the penalty is no mean over rows, so a step in pieces would not be
            the step of the whole. Try 0.01 to 0.1 where the gates that diagnostics show leave experts unused.
    """

    experts: Literal["stages", "mlp"] = "stages"
    hidden: tuple[int, ...] | None = Field(default=None, min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    balance: float = Field(default=0.0, ge=0)

    def trunk(
        self,
        plan: TrunkPlan,
        tasks: Sequence[str],
        n_shared: int,
        n_private: int = 0,
        n_levels: int | None = 1,
        gate: GateMaker = SoftmaxGate.over,
    ) -> ExpertTrunk:
        """The network.

        Args:
            plan: The encoder's parts.
            tasks: Their names.
            n_shared: Experts of all tasks at each level.
            n_private: Experts of each task at each level.
            n_levels: How often experts are mixed; None for one level per stage, or two of mlps.
            gate: Makes a task's gate from the width of what it reads and the number of experts.
        """
        stem = plan.stem()
        groups = self._stages(plan, n_levels) if self.experts == "stages" else self._perceptrons(plan, n_levels or 2)
        common = [] if self.experts == "stages" else [plan.stage(i) for i in range(plan.n_stages)]
        specs = list(plan.specs[: len(common) + 1])
        levels = []
        for number, group in enumerate(groups, 1):
            joint = number < len(groups) and n_shared > 0
            levels.append(Level(plan, tasks, number, specs[-1], [m for m, _ in group], n_shared, n_private, joint, gate))
            specs += [spec for _, spec in group]
        return ExpertTrunk(stem, common, levels, specs, tasks, self.balance)

    def _stages(self, plan: TrunkPlan, n_levels: int | None) -> list[list[Step]]:
        """The stages, as evenly as can be in groups: makers of copies, and the specs of what they give."""
        n_levels = n_levels or plan.n_stages
        if n_levels > plan.n_stages:
            mend = f"Give at most {plan.n_stages}, or experts: mlp."
            what = f"{n_levels} levels of experts, but the encoder has {plan.n_stages} stages"
            raise PolytaskError(what, where=f"sharing {self.kind}", mend=mend)
        cuts = [plan.n_stages * level // n_levels for level in range(n_levels + 1)]
        stages: list[Step] = [(partial(plan.stage, i), plan.specs[i + 1]) for i in range(plan.n_stages)]
        return [stages[start:end] for start, end in pairwise(cuts)]

    def _perceptrons(self, plan: TrunkPlan, n_levels: int) -> list[list[Step]]:
        """One perceptron for each level."""
        groups: list[list[Step]] = []
        spec = plan.specs[-1]
        for number in range(1, n_levels + 1):
            build = partial(Perceptron, spec, self.hidden or (spec.width,), self.dropout)
            spec = replace(spec, width=self.hidden[-1] if self.hidden else spec.width)
            groups.append([(partial(_own, plan, number, build), spec)])
        return groups


class ExpertTrunk(SharedTrunk):
    """A stem, stages that all tasks share if experts are perceptrons, and levels of experts."""

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {"gates": ("task", "expert"), "gate of the shared experts": ("expert",)}

    def __init__(
        self,
        stem: nn.Module,
        common: Sequence[nn.Module],
        levels: Sequence[Level],
        specs: Sequence[FeatureSpec],
        tasks: Sequence[str],
        balance: float,
    ) -> None:
        super().__init__()
        self.stem, self.common, self.levels = stem, nn.ModuleList(common), nn.ModuleList(levels)
        self.specs, self.tasks, self.balance = tuple(specs), tuple(tasks), balance

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        outputs: StageOutputs = (self.stem(inputs),)
        for stage in self.common:
            outputs = (*outputs, stage(outputs[-1]))
        for gate in self._gates():
            gate.forget()
        own, shared = dict.fromkeys(self.tasks, outputs), outputs[-1]
        for index, level in enumerate(self.levels):
            joint = any(later.joint is not None for later in self.levels[index + 1 :])
            wanted = self.tasks if joint else tasks
            mixed, shared = level({task: parts[-1] for task, parts in own.items()}, shared, wanted)
            own = {task: (*own[task], *parts) for task, parts in mixed.items()}
        return {task: own[task] for task in tasks}

    def penalty(self) -> Tensor | None:
        costs = [gate.cost for gate in self._gates() if gate.cost is not None]
        if self.balance:
            costs += [self.balance * level.imbalance() for level in self._levels()]
        return torch.stack(costs).sum() if costs else None

    def diagnostics(self) -> dict[str, Tensor]:
        """The mean weight of every expert in the last training passes, a row per task: its own experts, then the shared ones.

        Where there are several levels it is told of each, and with which weights it mixes all experts, the shared ones first,
        for the shared experts of the next.
        """
        told: dict[str, Tensor] = {}
        for number, level in enumerate(self._levels(), 1):
            where = f", level {number}" if len(self.levels) > 1 else ""
            told[f"gates{where}"] = torch.stack([level.gate_of(task).use() for task in self.tasks])
            if level.joint is not None:
                told[f"gate of the shared experts{where}"] = level.joint.use()
        return told

    def _levels(self) -> Iterator[Level]:
        return (level for level in self.levels if isinstance(level, Level))

    def _gates(self) -> Iterator[Gate]:
        return (module for module in self.levels.modules() if isinstance(module, Gate))


class Level(nn.Module):
    """Shared experts, experts of each task, and gates that mix them.

    Attributes:
        joint: The gate that mixes all experts for the shared experts of the next level; None where there are none.
    """

    def __init__(
        self,
        plan: TrunkPlan,
        tasks: Sequence[str],
        number: int,
        spec: FeatureSpec,
        makers: Sequence[Maker],
        n_shared: int,
        n_private: int,
        joint: bool,
        gate: GateMaker,
    ) -> None:
        super().__init__()
        self.spec, self.n_private = spec, n_private

        def experts(n: int, whose: str = "") -> nn.ModuleList:
            names = [f"expert {i + 1}{whose}" for i in range(n)]
            return nn.ModuleList(nn.ModuleList(make(name) for make in makers) for name in names)

        def make_gate() -> nn.Module:
            return gate(spec.width, n_private + n_shared)

        self.shared = experts(n_shared)
        self.private = nn.ModuleDict({module_key(task): experts(n_private, f" of {task}") for task in tasks})
        self.gates = nn.ModuleDict({module_key(task): plan.own(f"gate {number} of {task}", make_gate) for task in tasks})
        self.joint: Gate | None = None
        if joint:
            sizes = {"shared": n_shared} | dict.fromkeys(map(module_key, tasks), n_private)
            builders = {whose: partial(scores, spec.width, n) for whose, n in sizes.items()}
            self.joint = SoftmaxGate({whose: plan.own(f"joint gate {number} for {whose}", b) for whose, b in builders.items()})

    def gate_of(self, task: str) -> Gate:
        """The gate of a task."""
        gate = self.gates[module_key(task)]
        assert isinstance(gate, Gate)
        return gate

    def forward(
        self, own: Mapping[str, Features], shared: Features, tasks: Sequence[str]
    ) -> tuple[dict[str, StageOutputs], Features]:
        """What each of ``tasks`` is given, stage by stage, and what the shared experts of the next level read.

        Args:
            own: What the experts and the gate of each task read.
            shared: What the shared experts read.
            tasks: Those that are given something.
        """
        common = [_outputs(expert, shared) for expert in self.shared]
        private = {
            task: [_outputs(expert, own[task]) for expert in self.private[module_key(task)]]  # type: ignore[attr-defined]
            for task in (tasks if self.joint is None else own)
        }
        mixed = {}
        for task in tasks:
            weights = self.gate_of(task)(pooled(own[task], self.spec))
            mixed[task] = tuple(mixture(weights, parts) for parts in zip(*private[task], *common, strict=True))
        if self.joint is not None:
            ends = [outputs[-1] for outputs in (*common, *(outputs for each in private.values() for outputs in each))]
            shared = mixture(self.joint(pooled(shared, self.spec)), ends)
        return mixed, shared

    def imbalance(self) -> Tensor:
        """The squared coefficient of variation of the experts' use, in units of what it would be if gates used all alike."""
        means = torch.stack([gate.mean() for gate in self._task_gates()])
        joint = None if self.joint is None else self.joint.mean()
        alike = None if joint is None else torch.full_like(joint, 1 / len(joint))
        ratio = self._by_expert(means, joint) / self._by_expert(torch.full_like(means, 1 / means.shape[1]), alike)
        return ratio.var(correction=0) / ratio.mean() ** 2

    def _by_expert(self, means: Tensor, joint: Tensor | None) -> Tensor:
        """The sum of all gates' weights of each expert, the shared ones first, then those of one task after the other."""
        use = torch.cat([means[:, self.n_private :].sum(0), means[:, : self.n_private].flatten()])
        return use if joint is None else use + joint

    def _task_gates(self) -> Iterator[Gate]:
        return (gate for gate in self.gates.values() if isinstance(gate, Gate))


class Perceptron(nn.Module):
    """Layers of linear, ReLU and dropout on every vector of a sequence or map for itself."""

    def __init__(self, spec: FeatureSpec, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        widths = pairwise([spec.width, *hidden])
        self.layers = nn.Sequential(*(part for n, m in widths for part in (nn.Linear(n, m), nn.ReLU(), nn.Dropout(dropout))))
        self.axis = (1 if spec.members == 1 else 2) if spec.kind == "map" else -1

    def forward(self, features: Features) -> Features:
        return features._replace(tensor=self.layers(features.tensor.movedim(self.axis, -1)).movedim(-1, self.axis))


def _outputs(expert: nn.Module, features: Features) -> StageOutputs:
    outputs: StageOutputs = ()
    for stage in expert:  # type: ignore[attr-defined]
        features = stage(features)
        outputs = (*outputs, features)
    return outputs


def _own(plan: TrunkPlan, number: int, build: Callable[[], nn.Module], name: str) -> nn.Module:
    return plan.own(f"level {number}, {name}", build)

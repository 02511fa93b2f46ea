"""Learning to branch: a tree of shared stages that is learned with the weights, and then frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from polytask.batch import Features, Inputs
from polytask.encoder import TrunkPlan
from polytask.sharing import SharedTrunk, Sharing, StageOutputs, module_key
from polytask.sharings._paths import walked


class Branching(Sharing):
    """Every stage has several copies; each copy learns from which copy of the stage before it reads, and each task from which.

        stem --+-- stage 0, copy 1 --+-----+-- stage 1, copy 1 --+------- price
               |                     ?     |                     ?
               +-- stage 0, copy 2 --+-----+-- stage 1, copy 2 --+------- grade      ?: which one?

    While the tree is learned, a step draws a parent for every copy and every task, from probabilities that are learned with
    the weights by the straight-through Gumbel-softmax: the network of that step is a tree, its gradient that of a mixture. Then
    the most probable tree is frozen, and its weights are trained on. What answers, in validation too, is always the most
    probable tree, and with it that of the epoch that is kept.

    It has ``copies`` times the parameters of hard sharing, and a step takes that many times its time while the tree is
    learned; afterwards a step takes the time of the tree. Copies that no task uses stay in the file: ``branches()`` of the
    trunk gives the tree as the scheme ``tree`` takes it, which does not have them.

    The paper trains the tree that it finds once more from new weights, where here training goes on. The temperature falls by
    the same factor in every step, as Jang 2017 does it.

    Args:
        copies: Of every stage, the most branches that there can be.
        steps: Training steps until the tree is frozen; where training ends before, the most probable tree answers.
        warmup: The share of these steps in which parents are drawn evenly, for the copies have to learn something first.
        temperature: Of the Gumbel-softmax in the first step; the higher, the more alike are the parents in the gradient.
        last_temperature: In the last of these steps.
        speed: How many times faster the probabilities' logits move than a weight, which in the time of a training moves too
            little to decide.

    Example:
        >>> choice = Choice(3, speed=50.0)
        >>> choice.probabilities()
        tensor([0.3333, 0.3333, 0.3333])
    """

    paper: ClassVar[str] = "Guo 2020, arXiv:2006.01895, section 3; the schedule: Jang 2017, arXiv:1611.01144, section 2.2"
    copies: int = Field(default=3, ge=1)
    steps: int = Field(default=1000, ge=0)
    warmup: float = Field(default=0.1, ge=0, le=1)
    temperature: float = Field(default=5.0, gt=0)
    last_temperature: float = Field(default=0.5, gt=0)
    speed: float = Field(default=20.0, gt=0)

    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        return BranchingTrunk(plan, tasks, self)


class Choice(nn.Module):
    """One of ``n`` parents, with learned probabilities.

    Attributes:
        frozen: The parent that was chosen for good; -1 before.
    """

    frozen: Tensor

    def __init__(self, n: int, speed: float) -> None:
        super().__init__()
        self.speed = speed
        self.scores = nn.Parameter(torch.zeros(n))
        self.register_buffer("frozen", torch.tensor(-1))

    def forward(self, temperature: float, learning: bool) -> Float[Tensor, " n"]:
        """Weights of the parents: 1 for a drawn one, with the gradient of a softmax at this temperature."""
        logits = self.speed * learning * self.scores
        noisy = logits - torch.empty_like(logits).exponential_().log()
        soft = (noisy / temperature).softmax(0)
        # soft minus itself is zero to the bit; only its gradient is left
        return nn.functional.one_hot(noisy.argmax(), len(noisy)) + (soft - soft.detach())

    def probabilities(self) -> Float[Tensor, " n"]:
        """The probability of each parent."""
        return (self.speed * self.scores.detach()).softmax(0)

    def best(self) -> Tensor:
        """The parent that was frozen, else the most probable one."""
        return torch.where(self.frozen < 0, self.scores.detach().argmax(), self.frozen)


class BranchingTrunk(SharedTrunk):
    """Copies of every stage, a choice of parent for each beyond the first stage, and one for each task.

    Attributes:
        copies: Per stage its copies.
        parents: Per stage but the first, the choices of its copies.
        leaves: Per task the choice among the copies of the last stage.
        passes: Training passes through the trunk so far, a buffer.
    """

    passes: Tensor

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "parents of tasks": ("task", "copy"),
        "parents of stage": ("copy", "copy"),
        "tree": ("task", "stage"),
    }

    def __init__(self, plan: TrunkPlan, tasks: Sequence[str], spec: Branching) -> None:
        super().__init__()
        self.specs, self.tasks, self.spec = plan.specs, tuple(tasks), spec
        n, stages = spec.copies, range(plan.n_stages)
        self.stem = plan.stem()
        self.copies = nn.ModuleList(nn.ModuleList(plan.stage(i, f"copy {j}") for j in range(n)) for i in stages)

        def choice(name: str) -> nn.Module:
            return plan.own(name, lambda: Choice(n, spec.speed))

        self.parents = nn.ModuleList(nn.ModuleList(choice(f"parent of {i}, {j}") for j in range(n)) for i in stages[1:])
        self.leaves = nn.ModuleDict({module_key(task): choice(f"leaf of {task}") for task in tasks})
        self.register_buffer("passes", torch.tensor(0))
        self.settled: dict[str, list[int]] = {}

    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        stem = self.stem(inputs)
        if self.training:
            done = int(self.passes)
            self.passes += 1
            if done < self.spec.steps:
                return self._drawn(stem, tasks, done / self.spec.steps)
            if done == self.spec.steps:
                self._freeze()
        return walked(stem, {task: self._path(path) for task, path in self.tree(tasks).items()})

    def tree(self, tasks: Sequence[str]) -> dict[str, list[int]]:
        """The copies of the stages that each task goes through in the most probable tree, or the one that was frozen."""
        if self.settled:
            return {task: self.settled[task] for task in tasks}
        leaves = _best(self._leaf(task) for task in tasks)
        parents = [_best(cast("Iterable[Choice]", choices)) for choices in self.parents]
        return {task: _upward(leaf, parents) for task, leaf in zip(tasks, leaves, strict=True)}

    def settle(self) -> None:
        self.settled = self.tree(self.tasks)

    def branches(self) -> dict[int, list[list[str]]]:
        """This tree as the scheme ``tree`` takes it."""
        paths, found = self.tree(self.tasks), {}
        before = [list(self.tasks)]
        for stage in range(len(self.copies)):
            ways = dict.fromkeys(tuple(path[: stage + 1]) for path in paths.values())
            groups = [[task for task in self.tasks if tuple(paths[task][: stage + 1]) == way] for way in ways]
            if parted := [group for group in groups if group not in before]:
                found[stage] = parted
            before = groups
        return found

    def diagnostics(self) -> dict[str, Tensor]:
        """How probable each parent is, of tasks ``[T, n]`` and of copies ``[n, n]``; the tree: a copy per task and stage."""
        found = {"parents of tasks": torch.stack([self._leaf(task).probabilities() for task in self.tasks])}
        for i, choices in enumerate(self.parents):
            every = cast("Iterable[Choice]", choices)
            found[f"parents of stage {i + 1}"] = torch.stack([choice.probabilities() for choice in every])
        return found | {"tree": torch.tensor(list(self.tree(self.tasks).values()))}

    def _drawn(self, stem: Features, tasks: Sequence[str], progress: float) -> dict[str, StageOutputs]:
        """The outputs in a tree that is drawn for this step."""
        spec = self.spec
        temperature = spec.temperature * (spec.last_temperature / spec.temperature) ** progress
        learning = progress >= spec.warmup
        ways: list[StageOutputs] = [(stem,)] * spec.copies
        for i, copies in enumerate(self.copies):
            if i:
                choices = cast("Iterable[Choice]", self.parents[i - 1])
                ways = [_mixed(choice(temperature, learning), ways) for choice in choices]
            ways = [(*way, stage(way[-1])) for way, stage in zip(ways, cast("nn.ModuleList", copies), strict=True)]
        return {task: _mixed(self._leaf(task)(temperature, learning), ways) for task in tasks}

    @torch.no_grad()
    def _freeze(self) -> None:
        for choice in self.modules():
            if isinstance(choice, Choice):
                choice.frozen.copy_(choice.best())

    def _path(self, path: Sequence[int]) -> list[nn.Module]:
        return [cast("nn.ModuleList", copies)[j] for copies, j in zip(self.copies, path, strict=True)]

    def _leaf(self, task: str) -> Choice:
        return cast("Choice", self.leaves[module_key(task)])


def _best(choices: Iterable[Choice]) -> list[int]:
    best: list[int] = torch.stack([choice.best() for choice in choices]).tolist()
    return best


def _upward(leaf: int, parents: Sequence[Sequence[int]]) -> list[int]:
    """The copies from the first stage's to a leaf of the last."""
    path = [leaf]
    for chosen in reversed(parents):
        path.insert(0, chosen[path[0]])
    return path


def _mixed(weights: Float[Tensor, " n"], ways: Sequence[StageOutputs]) -> StageOutputs:
    """The outputs on several ways, weighted; what all have in common stays as it is."""
    return tuple(
        each[0]
        if all(part is each[0] for part in each)
        else Features(torch.tensordot(weights, torch.stack([part.tensor for part in each]), 1), each[0].mask)
        for each in zip(*ways, strict=True)
    )

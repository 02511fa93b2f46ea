"""What is kept beside a network's weights while it trains: buffers as they were, a moving average, a copy of the best."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polytask.reading import Reads, with_read
from polytask.sharing import module_key

Weights = dict[str, Tensor]
Chosen = tuple[tuple[str, ...], Mapping[str, Tensor]]  # some tasks, and the weights that they answer with
MIN_GAIN = 1e-3


class Buffers:
    """A network's buffers, such as batch statistics, as they were before a step.

    All are copied each time: batch norm writes to its own without a trace in their version.
    """

    def __init__(self, network: nn.Module) -> None:
        self.places = [(module._buffers, name) for module in network.modules() for name in module._buffers]
        self.kept: list[Tensor | None] = []
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are now."""
        now = [buffers[name] for buffers, name in self.places]
        there = [tensor for tensor in now if tensor is not None]
        if len(now) != len(self.kept) or any(one is not two for one, two in zip(now, self.kept, strict=True)):
            self.kept, self.copies = now, [tensor.clone() for tensor in there]
        elif there:
            torch._foreach_copy_(self.copies, there)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them what they were when they were kept."""
        for (buffers, name), tensor in zip(self.places, self.kept, strict=True):
            buffers[name] = tensor
        for tensor, copy in zip((tensor for tensor in self.kept if tensor is not None), self.copies, strict=True):
            tensor.copy_(copy)


class Average:
    """An exponential moving average of a network's weights, beside them.

    Buffers such as batch statistics stay the network's own. The decay at step t, from 1, is the smaller of ``decay`` and (1 +
    t) / (10 + t), so that the initial weights are soon forgotten (Tan and Le 2019 and TensorFlow's ExponentialMovingAverage
    do the same).
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = list(weights)
        self.averages = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averages, list(self.weights), 1 - decay)

    @torch.no_grad()
    def take(self, parameters: Sequence[nn.Parameter]) -> None:
        """Forget what those of its weights were that are among these."""
        chosen = set(map(id, parameters))
        for weight, average in zip(self.weights, self.averages, strict=True):
            if id(weight) in chosen:
                average.copy_(weight)

    @torch.no_grad()
    def restore(self, steps: int, averages: Sequence[Tensor]) -> None:
        """Go on from these."""
        self.steps = steps
        torch._foreach_copy_(self.averages, [average.to(self.averages[0].device) for average in averages])

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights and their average; twice is as before."""
        for weight, average in zip(self.weights, self.averages, strict=True):
            weight.data, average.data = average.data, weight.data


@dataclass(frozen=True)
class Judged:
    """Tasks whose weights are chosen together: those of the epoch with the least mean validation loss of the ``judges``.

    Without judges they are those of the last epoch.
    """

    tasks: tuple[str, ...]
    judges: tuple[str, ...]

    def mean(self, losses: Mapping[str, float]) -> float:
        """The mean loss of the judges; infinite where one is missing."""
        return sum(losses.get(task, math.inf) for task in self.judges) / max(len(self.judges), 1)


class Best:
    """The weights of the best epoch so far, for each group of tasks; groups of the same epoch have one copy.

    Args:
        groups: Of all tasks that are chosen for.
        apart: Whether these share nothing with any other task: then only what is theirs is kept.
        reads: What each task reads; a task answers with what it reads of the same epoch.

    Attributes:
        epochs: Per group its best epoch, None before the first; up to 0 are those that it began with.
    """

    def __init__(self, groups: Sequence[Judged], apart: bool = False, reads: Reads | None = None) -> None:
        self.groups, self.reads = tuple(groups), reads or {}
        self.own = {task for group in groups for task in group.tasks} if apart else None
        self.epochs: list[int | None] = [None] * len(self.groups)
        self.losses = [math.inf] * len(self.groups)
        self.marks = list(self.losses)
        self.weights: dict[int, Weights] = {}

    def offer(self, epoch: int, losses: Mapping[str, float], network: nn.Module) -> tuple[str, ...]:
        """Keep the network's weights for the groups whose validation loss is lower than before; the tasks of these groups."""
        better: list[str] = []
        for index, group in enumerate(self.groups):
            loss = group.mean(losses)
            if loss < self.losses[index] or not group.judges:
                self.losses[index], self.epochs[index] = loss, epoch
                better += group.tasks
        if better:
            candidates = {**self.weights, epoch: copied(network, self.own)}
            self.weights = {number: self._needed(number, candidates) for number in candidates if number in self.epochs}
        return tuple(better)

    def _needed(self, number: int, candidates: Mapping[int, Weights]) -> Weights:
        """An epoch's weights without the heads of tasks that answer with another's: of many tasks these are the most."""
        latest = number == max(candidates)  # goes on also with those that never had a finite loss
        pairs = zip(self.groups, self.epochs, strict=True)
        split = [(group.tasks, own == number or (latest and own is None)) for group, own in pairs]
        needed = with_read([task for tasks, mine in split if mine for task in tasks], self.reads)
        dropped = {module_key(task) for tasks, mine in split if not mine for task in tasks if task not in needed}
        return {key: value for key, value in candidates[number].items() if _head_of(key) not in dropped}

    def gained(self) -> bool:
        """Whether the best losses fell since this was last True: by a thousandth of themselves, on average over the groups.

        Less is noise, of which many groups have some in every epoch. Without validation rows there is always hope.
        """
        pairs = list(zip(self.marks, self.losses, strict=True))
        first = any(math.isinf(mark) and not math.isinf(loss) for mark, loss in pairs)
        falls = [(mark - loss) / abs(mark) for mark, loss in pairs if loss < mark and not math.isinf(mark) and mark != 0]
        gained = first or not any(group.judges for group in self.groups) or sum(falls) / len(pairs) >= MIN_GAIN
        self.marks = list(self.losses) if gained else self.marks
        return gained

    def chosen(self) -> list[Chosen]:
        """The tasks of each epoch that is best for some, with its weights.

        A group that never had a finite loss goes with the latest of these epochs.
        """
        if not self.weights:
            return []
        tasks: dict[int, tuple[str, ...]] = {}
        for epoch, group in zip(self.epochs, self.groups, strict=True):
            number = max(self.weights) if epoch is None else epoch
            tasks[number] = (*tasks.get(number, ()), *group.tasks)
        return [(names, self.weights[epoch]) for epoch, names in sorted(tasks.items())]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on."""
        losses, marks = ([None if math.isinf(loss) else loss for loss in each] for each in (self.losses, self.marks))
        weights = {str(epoch): kept for epoch, kept in self.weights.items()}
        return {"epochs": self.epochs, "losses": losses, "marks": marks, "weights": weights}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self.epochs = list(saved["epochs"])
        self.losses, self.marks = ([math.inf if loss is None else loss for loss in saved[key]] for key in ("losses", "marks"))
        self.weights = {int(epoch): dict(weights) for epoch, weights in saved["weights"].items()}


class Course:
    """Tasks whose training ends together: all, or where nothing is shared each for itself.

    Args:
        tasks: These.
        best: Their best weights.

    Attributes:
        waited: Epochs without an improvement.
        ended: Whether their weights stay as they are from now on.
    """

    def __init__(self, tasks: Sequence[str], best: Best) -> None:
        self.tasks, self.best = tuple(tasks), best
        self.waited, self.ended = 0, False

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on."""
        return {"best": self.best.state_dict(), "waited": self.waited, "ended": self.ended}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self.best.load_state_dict(saved["best"])
        self.waited, self.ended = saved["waited"], saved["ended"]


def _head_of(key: str) -> str:
    """The module key of the task whose head a weight belongs to; empty for the trunk's."""
    part, _, rest = key.partition(".")
    return rest.partition(".")[0] if part == "heads" else ""


def copied(network: nn.Module, tasks: Collection[str] | None = None) -> Weights:
    """A copy of all weights and buffers, or of those that belong to these tasks alone."""
    keys = None if tasks is None else {module_key(task) for task in tasks}
    return {
        key: value.detach().clone()
        for key, value in network.state_dict().items()
        if keys is None or not keys.isdisjoint(key.split("."))
    }

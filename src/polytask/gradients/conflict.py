"""Whether the tasks' gradients of the shared parameters agree, looked at now and then while a network trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from polytask.gradients.graph import gradients_where_trained

MAX_TASKS = 16  # at one look: a backward pass and a gradient in memory each
MAX_NUMBERS = 2**26  # of these gradients: 256 MB in float32

Gradients = tuple[Tensor | None, ...]


class Pair(NamedTuple):
    """The gradients of two tasks: their cosine, the norm of the first divided by that of the second, over how many looks."""

    cosine: float
    ratio: float
    looks: int = 1


@dataclass(frozen=True)
class Agreement:
    """How far task gradients of the shared parameters agree: means over looks.

    The cosine with the mean depends on the number T of tasks: T gradients of one size that have nothing to do with each other
    have 1/sqrt(T), which is 0.71 for two and 0.30 for eleven. So it is read against that, in ``relative``: 1 for unrelated
    gradients of one size, sqrt(T) for gradients that are all the same; where it is below 1 gradients conflict, or their sizes
    differ. What it would be for unit gradients is in ``turned``, so that the two reasons can be told apart.

    Attributes:
        looks: How many.
        cosine: Of the task gradients with their mean, over the tasks.
        unrelated: What that is for unrelated gradients of one size.
        tasks: This cosine of each task.
        pairs: Of two tasks, the earlier first; the mean of the norm ratio is the geometric one. With more than MAX_TASKS tasks,
            of the pairs that were looked at together.
    """

    looks: int = 0
    cosine: float = math.nan
    unrelated: float = math.nan
    tasks: Mapping[str, float] = field(default_factory=dict)
    pairs: Mapping[str, Mapping[str, Pair]] = field(default_factory=dict)

    @property
    def relative(self) -> float:
        """The cosine with the mean divided by that of unrelated gradients."""
        return self.cosine / self.unrelated

    @property
    def turned(self) -> float:
        """What ``relative`` would be for gradients of one size: sqrt(1 + (T - 1) c), with c the mean cosine of two tasks."""
        mean = sum(self.cosines.values()) / max(1, len(self.cosines))
        return math.sqrt(max(0.0, 1 + (self.unrelated**-2 - 1) * mean))

    @property
    def cosines(self) -> dict[tuple[str, str], float]:
        """The cosine of each pair."""
        return {(one, other): pair.cosine for one, others in self.pairs.items() for other, pair in others.items()}

    @property
    def ratios(self) -> dict[tuple[str, str], float]:
        """The norm ratio of each pair, the larger gradient's task first, so that it is at least 1."""
        found = {(one, other): pair.ratio for one, others in self.pairs.items() for other, pair in others.items()}
        return {pair if ratio >= 1 else pair[::-1]: max(ratio, 1 / ratio) for pair, ratio in found.items()}

    @property
    def conflicting(self) -> float:
        """The share of the pairs whose cosine is below 0; nan where there is no pair."""
        cosines = self.cosines.values()
        return sum(cosine < 0 for cosine in cosines) / len(cosines) if cosines else math.nan

    def to_dict(self) -> dict[str, Any]:
        """As plain values; empty where there was no look.

        Numbers have four digits, and there are no more pairs than were looked at: at most 120 a look, however many tasks.
        """
        if not self.looks:
            return {}
        pairs = {a: {b: [_short(c), _short(r), n] for b, (c, r, n) in others.items()} for a, others in self.pairs.items()}
        tasks = {task: _short(cosine) for task, cosine in self.tasks.items()}
        return asdict(self) | {
            "cosine": _short(self.cosine),
            "unrelated": _short(self.unrelated),
            "tasks": tasks,
            "pairs": pairs,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Agreement:
        """The agreement of ``to_dict()``."""
        pairs = {one: {other: Pair(*pair) for other, pair in others.items()} for one, others in values.get("pairs", {}).items()}
        return cls(**{**values, "pairs": pairs})

    @classmethod
    def mean(cls, parts: Iterable[Agreement]) -> Agreement:
        """The mean of several, each by its looks, and pairs by theirs."""
        sums = _Sums()
        for part in parts:
            sums.add(part)
        return sums.mean()


class _Sums:
    """Sums over looks, as plain values."""

    def __init__(self) -> None:
        self.looks = 0
        self.whole = [0.0, 0.0]  # cosine and unrelated
        self.tasks: dict[str, list[float]] = {}  # cosine, looks
        self.pairs: dict[str, dict[str, list[float]]] = {}  # cosine, log ratio, looks

    def add(self, part: Agreement) -> None:
        n = part.looks
        if not n:
            return
        self.looks += n
        self.whole = [self.whole[0] + n * part.cosine, self.whole[1] + n * part.unrelated]
        for task, cosine in part.tasks.items():
            _increase(self.tasks.setdefault(task, [0.0, 0.0]), n * cosine, n)
        for one, others in part.pairs.items():
            for other, (cosine, ratio, m) in others.items():
                _increase(self.pairs.setdefault(one, {}).setdefault(other, [0.0] * 3), m * cosine, m * math.log(ratio), m)

    def mean(self) -> Agreement:
        if not self.looks:
            return Agreement()
        cosine, unrelated = (value / self.looks for value in self.whole)
        tasks = {task: total / n for task, (total, n) in self.tasks.items()}
        pairs = {
            a: {b: Pair(c / n, math.exp(r / n), int(n)) for b, (c, r, n) in others.items()} for a, others in self.pairs.items()
        }
        return Agreement(self.looks, cosine, unrelated, tasks, pairs)


class Conflicts:
    """Looks at the gradients of the tasks, and says how far they agree on the parameters that two or more of them reach.

    A look costs a backward pass per task, and the memory of their gradients: with T tasks, one every 100 steps costs T/100 of
    the backward passes of a training (2 % of the time of one of five tasks of 15,000 houses, a sixth of it for the products of
    the gradients and their norms). With more than ``MAX_TASKS`` tasks a look is at so many of them (fewer where their
    gradients would be more than ``MAX_NUMBERS`` numbers): half of them are of one block of tasks and half of another, and the
    blocks meet as in a round-robin tournament, so that each task has its turn in a round, and after as many rounds as there
    are blocks each pair has been looked at: 20 tasks after 6 looks, 500 after 2,016. A training with fewer looks than that
    leaves pairs out.

    Args:
        network: The network, or its parameters; which of them tasks share is found from the losses.

    Example:
        >>> w = nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> conflicts = Conflicts([w])
        >>> _ = conflicts.look({"left": 3 * w[0], "right": w[1] - w[0]})
        >>> seen = conflicts.taken()
        >>> seen.cosines, seen.ratios, seen.conflicting
        ({('left', 'right'): -0.7071}, {('left', 'right'): 2.1213}, 1.0)
        >>> seen.tasks, seen.relative
        ({'left': 0.8944, 'right': -0.3162}, 0.4089)
    """

    def __init__(self, network: nn.Module | Iterable[nn.Parameter]) -> None:
        parameters = network.parameters() if isinstance(network, nn.Module) else network
        self.parameters = [p for p in parameters if p.requires_grad]
        self.turn = 0
        self._sums = _Sums()

    def look(self, losses: Mapping[str, Tensor]) -> dict[str, Gradients]:
        """Take in the gradients of these losses, whose graphs are kept.

        A task whose gradient is not finite is as one that is not there; one whose gradient of the shared parameters is zero has
        no direction, and is left out too. Where fewer than two are left there is nothing to compare.

        Returns:
            The gradients of the tasks that were looked at, one per parameter, None where the task does not reach it.
        """
        most = min(MAX_TASKS, max(2, MAX_NUMBERS // max(1, sum(p.numel() for p in self.parameters))))
        able = [task for task, loss in losses.items() if loss.requires_grad] if self.parameters else []
        gradients: dict[str, Gradients] = {
            task: gradients_where_trained(losses[task], self.parameters) for task in in_turn(able, most, self.turn)
        }
        self.turn += 1
        self._sums.add(agreement(gradients))
        return gradients

    def taken(self) -> Agreement:
        """The mean over the looks since the last time, which are then forgotten."""
        found, self._sums = self._sums.mean(), _Sums()
        return found

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on."""
        return {"turn": self.turn, "sums": vars(self._sums)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self.turn = saved["turn"]
        vars(self._sums).update(saved["sums"])


def in_turn(tasks: Sequence[str], most: int, turn: int) -> list[str]:
    """At most so many of the tasks, in their order: two blocks of them, that meet as in a round-robin tournament.

    Example:
        >>> [in_turn("abcd", 2, turn) for turn in range(6)]
        [['a', 'd'], ['b', 'c'], ['b', 'd'], ['a', 'c'], ['c', 'd'], ['a', 'b']]
    """
    if len(tasks) <= most:
        return list(tasks)
    n = 2 * math.ceil(len(tasks) / (most // 2) / 2)  # blocks: an even number, so that each meets another in every round
    lap, place = divmod(turn, n // 2)
    one, other = ((lap + place) % (n - 1), (lap - place) % (n - 1)) if place else (n - 1, lap % (n - 1))
    return [task for index, task in enumerate(tasks) if index % n in (one, other)]


def agreement(gradients: Mapping[str, Gradients]) -> Agreement:
    """How far gradients agree at one look; without a look where fewer than two have a direction."""
    products = gramian(list(gradients.values()))
    finite = np.isfinite(products.diagonal())
    if not finite.all():  # what a task without a finite gradient shares with one other alone is not shared
        return agreement({task: row for (task, row), is_it in zip(gradients.items(), finite, strict=True) if is_it})
    norms = np.sqrt(products.diagonal())
    there = norms > 0
    names, norms = [task for task, is_it in zip(gradients, there, strict=True) if is_it], norms[there]
    n = len(names)
    if n < 2:
        return Agreement()
    cosines = np.clip(products[np.ix_(there, there)] / norms / norms[:, None], -1, 1)
    sizes = norms / norms.max()
    sums = cosines @ sizes  # the product of each unit gradient with the sum of all; of that sum the square is `square`
    square = float(sizes @ sums)
    with_mean = np.clip(sums / math.sqrt(square), -1, 1) if square > n**2 * np.finfo(float).eps else np.zeros(n)
    pairs = {
        one: {names[j]: Pair(float(cosines[i, j]), float(norms[i] / norms[j])) for j in range(i + 1, n)}
        for i, one in enumerate(names[:-1])
    }
    return Agreement(1, float(with_mean.mean()), n**-0.5, dict(zip(names, with_mean.tolist(), strict=True)), pairs)


def gramian(rows: Sequence[Gradients]) -> Float[NDArray[np.float64], "T T"]:
    """The inner products of gradients over the parameters that two or more of them reach, in float64."""
    total = np.zeros((len(rows), len(rows)))
    for column in zip(*rows, strict=True):
        reached = [i for i, gradient in enumerate(column) if gradient is not None]
        if len(reached) > 1:
            total[np.ix_(reached, reached)] += _products([g for g in column if g is not None])
    return total


def _products(gradients: Sequence[Tensor]) -> NDArray[np.float64]:
    stacked = torch.stack([gradient.detach().flatten() for gradient in gradients])
    exact = (stacked.cpu() if stacked.device.type == "mps" else stacked).double()  # mps has no float64
    return (exact @ exact.T).cpu().numpy()


def _increase(sums: list[float], *by: float) -> None:
    sums[:] = [value + more for value, more in zip(sums, by, strict=True)]


def _short(value: float) -> float:
    return float(f"{value:.4g}")

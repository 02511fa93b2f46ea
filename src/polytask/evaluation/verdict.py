"""Whether sharing helped a task: a verdict that admits what it cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from polytask.errors import PolytaskError
from polytask.evaluation.plain import Number
from polytask.intervals import LEVEL, Interval, PairedInterval, paired_interval

Verdict = Literal["helped", "hurt", "can't tell"]


def verdict(interval: Interval | PairedInterval) -> Verdict:
    """What an interval of the difference *multi-task loss minus single-task loss* says of sharing.

    Example:
        >>> verdict(Interval(-0.2, -0.1)), verdict(Interval(-0.1, 0.3)), verdict(Interval(0.1, 0.3))
        ('helped', "can't tell", 'hurt')
    """
    if interval.high < 0:
        return "helped"
    return "hurt" if interval.low > 0 else "can't tell"


@dataclass(frozen=True)
class TaskComparison:
    """One task trained together with the others, against the same task trained alone.

    Attributes:
        task: The task's name.
        alone: Mean normalized loss of the networks trained for it alone.
        together: Mean normalized loss of the networks trained for all tasks.
        change: ``together`` against ``alone`` in percent of ``alone``; negative is better.
        change_low: Lower end of its 95 % interval; nan where there is none.
        change_high: Upper end.
        verdict: Whether sharing helped; the interval holds 0 where that cannot be told.
        n_seeds: How many seeds were compared; with one the interval does not know how much another training would differ.
        p_value: How likely a difference at least so large is where there is none; nan where there is no interval.
        holds: Whether the verdict is more than "can't tell" also where all verdicts of a comparison are judged at once.
    """

    task: str
    alone: Number
    together: Number
    change: Number
    change_low: Number
    change_high: Number
    verdict: Verdict
    n_seeds: int
    p_value: Number = math.nan
    holds: bool = False


def compare_losses(task: str, alone: NDArray[np.float64], together: NDArray[np.float64]) -> TaskComparison:
    """Compare the losses of the same rows, ``[S, N]`` for S seeds and N rows.

    The verdict is on the difference itself; for the percentages its interval is divided by the mean loss alone, as if that were
    known exactly.

    Raises:
        PolytaskError: The two are not of one shape [S, N].

    Example:
        >>> alone = np.array([[1.0, 2.0, 3.0, 2.0], [1.0, 2.2, 2.8, 2.0]])
        >>> compared = compare_losses("price", alone, alone - [0.4, 0.5, 0.6, 0.5])
        >>> compared.change, compared.change_low, compared.change_high, compared.verdict
        (-25.0, -31.5, -18.5, 'helped')
    """
    if alone.shape != together.shape:
        found = f"{alone.shape} alone and {together.shape} together"
        raise PolytaskError("losses can be compared on the same seeds and rows only", where=f"task {task!r}", found=found)
    interval, reference = paired_interval(together - alone), float(alone.mean())
    percent = 100 / reference if reference > 0 else math.nan
    return TaskComparison(
        task=task,
        alone=reference,
        together=float(together.mean()),
        change=percent * interval.mean,
        change_low=percent * interval.low,
        change_high=percent * interval.high,
        verdict=verdict(interval),
        n_seeds=interval.n_seeds,
        p_value=interval.p_value,
    )


def judged_at_once(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several findings stand where the chance of a single wrong one among all is held to ``1 - level``.

    Holm 1979, Scandinavian Journal of Statistics 6(2): the k-th least of n is compared with (1 - level) / (n - k + 1), until
    one is larger. It holds however the findings depend on one another.

    Example:
        >>> judged_at_once([0.04, 0.001, 0.02])
        [True, True, True]
        >>> judged_at_once([0.04, 0.001, 0.03])
        [False, True, False]
    """
    order = sorted(range(len(p_values)), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    found = [False] * len(p_values)
    for rank, index in enumerate(order):
        if not p_values[index] <= (1 - level) / (len(order) - rank):
            break
        found[index] = True
    return found

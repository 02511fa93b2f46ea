"""Whether sharing helped a task: a verdict that admits what it cannot tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from polytask.errors import PolytaskError
from polytask.intervals import Interval, PairedInterval, paired_interval

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
    """

    task: str
    alone: float
    together: float
    change: float
    change_low: float
    change_high: float
    verdict: Verdict
    n_seeds: int


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
    )

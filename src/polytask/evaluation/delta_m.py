"""Delta-m: by how many percent a multi-task network is better than networks trained for one task each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polytask.errors import PolytaskError, listed
from polytask.evaluation.plain import Number


@dataclass(frozen=True)
class DeltaM:
    """The mean gain over single-task training in percent, under both conventions; positive is better than single-task.

    Attributes:
        by_metric: The mean over all metrics, so that a task with five of nine metrics has five ninths of the say. CAGrad,
            Nash-MTL, FAMO and most tables since print minus this number.
        by_task: The mean over tasks of the mean over each task's metrics. Maninis et al. and LibMTL print this number.
        per_task: The mean over each task's metrics; nan for a task that has none left.
        left_out: The metrics, as "task: metric", that have no gain: the baseline is 0, or a value is not finite.
    """

    by_metric: Number
    by_task: Number
    per_task: dict[str, Number]
    left_out: tuple[str, ...] = ()


def delta_m(
    multi: Mapping[str, Mapping[str, float]],
    single: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, Mapping[str, bool]],
) -> DeltaM:
    """Delta-m under both conventions.

    The gain of a metric is ``100 (M_multi - M_single) / |M_single|``, with its sign turned where lower is better. The papers
    divide by M_single itself, which is the same for their metrics and would turn the sign of a negative R2. A metric that is 0
    alone has no gain in percent: it is left out and named.

    By task: Maninis, Radosavovic and Kokkinos 2019, arXiv:1904.08918. By metric, with the opposite sign: Liu et al. 2023
    (FAMO), arXiv:2306.03792.

    Args:
        multi: Task to metric to value, of the multi-task network.
        single: The same of the networks trained alone.
        higher_is_better: Task to metric to whether more is better; it may know more than is compared.

    Raises:
        PolytaskError: The networks were not scored by the same metrics of the same tasks, or there is none.

    Example:
        >>> alone = {"depth": {"error": 0.5}, "classes": {"iou": 40.0, "accuracy": 50.0}}
        >>> together = {"depth": {"error": 0.4}, "classes": {"iou": 38.0, "accuracy": 50.0}}
        >>> delta_m(together, alone, {"depth": {"error": False}, "classes": {"iou": True, "accuracy": True}})
        DeltaM(by_metric=5.0, by_task=8.75, per_task={'depth': 20.0, 'classes': -2.5}, left_out=())
    """
    _check_same_metrics(multi, single)
    gains = {
        task: {name: _gain(multi[task][name], value, higher_is_better[task][name]) for name, value in metrics.items()}
        for task, metrics in single.items()
    }
    kept = {task: [gain for gain in of_task.values() if math.isfinite(gain)] for task, of_task in gains.items()}
    per_task = {task: _mean(of_task) for task, of_task in kept.items()}
    return DeltaM(
        by_metric=_mean([gain for of_task in kept.values() for gain in of_task]),
        by_task=_mean([gain for gain in per_task.values() if math.isfinite(gain)]),
        per_task=per_task,
        left_out=tuple(f"{task}: {name}" for task in gains for name, gain in gains[task].items() if not math.isfinite(gain)),
    )


def _gain(multi: float, single: float, higher_is_better: bool) -> float:
    if single == 0:
        return math.nan
    return 100 * (multi - single) / abs(single) * (1 if higher_is_better else -1)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _check_same_metrics(multi: Mapping[str, Mapping[str, float]], single: Mapping[str, Mapping[str, float]]) -> None:
    here, there = ({f"{task}: {name}" for task in values for name in values[task]} for values in (multi, single))
    if here != there:
        found = f"on one side only: {listed(sorted(here ^ there))}"
        raise PolytaskError(
            "Delta-m compares the same metrics of the same tasks", found=found, mend="Score both networks alike."
        )
    if not here:
        raise PolytaskError("Delta-m has no metric to compare", mend="Give at least one task a metric.")

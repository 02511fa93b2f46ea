"""What trainings gave, seed by seed, and what that says against each task alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from polytask.component import Component
from polytask.evaluation.comparison import Costs, Result
from polytask.evaluation.delta_m import DeltaM, delta_m
from polytask.evaluation.verdict import compare_losses, judged_at_once
from polytask.fitted import FittedTask

Losses = NDArray[np.float64]
Metrics = dict[str, dict[str, float]]


@dataclass
class Found:
    """What the trainings of one way to learn the tasks gave.

    Attributes:
        losses: Per task and seed the losses of the rows that judge, ``[N]`` each.
        validation: Likewise of the validation rows.
        metrics: Likewise the metrics on the rows that judge.
        seconds: Per seed.
    """

    losses: dict[str, list[Losses]] = field(default_factory=dict)
    validation: dict[str, list[Losses]] = field(default_factory=dict)
    metrics: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def until(self, n_seeds: int) -> Self:
        """What there was after so many seeds."""
        return type(self)(
            losses={task: runs[:n_seeds] for task, runs in self.losses.items()},
            validation={task: runs[:n_seeds] for task, runs in self.validation.items()},
            metrics={task: runs[:n_seeds] for task, runs in self.metrics.items()},
            seconds=self.seconds[:n_seeds],
        )

    def mean_metrics(self, seed: int | None = None) -> Metrics:
        """Per task its metrics: their means over the seeds, or those of one of them, by its place."""
        chosen = {task: runs if seed is None else [runs[seed]] for task, runs in self.metrics.items()}
        return {task: {name: float(np.mean([run[name] for run in runs])) for name in runs[0]} for task, runs in chosen.items()}


def result(
    name: str,
    found: Found,
    alone: Found,
    tasks: Sequence[FittedTask],
    differs: Mapping[str, Component] | None = None,
    costs: Costs | None = None,
) -> Result:
    """What was found, against each task alone.

    Args:
        name: Of the candidate.
        found: What its trainings gave; where nothing in it depends on a seed, of one.
        alone: What those of each task alone gave.
        tasks: All tasks that were judged.
        differs: In what its recipe differs from the run's.
        costs: Of its networks.
    """
    verdicts, gains, of_seeds = [], None, []
    if found is not alone:
        there = [fitted for fitted in tasks if fitted.task.name in found.losses]
        for task in (fitted.task.name for fitted in there):
            before = np.stack(alone.losses[task])
            verdicts.append(compare_losses(task, before, np.broadcast_to(np.stack(found.losses[task]), before.shape)))
        better = {fitted.task.name: _higher_is_better(fitted) for fitted in there}
        if len(there) == len(tasks) and any(better.values()):
            gains = _gains(found.mean_metrics(), alone.mean_metrics(), better)
            pairs = [(found.mean_metrics(seed), alone.mean_metrics(seed)) for seed in range(len(found.seconds))]
            of_seeds = [_gains(*pair, better) for pair in pairs]
    return Result(
        name=name,
        differs={part: component.to_dict() for part, component in (differs or {}).items()},
        losses={task: float(np.mean(np.stack(runs))) for task, runs in found.losses.items()},
        validation={task: float(np.mean(np.stack(runs))) for task, runs in found.validation.items()},
        metrics=found.mean_metrics(),
        n_trainings=len(found.seconds),
        seconds=round(float(np.mean(found.seconds)), 3),
        costs=costs,
        verdicts=tuple(verdicts),
        delta_m=gains,
        delta_m_of_seeds=tuple((gain.by_metric, gain.by_task) for gain in of_seeds),
    )


def with_holds(results: Sequence[Result]) -> list[Result]:
    """The results with what holds where all their verdicts are judged at once."""
    verdicts = [verdict for result in results for verdict in result.verdicts]
    holding = iter(judged_at_once([verdict.p_value for verdict in verdicts]))
    return [replace(one, verdicts=tuple(replace(verdict, holds=next(holding)) for verdict in one.verdicts)) for one in results]


def _gains(multi: Metrics, single: Metrics, better: Mapping[str, Mapping[str, bool]]) -> DeltaM:
    return delta_m(_only(multi, better), _only(single, better), better)


def _only(metrics: Metrics, wanted: Mapping[str, Mapping[str, bool]]) -> Metrics:
    return {task: {name: metrics[task][name] for name in names} for task, names in wanted.items()}


def _higher_is_better(fitted: FittedTask) -> dict[str, bool]:
    """The metrics of a task whose change in percent means something."""
    scorers = fitted.task.chosen_scorers(fitted.codec)
    return {name: scorer.higher_is_better for name, scorer in scorers.items() if scorer.is_ratio}

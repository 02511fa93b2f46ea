"""Did sharing help? Each task trained alone at the same budget, on the same split, over several seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.bundle import n_parameters
from polytask.errors import PolytaskError, listed
from polytask.evaluation.delta_m import DeltaM, delta_m
from polytask.evaluation.verdict import TaskComparison, compare_losses
from polytask.fitted import FittedTask
from polytask.fitting import metric_values, row_losses, train_bundle
from polytask.preparation import Prepared
from polytask.recipe import Recipe

Metrics = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Comparison:
    """Tasks trained together against each alone.

    Attributes:
        tasks: The verdict on each task, from the losses of the rows.
        metrics: Task, metric, mean over seeds alone and together.
        delta_m: The mean relative change of the metrics, by both conventions.
        seeds: The seeds of the trainings.
        n_rows: The rows that judged.
        judged_on: Their part of the data.
        parameters: Of the tasks' own networks in all, and of the one they share.
        seconds: For one seed, likewise.
    """

    tasks: tuple[TaskComparison, ...]
    metrics: tuple[tuple[str, str, float, float], ...]
    delta_m: DeltaM
    seeds: tuple[int, ...]
    n_rows: int
    judged_on: str
    parameters: tuple[int, int]
    seconds: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, None for what is not finite."""
        return dict(_finite(asdict(self)))

    def __str__(self) -> str:
        seeds = listed(self.seeds)
        width = max(4, *(len(task.task) for task in self.tasks))
        lines = [
            f"Loss on the {self.n_rows:,} {self.judged_on} rows, in units of the best constant's; mean over the seeds {seeds}.",
            f"{'task':<{width}}  {'alone':>8} {'together':>9}   {'change':>8}  {'95 % interval':<20} sharing",
        ]
        for task in self.tasks:
            span = f"{task.change_low:+.1f} % to {task.change_high:+.1f} %"
            losses = f"{task.alone:8.4f} {task.together:9.4f}   {task.change:+6.1f} %"
            lines.append(f"{task.task:<{width}}  {losses}  {span:<20} {task.verdict}")
        if len(self.seeds) == 1:
            lines.append("One seed only: the intervals do not know how much another training would differ.")
        name_width = max(len(name) for _, name, _, _ in self.metrics)
        lines += ["", f"{'task':<{width}}  {'metric':<{name_width}}  {'alone':>12} {'together':>12}"]
        lines += [f"{t:<{width}}  {m:<{name_width}}  {_number(alone)} {_number(both)}" for t, m, alone, both in self.metrics]
        lines += [
            "",
            f"Delta-m: {self.delta_m.by_metric:+.2f} % as a mean over metrics, {self.delta_m.by_task:+.2f} % over tasks;",
            "above zero, together is better. r2 and kappa are not counted: a change in percent of them means nothing.",
            *([f"Not counted: {listed(self.delta_m.left_out)}, for what alone scored."] if self.delta_m.left_out else []),
            f"{self.parameters[0]:,} parameters and {self.seconds[0]:.1f} s alone, "
            f"{self.parameters[1]:,} and {self.seconds[1]:.1f} s together (per seed).",
        ]
        return "\n".join(lines)


def compare(
    recipe: Recipe, prepared: Prepared, seeds: int = 3, on_fit: Callable[[str, int, int], None] | None = None
) -> Comparison:
    """Train all tasks together, and each alone, ``seeds`` times, and judge on the test rows.

    Alone means the same encoder, trainer, split and inputs, on the rows that have the task's label.

    Args:
        recipe: What to train.
        prepared: Its data.
        seeds: How many trainings of each; their seeds follow the recipe's.
        on_fit: Called before each training with its name, its number from 1, and how many there are.

    Raises:
        PolytaskError: There is one task only, or no held-out row to judge on.
    """
    names = [fitted.task.name for fitted in prepared.tasks]
    if len(names) < 2:
        raise PolytaskError("there is one task only, so nothing is shared", where="compare", mend="Give the recipe more tasks.")
    if seeds < 1:
        raise PolytaskError("at least one seed is needed", where="compare", found=str(seeds))
    judged_on = "test" if prepared.test.n_rows else "validation"
    data = prepared.test if prepared.test.n_rows else prepared.validation
    judged = [name for name in names if bool(data.present[name].any())]
    if not judged:
        raise PolytaskError("no row is held out to judge on", where="compare", mend="Give the split a share for test.")
    numbers = tuple(range(recipe.seed, recipe.seed + seeds))
    together, alone = _Trials(), _Trials()
    total, done = seeds * (1 + len(judged)), 0
    for seed in numbers:
        for trials, tasks in ((together, names), *((alone, [name]) for name in judged)):
            done += 1
            if on_fit is not None:
                on_fit(listed(tasks) if trials is alone else "all together", done, total)
            began = time.perf_counter()
            bundle, _ = train_bundle(recipe, prepared, tasks=tasks, seed=seed)
            trials.seconds += time.perf_counter() - began
            trials.parameters += n_parameters(bundle.model)
            rows = data.select([task for task in tasks if task in judged])
            trials.add(row_losses(bundle, rows), metric_values(bundle, rows))
    better = {f.task.name: _higher_is_better(f) for f in prepared.tasks if f.task.name in judged}
    both, single = together.mean_metrics(), alone.mean_metrics()
    gains = DeltaM(math.nan, math.nan, {})
    if any(better.values()):
        gains = delta_m(_only(both, better), _only(single, better), better)
    return Comparison(
        tasks=tuple(compare_losses(task, alone.losses_of(task), together.losses_of(task)) for task in judged),
        metrics=_metric_rows(judged, single, both),
        delta_m=gains,
        seeds=numbers,
        n_rows=data.n_rows,
        judged_on=judged_on,
        parameters=(alone.parameters // seeds, together.parameters // seeds),
        seconds=(round(alone.seconds / seeds, 3), round(together.seconds / seeds, 3)),
    )


class _Trials:
    """What was measured over the seeds."""

    def __init__(self) -> None:
        self.losses: dict[str, list[NDArray[np.float64]]] = {}
        self.metrics: dict[str, list[Mapping[str, float]]] = {}
        self.seconds, self.parameters = 0.0, 0

    def add(self, losses: Mapping[str, NDArray[np.float64]], metrics: Mapping[str, Mapping[str, float]]) -> None:
        for task, values in losses.items():
            self.losses.setdefault(task, []).append(values)
            self.metrics.setdefault(task, []).append(metrics[task])

    def losses_of(self, task: str) -> NDArray[np.float64]:
        return np.stack(self.losses[task])

    def mean_metrics(self) -> Metrics:
        return {task: {m: float(np.mean([run[m] for run in runs])) for m in runs[0]} for task, runs in self.metrics.items()}


def _metric_rows(tasks: Sequence[str], alone: Metrics, together: Metrics) -> tuple[tuple[str, str, float, float], ...]:
    return tuple((task, metric, alone[task][metric], together[task][metric]) for task in tasks for metric in alone[task])


def _only(metrics: Metrics, wanted: Mapping[str, Mapping[str, bool]]) -> Metrics:
    return {task: {name: metrics[task][name] for name in names} for task, names in wanted.items()}


def _higher_is_better(fitted: FittedTask) -> dict[str, bool]:
    """The metrics of a task whose change in percent means something."""
    scorers = fitted.task.chosen_scorers(fitted.codec)
    return {name: scorer.higher_is_better for name, scorer in scorers.items() if scorer.is_ratio}


def _finite(value: Any) -> Any:
    """Plain values as JSON may hold them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> str:
    """Five digits, as far as they lie before the point or the first four places behind it."""
    whole = len(f"{abs(value):.0f}") if abs(value) >= 1 else 1
    return f"{value:12,.{max(0, 5 - whole)}f}"

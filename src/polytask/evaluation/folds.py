"""k-fold cross-validation: every row judges once a network that has not seen it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polytask.errors import PolytaskError
from polytask.fitting import score, train_bundle
from polytask.preparation import prepare
from polytask.recipe import Recipe
from polytask.scores import Scores


@dataclass(frozen=True)
class FoldScore:
    """One metric of one task over the folds; nan where a fold could not tell.

    Attributes:
        values: The score of each fold.
        constant: The mean over folds of what the best constant prediction scores.
        higher_is_better: Whether more is better.
    """

    values: tuple[float, ...]
    constant: float
    higher_is_better: bool

    @property
    def mean(self) -> float:
        """The mean over the folds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """The standard deviation over the folds, as of a sample."""
        return float(np.std(self.values, ddof=1))


@dataclass(frozen=True)
class FoldScores:
    """What k-fold cross-validation found; printed as a table.

    Attributes:
        tasks: Task, metric, its scores.
        n_rows: The rows that judged each task, over all folds.
        n_folds: How many folds.
        notes: What was noticed while the data were prepared, each note once.
    """

    tasks: Mapping[str, Mapping[str, FoldScore]]
    n_rows: Mapping[str, int]
    n_folds: int
    notes: tuple[str, ...] = ()

    def __getitem__(self, task: str) -> Mapping[str, FoldScore]:
        return self.tasks[task]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, None for what is not finite."""
        tasks = {
            task: {
                metric: {
                    "values": [_plain(value) for value in found.values],
                    "mean": _plain(found.mean),
                    "deviation": _plain(found.deviation),
                    "constant": _plain(found.constant),
                    "higher_is_better": found.higher_is_better,
                }
                for metric, found in metrics.items()
            }
            for task, metrics in self.tasks.items()
        }
        return {"n_folds": self.n_folds, "n_rows": dict(self.n_rows), "tasks": tasks, "notes": list(self.notes)}

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("task", "metric", "mean", "sd", "worst fold", "best fold", "constant", "rows")]
        for task, metrics in self.tasks.items():
            for index, (metric, found) in enumerate(metrics.items()):
                ends = (min(found.values), max(found.values))
                worst, best = ends if found.higher_is_better else ends[::-1]
                numbers = map(_text, (found.mean, found.deviation, worst, best, found.constant))
                rows.append((task if index == 0 else "", metric, *numbers, f"{self.n_rows[task]:,}" if index == 0 else ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = [
            [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True))] for r in rows
        ]
        lines = ["  ".join(cells).rstrip() for cells in padded]
        lines.append(
            f"Over {self.n_folds} folds; sd is the standard deviation over them, constant the best constant prediction."
        )
        return "\n".join(lines)


def cross_validate(recipe: Recipe, folds: int = 5, on_fold: Callable[[int, int], None] | None = None) -> FoldScores:
    """Train ``folds`` networks, each on all rows but those of one fold, which judge it.

    The folds are stratified and grouped as the recipe's split says, and so is the validation part that each training draws
    from its rows. A source's own test part is left alone.

    Args:
        recipe: What to learn from what, and how.
        folds: How many, 2 at least.
        on_fold: Called before each training with its number from 1 and how many there are.

    Raises:
        PolytaskError: Fewer than two folds, fewer rows or groups than folds, or a split by time.
    """
    if folds < 2:
        raise PolytaskError("at least two folds are needed", where="folds", found=str(folds), mend="Ask for 5 or 10.")
    found: list[Scores] = []
    notes: dict[str, None] = {}
    for fold in range(folds):
        if on_fold is not None:
            on_fold(fold + 1, folds)
        prepared = prepare(recipe, (fold, folds))
        notes |= dict.fromkeys(prepared.notes)
        bundle, _ = train_bundle(recipe, prepared)
        found.append(score(bundle, prepared.test, recipe.seed, n_resamples=0))
    names = dict.fromkeys(task for scores in found for task in scores)
    return FoldScores(
        tasks={task: _over_folds([scores for scores in found if task in scores], task) for task in names},
        n_rows={task: sum(scores[task].n_rows for scores in found if task in scores) for task in names},
        n_folds=folds,
        notes=tuple(notes),
    )


def _over_folds(found: list[Scores], task: str) -> dict[str, FoldScore]:
    metrics = {}
    for metric, first in found[0][task].scores.items():
        scores = [fold[task].scores[metric] for fold in found]
        constant = float(np.mean([one.constant for one in scores]))
        metrics[metric] = FoldScore(tuple(one.value for one in scores), constant, first.higher_is_better)
    return metrics


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

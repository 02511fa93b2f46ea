"""k-fold cross-validation: every row judges once a network that has not seen it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from polytask.errors import PolytaskError, listed
from polytask.fitting import score, train_bundle, with_rows_that_fit
from polytask.preparation import Prepared, prepare
from polytask.recipe import Recipe
from polytask.scores import CAPTION, Scores, decimals_for, number_text
from polytask.training import Epoch, gradient_notes, left_out

HEADERS = ("task", "metric", "mean", "sd", "worst fold", "best fold", "constant", "folds", "rows")
N_NAMES = 2  # columns of text, at the left


@dataclass(frozen=True)
class FoldScore:
    """One metric of one task over the folds.

    Attributes:
        values: The score of each fold that has labels of the task; nan where it could not tell, as the ROC-AUC of one class.
        constants: What the best constant prediction scores there.
        higher_is_better: Whether more is better.

    Example:
        >>> score = FoldScore((0.5, 0.7, math.nan), (0.4, 0.4, 0.4), True)
        >>> score.mean, score.deviation, score.n_folds
        (0.6, 0.1414, 2)
    """

    values: tuple[float, ...]
    constants: tuple[float, ...]
    higher_is_better: bool

    @property
    def told(self) -> tuple[float, ...]:
        """The scores of the folds that could tell."""
        return tuple(value for value in self.values if math.isfinite(value))

    @property
    def n_folds(self) -> int:
        """How many folds could tell."""
        return len(self.told)

    @property
    def mean(self) -> float:
        """The mean over these folds; nan where there is none."""
        return float(np.mean(self.told)) if self.told else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation over these folds, as of a sample; nan where there are fewer than two."""
        return float(np.std(self.told, ddof=1)) if len(self.told) > 1 else math.nan

    @property
    def constant(self) -> float:
        """The mean over these folds of what the best constant prediction scores."""
        pairs = zip(self.constants, self.values, strict=True)
        there = [constant for constant, value in pairs if math.isfinite(value)]
        return float(np.mean(there)) if there else math.nan


@dataclass(frozen=True)
class FoldScores:
    """What k-fold cross-validation found; printed as a table.

    Attributes:
        tasks: Task, metric, its scores.
        n_rows: The rows that judged each task, over all folds.
        n_folds: How many folds.
        notes: What was noticed of the data and the trainings; what was not noticed in every fold says in which.
    """

    tasks: Mapping[str, Mapping[str, FoldScore]]
    n_rows: Mapping[str, int]
    n_folds: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, folds: Sequence[Scores], notes: Sequence[str] = ()) -> FoldScores:
        """The scores of each fold, put together by task and metric."""
        names = dict.fromkeys(task for scores in folds for task in scores)
        judged = {task: [scores[task] for scores in folds if task in scores] for task in names}
        return cls(
            tasks={
                task: {
                    metric: FoldScore(
                        tuple(fold.scores[metric].value for fold in found),
                        tuple(fold.scores[metric].constant for fold in found),
                        first.higher_is_better,
                    )
                    for metric, first in found[0].scores.items()
                }
                for task, found in judged.items()
            },
            n_rows={task: sum(fold.n_rows for fold in found) for task, found in judged.items()},
            n_folds=len(folds),
            notes=tuple(notes),
        )

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
        rows = [HEADERS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [f"{cell:{'<' if i < N_NAMES else '>'}{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
        lines += ["sd: the standard deviation over the folds.", CAPTION]
        return "\n".join(lines)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of the table; a task and its rows are named in its first line only."""
        for task, metrics in self.tasks.items():
            name, n_rows = task, f"{self.n_rows[task]:,}"
            for metric, found in metrics.items():
                ends = (min(found.told, default=math.nan), max(found.told, default=math.nan))
                worst, best = ends if found.higher_is_better else ends[::-1]
                decimals = decimals_for(found.mean, 4 * found.deviation)  # some 95 % of the folds lie within so much
                numbers = (found.mean, found.deviation, worst, best, found.constant)
                cells = (number_text(number, decimals) for number in numbers)
                yield (name, metric, *cells, str(found.n_folds), n_rows)
                name = n_rows = ""


def cross_validate(
    recipe: Recipe,
    folds: int = 5,
    *,
    on_fold: Callable[[int, Scores], None] | None = None,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> FoldScores:
    """Train ``folds`` networks, each on all rows but those of one fold, which judge it.

    The folds are stratified and grouped as the recipe's split says, and so is the validation part that each training draws
    from its rows. A source's own test part is left alone.

    Args:
        recipe: What to learn from what, and how.
        folds: How many, 2 at least.
        on_fold: Called with the number of each fold, from 1, once it has judged, and its scores.
        on_epoch: Called with the number of the fold after every epoch of its training.

    Raises:
        PolytaskError: Fewer than two folds, fewer rows or groups than folds, a split by time, or a fold whose labels its
            training rows do not know; all of this is said before any training.
    """
    seen = check_folds(recipe, folds)
    found: list[Scores] = []
    for number in range(1, folds + 1):
        prepared = _prepared(recipe, number, folds)
        tell = None if on_epoch is None else partial(on_epoch, number)
        recipe = with_rows_that_fit(recipe, prepared)  # found once, for all folds
        bundle, history = train_bundle(recipe, prepared, on_epoch=tell)
        seen[number - 1] += [*left_out(history), *gradient_notes(history)]
        found.append(score(bundle, prepared.test, recipe.seed, n_resamples=0))
        if on_fold is not None:
            on_fold(number, found[-1])
    return FoldScores.of(found, _joint_notes(seen))


def check_folds(recipe: Recipe, folds: int) -> list[list[str]]:
    """Prepare every fold, to hear what is wrong before any of them trains; what was noticed in each.

    Raises:
        PolytaskError: As ``cross_validate``.
    """
    if folds < 2:
        raise PolytaskError("at least two folds are needed", where="folds", found=str(folds), mend="Ask for 5 or 10.")
    return [list(_prepared(recipe, number, folds).notes) for number in range(1, folds + 1)]


def _prepared(recipe: Recipe, number: int, folds: int) -> Prepared:
    """The data of one fold, by its number from 1."""
    try:
        return prepare(recipe, (number - 1, folds))
    except PolytaskError as error:
        if number == 1:  # what is wrong with all of them
            raise
        where = f"fold {number} of {folds}{', ' if error.where else ''}{error.where}"
        raise PolytaskError(error.what, where=where, found=error.found, mend=error.mend) from None


def _joint_notes(seen: Sequence[Sequence[str]]) -> list[str]:
    """Each note once; what was not noticed in every fold says in which."""
    notes = []
    for note in dict.fromkeys(note for fold in seen for note in fold):
        numbers = [number for number, fold in enumerate(seen, 1) if note in fold]
        some = f"fold {listed(numbers)}: " if len(numbers) < len(seen) else ""
        notes.append(some + note)
    return notes


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None

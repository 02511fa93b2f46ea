"""Scores: what each task's metrics say of rows that were not trained on, how sure that is, and what a constant would get."""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from polytask.errors import PolytaskError, did_you_mean
from polytask.intervals import N_RESAMPLES, bootstrap_interval
from polytask.scorer import Scorer, row_mean

HEADERS = ("task", "metric", "score", "95 % interval", "constant", "rows")
CAPTION = "constant: the best prediction that is the same for every row."
N_NAMES = 2  # columns of text, at the left
PAGE_WIDTH = 100


@dataclass(frozen=True)
class Score:
    """One metric of one task; nan is what could not be told.

    Attributes:
        value: The score on all rows.
        low: Lower end of its bootstrap 95 % interval.
        high: Upper end.
        constant: What the best constant prediction scores.
        higher_is_better: Whether more is better.
    """

    value: float
    low: float
    high: float
    constant: float
    higher_is_better: bool


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task, by metric, and on how many labeled rows."""

    task: str
    kind: str
    n_rows: int
    scores: Mapping[str, Score]


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Mapping[str, TaskScores]):
    """The scores of every task, by name; printed as a table.

    Numbers are shown to two digits of their interval's width: more would say nothing.

    Example:
        >>> price = TaskScores("price", "regression", 4323, {"rmse": Score(131234.5, 125012.0, 138220.0, 366991.0, False)})
        >>> print(Scores({"price": price}))
        task   metric    score       95 % interval  constant   rows
        price  rmse    131,000  125,000 to 138,000   367,000  4,323
        constant: the best prediction that is the same for every row.
    """

    tasks: Mapping[str, TaskScores]

    def __getitem__(self, name: str) -> TaskScores:
        try:
            return self.tasks[name]
        except KeyError:
            raise KeyError(f"no task {name!r}. {did_you_mean(name, self.tasks)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with None for what is not finite; ``from_dict`` brings them back."""
        return {
            name: {
                "kind": task.kind,
                "n_rows": task.n_rows,
                "scores": {metric: _plain(score) for metric, score in task.scores.items()},
            }
            for name, task in self.tasks.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` made, with nan for None.

        Raises:
            PolytaskError: It is something else.
        """
        try:
            return cls({name: _task_scores(name, task) for name, task in values.items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PolytaskError("these are not the scores of a run", where="scores", found=repr(error)) from None

    def __str__(self) -> str:
        text = StringIO()
        Console(file=text, width=PAGE_WIDTH, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    __repr__ = __str__

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for index, header in enumerate(HEADERS):
            number = index >= N_NAMES  # where a page is narrow names are folded, never a number
            table.add_column(header, justify="right" if number else "left", no_wrap=number, overflow="fold")
        for row in self._rows():
            table.add_row(*map(Text, row))
        return Group(table, Text(CAPTION))

    def _repr_html_(self) -> str:
        def line(cells: tuple[str, ...], tag: str) -> str:
            names = "".join(f"<{tag} style='text-align: left'>{html.escape(cell)}</{tag}>" for cell in cells[:N_NAMES])
            numbers = "".join(f"<{tag} style='text-align: right'>{cell}</{tag}>" for cell in cells[N_NAMES:])
            return f"<tr>{names}{numbers}</tr>"

        body = "".join(line(row, "td") for row in self._rows())
        return f"<table><caption>{CAPTION}</caption><thead>{line(HEADERS, 'th')}</thead><tbody>{body}</tbody></table>"

    def _rows(self) -> list[tuple[str, ...]]:
        """The cells of the table; a task and its rows are named in its first line only."""
        rows: list[tuple[str, ...]] = []
        for task in self.tasks.values():
            for index, (metric, score) in enumerate(task.scores.items()):
                value, low, high, constant = _numbers(score)
                interval = "-" if low == "-" else f"{low} to {high}"
                name, n_rows = (task.task, f"{task.n_rows:,}") if index == 0 else ("", "")
                rows.append((name, metric, value, interval, constant, n_rows))
        return rows


def score_task(
    task: str,
    kind: str,
    scorers: Mapping[str, Scorer],
    views: Mapping[str, Tensor],
    constant_views: Mapping[str, Tensor],
    target: Tensor,
    *,
    weights: Tensor | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> TaskScores:
    """Every metric of one task with its bootstrap interval, beside the score of the best constant prediction.

    Args:
        task: The task's name.
        kind: Its kind.
        scorers: The metrics, by name.
        views: The prediction as value, label and probability, ``[N, ...]`` each; see Scorer.
        constant_views: The same of the best constant prediction; empty where there is none.
        target: What is true, ``[N]``.
        weights: How much each row counts, float64 ``[N]``; None where all count alike.
        n_resamples: How often the rows are resampled; 0 for no intervals.
        seed: Of the resampling.

    Raises:
        PolytaskError: A metric reads a view that there is not, or fails.

    Example:
        >>> from polytask.tasks._metrics import regression_scorers
        >>> value, target = torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([1.0, 2.0, 4.0, 5.0])
        >>> views, constant = {"value": value}, {"value": torch.full((4,), 3.0)}
        >>> score_task("price", "regression", regression_scorers(), views, constant, target).scores["mae"]
        Score(value=0.25, low=0.0, high=0.75, constant=1.5, higher_is_better=False)
    """
    scores = {}
    for name, scorer in scorers.items():
        if scorer.reads not in views:
            what = f"the metric {name!r} reads the {scorer.reads!r} of a prediction, which a {kind} task does not have"
            raise PolytaskError(what, where=f"task {task!r}", mend=did_you_mean(scorer.reads, views))
        view, constant = views[scorer.reads], constant_views.get(scorer.reads)
        try:
            with torch.inference_mode():
                scores[name] = _score(scorer, view, constant, target, weights, n_resamples, seed)
        except Exception as error:
            what = f"the metric {name!r} failed: {type(error).__name__}: {error}"
            raise PolytaskError(what, where=f"task {task!r}", mend="Mend it, or leave it out of the task's metrics.") from error
    return TaskScores(task, kind, len(target), scores)


def _score(
    scorer: Scorer,
    view: Tensor,
    constant: Tensor | None,
    target: Tensor,
    weights: Tensor | None,
    n_resamples: int,
    seed: int,
) -> Score:
    each: tuple[Tensor, ...] = () if weights is None else (weights,)
    value = _computed(scorer, view, target, *each)
    baseline = math.nan if constant is None else _computed(scorer, constant, target, *each)
    if not math.isfinite(value):
        return Score(value, math.nan, math.nan, baseline, scorer.higher_is_better)
    compute = scorer.compute
    if scorer.rows is not None:
        view, compute = scorer.rows(view, target), row_mean
    if view.ndim == 1:  # metrics that sort by the prediction take half the time on rows that are in its order
        order = view.argsort()
        view, target, each = view[order], target[order], tuple(weight[order] for weight in each)

    def resampled(rows: NDArray[np.intp]) -> float:
        chosen = torch.from_numpy(rows)
        try:
            return float(compute(view[chosen], target[chosen], *(weight[chosen] for weight in each)))
        except (ArithmeticError, ValueError):
            return math.nan  # undefined on these rows: on all of them it is not

    def drawn(rows: NDArray[np.intp]) -> float:
        times = torch.bincount(torch.from_numpy(rows), minlength=len(target)).double()
        return float(compute(view, target, times if weights is None else times * weights))

    draw = drawn if scorer.reads == "statistics" else resampled  # of sums: rows that come twice need not be copied
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a user's metric warns of on all rows is heard once, above
        interval = bootstrap_interval(draw, len(target), n_resamples=n_resamples, seed=seed)
    return Score(value, interval.low, interval.high, baseline, scorer.higher_is_better)


def _computed(scorer: Scorer, view: Tensor, target: Tensor, *weights: Tensor) -> float:
    """A score; nan where a prediction is, for a metric that sorts would put it somewhere."""
    return math.nan if bool(view.isnan().any()) else float(scorer.compute(view, target, *weights))


def _task_scores(name: str, values: Mapping[str, Any]) -> TaskScores:
    scores = {metric: _score_of(score) for metric, score in values["scores"].items()}
    return TaskScores(name, str(values["kind"]), int(values["n_rows"]), scores)


def _plain(score: Score) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in asdict(score).items()}


def _score_of(plain: Mapping[str, Any]) -> Score:
    numbers = {key: math.nan if value is None else float(value) for key, value in plain.items() if key != "higher_is_better"}
    return Score(**numbers, higher_is_better=bool(plain["higher_is_better"]))


def _numbers(score: Score) -> tuple[str, str, str, str]:
    """Value, low, high and constant as text, all to the same decimal place."""
    decimals = decimals_for(score.value, score.high - score.low)
    value, low, high, constant = (
        number_text(number, decimals) for number in (score.value, score.low, score.high, score.constant)
    )
    return value, low, high, constant


def decimals_for(value: float, width: float) -> int:
    """Three digits of the value, or as many as show two or three of its interval's width; negative rounds to tens and more."""
    of_value = 2 - math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 3
    if not 0 < width < math.inf:
        return of_value
    of_width = 1 - math.floor(math.log10(width))
    return max(of_width, min(of_value, of_width + 1))


def number_text(number: float, decimals: int) -> str:
    """A number with so many decimals and its thousands parted; scientific where that would be too long for a table."""
    if math.isnan(number):
        return "-"
    if math.isinf(number) or decimals > 6 or abs(number) >= 1e12:
        return f"{number + 0.0:.3g}"  # no -0
    return f"{round(number, decimals) + 0.0:,.{max(decimals, 0)}f}"

"""Scorer: one metric of one task, as a task offers it, and a user's own metric as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from polytask.errors import PolytaskError, did_you_mean

View = Literal["value", "label", "probability", "quantiles", "statistics", "group", "distance", "vector"]
OF_A_METRIC: tuple[View, ...] = ("label", "group", "vector")  # what a user's metric reads where there is such a view
LOWER_IS_BETTER = ("_error", "_loss", "_deviance")


@dataclass(frozen=True)
class Scorer:
    """One metric of one task.

    Attributes:
        name: What it is called in recipes and tables.
        compute: ``(prediction, target, weights) -> number``, nan where it is undefined on these rows; the weights are float64
            ``[N]``, or left out where rows count alike.
        higher_is_better: Whether more is better.
        reads: Which view of the prediction it compares with the target: "value" [N] in the column's units, "label" (int64 class
            codes [N]), "probability" ([N] of the second of two classes, else [N, K]), "quantiles" ([N, Q], increasing), or
            "statistics" (sums over the pixels of each row, [N, n]; the target then says nothing more), "group" (int64 [N]; of a
            target below 0 nothing is known), "distance" ([N, K] to the middle of each group) or "vector" ([N, D]).
        is_ratio: Whether a change in percent means something. It does not where zero is what a constant scores, as for R2:
            from 0.01 to 0.02 is no gain of 100 %.
        rows: For a metric in which every row is compared with the others, ``(prediction, target) -> [N]``: what each row adds,
            nan for nothing; the metric is their mean. Rows that are drawn twice are not compared with themselves then.
    """

    name: str
    compute: Callable[..., Tensor | float]
    higher_is_better: bool
    reads: View
    is_ratio: bool = True
    rows: Callable[[Tensor, Tensor], Tensor] | None = None


def row_scorer(name: str, rows: Callable[[Tensor, Tensor], Tensor], higher_is_better: bool, reads: View) -> Scorer:
    """A metric in which every row is compared with the others: the mean of ``rows``; see Scorer."""

    def compute(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        return row_mean(rows(prediction, target), target, weights)

    return Scorer(name, compute, higher_is_better, reads, rows=rows)


def row_mean(values: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of values of rows ``[N]``, without those that are nan."""
    each = torch.ones_like(values) if weights is None else weights
    there = ~values.isnan()
    return (values[there] * each[there]).sum() / each[there].sum()


def user_scorer(metric: Callable[..., Any], known: Mapping[str, Scorer]) -> Scorer:
    """A user's own metric as a scorer.

    A function is called as scikit-learn's metrics are, ``metric(y_true, y_pred)``, and with
    ``sample_weight=`` where the task's rows have weights, on NumPy arrays in the column's units or,
    for classes, of their int64 codes. Two attributes of it are read: ``higher_is_better`` (without it scikit-learn's rule
    holds: lower is better where the name ends in _error, _loss or _deviance) and ``reads`` ("value", "label" or
    "probability"; without it "label" or "value", whichever the task has). A ``torchmetrics.Metric`` object says itself
    whether higher is better; where it is one for classes it is given probabilities.

    Args:
        metric: A named function, or a torchmetrics Metric object.
        known: The task's own scorers: the views that they read are the views that there are.

    Raises:
        PolytaskError: It is a class or a lambda, or does not say what it reads or whether higher is better.

    Example:
        >>> def within_ten(y_true, y_pred):
        ...     return (abs(y_true - y_pred) <= 10).mean()
        >>> scorer = user_scorer(within_ten, {})
        >>> scorer.name, scorer.higher_is_better, scorer.reads
        ('within_ten', True, 'value')
    """
    if isinstance(metric, type):
        found, mend = f"the class {metric.__name__}", f"Give an object: {metric.__name__}(...)."
        raise PolytaskError("a metric is a function or an object", where="metrics", found=found, mend=mend)
    views = {scorer.reads for scorer in known.values()}
    usual: View = next((view for view in OF_A_METRIC if view in views), "value")
    if isinstance(metric, Metric):
        for_classes = "probability" in views and type(metric).__module__.startswith("torchmetrics.classification")
        return _metric_scorer(metric, _reads(metric, "probability" if for_classes else usual))
    name = _name(metric)
    higher_is_better = bool(getattr(metric, "higher_is_better", not name.endswith(LOWER_IS_BETTER)))

    def compute(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> float:
        if weights is None:
            return float(metric(target.numpy(), prediction.numpy()))
        return float(metric(target.numpy(), prediction.numpy(), sample_weight=weights.numpy()))

    return Scorer(name, compute, higher_is_better, _reads(metric, usual))


def _metric_scorer(metric: Metric, reads: View) -> Scorer:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(metric).__name__).lower()
    if metric.higher_is_better is None:
        mend = "Wrap it in a function (y_true, y_pred) that has the attribute higher_is_better."
        raise PolytaskError(f"{type(metric).__name__} does not say whether higher is better", where="metrics", mend=mend)
    own = metric.clone()  # the user's object keeps what it has gathered

    def compute(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is not None:
            mend = "Write it as a function (y_true, y_pred, sample_weight=None)."
            raise PolytaskError("a torchmetrics object knows no weights of rows", where=f"metrics, {name}", mend=mend)
        own.reset()
        own.update(prediction, target)
        value: Tensor = own.compute()
        return value

    return Scorer(name, compute, metric.higher_is_better, reads)


def _reads(metric: Callable[..., Any], usual: View) -> View:
    reads, views = getattr(metric, "reads", usual), get_args(View)
    if reads not in views:
        raise PolytaskError(f"no view {reads!r} of a prediction", where="metrics", mend=did_you_mean(str(reads), views))
    return cast("View", reads)


def _name(metric: Callable[..., Any]) -> str:
    function = getattr(metric, "func", metric)  # what functools.partial wraps
    name = getattr(function, "__name__", type(function).__name__)
    if name == "<lambda>":
        raise PolytaskError("a lambda has no name to print", where="metrics", mend="Write the metric as a function with def.")
    return str(name)

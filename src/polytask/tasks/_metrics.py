"""The metrics of the tasks, by name. Whether higher is better is said by torchmetrics wherever it says so.

A metric that is undefined on some rows (a ROC AUC of one class, an R2 of a constant) is nan there, without a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, R2Score
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassCohenKappa,
    MulticlassF1Score,
)

from polytask.scorer import Scorer, View

# The network computes in float32: it cannot tell a probability nearer to 0 or 1 than this from 0 or 1.
RESOLUTION = torch.finfo(torch.float32).eps
N_BINS = 15
Weights = Tensor | None
SMALLEST_RATE = torch.finfo(torch.float32).tiny


def regression_scorers() -> dict[str, Scorer]:
    """r2, rmse and mae of values in the column's units."""
    return _by_name(
        _scorer("r2", r2, R2Score, "value", is_ratio=False),
        _scorer("rmse", rmse, MeanSquaredError, "value"),
        _scorer("mae", mae, MeanAbsoluteError, "value"),
    )


def quantile_scorers(levels: Sequence[float]) -> dict[str, Scorer]:
    """pinball, the mean pinball loss of all levels, and coverage_error, how far the shares of rows below are from them.

    "below:0.9" is the share of rows at or below the quantile of level 0.9. Of several levels also coverage, the share of rows
    from the lowest to the highest quantile, and width, the mean distance of these. And those of a regression, of the quantile
    nearest to the median.
    """
    scorers = [
        Scorer("pinball", partial(pinball, levels), higher_is_better=False, reads="quantiles"),
        Scorer("coverage_error", partial(coverage_error, levels), higher_is_better=False, reads="quantiles"),
    ]
    if len(levels) > 1:
        scorers.append(Scorer("coverage", coverage, higher_is_better=True, reads="quantiles", is_ratio=False))
        scorers.append(Scorer("width", width, higher_is_better=False, reads="quantiles", is_ratio=False))
    for index, level in enumerate(levels):
        compute = partial(share_below, index)
        scorers.append(Scorer(f"below:{level:g}", compute, higher_is_better=True, reads="quantiles", is_ratio=False))
    return _by_name(*scorers) | regression_scorers()


def count_scorers() -> dict[str, Scorer]:
    """Those of a regression, and poisson_deviance (scikit-learn's mean_poisson_deviance)."""
    deviance = Scorer("poisson_deviance", poisson_deviance, higher_is_better=False, reads="value")
    return {deviance.name: deviance, **regression_scorers()}


def binary_scorers() -> dict[str, Scorer]:
    """accuracy, balanced_accuracy, precision, recall and f1 of the second class; roc_auc, average_precision, log_loss and ece.

    ece is the expected calibration error of the second class's probability.
    """
    return _by_name(
        _scorer("accuracy", accuracy, BinaryAccuracy, "label"),
        _scorer("balanced_accuracy", balanced_accuracy, MulticlassAccuracy, "label"),
        *(
            _scorer(name, partial(of_class, metric, 1), BinaryF1Score, "label")
            for name, metric in (("precision", precision), ("recall", recall), ("f1", f1))
        ),
        _scorer("roc_auc", roc_auc, BinaryAUROC, "probability"),
        _scorer("average_precision", average_precision, BinaryAveragePrecision, "probability"),
        Scorer("log_loss", log_loss, higher_is_better=False, reads="probability"),
        Scorer("ece", calibration_error, higher_is_better=False, reads="probability"),
    )


def multiclass_scorers(names: Sequence[str]) -> dict[str, Scorer]:
    """accuracy, balanced_accuracy, precision, recall and f1 of the labels; log_loss and ece of the probabilities.

    "precision", "recall" and "f1" are means over the classes (macro), "f1_weighted" weighs them by their rows, and "f1:dog" is
    that of one class. ece is the expected calibration error of the likeliest class's probability.
    """
    scorers = [
        _scorer("accuracy", accuracy, MulticlassAccuracy, "label"),
        _scorer("balanced_accuracy", balanced_accuracy, MulticlassAccuracy, "label"),
        _scorer("f1_weighted", weighted_f1, MulticlassF1Score, "label"),
        Scorer("log_loss", log_loss, higher_is_better=False, reads="probability"),
        Scorer("ece", calibration_error, higher_is_better=False, reads="probability"),
    ]
    for name, metric in (("precision", precision), ("recall", recall), ("f1", f1)):
        scorers.append(_scorer(name, partial(macro, metric), MulticlassF1Score, "label"))
        scorers += [
            _scorer(f"{name}:{text}", partial(of_class, metric, code), MulticlassF1Score, "label")
            for code, text in enumerate(names)
        ]
    return _by_name(*scorers)


def multilabel_scorers(names: Sequence[str]) -> dict[str, Scorer]:
    """The metrics of a binary task for every label, such as "f1:red", and as "f1" their mean over the labels that have one.

    Also f1_micro, over all labels at once, and exact_match, the share of rows whose known labels are all right. Targets are
    [N, L] of 0, 1 and -1 where unknown.
    """
    scorers = [
        Scorer("exact_match", exact_match, higher_is_better=True, reads="label"),
        _scorer("f1_micro", micro_f1, BinaryF1Score, "label"),
    ]
    for name, scorer in binary_scorers().items():
        scorers.append(replace(scorer, compute=partial(over_labels, scorer.compute)))
        scorers += [
            replace(scorer, name=f"{name}:{text}", compute=partial(of_label, scorer.compute, index))
            for index, text in enumerate(names)
        ]
    return _by_name(*scorers)


def ordinal_scorers(names: Sequence[str]) -> dict[str, Scorer]:
    """Those of a multiclass task, with mae in levels and kappa (Cohen's, with quadratic weights) of the labels."""
    return multiclass_scorers(names) | _by_name(
        _scorer("mae", mae, MeanAbsoluteError, "label"),
        _scorer("kappa", kappa, MulticlassCohenKappa, "label", is_ratio=False),
    )


def mean(values: Tensor, weights: Weights) -> Tensor:
    """The mean over rows, weighted where there are weights."""
    values = values.double()
    return values.mean() if weights is None else (values * weights).sum() / weights.sum()


def r2(value: Tensor, target: Tensor, weights: Weights = None) -> Tensor | float:
    """The share of the target's variance that is explained; nan for a constant target.

    Not torchmetrics': its r2_score takes sums of squares below 1e-4 for zero and loses its digits for targets far from 0.
    """
    if is_constant(target):
        return math.nan
    truth = target.double()
    return 1 - mean((value - truth).square(), weights) / mean((truth - mean(truth, weights)).square(), weights)


def rmse(value: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The root of the mean squared error."""
    return mean((value.double() - target.double()).square(), weights).sqrt()


def mae(value: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean absolute error; of class codes, by how many levels one is wrong."""
    return mean((value.double() - target.double()).abs(), weights)


def poisson_deviance(value: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean of 2 (y log(y / r) - y + r) over rates r and counts y."""
    rate, truth = value.double().clamp(min=SMALLEST_RATE), target.double()
    return mean(2 * (torch.xlogy(truth, truth / rate) - truth + rate), weights)


def pinball(levels: Sequence[float], quantiles: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean of max(q (y - x), (q - 1) (y - x)) over rows and levels q with their quantiles x."""
    missing = target.double().unsqueeze(1) - quantiles
    wanted = torch.tensor(levels, dtype=torch.float64)
    return mean(torch.maximum(wanted * missing, (wanted - 1) * missing).mean(1), weights)


def share_below(index: int, quantiles: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The share of rows at or below one of the quantiles."""
    return mean(target <= quantiles[:, index], weights)


def coverage_error(levels: Sequence[float], quantiles: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean over levels of |share of rows at or below the quantile - level|."""
    gaps = [share_below(index, quantiles, target, weights) - level for index, level in enumerate(levels)]
    return torch.stack(gaps).abs().mean()


def coverage(quantiles: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The share of rows from the lowest to the highest quantile."""
    return mean((quantiles[:, 0] <= target) & (target <= quantiles[:, -1]), weights)


def width(quantiles: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean distance from the lowest to the highest quantile."""
    return mean(quantiles[:, -1] - quantiles[:, 0], weights)


def log_loss(probability: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """Minus the mean log probability of the true class, where no probability is taken to be below 1.2e-7."""
    if probability.ndim == 1:
        chosen = torch.where(target == 1, probability, 1 - probability)
    else:
        chosen = probability.gather(1, target.unsqueeze(1)).squeeze(1)
    return mean(-chosen.double().clamp(min=RESOLUTION).log(), weights)


def roc_auc(probability: Tensor, target: Tensor, weights: Weights = None) -> Tensor | float:
    """The area under the ROC curve, ties counted half; nan where all rows are of one class."""
    if is_constant(target):
        return math.nan
    yes, no = _by_probability(probability, target, weights)
    return (yes * (no.cumsum(0) - no / 2)).sum() / (yes.sum() * no.sum())


def average_precision(probability: Tensor, target: Tensor, weights: Weights = None) -> Tensor | float:
    """The mean precision over the steps in recall; nan where no row is positive."""
    if not bool(target.any()):
        return math.nan
    yes, no = (rows.flip(0) for rows in _by_probability(probability, target, weights))
    found, called = yes.cumsum(0), (yes + no).cumsum(0)
    return (yes * found / called).sum() / yes.sum()


def _by_probability(probability: Tensor, target: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """The weight of the rows of each class at every distinct probability, from the lowest."""
    _, which = probability.unique(return_inverse=True)
    each = torch.ones(len(target), dtype=torch.float64) if weights is None else weights.double()
    sums = torch.bincount(2 * which + target, weights=each, minlength=2 * (int(which.max()) + 1)).view(-1, 2)
    return sums[:, 1], sums[:, 0]


def accuracy(label: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The share of labels that are right."""
    return mean(label == target, weights)


class Counts(NamedTuple):
    """Rows by class, float64 ``[K]`` each: called so and right, called so, and truly so."""

    right: Tensor
    called: Tensor
    true: Tensor


def counts(label: Tensor, target: Tensor, weights: Weights = None) -> Counts:
    """How many rows of each class there are, or their weight; K is what the codes need."""
    n_classes = int(torch.maximum(label, target).max()) + 1
    each = torch.ones(len(target), dtype=torch.float64) if weights is None else weights.double()
    right = label == target
    rows = ((target[right], each[right]), (label, each), (target, each))
    return Counts(*(torch.bincount(codes, weights=weight, minlength=n_classes) for codes, weight in rows))


def precision(counts: Counts) -> Tensor:
    """Of the rows called so, the share that is; 0 where none is called so, nan where none is truly so either."""
    return torch.where(counts.called + counts.true > 0, (counts.right / counts.called).nan_to_num(), math.nan)


def recall(counts: Counts) -> Tensor:
    """Of the rows that are so, the share called so; nan where none is."""
    return counts.right / counts.true


def f1(counts: Counts) -> Tensor:
    """The harmonic mean of precision and recall; nan where no row is of the class and none is called so."""
    return 2 * counts.right / (counts.called + counts.true)


def of_class(
    metric: Callable[[Counts], Tensor], code: int, label: Tensor, target: Tensor, weights: Weights = None
) -> Tensor | float:
    """A metric of one class; nan where no row is of it and none is called so."""
    values = metric(counts(label, target, weights))
    return values[code] if code < len(values) else math.nan


def macro(metric: Callable[[Counts], Tensor], label: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean of a metric over the classes, without those that have none."""
    return metric(counts(label, target, weights)).nanmean()


def weighted_f1(label: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean of f1 over the classes, weighted by how many rows are of each."""
    found = counts(label, target, weights)
    return (f1(found).nan_to_num() * found.true).sum() / found.true.sum()


def balanced_accuracy(label: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean recall over the classes that the target has.

    Not torchmetrics' macro average, which counts a class that is only predicted as one with recall 0.
    """
    return macro(recall, label, target, weights)


def kappa(label: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """Cohen's kappa with quadratic weights: 1 - squared distance of labels and target / that of their shuffled rows."""
    label, target = label.double(), target.double()
    chance = sum(mean((x - mean(x, weights)).square(), weights) for x in (label, target))
    return 1 - mean((label - target).square(), weights) / (chance + (mean(label, weights) - mean(target, weights)).square())


def calibration_error(probability: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """Expected calibration error (Guo 2017, arXiv:1706.04599, equation 3): |share right - mean probability| over 15 equal bins.

    Of the second class's probability [N], else of the likeliest class's [N, K].
    """
    if probability.ndim == 2:
        probability, label = probability.max(1)
        target = label == target
    bins = (probability * N_BINS).ceil().long().clamp(1, N_BINS) - 1
    each = torch.ones(len(target), dtype=torch.float64) if weights is None else weights.double()
    gaps = torch.bincount(bins, weights=each * (target.double() - probability.double()), minlength=N_BINS)
    return gaps.abs().sum() / each.sum()


def of_label(
    metric: Callable[..., Tensor | float], index: int, prediction: Tensor, target: Tensor, weights: Weights = None
) -> Tensor | float:
    """A metric of one of several labels, on the rows where it is known; nan where there are none."""
    known = target[:, index] >= 0
    each = None if weights is None else weights[known]
    return metric(prediction[known, index], target[known, index], each) if bool(known.any()) else math.nan


def over_labels(metric: Callable[..., Tensor | float], prediction: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The mean of a metric over the labels that have one."""
    values = [float(of_label(metric, index, prediction, target, weights)) for index in range(target.shape[1])]
    return torch.tensor(values, dtype=torch.float64).nanmean()


def exact_match(label: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """The share of rows whose known labels are all right."""
    return mean(((label == target) | (target < 0)).all(1), weights)


def micro_f1(label: Tensor, target: Tensor, weights: Weights = None) -> Tensor | float:
    """f1 over all known labels of all rows at once."""
    known = target >= 0
    each = None if weights is None else weights.unsqueeze(1).expand_as(target)[known]
    return of_class(f1, 1, label[known], target[known], each)


def is_constant(target: Tensor) -> bool:
    """Whether all values are equal."""
    return bool(target.min() == target.max())


def _scorer(
    name: str, compute: Callable[..., Tensor | float], metric: type[Metric], reads: View, is_ratio: bool = True
) -> Scorer:
    return Scorer(name, compute, bool(metric.higher_is_better), reads, is_ratio)


def _by_name(*scorers: Scorer) -> dict[str, Scorer]:
    return {scorer.name: scorer for scorer in scorers}

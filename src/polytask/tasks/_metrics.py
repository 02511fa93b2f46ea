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
from torchmetrics.functional import mean_absolute_error, mean_squared_error, tweedie_deviance_score
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_cohen_kappa,
)

from polytask.scorer import Scorer, View

# The network computes in float32: it cannot tell a probability nearer to 0 or 1 than this from 0 or 1.
RESOLUTION = torch.finfo(torch.float32).eps
N_BINS = 15
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
    n_classes = len(names)
    kappa = _unchecked(partial(multiclass_cohen_kappa, num_classes=n_classes, weights="quadratic"))
    return multiclass_scorers(names) | _by_name(
        _scorer("mae", mae, MeanAbsoluteError, "label"),
        _scorer("kappa", kappa, MulticlassCohenKappa, "label", is_ratio=False),
    )


def r2(value: Tensor, target: Tensor) -> Tensor | float:
    """The share of the target's variance that is explained; nan for a constant target.

    Not torchmetrics': its r2_score takes sums of squares below 1e-4 for zero and loses its digits for targets far from 0.
    """
    if is_constant(target):
        return math.nan
    truth = target.double()
    return 1 - (value - truth).square().sum() / (truth - truth.mean()).square().sum()


def rmse(value: Tensor, target: Tensor) -> Tensor:
    """The root of the mean squared error."""
    return mean_squared_error(value.double(), target.double(), squared=False)


def mae(value: Tensor, target: Tensor) -> Tensor:
    """The mean absolute error; of class codes, by how many levels one is wrong."""
    return mean_absolute_error(value.double(), target.double())


def poisson_deviance(value: Tensor, target: Tensor) -> Tensor:
    """The mean of 2 (y log(y / r) - y + r) over rates r and counts y."""
    return tweedie_deviance_score(value.double().clamp(min=SMALLEST_RATE), target.double(), power=1)


def pinball(levels: Sequence[float], quantiles: Tensor, target: Tensor) -> Tensor:
    """The mean of max(q (y - x), (q - 1) (y - x)) over rows and levels q with their quantiles x."""
    missing = target.double().unsqueeze(1) - quantiles
    wanted = torch.tensor(levels, dtype=torch.float64)
    return torch.maximum(wanted * missing, (wanted - 1) * missing).mean()


def share_below(index: int, quantiles: Tensor, target: Tensor) -> Tensor:
    """The share of rows at or below one of the quantiles."""
    return (target <= quantiles[:, index]).double().mean()


def coverage_error(levels: Sequence[float], quantiles: Tensor, target: Tensor) -> Tensor:
    """The mean over levels of |share of rows at or below the quantile - level|."""
    shares = (target.unsqueeze(1) <= quantiles).double().mean(0)
    return (shares - torch.tensor(levels, dtype=torch.float64)).abs().mean()


def coverage(quantiles: Tensor, target: Tensor) -> Tensor:
    """The share of rows from the lowest to the highest quantile."""
    return ((quantiles[:, 0] <= target) & (target <= quantiles[:, -1])).double().mean()


def width(quantiles: Tensor, target: Tensor) -> Tensor:
    """The mean distance from the lowest to the highest quantile."""
    return (quantiles[:, -1] - quantiles[:, 0]).mean()


def log_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Minus the mean log probability of the true class, where no probability is taken to be below 1.2e-7."""
    if probability.ndim == 1:
        chosen = torch.where(target == 1, probability, 1 - probability)
    else:
        chosen = probability.gather(1, target.unsqueeze(1)).squeeze(1)
    return -chosen.double().clamp(min=RESOLUTION).log().mean()


def roc_auc(probability: Tensor, target: Tensor) -> Tensor | float:
    """The area under the ROC curve; nan where all rows are of one class."""
    return math.nan if is_constant(target) else binary_auroc(probability, target, validate_args=False)


def average_precision(probability: Tensor, target: Tensor) -> Tensor | float:
    """The mean precision over the steps in recall; nan where no row is positive."""
    return binary_average_precision(probability, target, validate_args=False) if bool(target.any()) else math.nan


def accuracy(label: Tensor, target: Tensor) -> Tensor:
    """The share of labels that are right."""
    return (label == target).double().mean()


class Counts(NamedTuple):
    """Rows by class, float64 ``[K]`` each: called so and right, called so, and truly so."""

    right: Tensor
    called: Tensor
    true: Tensor


def counts(label: Tensor, target: Tensor) -> Counts:
    """How many rows of each class there are; K is what the codes need."""
    n_classes = int(torch.maximum(label, target).max()) + 1
    rows = (target[label == target], label, target)
    return Counts(*(torch.bincount(codes, minlength=n_classes).double() for codes in rows))


def precision(counts: Counts) -> Tensor:
    """Of the rows called so, the share that is; 0 where none is called so, nan where none is truly so either."""
    return torch.where(counts.called + counts.true > 0, counts.right / counts.called.clamp(min=1), math.nan)


def recall(counts: Counts) -> Tensor:
    """Of the rows that are so, the share called so; nan where none is."""
    return counts.right / counts.true


def f1(counts: Counts) -> Tensor:
    """The harmonic mean of precision and recall; nan where no row is of the class and none is called so."""
    return 2 * counts.right / (counts.called + counts.true)


def of_class(metric: Callable[[Counts], Tensor], code: int, label: Tensor, target: Tensor) -> Tensor | float:
    """A metric of one class; nan where no row is of it and none is called so."""
    values = metric(counts(label, target))
    return values[code] if code < len(values) else math.nan


def macro(metric: Callable[[Counts], Tensor], label: Tensor, target: Tensor) -> Tensor:
    """The mean of a metric over the classes, without those that have none."""
    return metric(counts(label, target)).nanmean()


def weighted_f1(label: Tensor, target: Tensor) -> Tensor:
    """The mean of f1 over the classes, weighed by how many rows are of each."""
    found = counts(label, target)
    return (f1(found).nan_to_num() * found.true).sum() / found.true.sum()


def balanced_accuracy(label: Tensor, target: Tensor) -> Tensor:
    """The mean recall over the classes that the target has.

    Not torchmetrics' macro average, which counts a class that is only predicted as one with recall 0.
    """
    return macro(recall, label, target)


def calibration_error(probability: Tensor, target: Tensor) -> Tensor:
    """Expected calibration error (Guo 2017, arXiv:1706.04599, equation 3): |share right - mean probability| over 15 equal bins.

    Of the second class's probability [N], else of the likeliest class's [N, K].
    """
    if probability.ndim == 2:
        probability, label = probability.max(1)
        target = label == target
    bins = (probability * N_BINS).ceil().long().clamp(1, N_BINS) - 1
    gaps = torch.bincount(bins, weights=target.double() - probability.double(), minlength=N_BINS)
    return gaps.abs().sum() / len(target)


def of_label(metric: Callable[..., Tensor | float], index: int, prediction: Tensor, target: Tensor) -> Tensor | float:
    """A metric of one of several labels, on the rows where it is known; nan where there are none."""
    known = target[:, index] >= 0
    return metric(prediction[known, index], target[known, index]) if bool(known.any()) else math.nan


def over_labels(metric: Callable[..., Tensor | float], prediction: Tensor, target: Tensor) -> Tensor:
    """The mean of a metric over the labels that have one."""
    values = [float(of_label(metric, index, prediction, target)) for index in range(target.shape[1])]
    return torch.tensor(values, dtype=torch.float64).nanmean()


def exact_match(label: Tensor, target: Tensor) -> Tensor:
    """The share of rows whose known labels are all right."""
    return ((label == target) | (target < 0)).all(1).double().mean()


def micro_f1(label: Tensor, target: Tensor) -> Tensor | float:
    """f1 over all known labels of all rows at once."""
    known = target >= 0
    return of_class(f1, 1, label[known], target[known])


def is_constant(target: Tensor) -> bool:
    """Whether all values are equal."""
    return bool(target.min() == target.max())


def _unchecked(metric: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Without torchmetrics' look through all rows for impossible codes: the task's codec has made them."""
    return partial(metric, validate_args=False)


def _scorer(
    name: str, compute: Callable[[Tensor, Tensor], Tensor | float], metric: type[Metric], reads: View, is_ratio: bool = True
) -> Scorer:
    return Scorer(name, compute, bool(metric.higher_is_better), reads, is_ratio)


def _by_name(*scorers: Scorer) -> dict[str, Scorer]:
    return {scorer.name: scorer for scorer in scorers}

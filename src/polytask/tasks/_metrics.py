"""The metrics of the tasks, by name. Whether higher is better is said by torchmetrics wherever it says so.

A metric that is undefined on some rows (a ROC AUC of one class, an R2 of a constant) is nan there, without a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

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
    binary_accuracy,
    binary_auroc,
    binary_average_precision,
    binary_f1_score,
    multiclass_accuracy,
    multiclass_cohen_kappa,
    multiclass_f1_score,
    multiclass_recall,
)

from polytask.scorer import Scorer, View

# The network computes in float32: it cannot tell a probability nearer to 0 or 1 than this from 0 or 1.
RESOLUTION = torch.finfo(torch.float32).eps
SMALLEST_RATE = torch.finfo(torch.float32).tiny


def regression_scorers() -> dict[str, Scorer]:
    """r2, rmse and mae of values in the column's units."""
    return _by_name(
        _scorer("r2", r2, R2Score, "value", is_ratio=False),
        _scorer("rmse", rmse, MeanSquaredError, "value"),
        _scorer("mae", mae, MeanAbsoluteError, "value"),
    )


def count_scorers() -> dict[str, Scorer]:
    """Those of a regression, and poisson_deviance (scikit-learn's mean_poisson_deviance)."""
    deviance = Scorer("poisson_deviance", poisson_deviance, higher_is_better=False, reads="value")
    return {deviance.name: deviance, **regression_scorers()}


def binary_scorers() -> dict[str, Scorer]:
    """accuracy, balanced_accuracy and f1 of the labels; roc_auc, average_precision and log_loss of the probabilities."""
    return _by_name(
        _scorer("accuracy", _unchecked(binary_accuracy), BinaryAccuracy, "label"),
        _scorer("balanced_accuracy", partial(balanced_accuracy, n_classes=2), MulticlassAccuracy, "label"),
        _scorer("f1", binary_f1, BinaryF1Score, "label"),
        _scorer("roc_auc", roc_auc, BinaryAUROC, "probability"),
        _scorer("average_precision", average_precision, BinaryAveragePrecision, "probability"),
        Scorer("log_loss", log_loss, higher_is_better=False, reads="probability"),
    )


def multiclass_scorers(n_classes: int) -> dict[str, Scorer]:
    """accuracy, balanced_accuracy and macro f1 of the labels; log_loss of the probabilities."""
    accuracy = _unchecked(partial(multiclass_accuracy, num_classes=n_classes, average="micro"))
    macro_f1 = _unchecked(partial(multiclass_f1_score, num_classes=n_classes, average="macro"))
    return _by_name(
        _scorer("accuracy", accuracy, MulticlassAccuracy, "label"),
        _scorer("balanced_accuracy", partial(balanced_accuracy, n_classes=n_classes), MulticlassAccuracy, "label"),
        _scorer("f1", macro_f1, MulticlassF1Score, "label"),
        Scorer("log_loss", log_loss, higher_is_better=False, reads="probability"),
    )


def ordinal_scorers(n_classes: int) -> dict[str, Scorer]:
    """accuracy, mae in levels and kappa (Cohen's, with quadratic weights) of the labels; log_loss of the probabilities."""
    kappa = _unchecked(partial(multiclass_cohen_kappa, num_classes=n_classes, weights="quadratic"))
    known = multiclass_scorers(n_classes)
    return _by_name(
        known["accuracy"],
        _scorer("mae", mae, MeanAbsoluteError, "label"),
        _scorer("kappa", kappa, MulticlassCohenKappa, "label", is_ratio=False),
        known["log_loss"],
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


def binary_f1(label: Tensor, target: Tensor) -> Tensor | float:
    """The harmonic mean of precision and recall; nan where no row is positive and none is called so."""
    return binary_f1_score(label, target, validate_args=False) if bool((label | target).any()) else math.nan


def balanced_accuracy(label: Tensor, target: Tensor, n_classes: int) -> Tensor:
    """The mean recall over the classes that the target has.

    Not torchmetrics' macro average, which counts a class that is only predicted as one with recall 0.
    """
    recall = multiclass_recall(label, target, num_classes=n_classes, average="none", validate_args=False)
    return recall[torch.bincount(target, minlength=n_classes) > 0].mean()


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

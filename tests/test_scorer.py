from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import mean_pinball_loss, median_absolute_error, roc_auc_score
from torchmetrics import MeanAbsoluteError, TweedieDevianceScore
from torchmetrics.classification import BinaryAUROC, MulticlassCohenKappa
from torchmetrics.functional.classification import binary_auroc

from polytask.errors import PolytaskError
from polytask.scorer import Scorer, user_scorer
from polytask.tasks._metrics import binary_scorers, ordinal_scorers, regression_scorers


def bias(y_true: NDArray[np.float64], y_pred: NDArray[np.float64]) -> float:
    return float((y_pred - y_true).mean())


class Within:
    """A metric as an object with a name of its class only."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def __call__(self, y_true: NDArray[np.float64], y_pred: NDArray[np.float64]) -> float:
        return float((abs(y_true - y_pred) <= self.tolerance).mean())


def test_a_function_is_called_in_the_order_of_scikit_learn() -> None:
    scorer = user_scorer(bias, regression_scorers())
    assert (scorer.name, scorer.reads, scorer.higher_is_better) == ("bias", "value", True)
    assert scorer.compute(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 2.0])) == 1.5


@pytest.mark.parametrize(
    ("metric", "name", "higher"),
    [
        (median_absolute_error, "median_absolute_error", False),
        (partial(mean_pinball_loss, alpha=0.9), "mean_pinball_loss", False),
        (Within(0.5), "Within", True),
    ],
)
def test_a_metric_is_named_and_its_direction_read(metric: Callable[..., float], name: str, higher: bool) -> None:
    scorer = user_scorer(metric, regression_scorers())
    assert (scorer.name, scorer.higher_is_better) == (name, higher)
    assert isinstance(scorer.compute(torch.tensor([2.0]), torch.tensor([1.0])), float)


def test_attributes_of_the_function_decide() -> None:
    def auc(y_true: Any, y_pred: Any) -> float:
        return float(roc_auc_score(y_true, y_pred))

    auc.reads, auc.higher_is_better = "probability", False  # type: ignore[attr-defined]
    scorer = user_scorer(auc, binary_scorers())
    assert (scorer.reads, scorer.higher_is_better) == ("probability", False)
    probability, target = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])
    assert scorer.compute(probability, target) == pytest.approx(float(binary_auroc(probability, target)))


@pytest.mark.parametrize(("known", "reads"), [(regression_scorers(), "value"), (binary_scorers(), "label"), ({}, "value")])
def test_reads_labels_where_the_task_has_classes(known: dict[str, Scorer], reads: str) -> None:
    assert user_scorer(bias, known).reads == reads


@pytest.mark.parametrize(
    ("metric", "known", "name", "reads", "higher"),
    [
        (MeanAbsoluteError(), regression_scorers(), "mean_absolute_error", "value", False),
        (MeanAbsoluteError(), ordinal_scorers("abc"), "mean_absolute_error", "label", False),
        (BinaryAUROC(), binary_scorers(), "binary_auroc", "probability", True),
        (MulticlassCohenKappa(3), ordinal_scorers("abc"), "multiclass_cohen_kappa", "probability", True),
    ],
)
def test_a_torchmetrics_object(metric: Any, known: dict[str, Scorer], name: str, reads: str, higher: bool) -> None:
    scorer = user_scorer(metric, known)
    assert (scorer.name, scorer.reads, scorer.higher_is_better) == (name, reads, higher)


def test_a_torchmetrics_object_starts_afresh_and_keeps_what_the_user_gathered() -> None:
    metric = MeanAbsoluteError()
    metric.update(torch.zeros(1), torch.full((1,), 9.0))
    scorer = user_scorer(metric, regression_scorers())
    assert [float(scorer.compute(torch.zeros(2), torch.full((2,), error))) for error in (1.0, 2.0)] == [1, 2]
    assert float(metric.compute()) == 9


def wrong_view() -> Callable[..., float]:
    def metric(y_true: Any, y_pred: Any) -> float:
        return 0.0

    metric.reads = "probabilities"  # type: ignore[attr-defined]
    return metric


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda y_true, y_pred: 0.0, "a lambda has no name"),
        (MeanAbsoluteError, r"the class MeanAbsoluteError. Give an object: MeanAbsoluteError\(...\)"),
        (TweedieDevianceScore(power=1), "TweedieDevianceScore does not say whether higher is better"),
        (wrong_view(), "no view 'probabilities' of a prediction. Did you mean 'probability'?"),
    ],
)
def test_mistakes(metric: Any, message: str) -> None:
    with pytest.raises(PolytaskError, match=message):
        user_scorer(metric, regression_scorers())

"""The metrics against scikit-learn's, closed forms, and samples on which they are undefined."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as theirs
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from polytask.scorer import Scorer
from polytask.tasks._metrics import (
    binary_scorers,
    count_scorers,
    multiclass_scorers,
    multilabel_scorers,
    ordinal_scorers,
    quantile_scorers,
    regression_scorers,
)

K = 5
NAMES = "abcde"


def numbers(seed: int = 0, n: int = 200, center: float = 10.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(n, generator=generator, dtype=torch.float64) * 3 + center
    return target + torch.randn(n, generator=generator, dtype=torch.float64), target


def counts(seed: int = 0, n: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rate = torch.rand(n, generator=generator, dtype=torch.float64) * 5 + 0.1
    return rate, torch.poisson(rate, generator=generator)


def yes_or_no(seed: int = 0, n: int = 200, ties: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(n, generator=generator, dtype=torch.float64)
    target = (torch.rand(n, generator=generator) < probability).long()
    probability = (probability * 9).round() / 10 + 0.05 if ties else probability
    return {"probability": probability, "label": (probability > 0.5).long()}, target


def classes(seed: int = 0, n: int = 200, n_seen: int = K) -> tuple[dict[str, Tensor], Tensor]:
    """Of ``K`` classes the target has ``n_seen`` only; the labels have them all."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(n_seen, (n,), generator=generator)
    logits = torch.randn(n, K, generator=generator, dtype=torch.float64) + 2 * torch.eye(K, dtype=torch.float64)[target]
    return {"probability": logits.softmax(1), "label": logits.argmax(1)}, target


def computed(scorer: Scorer, prediction: Tensor | dict[str, Tensor], target: Tensor) -> float:
    return float(scorer.compute(prediction if isinstance(prediction, Tensor) else prediction[scorer.reads], target))


def balanced(target: Any, label: Any) -> float:
    return float(theirs.recall_score(target, label, average="macro", labels=np.unique(target), zero_division=0))


Oracle = Callable[[Any, Any], float]
VALUES: dict[str, Oracle] = {
    "r2": theirs.r2_score,
    "rmse": theirs.root_mean_squared_error,
    "mae": theirs.mean_absolute_error,
    "poisson_deviance": theirs.mean_poisson_deviance,
}
BINARY: dict[str, Oracle] = {
    "accuracy": theirs.accuracy_score,
    "balanced_accuracy": theirs.balanced_accuracy_score,
    "precision": theirs.precision_score,
    "recall": theirs.recall_score,
    "f1": theirs.f1_score,
    "roc_auc": theirs.roc_auc_score,
    "average_precision": theirs.average_precision_score,
    "log_loss": theirs.log_loss,
    "ece": lambda target, probability: float(binary_calibration_error(probability, target, n_bins=15)),
}
CLASSES: dict[str, Oracle] = {
    "accuracy": theirs.accuracy_score,
    "balanced_accuracy": balanced,
    "f1": lambda target, label: theirs.f1_score(target, label, average="macro"),
    "f1_weighted": lambda target, label: theirs.f1_score(target, label, average="weighted"),
    "precision": lambda target, label: theirs.precision_score(target, label, average="macro", zero_division=0),
    "recall": balanced,
    "precision:b": lambda target, label: theirs.precision_score(target, label, labels=[1], average="macro"),
    "recall:b": lambda target, label: theirs.recall_score(target, label, labels=[1], average="macro"),
    "f1:b": lambda target, label: theirs.f1_score(target, label, labels=[1], average="macro"),
    "ece": lambda target, probability: float(multiclass_calibration_error(probability, target, K, n_bins=15)),
    "log_loss": lambda target, probability: theirs.log_loss(target, probability, labels=range(K)),
    "mae": theirs.mean_absolute_error,
    "kappa": lambda target, label: theirs.cohen_kappa_score(target, label, weights="quadratic"),
}


@pytest.mark.parametrize("name", ["r2", "rmse", "mae"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_regression(name: str, dtype: torch.dtype) -> None:
    prediction, target = (tensor.to(dtype) for tensor in numbers())
    assert computed(regression_scorers()[name], prediction, target) == pytest.approx(VALUES[name](target, prediction), rel=1e-6)


@pytest.mark.parametrize("name", ["r2", "rmse", "mae", "poisson_deviance"])
def test_counts(name: str) -> None:
    prediction, target = counts()
    assert computed(count_scorers()[name], prediction, target) == pytest.approx(VALUES[name](target, prediction), rel=1e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str, ties: bool) -> None:
    views, target = yes_or_no(ties=ties)
    scorer = binary_scorers()[name]
    expected = BINARY[name](target, views[scorer.reads])
    assert computed(scorer, views, target) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n_seen", [K, 3])
@pytest.mark.parametrize("name", [name for name in CLASSES if name not in ("mae", "kappa")])
def test_multiclass(name: str, n_seen: int) -> None:
    views, target = classes(n_seen=n_seen)
    scorer = multiclass_scorers(NAMES)[name]
    assert computed(scorer, views, target) == pytest.approx(CLASSES[name](target, views[scorer.reads]), abs=1e-6)


def several(seed: int = 0, n: int = 200, hidden: float = 0.0) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(n, K, generator=generator, dtype=torch.float64)
    target = (torch.rand(n, K, generator=generator) < probability).long()
    target[torch.rand(n, K, generator=generator) < hidden] = -1
    return {"probability": probability, "label": (probability > 0.5).long()}, target


LABELS: dict[str, Oracle] = {
    "exact_match": theirs.accuracy_score,
    "f1_micro": lambda target, label: theirs.f1_score(target, label, average="micro"),
    "f1": lambda target, label: theirs.f1_score(target, label, average="macro"),
    "precision": lambda target, label: theirs.precision_score(target, label, average="macro"),
    "recall": lambda target, label: theirs.recall_score(target, label, average="macro"),
    "accuracy": lambda target, label: 1 - theirs.hamming_loss(target, label),
    "roc_auc": theirs.roc_auc_score,
    "average_precision": theirs.average_precision_score,
    "log_loss": lambda target, probability: theirs.log_loss(target.flatten(), probability.flatten()),
}


@pytest.mark.parametrize("name", LABELS)
def test_multilabel(name: str) -> None:
    views, target = several()
    scorer = multilabel_scorers(NAMES)[name]
    assert computed(scorer, views, target) == pytest.approx(LABELS[name](target, views[scorer.reads]), abs=1e-6)


@pytest.mark.parametrize("name", BINARY)
def test_a_metric_of_one_label_sees_its_known_rows_only(name: str) -> None:
    views, target = several(hidden=0.3)
    known = target[:, 2] >= 0
    scorer = multilabel_scorers(NAMES)[f"{name}:c"]
    expected = BINARY[name](target[known, 2], views[scorer.reads][known, 2])
    assert computed(scorer, views, target) == pytest.approx(expected, abs=1e-6)


def test_a_label_without_a_score_is_left_out_of_the_mean() -> None:
    views, target = several()
    target[:, 0] = 1
    scorer = multilabel_scorers(NAMES)["roc_auc"]
    assert computed(scorer, views, target) == pytest.approx(theirs.roc_auc_score(target[:, 1:], views["probability"][:, 1:]))
    target[:] = -1
    assert math.isnan(computed(scorer, views, target))


@pytest.mark.parametrize("n_seen", [K, 3])
@pytest.mark.parametrize("name", ["accuracy", "mae", "kappa", "log_loss"])
def test_ordinal(name: str, n_seen: int) -> None:
    views, target = classes(n_seen=n_seen)
    scorer = ordinal_scorers(NAMES)[name]
    assert computed(scorer, views, target) == pytest.approx(CLASSES[name](target, views[scorer.reads]), abs=1e-6)


def weights_for(n: int) -> tuple[Tensor, np.ndarray]:
    weights = torch.rand(n, generator=torch.Generator().manual_seed(7), dtype=torch.float64) + 0.1
    return weights, weights.numpy()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", [name for name in BINARY if name != "ece"])
def test_weighted_binary(name: str, ties: bool) -> None:
    views, target = yes_or_no(ties=ties)
    weights, theirs_weights = weights_for(len(target))
    scorer = binary_scorers()[name]
    expected = BINARY[name](target, views[scorer.reads], sample_weight=theirs_weights)  # type: ignore[call-arg]
    assert float(scorer.compute(views[scorer.reads], target, weights)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", VALUES)
def test_weighted_values(name: str) -> None:
    prediction, target = counts()
    weights, theirs_weights = weights_for(len(target))
    expected = VALUES[name](target, prediction, sample_weight=theirs_weights)  # type: ignore[call-arg]
    assert float(count_scorers()[name].compute(prediction, target, weights)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "n_labels"), [("multiclass", 0), ("ordinal", 0), ("multilabel", K), ("quantile", 0)])
def test_whole_weights_are_repeated_rows(kind: str, n_labels: int) -> None:
    if kind == "quantile":
        value, target = numbers()
        views = {"quantiles": torch.stack([value - 1, value, value + 1], 1), "value": value}
    else:
        views, target = several(hidden=0.2) if n_labels else classes()
    times = torch.randint(1, 4, (len(target),), generator=torch.Generator().manual_seed(5))
    for name, scorer in ALL[kind].items():
        view = views[scorer.reads]
        repeated = scorer.compute(view.repeat_interleave(times, 0), target.repeat_interleave(times, 0))
        assert float(scorer.compute(view, target, times.double())) == pytest.approx(float(repeated), rel=1e-6), name


ALL = {
    "quantile": quantile_scorers((0.1, 0.5, 0.9)),
    "regression": regression_scorers(),
    "count": count_scorers(),
    "binary": binary_scorers(),
    "multiclass": multiclass_scorers(NAMES),
    "ordinal": ordinal_scorers(NAMES),
    "multilabel": multilabel_scorers(NAMES),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, scorers in ALL.items() for name in scorers])
def test_a_scorer_knows_its_name_and_which_way_is_better(kind: str, name: str) -> None:
    scorer = ALL[kind][name]
    assert scorer.name == name
    assert scorer.higher_is_better is (
        name.partition(":")[0]
        not in {"rmse", "mae", "poisson_deviance", "log_loss", "ece", "pinball", "coverage_error", "width"}
    )
    assert scorer.is_ratio is (name not in {"r2", "kappa", "coverage", "width"} and not name.startswith("below"))


def test_r2_does_not_mind_the_unit() -> None:
    scorer = regression_scorers()["r2"]
    prediction, target = numbers(center=0.0)
    expected = computed(scorer, prediction, target)
    assert computed(scorer, prediction * 1e-8, target * 1e-8) == pytest.approx(expected)
    assert computed(scorer, prediction + 1e8, target + 1e8) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_log_loss_of_a_sure_mistake_is_finite(kind: str) -> None:
    sure = torch.tensor([1.0, 1.0], dtype=torch.float64)
    probability = sure if kind == "binary" else torch.stack([1 - sure, sure], 1)
    scorer = binary_scorers()["log_loss"] if kind == "binary" else multiclass_scorers("ab")["log_loss"]
    assert computed(scorer, probability, torch.tensor([1, 0])) == pytest.approx(-math.log(2**-23) / 2)


def test_a_rate_that_underflowed_has_a_finite_deviance() -> None:
    found = computed(count_scorers()["poisson_deviance"], torch.zeros(2), torch.tensor([0.0, 1.0]))
    assert 80 < found < 100


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(
    ("name", "defined_for"),
    [("roc_auc", ()), ("average_precision", (1,)), ("f1", (1,)), ("accuracy", (0, 1)), ("balanced_accuracy", (0, 1))],
)
def test_binary_metrics_of_one_class(name: str, defined_for: tuple[int, ...], label: int) -> None:
    target = torch.full((6,), label)
    views = {"probability": torch.linspace(0.1, 0.4, 6), "label": torch.zeros(6, dtype=torch.long)}
    assert math.isnan(computed(binary_scorers()[name], views, target)) is (label not in defined_for)


@pytest.mark.parametrize("n", [1, 5])
def test_a_constant_target_has_no_r2_and_no_kappa(n: int) -> None:
    assert math.isnan(computed(regression_scorers()["r2"], torch.arange(float(n)), torch.full((n,), 0.1)))
    alike = torch.full((n,), 2)
    assert math.isnan(computed(ordinal_scorers(NAMES)["kappa"], alike, alike))


def test_a_constant_probability_ranks_nothing() -> None:
    target = torch.tensor([0, 1, 1, 0, 0])
    views = {"probability": torch.full((5,), 0.4)}
    assert computed(binary_scorers()["roc_auc"], views, target) == 0.5
    assert computed(binary_scorers()["average_precision"], views, target) == pytest.approx(0.4)

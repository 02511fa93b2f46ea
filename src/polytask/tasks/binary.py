"""Yes or no."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pyarrow as pa
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from polytask.errors import PolytaskError, listed
from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._classes import ClassTask, ClassValue, calibrated, frequencies
from polytask.tasks._metrics import binary_scorers

Goal = Literal["f1", "balanced_accuracy"]
Share = Annotated[float, Field(gt=0, lt=1)]


class Binary(ClassTask):
    """One of two classes; the second in order (1, true, "yes", ">50K") is the one whose probability is learned.

    Args:
        focal: Gamma of the focal loss -(1 - p)^gamma log p of the true class's probability p; 0 is cross-entropy. It turns to
            rows that are still wrong; probabilities are then too near to 1/2 (Lin 2017, arXiv:1708.02002, equation 4).
        threshold: The second class is answered above this probability: a number, or "f1" or "balanced_accuracy" for what gives
            the validation rows the highest.

    Example:
        >>> import pyarrow as pa
        >>> Binary("spam").fit_target(pa.array(["no", "yes", "no"])).classes
        ('no', 'yes')
    """

    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "roc_auc", "average_precision", "log_loss")

    focal: float = Field(default=0.0, ge=0)
    threshold: Goal | Share = 0.5

    def fit_target(self, column: pa.Array) -> Codec:
        codec = super().fit_target(column)
        return codec if isinstance(self.threshold, str) else codec.model_copy(update={"threshold": self.threshold})

    def check_classes(self, classes: tuple[ClassValue, ...], rows: str) -> None:
        super().check_classes(classes, rows)
        if len(classes) > 2:
            found = f"{len(classes)} values in {rows}: {listed(map(repr, classes), limit=5)}"
            mend = "Use multiclass or ordinal, or regression for amounts."
            raise PolytaskError("a binary task has two classes", where=self.place, found=found, mend=mend)

    def width(self, n_classes: int) -> int:
        return 1

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        return torch.logit(frequencies(target, 2, weights)[1:]).float()

    @property
    def searches_constant(self) -> bool:
        return self.focal > 0 or callable(self.loss)

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        towards = output[:, 0] * (2 * target - 1)
        losses = functional.softplus(-towards)
        # As an exponential: the power's own derivative is infinite at 0 for a gamma below 1.
        return losses if self.focal == 0 else losses * (self.focal * functional.logsigmoid(-towards)).exp()

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return torch.sigmoid(output[:, 0])

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return functional.logsigmoid(outputs).logsumexp(1) - functional.logsigmoid(-outputs).logsumexp(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        probability = calibrated(estimate, codec.temperature)
        return {"probability": probability, "label": (probability > codec.threshold).long()}

    @property
    def tunes(self) -> bool:
        return isinstance(self.threshold, str) or super().tunes

    def tune(self, estimate: Tensor, target: Tensor, codec: Codec, weights: Float[Tensor, " n"]) -> Codec:
        codec = super().tune(estimate, target, codec, weights)
        if not isinstance(self.threshold, str):
            return codec
        probability = calibrated(estimate, codec.temperature)
        return codec.model_copy(update={"threshold": best_threshold(probability, target, weights, self.threshold)})

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return binary_scorers()


def best_threshold(probability: Tensor, target: Tensor, weights: Tensor, goal: Goal) -> float:
    """The probability above which to say yes, half-way between two of the rows': the one nearest to 1/2 of the best.

    Where all rows are of one class it is 1/2.

    Args:
        probability: Of the second class, ``[n]``.
        target: Class codes, ``[n]``.
        weights: How much each row counts, ``[n]``.
        goal: What is highest there.

    Example:
        >>> best_threshold(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 0, 1, 1]), torch.ones(4), "f1")
        0.25
    """
    values, order = probability.double().sort(descending=True)
    each = weights[order].double()
    truth = target[order] * each
    if target.min() == target.max():
        return 0.5
    found, called = truth.cumsum(0), each.cumsum(0)  # yes to the first, to the first two, ...
    positive = truth.sum()
    if goal == "f1":
        score = 2 * found / (called + positive)
    else:
        score = (found / positive + 1 - (called - found) / (each.sum() - positive)) / 2
    below = torch.cat([values[1:], values.new_zeros(1)])
    score[values == below] = -1  # rows of one probability cannot be told apart
    thresholds = (values + below) / 2
    best = thresholds[score >= score.max() - 1e-12]
    return float(best[(best - 0.5).abs().argmin()])

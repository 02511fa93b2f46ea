"""Yes or no."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from polytask.errors import PolytaskError, listed
from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._classes import (
    ClassTask,
    ClassValue,
    Threshold,
    best_threshold,
    binary_losses,
    calibrated,
    frequencies,
    merged_logits,
)
from polytask.tasks._metrics import binary_scorers


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

    one_probability: ClassVar[bool] = True
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "roc_auc", "average_precision", "log_loss")

    focal: float = Field(default=0.0, ge=0)
    threshold: Threshold = 0.5

    def fit_target(self, column: pa.Array) -> Codec:
        codec = super().fit_target(column)
        return codec if isinstance(self.threshold, str) else codec.model_copy(update={"thresholds": (self.threshold,)})

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
        return binary_losses(output[:, 0], target, self.focal)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return torch.sigmoid(output[:, 0])

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return merged_logits(outputs)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        probability = calibrated(estimate, codec.temperature)
        return {"probability": probability, "label": (probability > codec.thresholds[0]).long()}

    @property
    def tunes(self) -> bool:
        return isinstance(self.threshold, str) or super().tunes

    def tune(self, estimate: Tensor, target: Tensor, codec: Codec, weights: Float[Tensor, " n"]) -> Codec:
        codec = super().tune(estimate, target, codec, weights)
        if not isinstance(self.threshold, str):
            return codec
        probability = calibrated(estimate, codec.temperature)
        return codec.model_copy(update={"thresholds": (best_threshold(probability, target, weights, self.threshold),)})

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return binary_scorers()

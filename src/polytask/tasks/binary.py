"""Yes or no."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from polytask.errors import PolytaskError, listed
from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._classes import ClassTask, ClassValue, frequencies
from polytask.tasks._metrics import binary_scorers


class Binary(ClassTask):
    """One of two classes; the second in order (1, true, "yes", ">50K") is the one whose probability is learned.

    Args:
        focal: Gamma of the focal loss -(1 - p)^gamma log p of the true class's probability p; 0 is cross-entropy. It turns to
            rows that are still wrong; probabilities are then too near to 1/2 (Lin 2017, arXiv:1708.02002, equation 4).

    Example:
        >>> import pyarrow as pa
        >>> Binary("spam").fit_target(pa.array(["no", "yes", "no"])).classes
        ('no', 'yes')
    """

    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "roc_auc", "average_precision", "log_loss")

    focal: float = Field(default=0.0, ge=0)

    def check_classes(self, classes: tuple[ClassValue, ...], where: str) -> None:
        super().check_classes(classes, where)
        if len(classes) > 2:
            found = f"{len(classes)} values: {listed(map(repr, classes))}"
            raise PolytaskError("a binary task has two classes", where=where, found=found, mend="Use multiclass or ordinal.")

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

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"probability": estimate.double(), "label": (estimate > 0.5).long()}

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return binary_scorers()

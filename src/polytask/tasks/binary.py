"""Yes or no."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from polytask.errors import PolytaskError, listed
from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._classes import ClassTask, ClassValue, frequencies
from polytask.tasks._metrics import binary_scorers


class Binary(ClassTask):
    """One of two classes; the second in order (1, true, "yes", ">50K") is the one whose probability is learned.

    Example:
        >>> import pyarrow as pa
        >>> Binary("spam").fit_target(pa.array(["no", "yes", "no"])).classes
        ('no', 'yes')
    """

    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "roc_auc", "average_precision", "log_loss")

    def check_classes(self, classes: tuple[ClassValue, ...], where: str) -> None:
        super().check_classes(classes, where)
        if len(classes) > 2:
            found = f"{len(classes)} values: {listed(map(repr, classes))}"
            raise PolytaskError("a binary task has two classes", where=where, found=found, mend="Use multiclass or ordinal.")

    def width(self, n_classes: int) -> int:
        return 1

    def best_constant(self, target: Tensor, codec: Codec) -> Float[Tensor, " width"]:
        return torch.logit(frequencies(target, 2)[1:]).float()

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        return functional.binary_cross_entropy_with_logits(output[:, 0], target.to(output.dtype), reduction="none")

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return torch.sigmoid(output[:, 0])

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return functional.logsigmoid(outputs).logsumexp(1) - functional.logsigmoid(-outputs).logsumexp(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"probability": estimate.double(), "label": (estimate > 0.5).long()}

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return binary_scorers()

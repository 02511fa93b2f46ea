"""One of several classes without an order."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._classes import ClassTask, calibrated, class_texts, frequencies
from polytask.tasks._metrics import multiclass_scorers

SMALLEST_DOUBT = 1e-12


class Multiclass(ClassTask):
    """One of K classes; cross-entropy over a softmax.

    Args:
        label_smoothing: This share of each row's target is spread evenly over the classes (Szegedy 2015, arXiv:1512.00567,
            section 7).
        focal: Gamma of the focal loss, the sum over classes of -t (1 - p)^gamma log p with targets t and probabilities p; 0 is
            cross-entropy (Lin 2017, arXiv:1708.02002, equation 4).

    Example:
        >>> import pyarrow as pa
        >>> Multiclass("animal").fit_target(pa.array(["dog", "cat", "eel"])).width
        3
    """

    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy", "log_loss")

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    focal: float = Field(default=0.0, ge=0)

    def width(self, n_classes: int) -> int:
        return n_classes

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        shares = frequencies(target, len(codec.classes), weights)
        return ((1 - self.label_smoothing) * shares + self.label_smoothing / len(shares)).log().float()

    @property
    def searches_constant(self) -> bool:
        return self.focal > 0 or callable(self.loss)

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        losses = -output.log_softmax(1)
        if self.focal > 0:
            # A floor: the power's derivative is infinite at 0 for a gamma below 1.
            losses = losses * (-torch.expm1(-losses)).clamp(min=SMALLEST_DOUBT) ** self.focal
        chosen = losses.gather(1, target.unsqueeze(1)).squeeze(1)
        return chosen if self.label_smoothing == 0 else torch.lerp(chosen, losses.mean(1), self.label_smoothing)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return output.softmax(1)

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return outputs.log_softmax(2).logsumexp(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"probability": calibrated(estimate, codec.temperature), "label": estimate.argmax(1)}

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return multiclass_scorers(class_texts(codec))

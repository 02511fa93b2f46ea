"""One of several classes without an order."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._classes import ClassTask, frequencies
from polytask.tasks._metrics import multiclass_scorers


class Multiclass(ClassTask):
    """One of K classes; cross-entropy over a softmax.

    Example:
        >>> import pyarrow as pa
        >>> Multiclass("animal").fit_target(pa.array(["dog", "cat", "eel"])).width
        3
    """

    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy", "log_loss")

    def width(self, n_classes: int) -> int:
        return n_classes

    def best_constant(self, target: Tensor, codec: Codec) -> Float[Tensor, " width"]:
        return frequencies(target, len(codec.classes)).log().float()

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        return functional.cross_entropy(output, target, reduction="none")

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return output.softmax(1)

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return outputs.log_softmax(2).logsumexp(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"probability": estimate.double(), "label": estimate.argmax(1)}

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return multiclass_scorers(len(codec.classes))

"""Yes or no."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Self

import pyarrow as pa
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from polytask.answers import AnswerColumn
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

    With ``depends_on`` the head of any task reads what others say of the row, also while training:

        inputs -> trunk -+-> head of click ------> p(click)
                         |                             |  no gradient goes back here, unless gradient: true
                         |                             v
                         +-> features, beside p(click) -> head of conversion

    What is seen only where another task says yes, as a conversion only after a click, names that task in ``given``:

        inputs -> trunk -+-> head of click ------> p(click) ---------------+------> loss of click, over all rows
                         |                                                 x
                         +-> head of conversion -> p(conversion | click) --+------> loss of both, over all rows

    Its loss is that of "a click and a conversion", with p(click) p(conversion | click) for its probability, over all rows where
    it is known whether both are so. So it learns from all rows, not only from those with a click, which are not like those that
    it will answer (Ma 2018, the entire space multi-task model). Labels that are 0 and labels that are missing mean the same
    where there was no click. It is scored where there was one, and its answer is that given a click; with probabilities,
    ``conversion:joint`` is that of both. Its loss trains the head of the other task too. A third task may be given this one.

    Args:
        focal: Gamma of the focal loss -(1 - p)^gamma log p of the true class's probability p; 0 is cross-entropy. It turns to
            rows that are still wrong; probabilities are then too near to 1/2 (Lin 2017, arXiv:1708.02002, equation 4).
        threshold: The second class is answered above this probability: a number, or "f1" or "balanced_accuracy" for what gives
            the validation rows the highest.
        given: The binary task where whose second class alone this one is seen (Ma 2018, arXiv:1804.07931, equation 3); None for
            all rows.

    Example:
        >>> import pyarrow as pa
        >>> Binary("spam").fit_target(pa.array(["no", "yes", "no"])).classes
        ('no', 'yes')
        >>> conversion, (click, bought) = Binary("conversion", given="click"), torch.tensor([0.5, 0.2]).logit()
        >>> both = conversion.joint(bought.reshape(1, 1), click.reshape(1, 1))
        >>> conversion.estimate(both)  # 0.5 of 0.2
        tensor([0.1000])
    """

    says_yes: ClassVar[bool] = True
    one_probability: ClassVar[bool] = True
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "roc_auc", "average_precision", "log_loss")

    focal: float = Field(default=0.0, ge=0)
    threshold: Threshold = 0.5
    given: str | None = None

    @model_validator(mode="after")
    def _loss_of_both(self) -> Self:
        if self.given is not None and self.class_weights is not None:
            what = "its loss is of both tasks together, and the classes of one have no weights in it"
            raise PolytaskError(what, where="class_weights", mend="Leave them out, or give the task another weight.")
        return self

    @property
    def seen_where(self) -> str | None:
        return self.given

    def among(self, tasks: Collection[str]) -> Self:
        alone = super().among(tasks)
        return alone if self.given is None or self.given in tasks else alone.model_copy(update={"given": None})

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

    def joint(self, output: Tensor, given: Tensor) -> Tensor:
        # p q has the odds 1 / (a + b + a b), where 1 / a and 1 / b are those of p and q.
        return -torch.stack([-output, -given, -output - given]).logsumexp(0)

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return merged_logits(outputs)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        probability = calibrated(estimate, codec.temperature)
        return {"probability": probability, "label": (probability > codec.thresholds[0]).long()}

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        both = AnswerColumn(name=f"{self.name}:joint", view="joint", detail=True)
        return (*super().answer_columns(codec), *((both,) if self.given is not None else ()))

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

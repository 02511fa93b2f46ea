"""A vector per row, near those of rows of its class and far from all others."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from polytask.answers import AnswerColumn
from polytask.errors import PolytaskError, counted
from polytask.scorer import Scorer, row_scorer
from polytask.task import Codec, Task
from polytask.tasks._classes import label_text
from polytask.tasks._groups import found_among, label_codes

NEIGHBORS = (1, 5)


class Embedding(Task):
    """A vector of length 1 per row; supervised contrastive loss.

    The loss of a row i is L_out, equation 2 of Khosla 2020: the mean over the rows p of its class of -log exp(z_i z_p / t) /
    sum_a exp(z_i z_a / t), where a is every other row of the batch. A row whose class is alone in the batch is left out. Give
    batches with several rows of a class.

    Classes are compared, never learned: rows may be evaluated whose classes training has not seen, as in retrieval.

    Metrics: ``recall_at_1`` and ``recall_at_5``, the share of rows with one of their class among the k nearest by cosine of all
    rows that are scored; without those whose class is alone.

    Args:
        width: The length of the vector.
        temperature: t.
    """

    paper: ClassVar[str] = "Khosla 2020 (SupCon), arXiv:2004.11362, equation 2"
    default_metrics: ClassVar[tuple[str, ...]] = tuple(f"recall_at_{k}" for k in NEIGHBORS)
    couples_rows: ClassVar[bool] = True
    has_constant: ClassVar[bool] = False
    usual_head: ClassVar[str | None] = "projection"

    width: int = Field(default=64, ge=2)
    temperature: float = Field(default=0.1, gt=0)

    def check_labels(self, column: pa.Array) -> None:
        label_text(column, self.place)

    def fit_target(self, column: pa.Array) -> Codec:
        text = label_text(column, self.place)
        n_classes, n_rows = len(text.unique()), counted(len(column), "row")
        if n_classes < 2 or n_classes == len(column):
            found = f"{n_classes} different labels in {n_rows}"
            mend = "Give a column of classes with several rows each."
            raise PolytaskError(
                "it takes rows of one class, and of others, to learn from", where=self.place, found=found, mend=mend
            )
        return Codec(width=self.width, start=(0.0,) * self.width, dtype="float")

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Int[Tensor, " N"], Bool[Tensor, " N"]]:
        codes = label_codes(column, self.place)
        return codes.clamp(min=0), codes >= 0

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        return contrastive_losses(output, target, self.temperature)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return output

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"vector": functional.normalize(estimate, dim=1)}

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        return (AnswerColumn(name=self.name, view="vector"),)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return {
            f"recall_at_{k}": row_scorer(f"recall_at_{k}", partial(found_among, k=k), higher_is_better=True, reads="vector")
            for k in NEIGHBORS
        }


def contrastive_losses(vectors: Float[Tensor, "B D"], target: Tensor, temperature: float) -> Float[Tensor, " B"]:
    """The supervised contrastive loss of each row; 0 without another row of its class, and then that of the others is more.

    The mean over all rows is that over those that have another of their class.

    Example:
        >>> contrastive_losses(torch.eye(3), torch.tensor([0, 0, 1]), 1.0)  # log 2 for two of three rows
        tensor([1.0397, 1.0397, 0.0000])
    """
    similar = (vectors @ vectors.T / temperature).fill_diagonal_(-math.inf)
    logs = similar.log_softmax(1) if len(vectors) > 1 else similar.zero_()
    same = (target.unsqueeze(1) == target).fill_diagonal_(False)
    sums, n_same = torch.where(same, logs, 0.0).sum(1), same.sum(1)
    n_compared = (n_same > 0).sum()
    return -sums / n_same.clamp(min=1) * (len(vectors) / n_compared.clamp(min=1))

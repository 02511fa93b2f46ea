"""A count, predicted by the rate of a Poisson distribution."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polytask.answers import AnswerColumn
from polytask.scorer import Scorer
from polytask.task import Codec, Task, numbers, refuse
from polytask.tasks._metrics import count_scorers
from polytask.tasks._numbers import all_equal

MAX_LOG_RATE = 20.0


class Count(Task):
    """How many: whole numbers from 0, with half the Poisson deviance y log(y/r) - (y - r) as loss and a log link.

    The deviance differs from the Poisson negative log-likelihood by what does not depend on the rate r; unlike that, it is
    never negative, so that dividing by the loss of the best constant means something. Target and rate are divided by the
    training mean, and the log rate is held below 20, where exp would overflow the metrics.

    Example:
        >>> task = Count("casual")
        >>> task.row_losses(torch.zeros(2, 1), torch.tensor([1.0, 0.0]))
        tensor([0., 1.])
    """

    paper: ClassVar[str] = "McCullagh and Nelder 1989, Generalized Linear Models, section 2.3"
    default_metrics: ClassVar[tuple[str, ...]] = ("r2", "poisson_deviance", "mae")

    def check_labels(self, column: pa.Array) -> None:
        self._counts(column)

    def fit_target(self, column: pa.Array) -> Codec:
        values = self._counts(column)
        if not len(values):
            return Codec()
        if values.min() == values.max():
            raise all_equal(values, self.place)
        return Codec(scale=float(values.mean()))

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        values = self._counts(column) / codec.scale
        return torch.from_numpy(np.nan_to_num(values).astype(np.float32)), torch.from_numpy(~np.isnan(values))

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        return ((weights * target).sum() / weights.sum()).log().reshape(1)

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        log_rate = output[:, 0].clamp(max=MAX_LOG_RATE)
        return torch.xlogy(target, target) - target * log_rate - target + log_rate.exp()

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return output[:, 0].clamp(max=MAX_LOG_RATE).exp()

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return outputs.clamp(max=MAX_LOG_RATE).logsumexp(1) - math.log(outputs.shape[1])

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"value": estimate.double() * codec.scale}

    def truth(self, target: Tensor, codec: Codec) -> Tensor:
        return target.double() * codec.scale

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        return (AnswerColumn(name=self.name, view="value"),)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return count_scorers()

    def _counts(self, column: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        values = numbers(column, self.place)
        refuse(values < 0, values, "count", "negative", self.place, "Mend them, or use a regression task.")
        return values

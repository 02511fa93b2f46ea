"""A number, predicted by its mean or median."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from polytask.errors import PolytaskError
from polytask.scorer import Scorer
from polytask.task import Codec, Task, numbers
from polytask.tasks._metrics import regression_scorers
from polytask.tasks._quantiles import weighted_quantile


class Regression(Task):
    """A number; squared error on the target standardized by its training mean and deviation. Answers are in the column's units.

    With ``loss="squared"`` the mean is predicted, with "absolute" the median; "huber" is squared for errors up to
    ``huber_delta`` and grows linearly beyond, so that outliers pull less.

    Args:
        huber_delta: Where Huber's loss turns linear, in standard deviations of the target (Huber 1964,
            doi:10.1214/aoms/1177703732).

    Example:
        >>> task = Regression("price")
        >>> codec = task.fit_target(pa.array([100.0, 300.0]))
        >>> codec.center, codec.scale
        (200.0, 100.0)
    """

    losses: ClassVar[tuple[str, ...]] = ("squared", "huber", "absolute")
    default_metrics: ClassVar[tuple[str, ...]] = ("r2", "rmse", "mae")

    huber_delta: float = Field(default=1.0, gt=0)

    def fit_target(self, column: pa.Array) -> Codec:
        values = numbers(column, f"task {self.name!r}, column {self.label_column!r}")
        if not len(values):
            return Codec()
        if values.min() == values.max():
            mend = "A constant needs no network: leave this task out."
            raise PolytaskError("all training labels are equal", where=f"task {self.name!r}", found=f"{values[0]:g}", mend=mend)
        center = float((values / len(values)).sum())
        largest = float(np.abs(values - center).max())  # divided by it first: the square of 1e200 is no float64
        return Codec(center=center, scale=largest * float(np.sqrt(np.mean(((values - center) / largest) ** 2))))

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        values = (numbers(column, f"task {self.name!r}, column {self.label_column!r}") - codec.center) / codec.scale
        return torch.from_numpy(np.nan_to_num(values).astype(np.float32)), torch.from_numpy(~np.isnan(values))

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        error = output[:, 0] - target
        if self.loss == "absolute":
            return error.abs()
        if self.loss == "huber":
            return functional.huber_loss(output[:, 0], target, reduction="none", delta=self.huber_delta)
        return error.square()

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        if self.loss in ("absolute", "huber"):
            return weighted_quantile(target, 0.5, weights).reshape(1)
        return ((weights * target).sum() / weights.sum()).reshape(1)

    @property
    def searches_constant(self) -> bool:
        return self.loss == "huber" or callable(self.loss)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return output[:, 0]

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"value": estimate.double() * codec.scale + codec.center}

    def truth(self, target: Tensor, codec: Codec) -> Tensor:
        return target.double() * codec.scale + codec.center

    def answer(self, views: Mapping[str, Tensor], codec: Codec, probabilities: bool = False) -> dict[str, pa.Array]:
        return {self.name: pa.array(views["value"].numpy())}

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return regression_scorers()

"""A number, predicted by its mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polytask.errors import PolytaskError
from polytask.scorer import Scorer
from polytask.task import Codec, Task, numbers
from polytask.tasks._metrics import regression_scorers


class Regression(Task):
    """A number; squared error on the target standardized by its training mean and deviation. Answers are in the column's units.

    Example:
        >>> task = Regression("price")
        >>> codec = task.fit_target(pa.array([100.0, 300.0]))
        >>> codec.center, codec.scale
        (200.0, 100.0)
    """

    default_metrics: ClassVar[tuple[str, ...]] = ("r2", "rmse", "mae")

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
        return (output[:, 0] - target).square()

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return output[:, 0]

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return outputs.mean(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"value": estimate.double() * codec.scale + codec.center}

    def truth(self, target: Tensor, codec: Codec) -> Tensor:
        return target.double() * codec.scale + codec.center

    def answer(self, views: Mapping[str, Tensor], codec: Codec, probabilities: bool = False) -> dict[str, pa.Array]:
        return {self.name: pa.array(views["value"].numpy())}

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return regression_scorers()

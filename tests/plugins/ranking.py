"""A task whose loss couples rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from polytask.scorer import Scorer
from polytask.task import Codec, Task, numbers


class Ranking(Task):
    """A score that puts rows in the order of a number: the logistic loss of every pair of rows with different labels.

    The loss of a row is its mean over the rows that it is compared with, 0 where there are none.
    """

    paper: ClassVar[str] = "Burges 2005 (RankNet), doi:10.1145/1102351.1102363, equation 3"
    default_metrics: ClassVar[tuple[str, ...]] = ("spearman",)
    couples_rows: ClassVar[bool] = True
    has_constant: ClassVar[bool] = False

    def fit_target(self, column: pa.Array) -> Codec:
        values = self._numbers(column)
        if not len(values):
            return Codec()
        return Codec(center=float(values.mean()), scale=float(values.std()) or 1.0)

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        values = (self._numbers(column) - codec.center) / codec.scale
        return torch.from_numpy(np.nan_to_num(values).astype(np.float32)), torch.from_numpy(~np.isnan(values))

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        score = output[:, 0]
        order = torch.sign(target.unsqueeze(1) - target)
        pairs = functional.softplus(-order * (score.unsqueeze(1) - score)) * order.abs()
        return pairs.sum(1) / order.abs().sum(1).clamp(min=1)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return output[:, 0]

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"value": estimate.double()}

    def truth(self, target: Tensor, codec: Codec) -> Tensor:
        return target.double() * codec.scale + codec.center

    def answer(self, views: Mapping[str, Tensor], codec: Codec, probabilities: bool = False) -> dict[str, pa.Array]:
        return {self.name: pa.array(views["value"].numpy())}

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return {"spearman": Scorer("spearman", _spearman, higher_is_better=True, reads="value")}

    def _numbers(self, column: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return numbers(column, f"task {self.name!r}, column {self.label_column!r}")


def _spearman(prediction: Tensor, target: Tensor) -> float:
    first, second = rankdata(prediction), rankdata(target)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])

"""A number, predicted by its mean or median."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from polytask.answers import AnswerColumn
from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._metrics import regression_scorers
from polytask.tasks._numbers import NumberTask, in_units
from polytask.tasks._quantiles import weighted_quantile

# All at once would take the memory of as many columns, one after the other as many operations.
N_RESIDUALS, N_AT_ONCE = 64, 16


class Regression(NumberTask):
    """A number; squared error on the target standardized by its training mean and deviation. Answers are in the column's units.

    With ``loss="squared"`` the mean is predicted, with "absolute" the median; "huber" is squared for errors up to
    ``huber_delta`` and grows linearly beyond, so that outliers pull less.

    Where the label is transformed by log1p or to normal scores, going back from a mean on that scale gives no mean. So for
    "squared" and "huber" the residuals of the held-out rows are added to it before, and the mean of what comes back is the
    answer (Duan's smearing, 1983, doi:10.1080/01621459.1983.10478017). A median needs none: "absolute" goes back as it is,
    and so does what a callable loss asks for.

    Args:
        huber_delta: Where Huber's loss turns linear, in standard deviations of the target (Huber 1964,
            doi:10.1214/aoms/1177703732).

    Example:
        >>> import pyarrow as pa
        >>> task = Regression("price")
        >>> codec = task.fit_target(pa.array([100.0, 300.0]))
        >>> codec.center, codec.scale
        (200.0, 100.0)
    """

    tunes_on_training: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("squared", "huber", "absolute")
    default_metrics: ClassVar[tuple[str, ...]] = ("r2", "rmse", "mae")

    huber_delta: float = Field(default=1.0, gt=0)

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

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return outputs.mean(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        residuals = torch.tensor(codec.residuals or (0.0,), dtype=torch.float64)
        value = torch.zeros_like(estimate, dtype=torch.float64)
        for some in residuals.split(N_AT_ONCE):
            value = value + in_units(estimate.double().unsqueeze(1) + some, codec).sum(1)
        return {"value": value / len(residuals)}

    def constant_views(self, codec: Codec, n_rows: int) -> dict[str, Tensor]:
        if not self.tunes or codec.mean is None:
            return self.views(self.estimate(torch.tensor(codec.start).expand(n_rows, -1)), codec)
        return {"value": torch.full((n_rows,), codec.mean, dtype=torch.float64)}

    @property
    def tunes(self) -> bool:
        return self.transform != "standardize" and self.loss in (None, "squared", "huber")

    def tune(self, estimate: Tensor, target: Tensor, codec: Codec, weights: Float[Tensor, " n"]) -> Codec:
        if not self.tunes or codec.transform == "standardize":
            return codec
        residuals = (target - estimate).double()
        if codec.transform == "log1p":  # the one residual that does what all of them do
            mean = torch.logsumexp(codec.scale * residuals + weights.log(), 0) - weights.sum().log()
            found = mean.reshape(1) / codec.scale
        else:
            levels = [(index + 0.5) / N_RESIDUALS for index in range(N_RESIDUALS)]
            found = torch.stack([weighted_quantile(residuals, level, weights) for level in levels])
        return codec.model_copy(update={"residuals": tuple(found.tolist())})

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        return (AnswerColumn(name=self.name, view="value"),)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return regression_scorers()

"""Several quantiles of a number, which never cross."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from polytask.answers import AnswerColumn
from polytask.errors import PolytaskError
from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._metrics import quantile_scorers
from polytask.tasks._numbers import NumberTask, in_units
from polytask.tasks._quantiles import weighted_quantile

Level = Annotated[float, Field(gt=0, lt=1)]


class Quantile(NumberTask):
    """Quantiles of a number given the inputs; the mean pinball loss of their levels.

    The network's numbers are put in order, and the k-th is the quantile of the k-th level: whatever the network says they do
    not cross, and ordering never raises the loss. The answer ``name`` is the quantile nearest to the median, ``name:0.9`` that
    of level 0.9.

    Args:
        quantiles: The levels, increasing, each between 0 and 1.

    Example:
        >>> task = Quantile("price", quantiles=(0.1, 0.9))
        >>> task.estimate(torch.tensor([[2.0, -1.0]]))
        tensor([[-1.,  2.]])
        >>> task.row_losses(torch.tensor([[2.0, -1.0]]), torch.tensor([1.0]))  # (0.1 (1 + 1) + 0.1 (2 - 1)) / 2
        tensor([0.1500])
    """

    paper: ClassVar[str] = "Chernozhukov, Fernandez-Val and Galichon 2010, arXiv:0704.3649, proposition 4"
    default_metrics: ClassVar[tuple[str, ...]] = ("pinball", "coverage_error", "mae")

    quantiles: tuple[Level, ...] = Field(default=(0.1, 0.5, 0.9), min_length=1)

    @model_validator(mode="after")
    def _levels_increase(self) -> Self:
        if any(low >= high for low, high in zip(self.quantiles, self.quantiles[1:], strict=False)):
            found = ", ".join(f"{level:g}" for level in self.quantiles)
            raise PolytaskError("the levels do not increase", where="quantiles", found=found, mend="Order them, each once.")
        return self

    @property
    def n_outputs(self) -> int:
        return len(self.quantiles)

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        return torch.stack([weighted_quantile(target, level, weights) for level in self.quantiles])

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        missing = target.unsqueeze(1) - self.estimate(output)
        levels = torch.tensor(self.quantiles, dtype=output.dtype, device=output.device)
        return torch.maximum(levels * missing, (levels - 1) * missing).mean(1)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return output.sort(1).values

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return outputs.sort(2).values.mean(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        quantiles = in_units(estimate, codec)
        middle = min(range(len(self.quantiles)), key=lambda index: abs(self.quantiles[index] - 0.5))
        return {"value": quantiles[:, middle], "quantiles": quantiles}

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        levels = enumerate(self.quantiles)
        each = (AnswerColumn(name=f"{self.name}:{level:g}", view="quantiles", at=index) for index, level in levels)
        return (AnswerColumn(name=self.name, view="value"), *each)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return quantile_scorers(self.quantiles)

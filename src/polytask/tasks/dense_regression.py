"""A number for every pixel of an image, such as its depth."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from polytask.answers import AnswerColumn
from polytask.errors import CellsError, PolytaskError, are, counted
from polytask.maps import arrays_of
from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._dense import DenseTask, dense_scorer, mean_where, without_empty

DELTAS = (1.25, 1.25**2, 1.25**3)
STATISTICS = ("pixels", "absolute", "square", "positive", "relative", "near", "nearer", "nearest")


class DenseRegression(DenseTask):
    """A number for every pixel.

    Labels are images of one channel (8, 16 or 32 bits), ``.npy`` files, or arrays ``[N, H, W]`` of numbers, NaN where there is
    none. One of another size is brought to that of the image; each pixel takes the value of the nearest.

    Args:
        missing: A number that means that there is no label, such as 0 where a depth camera saw nothing.
        transform: The scale that is learned: "standardize", or "log" for labels above 0. The loss scale_invariant is on the
            logarithm.
        balance: Of the loss scale_invariant: how much of an error that all pixels of an image share is forgiven, lambda.

    Losses, each the mean over the labeled pixels of a row, on the scale that is learned and standardized: ``l1``; ``mse``;
    ``scale_invariant``, mean d^2 - lambda (mean d)^2 with d the difference of logarithms (Eigen 2014, equation 4).

    Metrics, over all labeled pixels of all rows, in the labels' units: ``abs_error`` and ``rmse``; where labels are above 0
    ``rel_error``, the mean of |y - p| / y, and ``delta_1``, ``delta_2``, ``delta_3``: the share of pixels with
    max(y / p, p / y) below 1.25, 1.25^2, 1.25^3.

    Raises:
        PolytaskError: All labels are the same; a logarithm is asked for of labels that are not above 0.

    Example:
        >>> from polytask.maps import tensors
        >>> task = DenseRegression("depth", missing=0)
        >>> codec = task.fit_target(tensors(np.array([[[1.0, 3.0], [0.0, np.nan]]], np.float32)))
        >>> codec.space, codec.center, codec.scale
        ((2, 2), 2.0, 1.0)
    """

    paper: ClassVar[str] = "Eigen 2014, arXiv:1406.2283"
    spatial: ClassVar[Literal["codes", "numbers", "image"] | None] = "numbers"
    losses: ClassVar[tuple[str, ...]] = ("l1", "mse", "scale_invariant")
    default_metrics: ClassVar[tuple[str, ...]] = ("abs_error", "rel_error", "delta_1")

    missing: float | None = None
    transform: Literal["standardize", "log"] = "standardize"
    balance: float = Field(default=0.5, ge=0, le=1)

    @property
    def on_logarithms(self) -> bool:
        """Whether the logarithm of the labels is learned."""
        return self.transform == "log" or self.loss == "scale_invariant"

    def labels_of(self, table: pa.Table) -> pa.Array:
        return without_empty(super().labels_of(table), self._there)

    def _there(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        there: NDArray[np.bool_] = np.isfinite(values)
        return there if self.missing is None else there & (values != self.missing)

    def check_labels(self, column: pa.Array) -> None:
        if not isinstance(column.type, pa.FixedShapeTensorType) or not len(column):
            return
        values = arrays_of(column)
        known = column.is_valid().to_numpy(zero_copy_only=False)[:, None, None]
        self._refuse(np.isinf(values) & known, "infinite", "Mend them, or give NaN where there is no label.")
        if self.on_logarithms:
            mend = "Use transform: standardize with the loss l1 or mse, or say which number means no label: missing: 0."
            self._refuse(self._there(values) & (values <= 0) & known, "not above 0, and so have no logarithm", mend)

    def _refuse(self, wrong: NDArray[np.bool_], what: str, mend: str) -> None:
        rows = np.flatnonzero(wrong.any((1, 2)))
        if len(rows):
            cells = {int(row): counted(int(wrong[row].sum()), "pixel") for row in rows}
            raise CellsError(f"labels of {counted(len(rows), 'row')} are {what}", cells=cells, where=self.place, mend=mend)

    def fit_target(self, column: pa.Array) -> Codec:
        if not isinstance(column.type, pa.FixedShapeTensorType) or not len(column):
            shape = tuple(column.type.shape) if isinstance(column.type, pa.FixedShapeTensorType) else (1, 1)
            return Codec(space=shape, dtype="float")
        values = arrays_of(column)
        known = values[self._there(values)].astype(np.float64)
        if not known.size or known.min() == known.max():
            found = f"{are(known.size, 'pixel')} {known.min() if known.size else 'labeled'}"
            raise PolytaskError("all labels are the same", where=self.place, found=found, mend="Leave the task out.")
        learned = np.log(known) if self.on_logarithms else known
        deviation = float(learned.std())
        transform = "log" if self.on_logarithms else "standardize"
        return Codec(
            space=tuple(column.type.shape), transform=transform, center=float(learned.mean()), scale=deviation, dtype="float"
        )

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Float[Tensor, "N H W"], Bool[Tensor, " N"]]:
        present = torch.from_numpy(column.is_valid().to_numpy(zero_copy_only=False).copy())
        if not isinstance(column.type, pa.FixedShapeTensorType):
            return torch.full((len(column), *codec.space), math.nan), present
        self.check_codec(codec.space, column)
        values = arrays_of(column).astype(np.float32)
        there = self._there(values) & present.numpy()[:, None, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            learned = np.log(values) if codec.transform == "log" else values
        return torch.from_numpy(np.where(there, (learned - codec.center) / codec.scale, np.nan).astype(np.float32)), present

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        """The weighted median of all pixels for l1, where each row counts alike; else the mean of the rows' means."""
        there = ~target.isnan()
        if self.loss in ("mse", "scale_invariant"):
            return ((weights @ mean_where(target, there).double()) / weights.sum()).view(1)
        each = (weights / there.flatten(1).sum(1).clamp(min=1)).view(-1, 1, 1).expand_as(target)[there]
        values, order = target[there].sort()
        reached = each[order].cumsum(0)
        return values[int(torch.searchsorted(reached, reached[-1] / 2))].view(1)

    def row_losses(self, output: Float[Tensor, "B 1 H W"], target: Float[Tensor, "B H W"]) -> Float[Tensor, " B"]:
        there = ~target.isnan()
        apart = output.squeeze(1) - torch.where(there, target, 0.0)
        if self.loss == "mse":
            return mean_where(apart.square(), there)
        if self.loss == "scale_invariant":
            return mean_where(apart.square(), there) - self.balance * mean_where(apart, there).square()
        return mean_where(apart.abs(), there)

    def estimate(self, output: Float[Tensor, "B 1 H W"]) -> Tensor:
        return output.squeeze(1)

    def merged(self, outputs: Float[Tensor, "B members 1 H W"]) -> Float[Tensor, "B 1 H W"]:
        return outputs.mean(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        return {"value": self._in_units(estimate, codec)}

    def truth(self, target: Tensor, codec: Codec) -> Tensor:
        return self._in_units(target, codec)

    def _in_units(self, learned: Tensor, codec: Codec) -> Tensor:
        values = learned * codec.scale + codec.center
        return values.exp() if codec.transform == "log" else values

    def statistics(self, views: Any, target: Tensor, codec: Codec) -> Float[Tensor, "B n"]:
        """The sums that STATISTICS names."""
        there = ~target.isnan()
        truth = self._in_units(torch.where(there, target, 0.0).double(), codec)
        answer = views["value"].double()
        apart, above = (answer - truth).abs(), there & (truth > 0)
        ratio = torch.where(answer > 0, torch.maximum(truth / answer, answer / truth), math.inf)
        each = [there, apart, apart.square(), above, apart / truth, *(ratio < delta for delta in DELTAS)]
        marks = [there] * 3 + [above] * 5
        return torch.stack(
            [torch.where(mark, value.double(), 0.0).flatten(1).sum(1) for value, mark in zip(each, marks, strict=True)], 1
        )

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        return (AnswerColumn(name=self.name, view="value"),)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        found = [
            dense_scorer("abs_error", partial(_ratio, "absolute", "pixels"), False),
            dense_scorer("rmse", _rmse, False),
            dense_scorer("rel_error", partial(_ratio, "relative", "positive"), False),
            *(
                dense_scorer(f"delta_{i}", partial(_ratio, name, "positive"), True)
                for i, name in enumerate(("near", "nearer", "nearest"), 1)
            ),
        ]
        return {scorer.name: scorer for scorer in found}


def _ratio(over: str, under: str, sums: Tensor) -> Tensor:
    return sums[STATISTICS.index(over)] / sums[STATISTICS.index(under)]


def _rmse(sums: Tensor) -> Tensor:
    return _ratio("square", "pixels", sums).sqrt()

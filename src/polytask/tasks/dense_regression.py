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
from polytask.tasks._dense import DenseTask, dense_scorer, mean_where, pieces, without_empty

MOST_SORTED = 2**24
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
        there: NDArray[np.bool_] = ~np.isnan(values)
        return there if self.missing is None else there & (values != self.missing)

    def check_labels(self, column: pa.Array) -> None:
        if not isinstance(column.type, pa.FixedShapeTensorType) or not len(column):
            return
        values = arrays_of(column)
        known = column.is_valid().to_numpy(zero_copy_only=False)[:, None, None]
        self._refuse(
            np.isinf(values) & self._there(values) & known, "infinite", "Mend them, or give NaN where there is no label."
        )
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
        moments = _Moments()
        for rows in pieces(values.shape):
            known = values[rows][self._there(values[rows])].astype(np.float64)
            moments.add(np.log(known) if self.on_logarithms else known)
        if not moments.deviation:
            found = f"{are(moments.n, 'pixel')} {moments.mean if moments.n else 'labeled'}"
            raise PolytaskError("all labels are the same", where=self.place, found=found, mend="Leave the task out.")
        transform = "log" if self.on_logarithms else "standardize"
        return Codec(
            space=tuple(column.type.shape),
            transform=transform,
            center=moments.mean,
            scale=moments.deviation,
            dtype="float",
        )

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Float[Tensor, "N H W"], Bool[Tensor, " N"]]:
        present = torch.from_numpy(column.is_valid().to_numpy(zero_copy_only=False).copy())
        if not isinstance(column.type, pa.FixedShapeTensorType):
            return torch.full((len(column), *codec.space), math.nan), present
        self.check_codec(codec.space, column)
        values = arrays_of(column)
        target = np.full(values.shape, np.nan, np.float32)
        for rows in pieces(values.shape):
            part = values[rows].astype(np.float32)
            with np.errstate(divide="ignore", invalid="ignore"):
                learned = ((np.log(part) if codec.transform == "log" else part) - codec.center) / codec.scale
            np.copyto(target[rows], learned, casting="same_kind", where=self._there(part) & present.numpy()[rows, None, None])
        return torch.from_numpy(target), present

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        """The weighted median of all pixels for l1, where each row counts alike; else the mean of the rows' means.

        Of more than MOST_SORTED pixels the median is that of every so many.
        """
        parts = [target[rows] for rows in pieces(target.shape)]
        if self.loss in ("mse", "scale_invariant"):
            means = torch.cat([mean_where(part, ~part.isnan()) for part in parts])
            return ((weights @ means.double()) / weights.sum()).view(1)
        each = weights / torch.cat([(~part.isnan()).flatten(1).sum(1) for part in parts]).clamp(min=1)
        places = torch.arange(0, target.numel(), -(-target.numel() // MOST_SORTED))
        values = target.flatten()[places]
        there = ~values.isnan()
        values, order = values[there].sort()
        reached = each[places[there][order] // target[0].numel()].cumsum(0)
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


class _Moments:
    """The mean and deviation of numbers that come in pieces (Chan 1979)."""

    def __init__(self) -> None:
        self.n, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Some more numbers."""
        if not len(values):
            return
        mean, n = float(values.mean()), self.n + len(values)
        apart = mean - self.mean
        self._squares += float(np.square(values - mean).sum()) + apart**2 * self.n * len(values) / n
        self.mean += apart * len(values) / n
        self.n = n

    @property
    def deviation(self) -> float:
        """0 where all numbers are the same."""
        return math.sqrt(self._squares / self.n) if self.n else 0.0


def _ratio(over: str, under: str, sums: Tensor) -> Tensor:
    return sums[STATISTICS.index(over)] / sums[STATISTICS.index(under)]


def _rmse(sums: Tensor) -> Tensor:
    return _ratio("square", "pixels", sums).sqrt()

"""What the tasks that predict a number share: the scale that the network learns it on, and the way back to the column's units.

A label is transformed, standardized by the training mean and deviation of that, and predictions go the other way.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from polytask.errors import PolytaskError, counted
from polytask.task import Codec, Task, numbers, refuse

Transform = Literal["standardize", "log1p", "quantile"]
Floats = NDArray[np.float64]
MAX_KNOTS = 256
# How far beyond the training labels the normal scores go on, in ranges of these.
TAIL = 100.0
# expm1 of more is no float64.
MAX_LOG = 700.0
# What "auto" takes for continuous, and for strongly skewed.
MIN_DISTINCT, MIN_SKEWNESS = 50, 2.0


class NumberTask(Task, abstract=True):
    """A task whose labels are numbers.

    Args:
        transform: The scale that is learned: "standardize", the label itself; "log1p", the logarithm of 1 + label, for labels
            from 0; "quantile", its normal score by its rank among the training labels (never automatic: where it was measured
            it lowered R2); "auto", log1p where all training labels are above 0, at least 50 of them differ, their skewness is
            above 2 and that of log1p is less than half as far from 0, else the label itself. Each is then standardized.
            Answers and scores are in the column's own units.
    """

    transform: Literal["standardize", "log1p", "quantile", "auto"] = "standardize"

    def check_labels(self, column: pa.Array) -> None:
        self._values(column)

    def fit_target(self, column: pa.Array) -> Codec:
        values = self._values(column)
        if not len(values):
            return self._codec()
        if values.min() == values.max():
            raise all_equal(values, self.place)
        transform = chosen_transform(values) if self.transform == "auto" else self.transform
        if transform == "log1p" and values.min() < 0:
            where, mend = f"task {self.name!r}, transform", "log1p is for labels from 0: use standardize or auto."
            refuse(values < 0, values, "label", "negative", where, mend)
        codec = self._codec(transform=transform, knots=_knots(values) if transform == "quantile" else ())
        center, scale = _center_and_scale(_forward(values, codec))
        mean = None if transform == "standardize" else float(values.mean())
        return codec.model_copy(update={"center": center, "scale": scale, "mean": mean})

    @property
    def n_outputs(self) -> int:
        """How many numbers the head gives."""
        return 1

    def _codec(self, **found: Any) -> Codec:
        return Codec(width=self.n_outputs, start=(0.0,) * self.n_outputs, **found)

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        values = self._values(column)
        if codec.transform == "log1p":
            mend = "Set the task's transform to standardize, or mend these labels."
            refuse(values <= -1, values, "label", "-1 or less, where log1p ends", self.place, mend)
        target = (_forward(values, codec) - codec.center) / codec.scale
        return torch.from_numpy(np.nan_to_num(target).astype(np.float32)), torch.from_numpy(~np.isnan(values))

    def truth(self, target: Tensor, codec: Codec) -> Tensor:
        return in_units(target, codec)

    def _values(self, column: pa.Array) -> Floats:
        return numbers(column, self.place)


def all_equal(values: Floats, where: str) -> PolytaskError:
    """The error for training labels that are all the same number."""
    found, mend = f"{values[0]:g} in each of {counted(len(values), 'row')}", "A constant needs no network: leave this task out."
    return PolytaskError("all training labels are equal", where=where, found=found, mend=mend)


def in_units(scaled: Tensor, codec: Codec) -> Tensor:
    """A number on the scale of the loss, float64 in the column's units.

    Example:
        >>> in_units(torch.tensor([0.0, 1.0]), Codec(transform="log1p", center=2.0, scale=0.5))
        tensor([ 6.3891, 11.1825], dtype=torch.float64)
    """
    transformed = scaled.double() * codec.scale + codec.center
    if codec.transform == "standardize":
        return transformed
    if codec.transform == "log1p":
        return torch.expm1(transformed.clamp(max=MAX_LOG))
    labels, scores = torch.tensor(codec.knots, dtype=torch.float64).T.contiguous()
    return interpolated(transformed, scores, labels)


def interpolated(x: Tensor, places: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> Tensor:
    """The lines from value to value at increasing places, held at both ends: ``np.interp`` in operations that can be exported.

    Example:
        >>> interpolated(torch.tensor([0.5, 9.0]), torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 10.0, 20.0]))
        tensor([ 5., 20.])
    """
    held = x.clamp(places[0], places[-1])
    piece = torch.bucketize(held, places[1:-1], right=True)
    slopes = values.diff() / places.diff()
    return values[piece] + slopes[piece] * (held - places[piece])


def chosen_transform(values: Floats) -> Transform:
    """What "auto" takes: see NumberTask.

    Example:
        >>> prices = np.exp(np.random.default_rng(0).normal(12, 1, 1000))
        >>> chosen_transform(prices), chosen_transform(-prices), chosen_transform(np.log(prices))
        ('log1p', 'standardize', 'standardize')
    """
    if values.min() <= 0 or len(np.unique(values)) < MIN_DISTINCT:
        return "standardize"
    raw = _skewness(values)
    return "log1p" if raw > MIN_SKEWNESS and abs(_skewness(np.log1p(values))) < raw / 2 else "standardize"


def _forward(values: Floats, codec: Codec) -> Floats:
    if codec.transform == "standardize":
        return values
    if codec.transform == "log1p":
        return np.log1p(values)
    labels, scores = np.array(codec.knots).T
    scored: Floats = np.interp(values, labels, scores)
    return scored


def _knots(values: Floats) -> tuple[tuple[float, float], ...]:
    """Label and normal score at up to 256 of the training labels; beyond them a line, a deviation of the labels a unit."""
    n_levels = min(len(values), MAX_KNOTS)
    levels = (np.arange(n_levels) + 0.5) / n_levels
    known, which = np.unique(np.quantile(values, levels, method="inverted_cdf"), return_inverse=True)
    scores = ndtri(np.bincount(which, weights=levels) / np.bincount(which))
    far = TAIL * float(np.ptp(values))
    steps = far / _center_and_scale(values)[1]
    pairs = [(known[0] - far, scores[0] - steps), *zip(known, scores, strict=True), (known[-1] + far, scores[-1] + steps)]
    return tuple((float(label), float(score)) for label, score in pairs)


def _center_and_scale(values: Floats) -> tuple[float, float]:
    center = float((values / len(values)).sum())
    largest = float(np.abs(values - center).max())  # divided by it first: the square of 1e200 is no float64
    return center, largest * float(np.sqrt(np.mean(((values - center) / largest) ** 2)))


def _skewness(values: Floats) -> float:
    center, scale = _center_and_scale(values)
    return float(np.mean(((values - center) / scale) ** 3)) if scale > 0 else 0.0

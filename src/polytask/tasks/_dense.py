"""What the tasks with an answer at every pixel share: labels are arrays, and metrics are of sums over pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.errors import PolytaskError
from polytask.maps import arrays_of
from polytask.scorer import Scorer
from polytask.task import Task

PIECE = 2**22  # pixels of labels that are read at once


class DenseTask(Task, abstract=True):
    """A task whose label is one at every pixel of the input image.

    Labels are arrays ``[N, H, W]`` in a column of their own, in the form of the image; a row without any labeled pixel has no
    label.
    """

    usual_head: ClassVar[str | Mapping[str, Any] | None] = "upsampling"

    def labels_of(self, table: pa.Table) -> pa.Array:
        column = table.column(self.label_column)
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def check_codec(self, space: tuple[int, ...], column: pa.Array) -> None:
        """Whether labels are of the size that training had.

        Raises:
            PolytaskError: They are not.
        """
        if tuple(column.type.shape) != space:
            found = f"{' x '.join(map(str, column.type.shape))}, where training had {' x '.join(map(str, space))}"
            raise PolytaskError("labels of another size", where=self.place, found=found)


def dense_scorer(name: str, compute: Callable[[Tensor], Tensor], higher_is_better: bool, is_ratio: bool = True) -> Scorer:
    """A metric of the sums over rows of their statistics, ``[n] -> number``."""
    return Scorer(name, partial(_of_sums, compute), higher_is_better, "statistics", is_ratio)


def _of_sums(compute: Callable[[Tensor], Tensor], statistics: Tensor, _: Tensor, weights: Tensor | None = None) -> Tensor:
    return compute(statistics.sum(0) if weights is None else weights @ statistics)


def without_empty(column: pa.Array, labeled: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> pa.Array:
    """A column of arrays with null where no pixel is labeled."""
    if not isinstance(column.type, pa.FixedShapeTensorType) or not len(column):
        return column
    arrays = arrays_of(column)
    there = np.concatenate([labeled(arrays[rows]).any((1, 2)) for rows in pieces(arrays.shape)])
    there &= column.is_valid().to_numpy(zero_copy_only=False)
    return column if there.all() else column.take(pa.array(np.arange(len(column)), mask=~there))


def pieces(shape: Sequence[int]) -> Iterator[slice]:
    """The rows of an array ``[N, ...]`` of this shape in runs, so that what is made of one on the way stays small."""
    n_rows = max(1, PIECE // max(math.prod(shape[1:]), 1))
    return (slice(start, start + n_rows) for start in range(0, shape[0], n_rows))


def mean_where(values: Tensor, there: Tensor) -> Tensor:
    """The mean of each row ``[B, ...]`` over the places where ``there`` is; 0 where there are none."""
    each, marks = values.flatten(1), there.flatten(1)
    kept = torch.where(marks, each, 0.0)
    return kept.sum(1) / marks.sum(1).clamp(min=1)

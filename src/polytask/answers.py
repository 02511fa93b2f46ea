"""How what a task says of rows becomes the columns of an answer: plain values, so that it is known where there is no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """One column of an answer, and where its cells come from.

    Attributes:
        name: The column's name.
        view: Which of the task's views it is made of: numbers, codes or marks of shape [N] or [N, n]; of every pixel, as one
            array in each cell, [N, *space] or [N, n, *space].
        at: Which of several columns of the view; None for a view of shape [N], or for all of it.
        complement: Whether the cell is one minus what the view says.
        values: What the codes of the view stand for; empty where the view is the answer.
        separator: What stands between the values of a row of marks; None where the view holds codes.
        detail: Whether it is there only where probabilities are asked for.
        rounded: Whether numbers are rounded to bytes, as brightness is.

    Example:
        >>> column = AnswerColumn(name="animal", view="label", values=("cat", "dog"))
        >>> column.read({"label": np.array([1, 0])}).to_pylist()
        ['dog', 'cat']
        >>> tags = AnswerColumn(name="tags", view="label", values=("red", "round"), separator=",")
        >>> tags.read({"label": np.array([[1, 1], [0, 0]])}).to_pylist()
        ['red,round', '']
    """

    name: str
    view: str
    at: int | None = None
    complement: bool = False
    values: tuple[bool | int | float | str, ...] = ()
    separator: str | None = None
    detail: bool = False
    rounded: bool = False

    def read(self, views: Mapping[str, NDArray[Any]]) -> pa.Array:
        """The cells, one for each row of the views."""
        cells = views[self.view] if self.at is None else views[self.view][:, self.at]
        if self.rounded:
            cells = np.rint(cells).clip(0, 255).astype(np.uint8)
        if cells.ndim > 1 and self.separator is None:
            return self._arrays(cells)
        if self.separator is not None:
            return pa.array([self._joined(row) for row in cells.astype(bool).tolist()], pa.string())
        if self.values:
            return pa.array(list(self.values)).take(pa.array(cells))
        # A column of an array in row order is not contiguous, which arrow wants.
        return pa.array(np.ascontiguousarray(1 - cells if self.complement else cells))

    def _arrays(self, cells: NDArray[Any]) -> pa.Array:
        """A column of arrays, of the values that codes stand for."""
        if self.values:
            values = np.array(self.values)
            cells = values.astype(np.min_scalar_type(values.max()))[cells]  # a mask in the bytes of a file
        flat = pa.array(np.ascontiguousarray(1 - cells if self.complement else cells).reshape(-1))
        kind = pa.fixed_shape_tensor(flat.type, cells.shape[1:])
        return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, int(np.prod(cells.shape[1:]))))

    def _joined(self, marks: Sequence[bool]) -> str:
        return (self.separator or "").join(str(value) for value, on in zip(self.values, marks, strict=True) if on)


def read_answers(
    columns: Sequence[AnswerColumn], views: Mapping[str, NDArray[Any]], probabilities: bool = False
) -> dict[str, pa.Array]:
    """The columns of a task's answer; details only where asked for, and where there are such views."""
    told = [column for column in columns if not column.detail or (probabilities and column.view in views)]
    return {column.name: column.read(views) for column in told}

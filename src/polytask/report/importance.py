"""Permutation importance: how much worse a task's answers become where a column's cells are shuffled among the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.batch import Dataset, Stored, n_rows
from polytask.bundle import Bundle
from polytask.cells import CategoryFeature, NumberFeature
from polytask.columns import InputCodec
from polytask.fitting import row_losses
from polytask.report.evidence import marked, sampled

MAX_ROWS, MIN_ROWS = 1500, 200
MAX_ANSWERED = 80_000  # rows that go through the network in all, for many columns share them


@dataclass(frozen=True)
class Importance:
    """How much each column matters to each task.

    Attributes:
        columns: The columns, as the recipe's sources have them.
        tasks: The tasks with a label in these rows.
        rise: By how much the mean normalized loss rises where a column is shuffled, ``[columns, tasks]``; nan where no row of a
            task has the column.
        error: The standard error of that over the rows.
        losses: The mean normalized loss of each task with nothing shuffled.
        n_rows: The rows that were looked at.
    """

    columns: tuple[str, ...]
    tasks: tuple[str, ...]
    rise: NDArray[np.float64]
    error: NDArray[np.float64]
    losses: NDArray[np.float64]
    n_rows: int

    def order(self, task: str | None = None) -> list[int]:
        """The columns that matter most first: to a task, or to the one that each matters most to."""
        known = np.nan_to_num(self.rise, nan=0.0)
        scores = known[:, self.tasks.index(task)] if task is not None else known.max(1, initial=0.0)
        return [int(index) for index in np.argsort(-scores, kind="stable")]

    def matters(self, column: int, task: int) -> bool:
        """Whether the rise is more than chance: above twice its standard error."""
        return bool(self.rise[column, task] > 2 * self.error[column, task])


def permutation_importance(bundle: Bundle, data: Dataset, seed: int = 0) -> Importance:
    """Shuffle one column after the other, and see how much the loss of each task rises.

    The rise is in units of the loss of the best constant: 1 means that as much is lost as everything that can be known. Two
    columns that say the same each matter little, since the other is still there. Fisher, Rudin and Dominici 2019,
    arXiv:1801.01489, equation 3.1, as a difference.

    Args:
        bundle: The network.
        data: The rows, of which some are drawn where they are many.
        seed: Of the drawing and the shuffling.
    """
    columns = _columns(bundle, data)
    most = max(MIN_ROWS, min(MAX_ROWS, MAX_ANSWERED // max(1, len(columns))))
    rows = _some(data, most, seed)
    tasks = tuple(task for task in rows.tasks if bool(rows.present[task].any()) and task in bundle.tasks)
    rows = rows.select(tasks)
    plain = row_losses(bundle, rows)
    rise, error = np.full((2, len(columns), len(tasks)), np.nan)
    for at, column in enumerate(columns):
        shuffled, having = _shuffled(bundle, rows, column, seed + at)
        for index, (task, losses) in enumerate(row_losses(bundle, shuffled).items()):
            told = having[rows.present[task]].numpy()
            if told.any():
                change = (losses - plain[task])[told]
                rise[at, index], error[at, index] = change.mean(), change.std() / np.sqrt(len(change))
    means = np.array([plain[task].mean() for task in tasks])
    return Importance(tuple(columns), tasks, rise, error, means, rows.n_rows)


def _columns(bundle: Bundle, data: Dataset) -> list[str]:
    """The columns that the network reads in these rows; a part of the inputs that is no table counts as one."""
    names: dict[str, None] = {}
    for part, inputs in zip(bundle.manifest.inputs, data.inputs, strict=False):
        if n_rows(inputs):
            names |= dict.fromkeys(part.codec.names)
            known = {"numbers", "categories", *(image.key for image in part.codec.image_features)}
            names |= dict.fromkeys(key for key in inputs if key not in known)
    return list(names)


def _some(data: Dataset, most: int, seed: int) -> Dataset:
    if data.n_rows <= most:
        return data
    return data.where(marked(sampled(data.n_rows, most, seed), data.n_rows))


def _shuffled(bundle: Bundle, data: Dataset, column: str, seed: int) -> tuple[Dataset, Tensor]:
    """The rows with a column's cells in another order, and which rows have the column."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[Mapping[str, Tensor | Stored]] = []
    having = []
    for part, inputs in zip(bundle.manifest.inputs, data.inputs, strict=False):
        count = n_rows(inputs)
        there = count > 0 and (column in part.codec.names or column in inputs)
        having.append(torch.full((count,), there))
        order = torch.randperm(count, generator=generator)
        parts.append({key: _moved(values, _features(part.codec, key, column), order) for key, values in inputs.items()})
    return replace(data, inputs=tuple(parts)), torch.cat(having)


def _features(codec: InputCodec, key: str, column: str) -> Sequence[int] | None:
    """Which features of a tensor come from a column; None for the whole tensor."""
    if key not in ("numbers", "categories"):
        return None if column in (key, *(image.column for image in codec.image_features if image.key == key)) else ()
    features: Sequence[NumberFeature | CategoryFeature] = codec.number_features if key == "numbers" else codec.category_features
    return [index for index, feature in enumerate(features) if feature.column == column]


def _moved(values: Tensor | Stored, features: Sequence[int] | None, order: Tensor) -> Tensor | Stored:
    if isinstance(values, Stored):
        return values if features is not None else replace(values, rows=values.rows[order])
    if features is None:
        return values[order]
    if not features:
        return values
    moved = values.clone()
    chosen = torch.tensor(features)
    moved[:, chosen] = values[order][:, chosen]
    return moved

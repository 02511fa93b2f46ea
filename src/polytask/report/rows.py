"""Rows as their sources have them: what a network is given is encoded, and a reader wants the cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytask.loading import load_source, row_names
from polytask.preparation import Prepared
from polytask.recipe import Recipe

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class SourceRows:
    """Some rows of a source, with all its columns.

    Attributes:
        index: Which of the rows that were asked for these are.
        table: The rows.
        name: Words for one of them by its place in the table, such as "row 17 of houses".
    """

    index: Rows
    table: pa.Table
    name: Callable[[int], str]


def source_rows(recipe: Recipe, prepared: Prepared, part: str, index: Rows) -> list[SourceRows]:
    """Rows of a part, read anew, source after source.

    Args:
        recipe: What was prepared.
        prepared: What became of it.
        part: "training", "validation" or "test".
        index: Which of its rows, in order.

    Raises:
        PolytaskError: A source can no longer be read.
    """
    positions, sources = prepared.positions[part][index], {source.label: source for source in recipe.sources}
    found, start = [], 0
    for label in prepared.order:
        loaded = load_source(sources[label], recipe.kinds_of(sources[label]))
        mine = np.flatnonzero((positions >= start) & (positions < start + len(loaded.table)))
        rows = positions[mine] - start
        found.append(SourceRows(mine, loaded.table.take(pa.array(rows)), partial(_name_of, rows, row_names([loaded]))))
        start += len(loaded.table)
    return found


def _name_of(rows: Rows, words: Callable[[int], str], index: int) -> str:
    return words(int(rows[index]))

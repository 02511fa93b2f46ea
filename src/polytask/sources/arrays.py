"""Rows from NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from polytask.errors import PolytaskError, listed
from polytask.maps import tensors
from polytask.source import HELD_OUT
from polytask.sources._memory import MemorySource
from polytask.tables import as_table


class Arrays(MemorySource):
    """NumPy arrays: inputs x of shape [N, D], or images, and a mapping of names to targets of shape [N].

    Images are [N, height, width] or [N, height, width, channels], clips [N, frames, height, width, channels]: bytes, booleans,
    whole numbers from 0 to 255, or fractions from 0 to 1. The last of four axes is the channels where it is 1, 3 or 4; where it
    is larger the axes are those of grey clips, [N, frames, height, width]. Images beside numbers go into a ``Frame``, as a
    mapping of names to arrays. Targets of tasks with a label at every pixel are [N, height, width], of any numbers.

    Attributes:
        names: The D names of the inputs' columns, x0, x1, ... by default; of images the one name, "image" by default.
        validation: The source's own validation rows, as a pair (x, targets).
        test: The source's own test rows, likewise.

    Raises:
        PolytaskError: x is neither two-dimensional nor of images, row counts differ, or the names do not fit.

    Example:
        >>> source = Arrays(np.array([[80.0, 3.0], [120.0, 4.0]]), {"price": np.array([1.5, 2.5])}, names=["area", "rooms"])
        >>> source.read().to_pydict()
        {'area': [80.0, 120.0], 'rooms': [3.0, 4.0], 'price': [1.5, 2.5]}
    """

    names: tuple[str, ...] | None = None

    def __init__(self, x: Any = None, targets: Mapping[str, Any] | None = None, **fields: Any) -> None:
        super().__init__(**(fields if x is None else {"data": (x, targets or {}), **fields}))

    @model_validator(mode="before")
    @classmethod
    def _pairs_to_tables(cls, fields: dict[str, Any]) -> dict[str, Any]:
        pairs = {part: fields[part] for part in ("data", *HELD_OUT) if isinstance(fields.get(part), tuple)}
        tables = {part: _table(pair, fields.get("names"), part) for part, pair in pairs.items()}
        return {**fields, **tables}


def _table(pair: tuple[Any, Mapping[str, Any]], given: tuple[str, ...] | None, part: str) -> pa.Table:
    x, targets = np.asarray(pair[0]), pair[1]
    if x.ndim not in (2, 3, 4, 5):
        found, mend = f"shape {x.shape} in {part}", "Give one row per example: x[:, None] where there is one input."
        raise PolytaskError("x is not an array of shape [N, D]", where="arrays", found=found, mend=mend)
    columns = list(x.T) if x.ndim == 2 else [x]
    usual = [f"x{index}" for index in range(len(columns))] if x.ndim == 2 else ["image"]
    names = list(given) if given is not None else usual
    if len(names) != len(columns):
        found = f"{len(names)} names for {len(columns)} columns in {part}"
        raise PolytaskError("names do not fit x", where="arrays", found=found, mend="Give one name per column of x.")
    twice = sorted({name for name in names if names.count(name) > 1 or name in targets})
    if twice:
        raise PolytaskError(
            f"names occur more than once: {listed(twice)}", where="arrays", mend="Give each column its own name."
        )
    maps = {name: np.asarray(target) for name, target in targets.items() if np.ndim(target) > 2}
    whole = {name: target for name, target in targets.items() if name not in maps}
    table = as_table({**dict(zip(names, columns, strict=True)), **whole})
    for name, target in maps.items():
        if len(target) != len(table):
            found = f"{name!r} has {len(target)} rows, x has {len(table)}"
            raise PolytaskError("columns of different lengths", found=found, mend="Give each row of x one label.")
        table = table.append_column(name, tensors(target))
    return table

"""Rows from a data frame."""

from __future__ import annotations

from typing import Any

from polytask.sources._memory import MemorySource


class Frame(MemorySource):
    """A data frame: pandas, polars, pyarrow or any other that narwhals knows; a lazy one is collected; an index is left out.

    A mapping of names to 1-D arrays is taken for a frame. The rows are copied into a table once, so later changes to the frame
    do not reach the source.

    Raises:
        PolytaskError: It is no data frame, two columns share a name, or a column mixes types.

    Example:
        >>> source = Frame({"area": [80, 120], "price": [1.5, None]}, name="houses")
        >>> source.label, source.read()["price"].null_count, source.to_dict()
        ('houses', 1, {'kind': 'frame', 'name': 'houses', 'inputs': None})
    """

    def __init__(self, data: Any = None, **fields: Any) -> None:
        super().__init__(data=data, **fields)

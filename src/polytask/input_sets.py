"""The distinct sets of input columns that the sources of a run have, and which of them new rows are of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Self

import pyarrow as pa

from polytask.columns import InputCodec
from polytask.component import Settings
from polytask.errors import PolytaskError, did_you_mean, listed


class InputSet(Settings):
    """One distinct set of input columns.

    Attributes:
        codec: How they become tensors.
        sources: The sources that have them, and the names of the tasks that each of these labels.
    """

    codec: InputCodec
    sources: Mapping[str, tuple[str, ...]]

    @property
    def tasks(self) -> set[str]:
        """The names of the tasks that rows with these columns were trained on."""
        return {task for labeled in self.sources.values() for task in labeled}

    def keep(self, tasks: Collection[str]) -> Self:
        """The same columns with these tasks only, and without the sources that label none of them."""
        kept = {source: tuple(task for task in labeled if task in tasks) for source, labeled in self.sources.items()}
        return self.model_copy(update={"sources": {source: labeled for source, labeled in kept.items() if labeled}})


def input_set_of(sets: Sequence[InputSet], table: pa.Table, source: str | None = None, where: str = "the new rows") -> int:
    """Which set of input columns a table has; where it has those of several, the largest.

    Args:
        sets: The sets that there are.
        table: The rows, which messages call ``where``.
        source: The name of the training source that they are like, where it is known.
        where: See ``table``.

    Raises:
        PolytaskError: It lacks columns of all of them, or there is no source of that name.
    """
    if source is not None:
        names = [name for part in sets for name in part.sources]
        if source not in names:
            raise PolytaskError(f"no source {source!r} in this run", mend=did_you_mean(source, names))
        return next(i for i, part in enumerate(sets) if source in part.sources)
    there = set(table.column_names)
    lacking = [[c for c in part.codec.names if c not in there] for part in sets]
    best = min(range(len(sets)), key=lambda i: (len(lacking[i]), -len(sets[i].codec.names)))
    if lacking[best]:
        mend = did_you_mean(lacking[best][0], sorted(there))
        columns = "1 input column is" if len(lacking[best]) == 1 else f"{len(lacking[best])} input columns are"
        what = f"{columns} missing: {listed(map(repr, lacking[best]))}"
        raise PolytaskError(what, where=where, mend=mend)
    return best

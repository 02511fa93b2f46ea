"""What the sources whose rows are already in memory share: the rows are not part of the recipe."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from polytask.errors import PolytaskError
from polytask.pictures import holds_clips, holds_images
from polytask.source import Source
from polytask.tables import as_table


def _table_or_none(value: object) -> pa.Table | None:
    return None if value is None else as_table(value)


Rows = SkipJsonSchema[Annotated[Any, BeforeValidator(_table_or_none)]]


class MemorySource(Source, abstract=True):
    """A source whose rows are held, as a table, but neither written to a recipe nor shown.

    Attributes:
        data: The rows; a recipe read from YAML has none, and reading it says so.
        validation: The source's own validation rows.
        test: The source's own test rows.
    """

    data: Rows = Field(default=None, exclude=True, repr=False)
    validation: Rows = Field(default=None, exclude=True, repr=False)
    test: Rows = Field(default=None, exclude=True, repr=False)

    datum: ClassVar[str] = "data"

    @property
    def images(self) -> tuple[str, ...]:
        """The columns that are arrays of images."""
        data: pa.Table | None = self.data
        return () if data is None else tuple(name for name in data.column_names if holds_images(data[name]))

    @property
    def clips(self) -> bool:
        """Whether one of them holds clips."""
        data: pa.Table | None = self.data
        return data is not None and any(holds_clips(column) for column in data.columns)

    def read(self) -> pa.Table:
        """The rows.

        Raises:
            PolytaskError: The source came from a recipe, which holds no rows.
        """
        if self.data is None:
            call = f"{type(self).__name__}(data{f', name={self.name!r}' if self.name else ''})"
            what = "the rows of this source were in memory, so the recipe does not hold them"
            raise PolytaskError(what, where=self.label, mend=f"Pass the data again: {call}.")
        return self.data

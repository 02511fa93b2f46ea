"""The Source contract: where rows come from. The currency inside polytask is a ``pyarrow.Table`` of plain types."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from polytask.component import Component
from polytask.errors import PolytaskError, did_you_mean, listed
from polytask.tables import narwhals_frame, type_name

HELD_OUT = ("validation", "test")
PIECE_ROWS = 1 << 16


class Source(Component, family="sources"):
    """Where rows come from: a file, a data frame, arrays.

    Attributes:
        name: What the source is called in messages and in ``--task maths=student-mat.csv:G3``; the file's stem by default.
        inputs: The columns to use as inputs; None means all but the targets and the dropped ones.
        validation: The source's own validation part, of the same type as its main datum; None lets the split draw one.
        test: The source's own test part, likewise.

    Class attributes:
        datum: The field that holds the main datum, which ``validation`` and ``test`` take the place of.
        suffixes: The file name endings that mean this kind, such as ``(".csv",)``.
    """

    name: str | None = None
    inputs: tuple[str, ...] | None = Field(default=None, min_length=1)
    validation: Any = None
    test: Any = None

    datum: ClassVar[str] = "path"
    suffixes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read(self) -> pa.Table:
        """The main datum as a table of plain types (see ``plain_table``).

        Raises:
            PolytaskError: The data are not there or cannot be read.
        """

    def read_other(self, datum: Any, needed: Collection[str]) -> pa.Table:
        """Other rows, such as those to predict, read with the same options; ``needed`` are the columns that they should have.

        Raises:
            PolytaskError: The data are not there or cannot be read.
        """
        return self.with_datum(datum).read()

    def read_in_pieces(self, datum: Any, needed: Collection[str]) -> Iterator[pa.Table]:
        """As ``read_other``, one table after the other, all of the same types: for files that are larger than memory.

        Columns that are not needed may be left out. A kind that cannot do it gives one table with all rows.

        Raises:
            PolytaskError: The data are not there or cannot be read.
        """
        yield self.read_other(datum, needed)

    def with_datum(self, datum: Any, **options: Any) -> Self:
        """The same source with another main datum, and nothing held out."""
        return self.model_copy(update={**dict.fromkeys(HELD_OUT), self.datum: datum, **options})

    @property
    def images(self) -> tuple[str, ...]:
        """The columns that are known to hold images, or names of image files, before any row is read."""
        return ()

    @property
    def clips(self) -> bool:
        """Whether one of ``images`` is known to have several frames before any row is read."""
        return False

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that there are to be learned, where the kind of source tells: what is asked for where nothing else is."""
        return ()

    def folder_of(self, part: str) -> Path | None:
        """Where the relative paths in the cells of a part begin; None for the working directory."""
        return None

    @property
    def label(self) -> str:
        """What messages call this source: its name, else the file's stem, else its kind."""
        return self.name or self.kind

    def parts(self) -> dict[str, pa.Table]:
        """The table of each part the source brings: "main", and "validation" and "test" where given.

        A held-out part is read with the same options and has the main part's columns, in their order.

        Raises:
            PolytaskError: A held-out part lacks columns of the main part, or one of them cannot be read.

        Example:
            >>> from polytask.sources import Frame
            >>> source = Frame({"area": [80, 120], "price": [1.5, 2.5]}, test={"price": [3.0], "area": [90]})
            >>> {part: table.to_pydict() for part, table in source.parts().items()}
            {'main': {'area': [80, 120], 'price': [1.5, 2.5]}, 'test': {'area': [90], 'price': [3.0]}}
        """
        tables = {"main": self.read()}
        columns = tables["main"].column_names
        for part in HELD_OUT:
            if (datum := getattr(self, part)) is not None:
                table = self.with_datum(datum).read()
                lacking = [column for column in columns if column not in table.column_names]
                if lacking:
                    what = f"the {part} part lacks {len(lacking)} of the main part's {len(columns)} columns: {listed(lacking)}"
                    raise PolytaskError(what, where=self.label, mend=did_you_mean(lacking[0], table.column_names))
                tables[part] = table.select(columns)
        return tables

    def anchored(self) -> Self:
        """The same source wherever the process goes on: with absolute paths where it has any."""
        return self

    def fingerprint(self) -> str:
        """The sha256, in hexadecimal, of the rows of all parts: the same rows and column names give the same digest."""
        digest = hashlib.sha256()
        for part, table in self.parts().items():
            digest.update(f"{part} {table.num_rows}\n".encode())
            for name, column in zip(table.column_names, table.columns, strict=True):
                digest.update(f"{name!r} {column.type}\n".encode())
                _update_digest(digest, column)
        return digest.hexdigest()

    @classmethod
    def coerce(cls, value: object) -> Self:
        """As ``Component.coerce``; a string is a path here, since no source is complete with its kind alone.

        Example:
            >>> Source.coerce("houses.csv").label
            'houses'
        """
        return cast("Self", open_source(value)) if isinstance(value, str | Path) else super().coerce(value)

    @classmethod
    def from_value(cls, value: object) -> Self | None:
        """A data frame or a two-dimensional array as a source; None for anything else."""
        return None if _kind_of(value) is None else cast("Self", open_source(value))


def open_source(value: object, **options: Any) -> Source:
    """The source that fits a value.

    Args:
        value: A path (its suffix gives the kind, looking through ``.gz``; an unknown suffix means CSV), any data frame that
            narwhals knows (a lazy one is collected), a mapping of names to arrays, a NumPy array of rows or of images, or a
            source. A path to a folder, unless its name ends as a file's, means images, a folder for each class.
        **options: Fields of that source, such as ``delimiter=";"``.

    Raises:
        PolytaskError: The value is none of these, or an option does not fit.

    Example:
        >>> open_source("houses.parquet").kind, open_source("adult.data.gz", header=False).kind
        ('parquet', 'csv')
        >>> open_source({"area": [80, 120]}).read().num_rows
        2
    """
    if isinstance(value, Source):
        return type(value)(**{**dict(value), **options})
    kind = _kind_of(value)
    if kind is None:
        mend = "Give a path, a data frame, a mapping of names to 1-D arrays or a 2-D NumPy array."
        raise PolytaskError("not something rows can be read from", found=type_name(value), mend=mend)
    found: Any = Source.find(kind)
    return cast("Source", found(**{found.datum: (value, {}) if isinstance(value, np.ndarray) else value}, **options))


def reader_of(data: object, known: Sequence[Source], name: str | None = None) -> tuple[Source, Source]:
    """New rows, and the source that knows how to read them: of the training sources that of this name, else one of their kind.

    It is the given one itself where it is a source, or no training source is of its kind.

    Raises:
        PolytaskError: The data are nothing that rows can be read from.
    """
    given = data if isinstance(data, Source) else open_source(data)
    alike = [item for item in known if item.kind == given.kind]
    if isinstance(data, Source) or not alike:
        return given, given
    named = [item for item in alike if item.label in (name, given.label)]
    return given, (named or alike)[0]


def _kind_of(value: object) -> str | None:
    """The kind of source that reads a value; None where none does."""
    if isinstance(value, str | Path):
        path = Path(value).expanduser()
        name, kinds = path.name.lower().removesuffix(".gz"), Source.kinds()
        if (ending := Path(name).suffix[1:]) in kinds:
            return ending
        unknown = "folder" if path.is_dir() else "csv"
        return next((kind for kind in kinds if name.endswith(Source.find(kind).suffixes or "\0")), unknown)
    if isinstance(value, np.ndarray):
        return "arrays"
    return "frame" if isinstance(value, Mapping) or narwhals_frame(value) is not None else None


def _update_digest(digest: hashlib._Hash, column: pa.ChunkedArray) -> None:
    """Feed a column's cells, whatever their chunks and whatever lies beneath its nulls."""
    digest.update(np.packbits(pc.is_valid(column).to_numpy()).tobytes())
    if column.type in (pa.int64(), pa.float64(), pa.bool_()):
        digest.update(pc.fill_null(column, pa.scalar(0).cast(column.type)).to_numpy().tobytes())
    elif isinstance(column.type, pa.FixedShapeTensorType):
        for chunk in column.chunks:
            known = chunk.drop_null() if chunk.null_count else chunk
            digest.update(memoryview(known.to_numpy_ndarray()))
    elif pa.types.is_timestamp(column.type):
        digest.update(pc.fill_null(column.cast(pa.int64()), 0).to_numpy().tobytes())
    else:
        for chunk in column.chunks:
            digest.update("".join(f"{len(cell)}:{cell}" for cell in map(str, chunk.to_pylist())).encode())

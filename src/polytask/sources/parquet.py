"""Rows from a Parquet file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet

from polytask.errors import PolytaskError, one_line
from polytask.source import PIECE_ROWS
from polytask.sources._file import FileSource, read_bytes
from polytask.sources._pieces import chosen_columns
from polytask.tables import plain_table


class Parquet(FileSource):
    """A Parquet file; its types are kept, but for widths: see ``plain_table``.

    Raises:
        PolytaskError: The file is not there, is not Parquet, or two columns share a name.

    Example:
        >>> Parquet("houses.parquet").to_dict()["path"]
        'houses.parquet'
    """

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    def read(self) -> pa.Table:
        """The file as a table of plain types."""
        data = read_bytes(self.path)
        try:
            table = pyarrow.parquet.ParquetFile(pa.BufferReader(data)).read()
        except pa.ArrowException as error:
            mend = "Fetch it again if it was cut short; if it is another format, name it so: .csv, .jsonl, .arff."
            raise PolytaskError("not a whole Parquet file", where=str(self.path), found=one_line(error), mend=mend) from error
        try:
            return plain_table(table)
        except PolytaskError as error:
            raise error.inside(str(self.path)) from None

    def read_in_pieces(self, datum: Path, needed: Collection[str]) -> Iterator[pa.Table]:
        """As ``Source.read_in_pieces``."""
        place = datum.expanduser()
        try:
            file = pyarrow.parquet.ParquetFile(place)
        except (pa.ArrowException, OSError):
            yield self.read_other(datum, needed)  # it is gzipped, or this says what is wrong
            return
        with file:
            wanted = chosen_columns(file.schema_arrow.names, needed)
            for batch in file.iter_batches(batch_size=PIECE_ROWS, columns=wanted):
                yield plain_table(pa.Table.from_batches([batch]))

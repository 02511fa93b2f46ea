"""Rows from a CSV file, or any text with one row a line and a delimiter between cells."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from polytask.errors import PolytaskError, listed
from polytask.sources import _text
from polytask.sources._file import FileSource, read_bytes
from polytask.sources._pieces import Columns, cell_pieces, chosen_columns, text_pieces


class CSV(FileSource):
    r"""A CSV file: every cell is text first, and a column gets the narrowest type that reads all its cells.

    The types are int64, float64, boolean (true or false in any case), timestamp (ISO 8601, 20141013T000000, month/day/year,
    day/month/year: the first order that reads every cell) and else text. Codes with leading zeros, such as 00501, stay text.
    Blanks around cells are removed, a byte-order mark and blank lines are skipped, gzip is unpacked.

    Attributes:
        delimiter: What stands between cells; None finds out which of comma, semicolon, tab and | it is.
        header: Whether the first row holds the names.
        names: The columns' names, in place of the header's or where there is none; column_1, column_2, ... by default.
        encoding: The text's encoding.
        comment: Lines that begin with this are skipped.
        missing: What means a missing cell, besides an empty one.
        strip: Characters removed from both ends of cells of text, such as the "." that ends the labels of ``adult.test``.
        decimal: The decimal mark of numbers.
        date_order: The order of year, month and day, where not every file with these columns tells it.

    Raises:
        PolytaskError: The file is not there, empty, only a header or not in that encoding; its rows are ragged; names occur
            twice or do not fit.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "houses.csv")
        >>> _ = path.write_text("id; sold;price;waterfront\n00501;3/25/11;1,5;true\n00502;4/1/11;NA;false\n")
        >>> table = CSV(path, decimal=",").read()
        >>> [(field.name, str(field.type)) for field in table.schema]
        [('id', 'string'), ('sold', 'timestamp[us]'), ('price', 'double'), ('waterfront', 'bool')]
        >>> table["price"].to_pylist()
        [1.5, None]
    """

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    header: bool = True
    names: tuple[str, ...] | None = None
    encoding: _text.Encoding = "utf-8"
    comment: Annotated[str, Field(min_length=1)] | None = None
    missing: tuple[str, ...] = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")
    strip: str = ""
    decimal: Literal[".", ","] = "."
    date_order: Literal["ymd", "mdy", "dmy"] | None = None

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".tab", ".txt")

    def __init__(self, path: str | Path | None = None, **fields: Any) -> None:
        super().__init__(**(fields if path is None else {"path": path, **fields}))

    def read(self) -> pa.Table:
        """The file as a table of typed columns."""
        data, delimiter = self._data_and_delimiter()
        table = self._renamed(_text.read_cells(data, delimiter=delimiter, header=self.header, where=str(self.path)))
        columns = [
            _text.typed(column, missing=self.missing, strip=self.strip, decimal=self.decimal, date_order=self.date_order)
            for column in table.columns
        ]
        return pa.table(columns, names=table.column_names)

    def read_other(self, datum: Path, needed: Collection[str]) -> pa.Table:
        """As ``Source.read_other``; a first row that holds the needed names is a header, whatever this file had."""
        other = self.with_datum(datum)
        if needed and set(needed) <= set(_text.first_row(*other._data_and_delimiter())):
            other = other.with_datum(datum, names=None, header=True)
        return other.read()

    def read_in_pieces(self, datum: Path, needed: Collection[str]) -> Iterator[pa.Table]:
        """As ``Source.read_in_pieces``. The file is read twice: what a column holds is known at its end only."""
        other = self.with_datum(datum)
        if not datum.expanduser().is_file():
            yield other.read()  # which says what is wrong
            return
        where, first = str(other.path), next(other._text_pieces(), b"")
        delimiter = other.delimiter or _text.sniff_delimiter(first, exclude=other.decimal)
        if needed and set(needed) <= set(_text.first_row(first, delimiter)):
            other = other.with_datum(datum, names=None, header=True)
        if not first.strip():
            raise PolytaskError("the file is empty", where=where, mend="Give a file with a header and rows.")

        def cells() -> Iterator[pa.Table]:
            for table in cell_pieces(other._text_pieces(), delimiter=delimiter, header=other.header, where=where):
                renamed = other._renamed(table)
                yield renamed.select(chosen_columns(renamed.column_names, needed))

        columns = Columns(self.missing, self.strip, self.decimal, self.date_order)
        for piece in cells():
            columns.see(piece)
        yield from map(columns.read, cells())

    def _text_pieces(self) -> Iterator[bytes]:
        for piece in text_pieces(self.path, self.encoding):
            yield _text.without_comments(piece, self.comment) if self.comment else piece

    def _data_and_delimiter(self) -> tuple[bytes, str]:
        data = _text.to_utf8(read_bytes(self.path), self.encoding, str(self.path))
        if self.comment:
            data = _text.without_comments(data, self.comment)
        return data, self.delimiter or _text.sniff_delimiter(data, exclude=self.decimal)

    def _renamed(self, table: pa.Table) -> pa.Table:
        if self.names is None:
            return table
        if len(self.names) != table.num_columns:
            what = f"{len(self.names)} names for {table.num_columns} columns"
            found = f"a first row of {listed((column[0] for column in table.columns), limit=4)}"
            raise PolytaskError(what, where=str(self.path), found=found, mend="Give one name per column.")
        return table.rename_columns(_text.column_names(self.names, str(self.path)))

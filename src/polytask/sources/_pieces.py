"""Delimited text larger than memory: cut into pieces of whole rows, every piece with the types that the whole file has."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from polytask.errors import PolytaskError, counted, one_line, shown
from polytask.sources import _text
from polytask.sources._file import GZIP_MAGIC

PIECE_CHARACTERS = 1 << 22
# What a column may be, the narrowest first; a date by its order of year, month and day.
CHOICES = ("int64", "double", "bool", *_text.DATE_ORDERS)
TYPES = {
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    **dict.fromkeys(_text.DATE_ORDERS, pa.timestamp("us")),
}


def text_pieces(path: Path, encoding: str) -> Iterator[bytes]:
    """The text as UTF-8, a few whole rows after the other; a line end within quotes ends no row.

    Raises:
        PolytaskError: The bytes are not in that encoding, or cannot be read.
    """
    found = path.expanduser()
    try:
        with found.open("rb") as start:
            zipped = start.read(2) == GZIP_MAGIC
        with gzip.open(found) if zipped else found.open("rb") as file:
            rest = ""
            with io.TextIOWrapper(file, encoding=encoding, newline="") as reader:
                while text := reader.read(PIECE_CHARACTERS):
                    if "\0" in text:
                        raise _text.not_text(_start(found), text.encode(), encoding, "a NUL character", str(path))
                    rest += text.removeprefix("\ufeff")
                    cut = _last_row_end(rest)
                    if cut:
                        yield rest[:cut].encode()
                        rest = rest[cut:]
            if rest.strip():
                yield rest.encode()
    except UnicodeDecodeError as error:
        reason = f"byte {error.object[error.start]:#04x}"
        raise _text.not_text(_start(found), error.object, encoding, reason, str(path)) from None
    except UnicodeError as error:  # no byte-order mark
        raise _text.not_text(_start(found), _start(found), encoding, one_line(error), str(path)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise PolytaskError(
            "cannot be read", where=str(path), found=one_line(error), mend="Give a file that can be read."
        ) from None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _last_row_end(text: str) -> int:
    """Where the last whole row ends: after a line end that has an even number of quotes before it; 0 for nowhere."""
    cut = text.rfind("\n") + 1
    is_open = text.count('"', 0, cut) % 2
    while cut and is_open:
        before = text.rfind("\n", 0, cut - 1) + 1
        is_open = (is_open + text.count('"', before, cut)) % 2
        cut = before
    return cut


def chosen_columns(names: Sequence[str], needed: Collection[str]) -> list[str]:
    """The columns to read: all of them where one is lacking, so that a message can name what is there instead."""
    return [name for name in names if name in needed] if set(needed) <= set(names) and needed else list(names)


class Columns:
    """The types of a file's columns, as its pieces are seen."""

    def __init__(self, missing: Sequence[str], strip: str, decimal: str, date_order: str | None) -> None:
        self.missing, self.strip, self.decimal, self.date_order = tuple(missing), strip, decimal, date_order
        self.possible: dict[str, set[str]] = {}

    def see(self, piece: pa.Table) -> None:
        """Rule out what a column cannot be, given more of its cells."""
        for name, text in zip(piece.column_names, piece.columns, strict=True):
            before = self.possible.get(name)
            if before is None or before:
                here = self._choices(text)
                self.possible[name] = here if before is None else before & here

    def read(self, piece: pa.Table) -> pa.Table:
        """A piece in the types of the whole file."""
        columns = [self._read(name, text) for name, text in zip(piece.column_names, piece.columns, strict=True)]
        return pa.table(columns, names=piece.column_names)

    def _choices(self, text: pa.ChunkedArray) -> set[str]:
        kind = self._typed(text, self.date_order).type
        if pa.types.is_null(kind):
            return set(CHOICES)
        if pa.types.is_timestamp(kind):
            orders = _text.DATE_ORDERS if self.date_order is None else (self.date_order,)
            return {order for order in orders if pa.types.is_timestamp(self._typed(text, order).type)}
        return {"int64", "double"} if kind == pa.int64() else {str(kind)} & set(CHOICES)

    def _read(self, name: str, text: pa.ChunkedArray) -> pa.ChunkedArray:
        possible = self.possible[name]
        if len(possible) == len(CHOICES):
            return pa.chunked_array([pa.nulls(len(text))])
        choice = next((choice for choice in CHOICES if choice in possible), None)
        if choice is None:
            return _text.as_text(text, missing=self.missing, strip=self.strip)
        order = choice if choice in _text.DATE_ORDERS else self.date_order
        return self._typed(text, order).cast(TYPES[choice])

    def _typed(self, text: pa.ChunkedArray, date_order: str | None) -> pa.ChunkedArray:
        return _text.typed(text, missing=self.missing, strip=self.strip, decimal=self.decimal, date_order=date_order)


def cell_pieces(pieces: Iterable[bytes], *, delimiter: str, header: bool, where: str) -> Iterator[pa.Table]:
    """Each piece as a table of text, all with the names of the first.

    Raises:
        PolytaskError: As ``read_cells``.
    """
    names: list[str] = []
    n_before = 0
    for piece in pieces:
        n_lines, n_before = n_before, n_before + piece.count(b"\n")
        if names and not piece.strip():
            continue
        table = _text.read_cells(piece, delimiter=delimiter, header=header and not names, where=where, n_before=n_lines)
        if names and table.num_columns != len(names):
            found = f"{shown(', '.join(str(column[0]) for column in table.columns))}, with {table.num_columns}"
            what = f"rows do not have {counted(len(names), 'cell')}"
            raise PolytaskError(what, where=where, found=found, mend="Mend those rows.")
        names = names or table.column_names
        yield table.rename_columns(names)

"""Rows from JSON lines: one JSON object a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pyarrow as pa
from pyarrow import json as arrow_json

from polytask.errors import PolytaskError, one_line, shown
from polytask.sources import _text
from polytask.sources._file import FileSource, read_bytes
from polytask.tables import plain_table

KINDS = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}


class JSONL(FileSource):
    r"""A file of JSON lines (NDJSON): a row is an object on a line of its own, its keys are the columns.

    Values keep their JSON types, and text in ISO 8601 becomes a timestamp. A key that a row lacks is a missing cell, as null
    and NaN are. An object within a row becomes a column per key: {"site": {"area": 80}} is the column "site.area". A list stays
    one, which no input can be. Gzip is unpacked, blank lines are skipped.

    Attributes:
        encoding: The text's encoding.

    Raises:
        PolytaskError: The file is not there, is empty or not in that encoding, a line is no JSON object, or a column mixes
            types.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "houses.jsonl")
        >>> _ = path.write_text('{"price": 1.5, "site": {"area": 80}}\n{"site": {"area": 95}}\n')
        >>> JSONL(path).read().to_pydict()
        {'price': [1.5, None], 'site.area': [80, 95]}
    """

    encoding: _text.Encoding = "utf-8"

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".json")

    def read(self) -> pa.Table:
        """The file as a table of plain types."""
        where = str(self.path)
        data = _text.to_utf8(read_bytes(self.path), self.encoding, where)
        if not data.strip():
            raise PolytaskError("the file is empty", where=where, mend="Give a file with a JSON object a line.")
        try:
            table = arrow_json.read_json(io.BytesIO(data), arrow_json.ReadOptions(block_size=_text.BLOCK_BYTES))
        except pa.ArrowInvalid as error:
            raise _explained(data, where, error) from None
        while any(pa.types.is_struct(column.type) for column in table.columns):
            table = table.flatten()
        if not table.num_columns:
            raise PolytaskError("the objects have no keys", where=where, mend="Write each row as a line {name: value, ...}.")
        try:
            return plain_table(table)
        except PolytaskError as error:
            raise error.inside(where) from None


def _explained(data: bytes, where: str, error: pa.ArrowInvalid) -> PolytaskError:
    """The line that is wrong, in words: Arrow counts the rows of a block."""
    first: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(data.decode().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            mend = "Write one JSON object a line, without commas or line breaks between or within them."
            return PolytaskError(f"line {number} is not JSON", where=where, found=shown(line), mend=mend)
        if not isinstance(row, dict):
            mend = 'Write each row as an object a line: {"area": 80, "price": 1.5}.'
            return PolytaskError(f"line {number} is not a JSON object", where=where, found=shown(line), mend=mend)
        for name, kind in _cells(row):
            known, line_of_it = first.setdefault(name, (kind, number))
            if known != kind:
                found = f"{known} in line {line_of_it}, {kind} in line {number}"
                return PolytaskError(f"column {name!r} mixes types", where=where, found=found, mend="Give it one type.")
    return PolytaskError("cannot be read", where=where, found=one_line(error), mend="Give each key once a line.")


def _cells(row: dict[str, Any], inside: str = "") -> Iterator[tuple[str, str]]:
    """The name and the kind of value of every cell that is not missing."""
    for key, value in row.items():
        if value is not None:
            yield inside + key, KINDS[type(value)]
        if isinstance(value, dict):
            yield from _cells(value, f"{inside}{key}.")

"""Rows from an ARFF file, the format of Weka, Mulan and OpenML."""

from __future__ import annotations

import re
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from polytask.errors import CellsError, PolytaskError, are, listed, shown
from polytask.sources import _text
from polytask.sources._file import FileSource, read_bytes

_QUOTED = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""
ATTRIBUTE = re.compile(rf"@attribute\s+({_QUOTED}|\S+)\s+(.+)", re.IGNORECASE)
LEVEL = re.compile(rf"\s*({_QUOTED}|[^,]*?)\s*(?:,|$)")
QUOTED_CELL = re.compile(rf"(^|,)[ \t]*({_QUOTED})[ \t]*(?=,|\r|$)", re.MULTILINE)
NUMERIC = ("numeric", "real", "integer")


class Attribute(NamedTuple):
    """A column of an ARFF file: its name, its type in lower case, and its levels where it is nominal."""

    name: str
    kind: str
    levels: tuple[str, ...] = ()


class ARFF(FileSource):
    r"""An ARFF file: numeric attributes become numbers, nominal and string ones text, dates timestamps; "?" is missing.

    Attributes:
        encoding: The text's encoding.

    Raises:
        PolytaskError: The file is not there or no ARFF, its rows are sparse or ragged, an attribute is relational, or a cell
            does not fit its attribute.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "flares.arff")
        >>> header = "@relation sun\n@attribute 'spot size' {X, 'R S'}\n@attribute activity {1,2}\n@attribute flares numeric\n"
        >>> _ = path.write_text(header + "@data\n% a comment\nX, 1, 0\n'R S', ?, 2.5\n")
        >>> ARFF(path).read().to_pydict()
        {'spot size': ['X', 'R S'], 'activity': ['1', None], 'flares': [0.0, 2.5]}
    """

    encoding: _text.Encoding = "utf-8"

    suffixes: ClassVar[tuple[str, ...]] = (".arff",)

    def read(self) -> pa.Table:
        """The data section as a table of typed columns."""
        where = str(self.path)
        data = _text.without_comments(_text.to_utf8(read_bytes(self.path), self.encoding, where), "%").decode()
        attributes, rows = _header_and_rows(data, where)
        table = _text.read_cells(QUOTED_CELL.sub(_csv_quoted, rows).encode(), delimiter=",", header=False, where=where)
        if table.num_columns != len(attributes):
            what = f"{len(attributes)} attributes, but rows of {table.num_columns} cells"
            raise PolytaskError(what, where=where, mend="Declare one attribute per cell.")
        columns = [_column(attribute, text, where) for attribute, text in zip(attributes, table.columns, strict=True)]
        return pa.table(columns, names=[attribute.name for attribute in attributes])


def _header_and_rows(text: str, where: str) -> tuple[list[Attribute], str]:
    """The attributes, and the rows below as many blank lines as the header has, so that line numbers stay."""
    start = re.search(r"^\s*@data\b.*$", text, re.IGNORECASE | re.MULTILINE)
    if start is None:
        raise PolytaskError(
            "no @data section: not an ARFF file", where=where, mend="If it is another format, name it so: .csv."
        )
    header, rows = text[: start.start()], text[start.end() :]
    attributes = []
    for line in header.splitlines():
        found = ATTRIBUTE.match(line.strip())
        if found is not None:
            attributes.append(_attribute(_unquoted(found[1]), found[2].strip(), where))
        elif line.strip().lower().startswith("@attribute"):
            mend = "Write @attribute name type, as in @attribute area numeric."
            raise PolytaskError("an attribute without a type", where=where, found=shown(line.strip()), mend=mend)
    names = [attribute.name for attribute in attributes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PolytaskError(f"attributes declared more than once: {listed(twice)}", where=where, mend="Give each its own name.")
    if not rows.strip():
        raise PolytaskError("there are no rows below @data", where=where, mend="Fetch the file again if it was cut short.")
    if rows.lstrip().startswith("{"):
        mend = "Save it as dense ARFF (Weka: the filter SparseToNonSparse) or as CSV."
        raise PolytaskError("the rows are sparse, which is not supported", where=where, mend=mend)
    return attributes, "\n" * text[: start.end()].count("\n") + rows


def _attribute(name: str, declared: str, where: str) -> Attribute:
    if declared.startswith("{"):
        inside = declared[1 : declared.rindex("}")] if "}" in declared else declared[1:]
        levels = tuple(_unquoted(level) for level in LEVEL.findall(inside) if level)
        return Attribute(name, "nominal", levels)
    kind = declared.split()[0].lower()
    if kind not in (*NUMERIC, "string", "date"):
        found, mend = f"type {kind!r}", f"Supported: {', '.join(NUMERIC)}, string, date and nominal."
        raise PolytaskError(f"attribute {name!r} has a type that is not supported", where=where, found=found, mend=mend)
    return Attribute(name, kind)


def _column(attribute: Attribute, text: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """The cells in the attribute's type."""
    if attribute.kind == "date":
        return _text.typed(text, missing=("?",), strip="", decimal=".", date_order=None)
    cells = _text.or_missing(pc.utf8_trim_whitespace(text), ("", "?"))
    if attribute.kind in NUMERIC:
        numbers = _text.as_numbers(cells)
        if numbers is None:
            wrong = {row: cell for row, cell in enumerate(cells.to_pylist()) if cell is not None and not _is_number(cell)}
            what = f"attribute {attribute.name!r} is {attribute.kind}, and {are(len(wrong), 'cell')} not"
            raise CellsError(what, cells=wrong, where=where, mend="Mend them, or declare it nominal.")
        return numbers
    if attribute.levels:
        known = {*attribute.levels, None}
        unknown = {row: cell for row, cell in enumerate(cells.to_pylist()) if cell not in known}
        if unknown:
            what = f"attribute {attribute.name!r} has other levels, and {are(len(unknown), 'cell')} none of them"
            raise CellsError(what, cells=unknown, where=where, mend=f"Declared: {listed(attribute.levels)}.")
    return cells


def _is_number(cell: str) -> bool:
    return _text.as_numbers(pa.chunked_array([[cell]])) is not None


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _csv_quoted(found: re.Match[str]) -> str:
    """A cell quoted in ARFF's way (either quote, backslashes) quoted in CSV's way."""
    inside = _unquoted(found[2]).replace('"', '""')
    return f'{found[1]}"{inside}"'

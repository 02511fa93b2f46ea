"""Delimited text -> a table of cells as text -> typed columns. What CSV and ARFF share."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pydantic import AfterValidator

from polytask.errors import PolytaskError, counted, listed, one_line

DELIMITERS = (",", ";", "\t", "|")
SNIFFED_BYTES = 1 << 16
BLOCK_BYTES = 1 << 24
FIRST_CELLS = 100
LIKELY_ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "gbk", "cp1252", "latin-1")
# In UTF-16 without a byte-order mark delimiters and line ends at least have one.
MANY_ZEROS = 0.1
# Of a wrong encoding: characters that no table holds.
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe]")
SIGNATURES = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip archive, as .xlsx is",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"SQLite format 3": "a SQLite database",
    b"\x89HDF": "HDF5",
    b"%PDF": "a PDF",
}

# In the numbers a column is read as: text that a number would not give back (codes such as 00501, 0x1F), and whole numbers
# with more digits than a float64 holds.
CODES = r"^[+-]?0[0-9xX]|^[+-]?\d{16,}$"

# A date in each order of year, month and day, rewritten to ISO 8601. Two digits of a year mean 1969-2068, as in POSIX.
_AFTER = r"($|[ T])"
DATE_ORDERS: dict[str, tuple[tuple[str, str], ...]] = {
    "ymd": (
        (r"^(\d{4})[-/.](\d\d)[-/.](\d\d)" + _AFTER, r"\1-\2-\3\4"),
        (r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)", r"\1-\2-\3 \4:\5:\6"),
    ),
    "mdy": (
        (r"^(\d\d)[-/.](\d\d)[-/.](\d{4})" + _AFTER, r"\3-\1-\2\4"),
        (r"^(\d\d)/(\d\d)/([0-5]\d|6[0-8])" + _AFTER, r"20\3-\1-\2\4"),
        (r"^(\d\d)/(\d\d)/(\d\d)" + _AFTER, r"19\3-\1-\2\4"),
    ),
    "dmy": (
        (r"^(\d\d)[-/.](\d\d)[-/.](\d{4})" + _AFTER, r"\3-\2-\1\4"),
        (r"^(\d\d)/(\d\d)/([0-5]\d|6[0-8])" + _AFTER, r"20\3-\2-\1\4"),
        (r"^(\d\d)/(\d\d)/(\d\d)" + _AFTER, r"19\3-\2-\1\4"),
    ),
}
DATE_LIKE = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}($|[ T])|^\d{8}T\d{6}"


def _known_encoding(name: str) -> str:
    try:
        "a".encode(name)
    except LookupError:
        raise ValueError("no such encoding; utf-8, latin-1, cp1252, gbk and utf-16 are common ones") from None
    return name


Encoding = Annotated[str, AfterValidator(_known_encoding)]


def to_utf8(data: bytes, encoding: str, where: str) -> bytes:
    """The bytes as UTF-8 without a byte-order mark.

    Raises:
        PolytaskError: The bytes are not in that encoding, told with the first bad byte and encodings that would fit.
    """
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"byte {data[error.start]:#04x} at position {error.start}"
        raise not_text(data, data, encoding, reason, where) from None
    if "\0" in text:
        raise not_text(data, data, encoding, f"a NUL character at byte {data.find(0)}", where)
    utf8 = data if encoding.lower() in ("utf-8", "utf8") else text.encode()
    return utf8.removeprefix(b"\xef\xbb\xbf")


def not_text(start: bytes, sample: bytes, encoding: str, reason: str, where: str) -> PolytaskError:
    """The error for a file that is not text in an encoding, by its first bytes and by a sample that holds the wrong ones."""
    kind = next((name for mark, name in SIGNATURES.items() if start.startswith(mark)), None)
    if kind is not None:
        mend = "Name it .parquet." if kind == "Parquet" else "Save the table in it as CSV or Parquet."
        return PolytaskError("the file is not text", where=where, found=f"the first bytes of {kind}", mend=mend)
    options = [other for other in LIKELY_ENCODINGS if other != encoding and _reads(sample, other)]
    mend = f"Say encoding: {' or '.join(options)}, or save it as UTF-8." if options else "Save it as UTF-8 text."
    return PolytaskError(f"the file is not {encoding} text", where=where, found=reason, mend=mend)


def without_comments(data: bytes, comment: str) -> bytes:
    """The text with every line that begins with ``comment`` emptied, so that line numbers stay what they were."""
    return re.sub(rb"^[ \t]*" + re.escape(comment.encode()) + rb"[^\r\n]*", b"", data, flags=re.MULTILINE)


def sniff_delimiter(data: bytes, exclude: str = "") -> str:
    r"""The delimiter that cuts most lines into as many cells as the first one; a comma where none does.

    Example:
        >>> sniff_delimiter(b"a;b\n1,5;2\n"), sniff_delimiter(b"a\tb\n1\t2\n"), sniff_delimiter(b"price\n1\n")
        (';', '\t', ',')
    """
    head = data[:SNIFFED_BYTES].decode(errors="replace")
    lines = head.splitlines(keepends=True)
    complete = lines[:-1] if len(data) > SNIFFED_BYTES and len(lines) > 1 else lines

    def merit(delimiter: str) -> tuple[bool, float, int]:
        widths = [len(row) for row in csv.reader(complete, delimiter=delimiter, skipinitialspace=True) if row]
        if not widths:
            return False, 0.0, 0
        return widths[0] > 1, widths.count(widths[0]) / len(widths), widths[0]

    return max((option for option in DELIMITERS if option != exclude), key=merit)


def first_row(data: bytes, delimiter: str) -> list[str]:
    r"""The cells of the first row, without blanks around them.

    Example:
        >>> first_row(b'\n"area", price\n80,1\n', ",")
        ['area', 'price']
    """
    lines = io.StringIO(data[:SNIFFED_BYTES].decode(errors="replace"), newline="")
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [cell.strip() for cell in next((row for row in rows if row), [])]


def read_cells(data: bytes, *, delimiter: str, header: bool, where: str, n_before: int = 0) -> pa.Table:
    """The cells as text; columns without a name in the header, or without a header, are column_1, column_2, ...

    Blank lines are skipped, blanks between a delimiter and a quote too; a quoted cell may hold delimiters and line ends.
    Messages count lines from those that were read before.

    Raises:
        PolytaskError: The text is empty or only a header, names occur twice, rows are ragged, or a quote never closes.
    """
    if not data.strip():
        raise PolytaskError("the file is empty", where=where, mend="Give a file with a header and rows.")
    data = _quotes_at_cell_starts(data, delimiter)
    _refuse_open_quote(data, delimiter, where, n_before)
    ragged: list[arrow_csv.InvalidRow] = []

    def note(row: arrow_csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = arrow_csv.read_csv(
            io.BytesIO(data if data.endswith(b"\n") else data + b"\n"),  # without, Arrow finds no columns in a single row
            arrow_csv.ReadOptions(block_size=BLOCK_BYTES, autogenerate_column_names=not header),
            arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in data, invalid_row_handler=note),
            arrow_csv.ConvertOptions(default_column_type=pa.string()),
        )
    except pa.ArrowInvalid as error:
        mend = "Look for a row that is much longer than the others."
        raise PolytaskError("the text cannot be cut into rows", where=where, found=one_line(error), mend=mend) from error
    if ragged:
        raise _ragged_rows(data, delimiter, ragged[0].expected_columns, where, n_before)
    names = column_names(table.column_names if header else [""] * table.num_columns, where)
    if not table.num_rows:
        raise PolytaskError("the file has a header but no rows", where=where, mend="Without a header say so: --no-header.")
    return table.rename_columns(names)


def typed(
    text: pa.ChunkedArray, *, missing: tuple[str, ...], strip: str, decimal: str, date_order: str | None
) -> pa.ChunkedArray:
    """A column of text as int64, float64, bool or timestamp[us] where every cell reads as one, else as text.

    Args:
        text: The cells.
        missing: What means a missing cell, once blanks around it are removed; an empty cell always does.
        strip: Characters removed from both ends of the cells of a column that would else stay text.
        decimal: The decimal mark, "." or ",".
        date_order: "ymd", "mdy" or "dmy"; None takes the first of them that reads every cell.

    Example:
        >>> def read(*cells):
        ...     column = typed(pa.chunked_array([cells]), missing=("NA",), strip=".", decimal=".", date_order=None)
        ...     return str(column.type), column.to_pylist()
        >>> read("1", " 2 ", "NA"), read("1", "2.5"), read("00501", "10001")
        (('int64', [1, 2, None]), ('double', [1.0, 2.5]), ('string', ['00501', '10001']))
        >>> read("1/13/11")[1], read("13/1/11")[1], read("<=50K.", "<=50K")[1]
        ([datetime.datetime(2011, 1, 13, 0, 0)], [datetime.datetime(2011, 1, 13, 0, 0)], ['<=50K', '<=50K'])
    """
    nothing = ("", *missing)
    text = or_missing(pc.utf8_trim_whitespace(text), nothing)
    values = _values(text, decimal, date_order)
    if values is None and strip:
        text = or_missing(pc.utf8_trim(text, strip + " \t"), nothing)
        values = _values(text, decimal, date_order)
    return text if values is None else values


def as_text(text: pa.ChunkedArray, *, missing: tuple[str, ...], strip: str) -> pa.ChunkedArray:
    """A column as ``typed`` leaves it where it is text."""
    nothing = ("", *missing)
    text = or_missing(pc.utf8_trim_whitespace(text), nothing)
    return or_missing(pc.utf8_trim(text, strip + " \t"), nothing) if strip else text


def or_missing(text: pa.ChunkedArray, nothing: tuple[str, ...]) -> pa.ChunkedArray:
    """The cells, null where one means that nothing is there."""
    return pc.if_else(pc.is_in(text, pa.array(nothing, pa.string())), pa.scalar(None, pa.string()), text)


def as_numbers(text: pa.ChunkedArray, decimal: str = ".") -> pa.ChunkedArray | None:
    """The cells as int64, else as float64 with null for NaN; None where one of them is no number."""
    if decimal == ",":
        if pc.any(pc.match_substring(text, ".")).as_py():
            return None
        text = pc.replace_substring(text, ",", ".")
    if (whole := _cast(text, pa.int64())) is not None:
        return whole
    numbers = _cast(text, pa.float64())
    return None if numbers is None else pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)


def _values(text: pa.ChunkedArray, decimal: str, date_order: str | None) -> pa.ChunkedArray | None:
    """The column in the narrowest type that reads every cell; None where it is text."""
    present = text.drop_null()
    if not len(present):
        return pa.chunked_array([pa.nulls(len(text))])
    first = present[0].as_py()
    if pc.match_substring_regex(first, DATE_LIKE).as_py():
        return _as_dates(text, date_order)
    if first.lower() in ("true", "false"):
        all_are = pc.all(pc.is_in(pc.utf8_lower(present), pa.array(["true", "false"]))).as_py()
        return text.cast(pa.bool_()) if all_are else None
    numbers = as_numbers(text, decimal)
    return None if numbers is None or _holds_codes(text) else numbers


def _holds_codes(text: pa.ChunkedArray) -> bool:
    # A regular expression costs ten times a prefix test, so it looks only at the cells that may match.
    suspect = pc.or_(pc.match_substring(pc.utf8_slice_codeunits(text, 0, 2), "0"), pc.greater(pc.binary_length(text), 15))
    return bool(pc.any(pc.match_substring_regex(text.filter(suspect), CODES)).as_py())


def _as_dates(text: pa.ChunkedArray, date_order: str | None) -> pa.ChunkedArray | None:
    for iso in _as_iso_dates(text, date_order):
        for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
            if (dates := _cast(iso, kind)) is not None:
                return dates.cast(pa.timestamp("us"))
    return None


def _as_iso_dates(text: pa.ChunkedArray, date_order: str | None) -> Iterator[pa.ChunkedArray]:
    """The cells as they are, then rewritten to ISO 8601 for each order of year, month and day that is to be tried."""
    yield text
    padded = pc.replace_substring_regex(text, r"\b(\d)([-/.:])", r"0\1\2")
    padded = pc.replace_substring_regex(padded, r"^(\d+[-/.]\d+[-/.])(\d)($|[ T])", r"\10\2\3")
    for order in DATE_ORDERS if date_order is None else (date_order,):
        iso = padded
        for pattern, replacement in DATE_ORDERS[order]:
            iso = pc.replace_substring_regex(iso, pattern, replacement)
        yield iso


def _cast(text: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    # Arrow words an error for every cell that fails, 200 times the cost of a cell that does not: so a few cells go first.
    try:
        text.slice(0, FIRST_CELLS).cast(kind)
        return text.cast(kind)
    except pa.ArrowInvalid:
        return None


def _reads(sample: bytes, encoding: str) -> bool:
    """Whether bytes, which may end within a character, are lines of text in an encoding."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeError:
        return False
    if CONTROLS.search(text) is not None:
        return False
    zeros = sample.count(0)  # in the order of bytes that is right, each is half of a Latin letter
    marked = zeros > MANY_ZEROS * len(sample) and 2 * sum(letter < "\u0100" for letter in text) > zeros
    return marked or encoding not in ("utf-16-le", "utf-16-be")


def _quotes_at_cell_starts(data: bytes, delimiter: str) -> bytes:
    """The text with blanks between a delimiter and a quoted cell removed: a quote quotes only where it opens the cell."""
    mark = re.escape(delimiter.encode())
    if delimiter == "\t" or not re.search(mark + rb' +"', data):
        return data
    return re.sub(rb"(^|" + mark + rb') *("(?:[^"]|"")*") *(?=' + mark + rb"|[\r\n]|\Z)", rb"\1\2", data, flags=re.MULTILINE)


def column_names(given: Sequence[str], where: str) -> list[str]:
    """The names without blanks around them, column_1, column_2, ... for the empty ones.

    Raises:
        PolytaskError: A name occurs twice.
    """
    names = [name.strip() or f"column_{position}" for position, name in enumerate(given, start=1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        mend = "Rename them in the file, or give names; without a header say so: --no-header."
        what = f"{counted(len(twice), 'column name')} more than once: {listed(map(repr, twice))}"
        raise PolytaskError(what, where=where, mend=mend)
    return names


def _ragged_rows(data: bytes, delimiter: str, expected: int, where: str, n_before: int) -> PolytaskError:
    """Which lines have too few or too many cells: Arrow counts rows, people count lines."""
    wrong = [(line, cells) for line, cells in _lines_and_widths(data, delimiter) if cells not in (0, expected)]
    found = listed(f"line {n_before + line} has {cells}" for line, cells in wrong)
    mend = "Mend those lines; a cell that holds the delimiter needs quotes; lines of comments need the option comment."
    what = f"{counted(len(wrong), 'row')} {'does' if len(wrong) == 1 else 'do'} not have {counted(expected, 'cell')}"
    return PolytaskError(what, where=where, found=found, mend=mend)


def _refuse_open_quote(data: bytes, delimiter: str, where: str, n_before: int) -> None:
    """A quote that never closes would swallow the rest of the file without a word."""
    if data.count(b'"') % 2 == 0:
        return
    begins = max(line for line, _ in _lines_and_widths(data, delimiter))
    last_row = b"\n".join(data.split(b"\n")[begins - 1 :])
    if b"\n" in last_row.rstrip() and last_row.count(b'"') % 2:
        what = f"line {n_before + begins} opens a quote that never closes"
        raise PolytaskError(what, where=where, mend='Close it; within a quoted cell a quote is doubled: "".')


def _lines_and_widths(data: bytes, delimiter: str) -> Iterator[tuple[int, int]]:
    """The first line of each row and its number of cells."""
    limit = csv.field_size_limit(len(data) + 1)
    try:
        reader, line = csv.reader(io.StringIO(data.decode(), newline=""), delimiter=delimiter), 1
        for row in reader:
            yield line, len(row)
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)

"""The table that `predict` writes, as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from polytask.cli.array_files import ArrayFiles, array_columns
from polytask.errors import PolytaskError, listed

SUFFIXES = (".csv", ".parquet")


def check_out(out: str, overwrite: bool) -> Path:
    """The file to write answers to.

    Raises:
        PolytaskError: It exists and may not be replaced, its folder does not exist, or its name does not tell the format.
    """
    place = Path(out).expanduser()
    if place.suffix.lower() not in SUFFIXES:
        raise PolytaskError(
            "answers are written as .csv or .parquet", where=out, mend="End the name of the file in one of them."
        )
    if place.is_dir():
        raise PolytaskError("is a folder", where=out, mend="Name a file.")
    if place.exists() and not overwrite:
        raise PolytaskError("the file exists", where=out, mend="Choose another name, or --overwrite.")
    if not place.parent.is_dir():
        raise PolytaskError(f"no folder {str(place.parent)!r}", where=out, mend="Make it first.")
    return place


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        n_rows: How many rows.
        columns: The names of the columns.
        folder: The folder beside the file that arrays were written into; None where there were none.
    """

    n_rows: int
    columns: tuple[str, ...]
    folder: Path | None = None


def write_answers(tables: Iterable[pa.Table], place: Path | None, overwrite: bool = False) -> Written:
    """Write tables one after the other, by the suffix of a file, which is replaced only once all is written; None prints CSV.

    Arrays stay in the cells of a Parquet file; beside a CSV file they become files of their own, whose paths are in its cells.

    Raises:
        PolytaskError: The file cannot be written, a folder for arrays is there already, or arrays are to be printed.
    """
    if place is None:
        return _write(map(_printable, tables), _Printed(), _write_csv)
    draft, files = place.with_name(f".{place.name}.{os.getpid()}.tmp"), ArrayFiles(place, overwrite)
    try:
        with draft.open("wb") as file:
            if place.suffix.lower() == ".parquet":
                written = _write(tables, file, _write_parquet)
            else:
                written = _write(map(files, tables), file, _write_csv)
        files.settle()
        draft.replace(place)
        return replace(written, folder=files.folder) if files.names else written
    except OSError as error:
        raise PolytaskError(
            f"cannot be written: {error.strerror or error}", where=str(place), mend="Choose another place."
        ) from None
    finally:
        draft.unlink(missing_ok=True)
        files.clear()


def _printable(table: pa.Table) -> pa.Table:
    if arrays := array_columns(table):
        mend = (
            "Name a file: --out answers.csv writes them into a folder beside it, --out answers.parquet into its cells; or name "
            "other tasks: --tasks."
        )
        raise PolytaskError("an array for every row cannot be printed", where=f"answers {listed(arrays)}", mend=mend)
    return table


class _Printed(io.RawIOBase):
    """A binary file that is the standard output."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        sys.stdout.write(bytes(data).decode())
        return len(data)


def _write(tables: Iterable[pa.Table], file: Any, to_format: Callable[[Iterator[pa.Table], Any], None]) -> Written:
    written = Written(0, ())

    def counted() -> Iterator[pa.Table]:
        nonlocal written
        for table in tables:
            written = Written(written.n_rows + table.num_rows, tuple(table.column_names))
            yield table

    to_format(counted(), file)
    return written


def _write_csv(tables: Iterator[pa.Table], file: Any) -> None:
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
    for index, table in enumerate(tables):
        if index == 0:
            header = io.StringIO()
            csv.writer(header, lineterminator="\n").writerow(table.column_names)
            file.write(header.getvalue().encode())
        pyarrow.csv.write_csv(table, file, options)


def _write_parquet(tables: Iterator[pa.Table], file: Any) -> None:
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)

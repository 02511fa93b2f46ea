"""The table that `predict` writes, as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from polytask.errors import PolytaskError

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


def write_answers(tables: Iterable[pa.Table], place: Path | None) -> tuple[int, list[str]]:
    """Write tables one after the other, by the suffix of a file, which is replaced only once all is written; None prints CSV.

    Returns:
        How many rows were written, and the names of the columns.

    Raises:
        PolytaskError: The file cannot be written.
    """
    if place is None:
        return _write(tables, _Printed(), _write_csv)
    draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            written = _write(tables, file, _write_parquet if place.suffix.lower() == ".parquet" else _write_csv)
        draft.replace(place)
        return written
    except OSError as error:
        raise PolytaskError(
            f"cannot be written: {error.strerror or error}", where=str(place), mend="Choose another place."
        ) from None
    finally:
        draft.unlink(missing_ok=True)


class _Printed(io.RawIOBase):
    """A binary file that is the standard output."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        sys.stdout.write(bytes(data).decode())
        return len(data)


def _write(
    tables: Iterable[pa.Table], file: Any, to_format: Callable[[Iterator[pa.Table], Any], None]
) -> tuple[int, list[str]]:
    n_rows, names = 0, []

    def counted() -> Iterator[pa.Table]:
        nonlocal n_rows, names
        for table in tables:
            n_rows, names = n_rows + table.num_rows, table.column_names
            yield table

    to_format(counted(), file)
    return n_rows, names


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

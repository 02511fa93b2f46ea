"""The table that `predict` writes, as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path
from typing import BinaryIO

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


def write_answers(table: pa.Table, place: Path | None) -> None:
    """Write a table by the suffix of a file, which is replaced only once all is written; None prints CSV.

    Raises:
        PolytaskError: The file cannot be written.
    """
    if place is None:
        buffer = io.BytesIO()
        _write_csv(table, buffer)
        sys.stdout.write(buffer.getvalue().decode())
        return
    draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            if place.suffix.lower() == ".parquet":
                pyarrow.parquet.write_table(table, file)
            else:
                _write_csv(table, file)
        draft.replace(place)
    except OSError as error:
        raise PolytaskError(
            f"cannot be written: {error.strerror or error}", where=str(place), mend="Choose another place."
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def _write_csv(table: pa.Table, file: BinaryIO) -> None:
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(table.column_names)
    file.write(header.getvalue().encode())
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
    pyarrow.csv.write_csv(table, file, options)

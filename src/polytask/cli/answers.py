"""The tables that `predict` and `embed` write, as CSV, Parquet or, of numbers alone, NumPy."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from polytask.cli.array_files import ArrayFiles, array_columns
from polytask.errors import PolytaskError, listed

ANSWERS = (".csv", ".parquet")
VECTORS = (".npy", *ANSWERS)


def check_out(out: str, overwrite: bool, suffixes: Sequence[str] = ANSWERS) -> Path:
    """The file to write answers to.

    Raises:
        PolytaskError: It exists and may not be replaced, its folder does not exist, or its name does not tell the format.
    """
    place = Path(out).expanduser()
    if place.suffix.lower() not in suffixes:
        what = f"answers are written as {', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise PolytaskError(what, where=out, mend="End the name of the file in one of them.")
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

    Arrays stay in the cells of a Parquet file. In a CSV file a vector is a column for each of its numbers; larger arrays become
    files of their own beside it, whose paths are in its cells.

    Raises:
        PolytaskError: The file cannot be written, a folder for arrays is there already, or arrays are to be printed.
    """
    if place is None:
        return _write(map(_printable, map(flat, tables)), _Printed(), _write_csv)
    draft, files = place.with_name(f".{place.name}.{os.getpid()}.tmp"), ArrayFiles(place, overwrite)
    try:
        with draft.open("wb") as file:
            if place.suffix.lower() == ".parquet":
                written = _write(tables, file, _write_parquet)
            else:
                written = _write(map(files, map(flat, tables)), file, _write_csv)
        files.settle()
        draft.replace(place)
        return replace(written, folder=files.folder) if files.names else written
    except OSError as error:
        raise _unwritten(error, place) from None
    finally:
        draft.unlink(missing_ok=True)
        files.clear()


def write_vectors(vectors: NDArray[np.float32], place: Path) -> None:
    """Write an array ``[N, D]`` by the suffix of a file, which is replaced only once all is written.

    Raises:
        PolytaskError: It cannot be written.
    """
    columns = {str(at): np.ascontiguousarray(vectors[:, at]) for at in range(vectors.shape[1])}
    if place.suffix.lower() != ".npy":
        write_answers([pa.table(columns)], place)
        return
    draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        draft.replace(place)
    except OSError as error:
        raise _unwritten(error, place) from None
    finally:
        draft.unlink(missing_ok=True)


def flat(table: pa.Table) -> pa.Table:
    """The table with a column "name:0", "name:1", ... for every number of a column of vectors.

    Example:
        >>> vectors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> flat(pa.table({"a": vectors})).to_pydict()
        {'a:0': [1.0, 3.0], 'a:1': [2.0, 4.0]}
    """
    columns: dict[str, pa.Array] = {}
    for name in table.column_names:
        kind = table[name].type
        if isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 1:
            cells = table[name].combine_chunks().storage
            columns |= {f"{name}:{at}": pc.list_element(cells, at) for at in range(kind.shape[0])}
        else:
            columns[name] = table[name]
    return pa.table(columns)


def _unwritten(error: OSError, place: Path) -> PolytaskError:
    what = f"cannot be written: {error.strerror or error}"
    return PolytaskError(what, where=str(place), mend="Choose another place.")


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

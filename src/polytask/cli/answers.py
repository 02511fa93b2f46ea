"""The tables that `predict` and `embed` write, as CSV, Parquet or, of numbers alone, NumPy."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from polytask.errors import PolytaskError

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


def write_answers(tables: Iterable[pa.Table], place: Path | None) -> tuple[int, list[str]]:
    """Write tables one after the other, by the suffix of a file, which is replaced only once all is written; None prints CSV.

    Returns:
        How many rows were written, and the names of the columns.

    Raises:
        PolytaskError: The file cannot be written.
    """
    if place is None:
        return _write(tables, _Printed(), _write_csv)
    with _replaced(place) as file:
        return _write(tables, file, _write_parquet if place.suffix.lower() == ".parquet" else _write_csv)


@contextmanager
def _replaced(place: Path) -> Iterator[BinaryIO]:
    """A file that takes its place once all is written.

    Raises:
        PolytaskError: It cannot be written.
    """
    draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
        draft.replace(place)
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
    for index, table in enumerate(map(flat, tables)):
        if index == 0:
            header = io.StringIO()
            csv.writer(header, lineterminator="\n").writerow(table.column_names)
            file.write(header.getvalue().encode())
        pyarrow.csv.write_csv(table, file, options)


def flat(table: pa.Table) -> pa.Table:
    """The table with a column "name:0", "name:1", ... for every number of a column of vectors.

    Raises:
        PolytaskError: A cell is a larger array, such as an image.

    Example:
        >>> vectors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> flat(pa.table({"a": vectors})).to_pydict()
        {'a:0': [1.0, 3.0], 'a:1': [2.0, 4.0]}
    """
    columns: dict[str, pa.Array] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not isinstance(column.type, pa.FixedShapeTensorType):
            columns[name] = column
            continue
        if len(column.type.shape) > 1:
            what = f"cells of column {name!r} are arrays of shape {tuple(column.type.shape)}, which a .csv file cannot hold"
            raise PolytaskError(what, where="predict", mend="Name a .parquet file with --out, or other tasks with --tasks.")
        cells = column.combine_chunks().storage
        columns |= {f"{name}:{at}": pc.list_element(cells, at) for at in range(column.type.shape[0])}
    return pa.table(columns)


def write_vectors(vectors: NDArray[np.float32], place: Path) -> None:
    """Write an array ``[N, D]`` by the suffix of a file, which is replaced only once all is written.

    Raises:
        PolytaskError: It cannot be written.
    """
    if place.suffix.lower() != ".npy":
        columns = {f"{at}": vectors[:, at] for at in range(vectors.shape[1])}
        write_answers([pa.table({name: np.ascontiguousarray(column) for name, column in columns.items()})], place)
        return
    with _replaced(place) as file:
        np.save(file, vectors, allow_pickle=False)


def _write_parquet(tables: Iterator[pa.Table], file: Any) -> None:
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)

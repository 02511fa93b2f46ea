"""The folder beside a CSV file of answers for what its cells cannot hold: an array of pixels in every row."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytask.errors import PolytaskError
from polytask.images import png
from polytask.maps import arrays_of

OURS = re.compile(r".+-\d{6,}\.(png|npy)")
LONGEST = 80  # characters of a column's name in that of a file


class ArrayFiles:
    """Files for the arrays of tables, which are written one after the other; they take their place once ``settle`` is called.

    Codes and brightness of 8 or 16 bits and colors become PNG files, as they are; other numbers ``.npy`` files, of which
    nothing is lost. They can be read back as labels.

    Args:
        place: The CSV file.
        overwrite: Whether files of earlier answers may be replaced.
    """

    def __init__(self, place: Path, overwrite: bool = False) -> None:
        self.folder = place.with_name(f"{place.stem}_files")
        self.draft = place.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        self.overwrite, self.n_rows = overwrite, 0
        self.names: dict[str, str] = {}

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the paths of files, seen from the CSV file, in place of arrays; null where there is none.

        Raises:
            PolytaskError: The folder is there already.
            OSError: A file cannot be written.
        """
        for index, name in enumerate(array_columns(table)):
            if not self.names:
                self._begin()
            stem = self.names.setdefault(name, _plain(name, set(self.names.values()), index))
            column = table[name].combine_chunks()
            there = column.is_valid().to_pylist()
            paths = [
                self._written(stem, self.n_rows + row, array) if known else None
                for row, (array, known) in enumerate(zip(arrays_of(column), there, strict=True))
            ]
            table = table.set_column(table.column_names.index(name), name, pa.array(paths, pa.string()))
        self.n_rows += len(table)
        return table

    def settle(self) -> None:
        """Put the folder in its place, instead of what is there."""
        if self.names:
            before = self.draft.with_suffix(".old")
            if self.folder.exists():
                self.folder.rename(before)
            self.draft.rename(self.folder)
            shutil.rmtree(before, ignore_errors=True)

    def clear(self) -> None:
        """Remove what is not in its place."""
        shutil.rmtree(self.draft, ignore_errors=True)

    def _begin(self) -> None:
        what, mend = "", "Name another file: --out."
        if self.folder.exists() and not self.folder.is_dir():
            what = "is a file, where a folder for the arrays of the answers is wanted"
        elif self.folder.is_dir() and not all(OURS.fullmatch(path.name) for path in self.folder.iterdir()):
            what = "the folder for the arrays of the answers holds something else"
        elif self.folder.is_dir() and not self.overwrite:
            what, mend = "the folder for the arrays of the answers exists", "Name another file: --out, or --overwrite."
        if what:
            raise PolytaskError(what, where=str(self.folder), mend=mend)
        self.draft.mkdir()

    def _written(self, stem: str, row: int, array: NDArray[Any]) -> str:
        is_picture = (array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] == (3,))) or (
            array.dtype == np.uint16 and array.ndim == 2
        )
        path = self.draft / f"{stem}-{row + 1:06}.{'png' if is_picture else 'npy'}"
        if is_picture:
            path.write_bytes(png(array))
        else:
            np.save(path, array, allow_pickle=False)
        return f"{self.folder.name}/{path.name}"


def array_columns(table: pa.Table) -> list[str]:
    """The columns with an array in every cell."""
    return [field.name for field in table.schema if isinstance(field.type, pa.FixedShapeTensorType)]


def _plain(name: str, taken: set[str], index: int) -> str:
    """A name as that of a file may begin, on every system, and unlike those that are taken.

    Example:
        >>> _plain("../mask:3", set(), 0), _plain("Mask", {"mask"}, 1)
        ('_mask_3', 'Mask_2')
    """
    plain = re.sub(r"[^\w-]+", "_", name)[:LONGEST]
    return f"{plain}_{index + 1}" if plain.casefold() in {other.casefold() for other in taken} else plain

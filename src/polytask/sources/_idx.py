"""The IDX format: an array of bytes after its type and its sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polytask.errors import PolytaskError
from polytask.sources._file import read_bytes

BYTES = 8  # the code of the type: unsigned bytes


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of bytes, gzipped or not.

    Raises:
        PolytaskError: It is not there, no IDX file of bytes, or not as long as its sizes say.
    """
    data = read_bytes(path)
    n_axes = data[3] if len(data) >= 4 else 0
    if len(data) < 4 or data[:2] != b"\0\0" or not 1 <= n_axes <= 4 or len(data) < 4 + 4 * n_axes:
        mend = "Give files such as train-images-idx3-ubyte and train-labels-idx1-ubyte."
        raise PolytaskError("not an IDX file", where=str(path), found=f"it begins with {data[:4]!r}", mend=mend)
    if data[2] != BYTES:
        raise PolytaskError("an IDX file of something else than bytes", where=str(path), found=f"type {data[2]:#04x}")
    shape = tuple(int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(n_axes))
    start = 4 + 4 * n_axes
    if len(data) - start != math.prod(shape):
        found = f"{len(data) - start:,} bytes, where {' x '.join(map(str, shape))} is {math.prod(shape):,}"
        raise PolytaskError("not as long as its sizes say", where=str(path), found=found, mend="Fetch the file again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)

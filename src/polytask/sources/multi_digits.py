"""Two digits on one canvas, each to be told: MultiMNIST, or the like of scans that scikit-learn ships."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from polytask.source import Source
from polytask.sources._digits import SHARES, Digits, mnist, scans

INK = 64  # of 255: what of a digit counts as its own


class MultiDigits(Source):
    """A digit in the upper left corner of a canvas and one in the lower right, which lie over one another in the middle.

    Digits are split into training, validation and test before they are put together: none is in two parts. Each lies in the
    upper left about as often as in the lower right, with any other of its part; where both have ink the darker counts.

    Columns: ``image``; ``left`` and ``right``, what the digits are; and with ``masks`` also ``left_mask`` and ``right_mask``,
    images of 0 and 1 that tell the pixels with ink of each.

    Args:
        path: The folder with MNIST's four IDX files, gzipped or not; 10,000 of its training digits are for validation. None
            takes the 1,797 scans of 8 x 8 pixels that scikit-learn ships.
        rows: Canvases for training; None for one per digit.
        held_rows: Canvases for validation, and for test; None for one per digit.
        offset: How many pixels the second digit lies lower and further right, and the canvas is larger than a digit: 4 makes
            canvases of 32 x 32 from MNIST.
        masks: Whether there are columns of masks.
        inputs: The columns to use as inputs.
        seed: Of which digits are for validation, and which meet.

    Example:
        >>> table = MultiDigits(rows=100).parts()["main"]
        >>> table.column_names, table["image"].type.shape
        (['image', 'left', 'right'], [12, 12])
    """

    inputs: tuple[str, ...] | None = ("image",)
    path: Path | None = None
    rows: int | None = Field(default=None, ge=1)
    held_rows: int | None = Field(default=None, ge=1)
    offset: int = Field(default=4, ge=0)
    masks: bool = False
    seed: int = Field(default=0, ge=0)

    @property
    def images(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def labels(self) -> tuple[str, ...]:
        return ("left", "right")

    def read(self) -> pa.Table:
        return self.parts()["main"]

    def parts(self) -> dict[str, pa.Table]:
        """The three parts.

        Raises:
            PolytaskError: A file is not there, or is no IDX file.
        """
        digits = self._digits()
        n_rows = {"main": self.rows, "validation": self.held_rows, "test": self.held_rows}
        return {part: self._canvases(digits, part, n_rows[part]) for part in SHARES}

    def anchored(self) -> Self:
        """The same with an absolute path."""
        return self.model_copy(update={"path": self.path and self.path.expanduser().absolute()})

    def fingerprint(self) -> str:
        """The sha256, in hexadecimal, of the digits and of how they are put together."""
        digits, fields = self._digits(), self.model_dump(exclude={"path", "name", "inputs", "validation", "test"})
        digest = hashlib.sha256(repr(sorted(fields.items())).encode())
        digest.update(digits.images.tobytes())
        digest.update(digits.labels.tobytes())
        return digest.hexdigest()

    def _digits(self) -> Digits:
        if self.path is not None:
            return mnist(self.path, self.seed)
        found = scans(self.seed)
        return Digits(np.minimum(found.images * 16, 255), found.labels, found.parts)

    def _canvases(self, digits: Digits, part: str, n_rows: int | None) -> pa.Table:
        draw, there = np.random.default_rng([self.seed, list(SHARES).index(part)]), digits.parts[part]
        n = len(there) if n_rows is None else n_rows
        left, right = (_dealt(there, n, draw) for _ in range(2))
        side = digits.images.shape[1]
        layers = np.zeros((2, n, side + self.offset, side + self.offset), np.uint8)
        layers[0, :, :side, :side] = digits.images[left]
        layers[1, :, self.offset :, self.offset :] = digits.images[right]
        columns = {"image": layers.max(0)}
        if self.masks:
            columns |= {f"{name}_mask": (layers[i] >= INK).astype(np.uint8) for i, name in enumerate(("left", "right"))}
        images = {name: pa.FixedShapeTensorArray.from_numpy_ndarray(array) for name, array in columns.items()}
        return pa.table({**images, "left": pa.array(digits.labels[left]), "right": pa.array(digits.labels[right])})


def _dealt(there: NDArray[np.int64], n: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """``n`` of these in random order, each about as often as the others."""
    rounds = [draw.permutation(there) for _ in range(-(-n // len(there)))]
    return np.concatenate(rounds)[:n]

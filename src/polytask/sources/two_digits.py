"""Two scanned digits side by side, made from the scans that scikit-learn ships."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from pydantic import Field

from polytask.source import Source
from polytask.sources._digits import SHARES, Digits, scans


class TwoDigits(Source):
    """1,797 real scans of 8 x 8 pixels (NIST, Alpaydin and Kaynak 1998), two of them on each canvas of 8 x 16.

    The scans are split into training, validation and test before they are put together, so that no scan is in two parts.
    Columns: the pixels ``row0_col00`` to ``row7_col15`` (0 to 16), and the labels ``left``, ``right``, ``total`` (their sum)
        and ``same``
    (whether they are equal, which one canvas in four is made to be).

    Args:
        rows: Canvases for training; validation and test have a quarter of it each.
        seed: Which scans meet.

    Example:
        >>> table = TwoDigits(rows=100).parts()["test"]
        >>> table.num_rows, table.num_columns
        (25, 132)
    """

    rows: int = Field(default=4000, ge=4)
    seed: int = Field(default=0, ge=0)

    def read(self) -> pa.Table:
        return self.parts()["main"]

    def parts(self) -> dict[str, pa.Table]:
        digits = scans(self.seed)
        sizes = {"main": self.rows, "validation": self.rows // 4, "test": self.rows // 4}
        return {part: self._canvases(digits, part, sizes[part]) for part in SHARES}

    def fingerprint(self) -> str:
        return hashlib.sha256(f"two_digits {self.rows} {self.seed}".encode()).hexdigest()

    def _canvases(self, digits: Digits, part: str, n_rows: int) -> pa.Table:
        draw, there = np.random.default_rng([self.seed, list(SHARES).index(part)]), digits.parts[part]
        images, labels = digits.images, digits.labels
        left = draw.choice(there, n_rows)
        right = draw.choice(there, n_rows)
        by_digit = [there[labels[there] == digit] for digit in range(10)]
        for row in np.flatnonzero(draw.random(n_rows) < 1 / 6):  # with the tenth that is equal by chance, a quarter
            right[row] = draw.choice(by_digit[labels[left[row]]])
        canvases = np.concatenate([images[left], images[right]], axis=2).astype(np.int64)
        columns = {f"row{r}_col{c:02}": canvases[:, r, c] for r in range(8) for c in range(16)}
        columns |= {"left": labels[left], "right": labels[right], "total": labels[left] + labels[right]}
        table = {name: pa.array(values) for name, values in columns.items()}
        return pa.table(table | {"same": pa.array(labels[left] == labels[right])})

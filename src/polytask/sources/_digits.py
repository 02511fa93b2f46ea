"""What the sources of two digits share: scans of digits, split into parts before any two are put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polytask.sources._idx import read_idx

SHARES = {"main": 0.6, "validation": 0.2, "test": 0.2}
MNIST_VALIDATION = 10_000
MNIST_FILES = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Digits:
    """Scans ``[N, side, side]`` with their labels ``[N]``, and which of them are in each part."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    parts: dict[str, NDArray[np.int64]]


def scans(seed: int) -> Digits:
    """The 1,797 scans of 8 x 8 pixels, 0 to 16, that scikit-learn ships, dealt at random."""
    from sklearn.datasets import load_digits  # here, for all sources are asked whose a file's suffix is

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    bounds = np.cumsum([0, *(round(share * len(order)) for share in SHARES.values())])
    parts = {part: order[bounds[i] : bounds[i + 1]] for i, part in enumerate(SHARES)}
    return Digits(found.images.astype(np.uint8), found.target.astype(np.int64), parts)


def mnist(folder: Path, seed: int) -> Digits:
    """The 70,000 digits of MNIST's four files: 10,000 of its training digits at random for validation, its test for test.

    Raises:
        PolytaskError: A file is not there, or is no IDX file.
    """
    files = [
        (_file(folder, f"{name}-images-idx3-ubyte"), _file(folder, f"{name}-labels-idx1-ubyte"))
        for name in MNIST_FILES.values()
    ]
    (train, train_labels), (test, test_labels) = [(read_idx(images), read_idx(labels)) for images, labels in files]
    order = np.random.default_rng(seed).permutation(len(train))
    n_held = min(MNIST_VALIDATION, len(train) // 5)
    parts = {"main": order[n_held:], "validation": order[:n_held], "test": len(train) + np.arange(len(test))}
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    return Digits(np.concatenate([train, test]), labels, parts)


def _file(folder: Path, name: str) -> Path:
    """The file, or the gzipped one where only that is there."""
    plain, packed = folder.expanduser() / name, folder.expanduser() / f"{name}.gz"
    return packed if packed.exists() and not plain.exists() else plain

"""Images in IDX files, the format of MNIST."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from polytask.errors import PolytaskError
from polytask.source import HELD_OUT
from polytask.sources._file import FileSource
from polytask.sources._idx import read_idx
from polytask.tables import image_array

IMAGE, LABEL = "image", "label"


class IDX(FileSource):
    """A file of images ``[N, height, width]`` (or with channels last) and one of labels ``[N]``, both gzipped or not.

    Columns: ``image`` and, where there is a file of labels, ``label``.

    Attributes:
        path: The file of images, such as ``train-images-idx3-ubyte.gz``.
        labels_path: The file of labels; by default the one beside it whose name has "labels-idx1" for "images-idx3". Those of
            ``validation`` and ``test`` are found so too.

    Raises:
        PolytaskError: A file is not there, is no IDX file, is cut short, or the two have different numbers of rows.

    Example:
        >>> IDX("train-images-idx3-ubyte.gz").label
        'train-images-idx3-ubyte'
    """

    suffixes: ClassVar[tuple[str, ...]] = ("-ubyte", ".idx")
    labels_path: Path | None = None

    @property
    def images(self) -> tuple[str, ...]:
        return (IMAGE,)

    @property
    def labels(self) -> tuple[str, ...]:
        return (LABEL,)

    def read(self) -> pa.Table:
        """The images and their labels."""
        columns = {IMAGE: image_array(read_idx(self.path), str(self.path))}
        place = self._labels_of("path")
        if place is not None:
            labels = read_idx(place)
            if labels.shape != (len(columns[IMAGE]),):
                found = f"shape {labels.shape} for {len(columns[IMAGE]):,} images in {self.path}"
                raise PolytaskError("not one label for every image", where=str(place), found=found, mend="Give its own labels.")
            columns[LABEL] = pa.array(labels).cast(pa.int64())
        return pa.table(columns)

    def fingerprint(self) -> str:
        """The sha256, in hexadecimal, of the bytes of its files."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for part in ("path", *HELD_OUT):
            if getattr(self, part) is not None and (place := self._labels_of(part)) is not None:
                digest.update(place.expanduser().read_bytes())
        return digest.hexdigest()

    def _labels_of(self, part: str) -> Path | None:
        """The file of labels of a part; None where there is none."""
        if part == "path" and self.labels_path is not None:
            return self.labels_path
        images: Path = getattr(self, part)
        beside = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
        return beside if beside != images and beside.expanduser().is_file() else None

"""What the sources on a disk share: where they lie; of files their bytes and fingerprint."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any, Self

from polytask.errors import PolytaskError, no_such_file, one_line
from polytask.source import HELD_OUT, Source

GZIP_MAGIC = b"\x1f\x8b"


class PathSource(Source, abstract=True):
    """A source that lies on a disk: a file or a folder.

    Attributes:
        path: Where, relative to the working directory; ``~`` is the home folder.
        validation: Where the source's own validation part is.
        test: Where the source's own test part is.
    """

    path: Path
    validation: Path | None = None
    test: Path | None = None

    def __init__(self, path: str | Path | None = None, **fields: Any) -> None:
        super().__init__(**(fields if path is None else {"path": path, **fields}))

    def anchored(self) -> Self:
        """The same by absolute paths."""
        paths = {field: getattr(self, field) for field in ("path", *HELD_OUT)}
        return self.model_copy(update={field: path and path.expanduser().absolute() for field, path in paths.items()})


class FileSource(PathSource, abstract=True):
    """A source that is a file."""

    @property
    def label(self) -> str:
        """The name, else the file's stem."""
        return self.name or Path(self.path.name.removesuffix(".gz")).stem

    def folder_of(self, part: str) -> Path:
        """The folder of the part's file."""
        path: Path = self.path if part == "main" else getattr(self, part)
        return path.expanduser().absolute().parent

    def fingerprint(self) -> str:
        """The sha256, in hexadecimal, of the bytes of its files."""
        files = {"main": self.path, **{part: getattr(self, part) for part in HELD_OUT}}
        digests = [f"{part} {hashlib.sha256(_raw_bytes(path)).hexdigest()}" for part, path in files.items() if path is not None]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read_bytes(path: Path) -> bytes:
    """The file's bytes, unpacked where it is gzipped.

    Raises:
        PolytaskError: There is no such file, it cannot be read, or its gzip data are broken.
    """
    data = _raw_bytes(path)
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise PolytaskError(
            "the gzip data are broken", where=str(path), found=one_line(error), mend="Fetch the file again."
        ) from error


def _raw_bytes(path: Path) -> bytes:
    found = path.expanduser()
    if not found.exists():
        raise no_such_file(found)
    try:
        return found.read_bytes()
    except OSError as error:
        raise PolytaskError(
            f"cannot be read: {error.strerror}", where=str(path), mend="Give a file that can be read."
        ) from error

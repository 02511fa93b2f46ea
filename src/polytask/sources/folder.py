"""Images in folders, one for each class."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa

from polytask.errors import PolytaskError, listed, no_such_file
from polytask.source import HELD_OUT
from polytask.sources._file import PathSource

IMAGE, CLASS = "image", "class"
PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


class Folder(PathSource):
    """A folder that holds a folder of image files for each class.

        pets/cat/1.jpg
        pets/cat/indoors/2.png
        pets/dog/7.jpg

    Columns: ``image``, the path of the file, and ``class``, the name of the folder. Folders inside that of a class belong to
    it. Every file is taken for an image but those whose names begin with a dot, so what is none is told, not passed over. New
    images to predict may also lie in the folder itself, without a class.

    Attributes:
        path: The folder, relative to the working directory; ``~`` is the home folder.
        validation: The source's own validation folder.
        test: The source's own test folder.

    Raises:
        PolytaskError: There is no such folder, it holds no files, or its folders are named as parts of a split are.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     (folder / name / "1.png").touch()
        >>> Folder(folder).read()["class"].to_pylist()
        ['cat', 'dog']
    """

    @property
    def images(self) -> tuple[str, ...]:
        return (IMAGE,)

    @property
    def labels(self) -> tuple[str, ...]:
        return (CLASS,)

    @property
    def label(self) -> str:
        """The name, else the folder's."""
        return self.name or self.path.expanduser().absolute().name

    def read(self) -> pa.Table:
        """A row for every file, in the order of their names."""
        place = self.path.expanduser().absolute()
        if not place.is_dir():
            raise PolytaskError("no such folder", where=str(self.path)) if not place.exists() else no_such_file(place)
        files = _files(place)
        if not files:
            mend = "Give a folder with a folder of images for each class."
            raise PolytaskError("no files in it, or in its folders", where=str(self.path), mend=mend)
        classes = [None if file.parent == place else file.relative_to(place).parts[0] for file in files]
        if set(classes) <= PARTS:
            found, mend = listed(sorted(set(filter(None, classes)))), "Give them apart: polytask fit a/train --test a/test."
            what = "its folders are parts of a split, not classes"
            raise PolytaskError(what, where=str(self.path), found=found, mend=mend)
        columns = {IMAGE: pa.array([str(file) for file in files]), CLASS: pa.array(classes, pa.string())}
        return pa.table(columns if any(classes) else {IMAGE: columns[IMAGE]})

    def fingerprint(self) -> str:
        """The sha256, in hexadecimal, of the names and sizes of its files: their bytes may be more than are read twice."""
        digest = hashlib.sha256()
        for part in ("path", *HELD_OUT):
            if (folder := getattr(self, part)) is not None:
                place = folder.expanduser().absolute()
                for file in _files(place):
                    digest.update(f"{part} {file.relative_to(place).as_posix()} {file.stat().st_size}\n".encode())
        return digest.hexdigest()


def _files(place: Path) -> list[Path]:
    """The files below a folder but hidden ones, and those in hidden folders."""
    found = (path for path in place.rglob("*") if not any(part.startswith(".") for part in path.relative_to(place).parts))
    return sorted(path for path in found if path.is_file())

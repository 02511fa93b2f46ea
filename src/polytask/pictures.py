"""A column of images as one array: its form, reading it with several threads, and keeping it on disk from run to run."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytask.cells import NumberFeature, is_text
from polytask.errors import CellsError, PolytaskError, counted, one_line
from polytask.images import GREY_MODES, Bytes, ImageFeature, Images, UnusableImage, opened, picture

N_LOOKED_AT = 256
LARGEST_OWN, USUAL = 128, 64
PIECE = 64  # images that a thread reads at a time
MAX_THREADS = 8


@dataclass(frozen=True)
class Pictures:
    """The images of a column.

    Attributes:
        pixels: ``[M, channels, height, width]``, of clips ``[M, frames, channels, height, width]``; where there is no image
            they mean nothing.
        missing: Whether the cell is missing, bool ``[N]``.
        unusable: Why the image of a row cannot be used, by its row.
        n_resized: How many were of another size.
        n_short: How many have fewer frames than the others, so that their last is repeated.
        rows: Which of the M the N rows are, where they are not all.
    """

    pixels: Bytes
    missing: NDArray[np.bool_]
    unusable: Mapping[int, str] = field(default_factory=dict)
    n_resized: int = 0
    n_short: int = 0
    rows: NDArray[np.int64] | None = None

    @property
    def there(self) -> NDArray[np.bool_]:
        """The rows with an image that can be used."""
        there = ~self.missing
        there[list(self.unusable)] = False
        return there

    def standardized(self, feature: NumberFeature) -> NDArray[np.float32]:
        """The number that tells missing images apart, as ``Cells.standardized``."""
        assert feature.part == "missing"
        return self.missing.astype(np.float32)

    def where(self, rows: NDArray[np.bool_]) -> Pictures:
        """Those of some rows, without a copy."""
        index = np.flatnonzero(rows)
        place = {row: i for i, row in enumerate(index.tolist())}
        unusable = {place[row]: why for row, why in self.unusable.items() if row in place}
        return Pictures(self.pixels, self.missing[index], unusable, rows=index if self.rows is None else self.rows[index])

    def number_features(self, column: str) -> list[NumberFeature]:
        """A number that tells missing images apart, where there are some."""
        varies = self.missing.any() and not self.missing.all()
        return [NumberFeature(name=f"{column} is missing", column=column, part="missing")] if varies else []

    def fitted(self, feature: ImageFeature) -> ImageFeature:
        """The feature with the mean and deviation of each channel over these images."""
        index = np.flatnonzero(self.there)
        index = index if self.rows is None else self.rows[index]
        total, squares = np.zeros((2, feature.channels))
        others = tuple(axis for axis in range(self.pixels.ndim) if axis != self.pixels.ndim - 3)  # all but the channels
        for start in range(0, len(index), PIECE):
            pixels = self.pixels[index[start : start + PIECE]].astype(np.float64)
            total, squares = total + pixels.sum(others), squares + np.square(pixels).sum(others)
        n = max(len(index), 1) * feature.frames * feature.height * feature.width
        mean = total / n
        deviation = np.sqrt((squares / n - mean**2).clip(min=0))
        deviation[deviation < 1e-3] = 1.0  # one channel that is the same everywhere, but for rounding
        return feature.model_copy(update={"mean": tuple(mean.tolist()), "deviation": tuple(deviation.tolist())})

    def filled(self, feature: ImageFeature) -> Bytes:
        """The pixels, with the mean color in rows without an image."""
        assert self.rows is None
        if (absent := ~self.there).any():
            self.pixels[absent] = np.rint(feature.mean).astype(np.uint8)[:, None, None]
        return self.pixels


def holds_images(column: pa.ChunkedArray) -> bool:
    """Whether the type of a column says that it holds images: an array of bytes in every cell.

    Its axes are ``[height, width]``, ``[height, width, channels]``, or of a clip ``[frames, height, width, channels]``.
    """
    kind = column.type
    return isinstance(kind, pa.FixedShapeTensorType) and kind.value_type == pa.uint8() and len(kind.shape) in (2, 3, 4)


def holds_clips(column: pa.ChunkedArray) -> bool:
    """Whether the type of a column says that it holds clips of several frames."""
    return holds_images(column) and len(column.type.shape) == 4 and column.type.shape[0] > 1


def located(table: pa.Table, names: Sequence[str], folder: Path | None) -> pa.Table:
    """The table with paths in the columns ``names`` that begin in a folder; None for the working directory."""
    start = str(Path.cwd() if folder is None else folder.expanduser().absolute())
    for name in names:
        if name in table.column_names and is_text(table[name].type):
            known = table[name].unique().to_pylist()
            paths = {cell: None if cell is None else os.path.join(start, os.path.expanduser(cell)) for cell in known}  # noqa: PTH111, PTH118
            column = pa.array([paths[cell] for cell in table[name].to_pylist()], pa.string())
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def form_of(name: str, column: pa.ChunkedArray, settings: Images) -> ImageFeature:
    """The form that the images of a column are brought to; what the settings leave open is decided by some of them.

    Raises:
        PolytaskError: The column can hold no images.
    """
    cells = ImageColumn(column, f"column {name!r}")
    sizes, grey = cells.sizes(settings.max_pixels)
    own = next(iter(sizes)) if len(sizes) == 1 else (USUAL, USUAL)
    size = settings.size if settings.size is not None else own if max(own) <= LARGEST_OWN else USUAL
    height, width = (size, size) if isinstance(size, int) else size
    color = settings.color or ("grey" if grey and sizes else "color")
    return ImageFeature(
        column=name,
        channels=1 if color == "grey" else 3,
        height=height,
        width=width,
        frames=settings.frames or cells.frames,
        resize=settings.resize,
        on_damaged=settings.on_damaged,
        max_pixels=settings.max_pixels,
    )


def read_pictures(column: pa.ChunkedArray, feature: ImageFeature, cache: Path | None = None) -> Pictures:
    """All images of a column in the form of a feature.

    Args:
        column: Paths, bytes of image files, or arrays of pixels.
        feature: Their form.
        cache: The folder in which they are kept; None for memory.

    Raises:
        PolytaskError: The column can hold no images.
        CellsError: Some cannot be used, and the feature says to stop.
    """
    cells, missing = ImageColumn(column, f"column {feature.column!r}"), column.is_null().to_numpy().copy()
    shape = (len(column), *feature.shape)
    if cache is not None and cells.pixels is None and len(column):
        read = _cached(cells, feature, shape, cache.expanduser())
    else:
        pixels = np.zeros(shape, np.uint8)
        read = Pictures(pixels, missing, *_fill(pixels, cells, feature))
    if read.unusable and feature.on_damaged == "error":
        raise _refusal(read.unusable, feature.column)
    return replace(read, missing=missing)


def _refusal(unusable: Mapping[int, str], column: str) -> CellsError:
    what = f"{counted(len(unusable), 'image')} cannot be used"
    mend = "Mend these files or cells, or leave such rows out with images.on_damaged: skip."
    return CellsError(what, cells={row: unusable[row] for row in sorted(unusable)}, where=f"column {column!r}", mend=mend)


class ImageColumn:
    """The cells of a column of images, or of labels of their pixels.

    Args:
        column: Paths, bytes of image files, or arrays of pixels.
        where: What messages call the column.
        thing: What the cells should be.
        any_numbers: Whether arrays may be of other numbers than bytes.

    Raises:
        PolytaskError: It can hold nothing of the kind.

    Attributes:
        pixels: Those of a column of arrays, ``[N, height, width]``, ``[N, height, width, channels]`` or
            ``[N, frames, height, width, channels]``; None for files.
    """

    def __init__(self, column: pa.ChunkedArray, where: str, thing: str = "images", any_numbers: bool = False) -> None:
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:  # as Hugging Face writes images
            column = pc.struct_field(column, "bytes")
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        self.column, kind = column, column.type
        self.pixels: Bytes | None = None
        if holds_images(column) or (any_numbers and isinstance(kind, pa.FixedShapeTensorType)):
            array = column.combine_chunks()
            self.pixels = np.asarray(array.storage.values.fill_null(0)).reshape(-1, *kind.shape)
            self.pixels = self.pixels[array.offset : array.offset + len(array)]
        elif not (is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            mend = "Give paths of image files, their bytes, or an array with a height and a width for every row."
            raise PolytaskError(f"{where} holds no {thing}", found=f"cells of type {kind}", mend=mend)

    def __len__(self) -> int:
        return len(self.column)

    @property
    def frames(self) -> int:
        """How many every cell of arrays has; 1 for files, of which the first is read unless more are asked for."""
        return self.pixels.shape[1] if self.pixels is not None and self.pixels.ndim == 5 else 1

    def in_form(self, feature: ImageFeature) -> Bytes | None:
        """The pixels of arrays as they are, where that is the form already."""
        if self.pixels is None:
            return None
        pixels = np.moveaxis(self.pixels[..., None] if self.pixels.ndim == 3 else self.pixels, -1, -3)
        return pixels if pixels.shape[1:] == feature.shape else None

    def sizes(self, max_pixels: int) -> tuple[set[tuple[int, int]], bool]:
        """The sizes there are among some of the images, and whether all of these are grey."""
        if self.pixels is not None:
            still = self.pixels.shape[-3:] if self.pixels.ndim > 3 else (*self.pixels.shape[1:], 1)
            return {(still[0], still[1])}, still[2] == 1
        known = np.flatnonzero(self.column.is_valid().to_numpy())
        rows = known[np.unique(np.linspace(0, len(known) - 1, N_LOOKED_AT).astype(int))] if len(known) else known
        sizes: set[tuple[int, int]] = set()
        grey = True
        with quiet():
            for row in rows.tolist():
                try:
                    with opened(self.column[row].as_py(), max_pixels) as image:
                        sizes.add((image.height, image.width))
                        grey = grey and image.mode in GREY_MODES
                except UnusableImage:  # it is told when all are read
                    continue
        return sizes, grey

    def piece(self, start: int, stop: int) -> Sequence[Any]:
        """The cells from a row to another, None where missing."""
        cells = self.column.slice(start, stop - start)
        if self.pixels is None:
            return cells.to_pylist()  # type: ignore[no-any-return]
        return [self.pixels[start + i] if known else None for i, known in enumerate(cells.is_valid().to_pylist())]

    def fingerprint(self, row: int, cell: str | bytes | None) -> str:
        """What tells a file from what it was before."""
        if cell is None:
            return "missing"
        if isinstance(cell, bytes):
            return hashlib.sha256(cell).hexdigest()
        try:
            found = os.stat(cell)  # noqa: PTH116
        except (OSError, ValueError):
            return f"{cell} absent"
        return f"{cell} {found.st_size} {found.st_mtime_ns}"


def _fill(pixels: Bytes, cells: ImageColumn, feature: ImageFeature) -> tuple[dict[int, str], int, int]:
    """Write every image into its row; why some cannot be used, how many were of another size, and how many are short."""
    if (whole := cells.in_form(feature)) is not None:
        pixels[:] = whole
        return {}, 0, 0
    short = np.zeros(len(cells), np.bool_)

    def into(row: int, cell: Any) -> bool:
        pixels[row], resized, short[row] = picture(cell, feature)
        return resized

    return (*read_each(cells, into), int(short.sum()))


def read_each(cells: ImageColumn, read: Callable[[int, Any], bool]) -> tuple[dict[int, str], int]:
    """Read every cell that is not missing, with several threads; why some cannot be used, and of how many ``read`` is true."""

    def piece(start: int) -> tuple[dict[int, str], int]:
        unusable, n_true = {}, 0
        for row, cell in enumerate(cells.piece(start, start + PIECE), start):
            if cell is not None:
                try:
                    n_true += read(row, cell)
                except UnusableImage as why:
                    unusable[row] = f"{why}: {'/'.join(Path(cell).parts[-2:])}" if isinstance(cell, str) else str(why)
        return unusable, n_true

    # Threads rather than processes: Pillow lets other threads run while it unpacks and resizes, and nothing is sent about.
    with quiet(), ThreadPoolExecutor(n_threads()) as pool:
        found = list(pool.map(piece, range(0, len(cells), PIECE)))
    return {row: why for part, _ in found for row, why in part.items()}, sum(n for _, n in found)


def n_threads() -> int:
    """How many threads decode images."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_THREADS)


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow warns of large images, odd palettes and garbled notes of cameras; what cannot be used is told by its row."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _cached(cells: ImageColumn, feature: ImageFeature, shape: tuple[int, ...], folder: Path) -> Pictures:
    """The images from a file that holds them decoded, which is written first where it is not there, or not of these images."""
    digest = hashlib.sha256(feature.model_dump_json(exclude={"mean", "deviation", "on_damaged"}).encode())
    for start in range(0, len(cells), PIECE):
        for row, cell in enumerate(cells.piece(start, start + PIECE), start):
            digest.update(f"\n{cells.fingerprint(row, cell)}".encode())
    place = folder / f"{digest.hexdigest()[:32]}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = _kept(place, shape)
        if found is None:
            _keep(place, shape, lambda pixels: _fill(pixels, cells, feature))
            found = _kept(place, shape)
    except OSError as error:
        mend = "Choose a folder with room that you may write to, or leave images.cache out."
        raise PolytaskError("the decoded images cannot be kept", where=str(folder), found=one_line(error), mend=mend) from None
    assert found is not None  # it has just been written
    return found


def _kept(place: Path, shape: tuple[int, ...]) -> Pictures | None:
    """What was kept, mapped into memory; None where nothing was, or it is damaged."""
    try:
        told = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        pixels = np.load(place, mmap_mode="c", allow_pickle=False)  # copy on write: nothing of ours changes the file
        unusable = {int(row): str(why) for row, why in told["unusable"].items()}
        n_resized, n_short = int(told["n_resized"]), int(told["n_short"])
    except (FileNotFoundError, ValueError, KeyError, EOFError):
        return None
    if pixels.shape != shape or pixels.dtype != np.uint8:
        return None
    return Pictures(pixels, np.zeros(shape[0], np.bool_), unusable, n_resized, n_short)


def _keep(place: Path, shape: tuple[int, ...], fill: Callable[[Any], tuple[dict[int, str], int, int]]) -> None:
    """Write under another name, and take the name when all is on the disk."""
    draft = place.with_name(f".{place.stem}.{os.getpid()}.npy")
    try:
        pixels = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # else a full disk ends the process, not with an error
            with draft.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, draft.stat().st_size)
        unusable, n_resized, n_short = fill(pixels)
        pixels.flush()
        del pixels
        told = draft.with_suffix(".json")
        told.write_text(json.dumps({"unusable": unusable, "n_resized": n_resized, "n_short": n_short}), encoding="utf-8")
        for path in (draft, told):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        told.replace(place.with_suffix(".json"))
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)
        draft.with_suffix(".json").unlink(missing_ok=True)

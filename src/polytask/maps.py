"""Labels of every pixel: masks and depths as cells of a table, brought to the form of the images that they belong to."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytask.errors import CellsError, counted
from polytask.images import ImageFeature, UnusableImage, check_file, opened, reading
from polytask.pictures import ImageColumn, read_each

Sort = Literal["codes", "numbers"]
NONE: dict[Sort, float] = {"codes": -1, "numbers": np.nan}
TYPES: dict[Sort, Any] = {"codes": np.int16, "numbers": np.float32}
LARGEST_CODE = np.iinfo(np.int16).max


def read_maps(column: pa.ChunkedArray, form: ImageFeature, sort: Sort, where: str) -> tuple[pa.Array, dict[int, str]]:
    """The labels of every pixel of a column, as an Arrow fixed-shape tensor ``[height, width]``; null where a cell is.

    Codes are int16 and -1 where there is none, also in an array that is read; numbers are float32 and NaN where there is none.
    A file of another size is brought to this one as images are (``form.resize``), without a value that it does not hold: each
    pixel takes that of the nearest.

    Args:
        column: Paths of files (those of images; ``.npy`` arrays), bytes of image files, or arrays of numbers
            ``[height, width]`` or ``[height, width, 1]``. Of an image with a palette the codes are the places in it.
        form: The images that they belong to.
        sort: What they hold.
        where: The task, for messages.

    Returns:
        The labels, and why those of some rows cannot be used, if they are to be skipped.

    Raises:
        PolytaskError: The column can hold no such labels.
        CellsError: Some cannot be used, and the form says to stop.
    """
    shape = (form.height, form.width)
    cells = ImageColumn(column, where, "labels of pixels", any_numbers=True)
    read = np.full((len(column), *shape), NONE[sort], TYPES[sort])
    unusable: dict[int, str] = {}
    whole = cells.pixels
    if whole is not None and whole.shape[1:] in (shape, (*shape, 1)) and _holds(whole, sort):
        read[:] = whole.reshape(read.shape)
    else:

        def into(row: int, cell: Any) -> bool:
            read[row] = _read(cell, form, sort)
            return False

        unusable, _ = read_each(cells, into)
    if unusable and form.on_damaged == "error":
        what = f"{counted(len(unusable), 'label')} cannot be used"
        mend = "Mend these files or cells, or go without such labels with images.on_damaged: skip."
        raise CellsError(what, cells={row: unusable[row] for row in sorted(unusable)}, where=where, mend=mend)
    missing = ~column.is_valid().to_numpy()
    missing[list(unusable)] = True
    return tensors(read, missing), unusable


def tensors(array: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """An array ``[N, ...]`` as a column of arrays, null where ``missing``.

    Example:
        >>> tensors(np.zeros((3, 2, 2)), np.array([False, True, False])).null_count
        1
    """
    shape = array.shape[1:]
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(array.dtype), shape)
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    marks = None if missing is None else pa.array(missing)
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)), mask=marks))


def arrays_of(column: pa.Array) -> NDArray[Any]:
    """What ``tensors`` made a column of, ``[N, ...]``; of null cells any value."""
    if not len(column):
        return np.zeros((0, *column.type.shape), column.type.value_type.to_pandas_dtype())
    values = column.storage.values
    values = values.fill_null(0) if values.null_count else values  # beneath cells that are null
    found: NDArray[Any] = np.asarray(values).reshape(-1, *column.type.shape)
    return found[column.offset : column.offset + len(column)]


def _holds(values: NDArray[Any], sort: Sort) -> bool:
    """Whether all of some values can be of the sort."""
    if sort == "numbers" or values.dtype in (np.bool_, np.uint8):
        return True
    return bool(
        values.min(initial=0) >= NONE["codes"] and values.max(initial=0) <= LARGEST_CODE and (values == np.floor(values)).all()
    )


def _read(cell: str | bytes | NDArray[Any], form: ImageFeature, sort: Sort) -> NDArray[Any]:
    """One label in its form.

    Raises:
        UnusableImage: It cannot be used.
    """
    from PIL import Image, ImageOps

    values = _values(cell, form.max_pixels)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise UnusableImage(f"colors where {'codes' if sort == 'codes' else 'numbers'} of one channel are wanted")
        values = values[..., 0]
    if values.ndim != 2 or not values.size:
        raise UnusableImage(f"an array of shape {values.shape}")
    if not _holds(values, sort):
        raise UnusableImage(f"values that are no codes from 0 to {LARGEST_CODE:,}")
    image = Image.fromarray(values.astype(np.int32 if sort == "codes" else np.float32))
    size, nearest = (form.width, form.height), Image.Resampling.NEAREST
    if image.size != size:
        if form.resize == "stretch":
            image = image.resize(size, nearest)
        elif form.resize == "crop":
            image = ImageOps.fit(image, size, nearest)
        else:
            image = _padded(image, size, NONE[sort])
    return np.asarray(image)


def _padded(image: Any, size: tuple[int, int], fill: float) -> Any:
    """As ``ImageOps.pad``, whose colors are whole and not negative."""
    from PIL import Image, ImageOps

    inner = ImageOps.contain(image, size, Image.Resampling.NEAREST)
    whole = Image.fromarray(np.full((size[1], size[0]), fill, np.asarray(inner).dtype))
    whole.paste(inner, (round((size[0] - inner.width) * 0.5), round((size[1] - inner.height) * 0.5)))
    return whole


def _values(cell: str | bytes | NDArray[Any], max_pixels: int) -> NDArray[Any]:
    """What a cell holds, as numbers."""
    if isinstance(cell, np.ndarray):
        return cell
    if isinstance(cell, str) and cell.endswith(".npy"):
        return _array_file(cell, max_pixels)
    from PIL import ImageOps

    with reading(max_pixels), opened(cell, max_pixels) as image:
        turned = ImageOps.exif_transpose(image)
        bands = turned.getbands()
        return np.asarray(turned)[..., :-1] if bands[-1] == "A" else np.asarray(turned)


def _array_file(path: str, max_pixels: int) -> NDArray[Any]:
    check_file(path)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise UnusableImage("no array of numbers, or a damaged one") from None
    if values.size > max_pixels:
        raise UnusableImage(f"{values.size:,} numbers, more than {max_pixels:,}")
    if values.dtype.kind not in "biuf":
        raise UnusableImage(f"an array of {values.dtype}")
    return np.asarray(values)

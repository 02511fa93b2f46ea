"""One image or clip: how it is asked for, opened, refused, and brought into the form that a network reads."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from polytask.component import Settings
from polytask.errors import PolytaskError

if TYPE_CHECKING:
    from PIL.Image import Image

Bytes = NDArray[np.uint8]
Color = Literal["color", "grey"]
Resize = Literal["stretch", "crop", "pad"]

# Of all that Pillow reads: what people have, and nothing that starts another program, as EPS does.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
ENDINGS = {
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
FORMAT_OF = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
WHITE = (255, 255, 255, 255)


class Images(Settings):
    """How the images of a recipe are read.

    Args:
        size: Height and width that they are brought to, one number for both; None for their own where all are alike and at most
            128 pixels high and wide, else 64.
        color: color, or grey (0.299 R + 0.587 G + 0.114 B); None for grey where all are grey, else color.
        frames: How many frames are taken of every image: more than one make it a clip. They are evenly spaced, from the first
            to the last of a GIF, WEBP, PNG or TIFF with several; where there are fewer the last is repeated. None for the first
            of a file, and all that arrays have.
        resize: How an image of another shape is brought to the size. stretch: each side for itself; crop: scaled until it
            covers the size, its middle is kept; pad: scaled until it fits, on black.
        on_damaged: What to do where an image is missing in its place, empty, damaged, too large, or of another format than its
            name says: stop with an error that tells the rows, or skip: leave the row out, say so, and answer nothing for it.
        max_pixels: More pixels than this are refused before they are unpacked: a small file may unpack to many gigabytes.
        cache: A folder in which decoded images are kept from run to run, and from which they are read as they are needed: for
            more images than fit in memory.
    """

    size: int | tuple[int, int] | None = None
    color: Color | None = None
    frames: int | None = Field(default=None, ge=1)
    resize: Resize = "stretch"
    on_damaged: Literal["error", "skip"] = "error"
    max_pixels: int = Field(default=50_000_000, ge=1)
    cache: Path | None = None

    def model_post_init(self, _: Any) -> None:
        """Refuse a size without pixels."""
        sides = (self.size,) if isinstance(self.size, int) else self.size or (1,)
        if min(sides) < 1:
            raise PolytaskError("an image has one pixel at least", where="size", found=str(self.size))


class ImageFeature(Settings):
    """An image of every row, in the form that training decided on: uint8 ``[channels, height, width]``, or a clip.

    A clip is several frames in their order, ``[frames, channels, height, width]``.

    Attributes:
        column: The table's column that it comes from.
        channels: 1 for grey, 3 for red, green and blue.
        height: In pixels.
        width: In pixels.
        frames: Of a clip; 1 for a still image, which has no such axis.
        resize: How an image of another shape is brought to this one.
        on_damaged: What to do where one cannot be used.
        max_pixels: More are refused before they are unpacked.
        mean: Of each channel over the training rows.
        deviation: Likewise; 1 where a channel does not vary.
    """

    column: str
    channels: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    frames: int = Field(default=1, ge=1)
    resize: Resize = "stretch"
    on_damaged: Literal["error", "skip"] = "error"
    max_pixels: int = 50_000_000
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """What its tensor is called among the inputs: a name that a program may have for it.

        Example:
            >>> ImageFeature(column="photo", channels=1, height=8, width=8).key
            'image_photo'
        """
        plain = re.sub(r"[^0-9A-Za-z_]", "_", self.column)
        told_apart = "" if plain == self.column else f"_{hashlib.sha256(self.column.encode()).hexdigest()[:6]}"
        return f"image_{plain}{told_apart}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height, width; of a clip its frames before them."""
        still = (self.channels, self.height, self.width)
        return still if self.frames == 1 else (self.frames, *still)


class UnusableImage(Exception):  # noqa: N818  # it is told as words in a PolytaskError, never raised to a user
    """Why an image cannot be used."""


@cache
def require_pillow() -> None:
    """Let Pillow know all its formats.

    Raises:
        PolytaskError: It is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        mend = 'Install it: pip install "polytask[image]".'
        raise PolytaskError("images are read by the package pillow, which is not installed", mend=mend) from None
    Image.init()


class Picture(NamedTuple):
    """An image in the form of a feature.

    Attributes:
        pixels: ``[channels, height, width]``, of a clip ``[frames, channels, height, width]``.
        resized: Whether it had to be brought to the size.
        short: Whether it has fewer frames, so that the last is repeated.
    """

    pixels: Bytes
    resized: bool
    short: bool


def picture(cell: str | bytes | Bytes, feature: ImageFeature) -> Picture:
    """An image or clip in the form of a feature.

    Transparent places are white, and an orientation that the file tells is followed.

    Args:
        cell: The path of a file, its bytes, or pixels ``[height, width]``, ``[height, width, channels]``, or of a clip
            ``[frames, height, width, channels]``.
        feature: The form.

    Raises:
        UnusableImage: It cannot be used.

    Example:
        >>> feature = ImageFeature(column="photo", channels=1, height=2, width=2)
        >>> picture(np.full((4, 2, 3), 255, np.uint8), feature).pixels.tolist()
        [[[255, 255], [255, 255]]]
    """
    with reading(feature.max_pixels):
        if isinstance(cell, np.ndarray):
            stills = cell if cell.ndim == 4 else cell[None]
            taken = frames_taken(len(stills), feature.frames)
            formed = {index: _formed(_from_array(stills[index]), feature) for index in set(taken)}
            n_frames = len(stills)
        else:
            with opened(cell, feature.max_pixels) as image:
                n_frames = _n_frames(image, cell) if feature.frames > 1 else 1
                taken = frames_taken(n_frames, feature.frames)
                formed = {index: _formed(_at_frame(image, index, feature.max_pixels), feature) for index in sorted(set(taken))}
    pixels = formed[0][0] if feature.frames == 1 else np.stack([formed[index][0] for index in taken])
    return Picture(pixels, any(resized for _, resized in formed.values()), n_frames < feature.frames)


def _n_frames(image: Image, cell: str | bytes) -> int:
    """How many frames a file has; a GIF that is cut between two of them would seem to have fewer."""
    if image.format == "GIF":
        data = cell if isinstance(cell, bytes) else Path(cell).read_bytes()
        if not data.rstrip(b"\0").endswith(b";"):  # its last byte, after which some writers leave zeros
            raise UnusableImage("damaged (its end is missing)")
    return getattr(image, "n_frames", 1)


def frames_taken(n_frames: int, wanted: int) -> list[int]:
    """Which frames of so many are taken.

    Example:
        >>> frames_taken(10, 4), frames_taken(3, 5), frames_taken(10, 1)
        ([0, 3, 6, 9], [0, 1, 2, 2, 2], [0])
    """
    if n_frames < wanted:
        return [min(index, n_frames - 1) for index in range(wanted)]
    return [round(index) for index in np.linspace(0, n_frames - 1, wanted).tolist()]


def _at_frame(image: Image, index: int, max_pixels: int) -> Image:
    """The image at a frame; the pages of a TIFF have sizes of their own."""
    if index:
        image.seek(index)
        _check_size(image, max_pixels)
    return image


def _from_array(pixels: Bytes) -> Image:
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def png(pixels: NDArray[Any]) -> bytes:
    """Pixels as a PNG file, as they are: 8 or 16 bits ``[height, width]``, colors ``[..., 3]``, or with opacity ``[..., 4]``.

    Example:
        >>> with opened(png(np.array([[0, 7]], np.uint8)), 2) as image:
        ...     np.asarray(image).tolist()
        [[0, 7]]
    """
    require_pillow()
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def reading(max_pixels: int) -> Iterator[None]:
    """Within, what Pillow's readers raise for files that are cut short, garbled or too large says why one cannot be used.

    Raises:
        UnusableImage: It is so.
    """
    require_pillow()
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnusableImage:
        raise
    except UnidentifiedImageError:
        raise UnusableImage("not an image, or a damaged one") from None
    except Image.DecompressionBombError:
        raise UnusableImage(f"more than {max_pixels:,} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, LookupError, TypeError) as error:
        raise UnusableImage(f"damaged ({' '.join(str(error).split()).rstrip('.')})") from None


def opened(cell: str | bytes, max_pixels: int) -> Image:
    """The image in a file with its size and mode, of which no pixel has been read.

    Raises:
        UnusableImage: There is none, or it is too large, or not what its name says.
    """
    require_pillow()
    from PIL import Image

    if isinstance(cell, str):
        check_file(cell)
    elif not cell:
        raise UnusableImage("empty")
    with reading(max_pixels):
        image = Image.open(cell if isinstance(cell, str) else io.BytesIO(cell), formats=FORMATS)
    try:
        told = FORMAT_OF.get(Path(cell).suffix.lower()) if isinstance(cell, str) else None
        kind = "JPEG" if image.format == "MPO" else image.format  # several JPEG in one file, as some cameras write
        _check_size(image, max_pixels)
        if told not in (None, kind):
            raise UnusableImage(f"a {kind} by its content, a {told} by its name")
    except UnusableImage:
        image.close()
        raise
    return image


def _check_size(image: Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UnusableImage(f"{image.width:,} x {image.height:,} pixels, more than {max_pixels:,}")


def check_file(path: str) -> None:
    """Whether there is a file with something in it.

    Raises:
        UnusableImage: There is none.
    """
    try:
        if not os.stat(path).st_size:  # noqa: PTH116  # a third of the time of Path(path).stat()
            raise UnusableImage("empty")
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableImage("no such file") from None
    except (OSError, ValueError) as error:
        raise UnusableImage(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if os.path.isdir(path):  # noqa: PTH112
        raise UnusableImage("a folder")


def _formed(image: Image, feature: ImageFeature) -> tuple[Bytes, bool]:
    from PIL import Image, ImageOps

    size, mode = (feature.width, feature.height), "L" if feature.channels == 1 else "RGB"
    own = image.size
    image.draft(mode, (2 * size[0], 2 * size[1]))  # a JPEG is unpacked at an eighth, a quarter or half where that is enough
    image = _eight_bits(ImageOps.exif_transpose(image))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    image = image.convert(mode)
    other = own != size
    if image.size != size:
        if feature.resize == "stretch":
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        else:
            image = (ImageOps.fit if feature.resize == "crop" else ImageOps.pad)(image, size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return (pixels[None] if feature.channels == 1 else pixels.transpose(2, 0, 1)), other


def _eight_bits(image: Image) -> Image:
    """The image with eight bits a channel; Pillow itself would cut 16 off at 255."""
    from PIL import Image

    if image.mode == "F":
        raise UnusableImage("pixels that are fractions")
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65_535:
            raise UnusableImage("pixels of more than 16 bits")
        return Image.fromarray((pixels >> 8).astype(np.uint8))
    return image

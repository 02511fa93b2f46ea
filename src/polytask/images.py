"""One image: how it is asked for, opened, refused, and brought into the form that a network reads."""

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
from typing import TYPE_CHECKING, Any, Literal

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
    """An image of every row, uint8 ``[channels, height, width]``, in the form that training decided on.

    Attributes:
        column: The table's column that it comes from.
        channels: 1 for grey, 3 for red, green and blue.
        height: In pixels.
        width: In pixels.
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
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


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


def picture(cell: str | bytes | Bytes, feature: ImageFeature) -> tuple[Bytes, bool]:
    """An image in the form of a feature, ``[channels, height, width]``, and whether it had to be brought to its size.

    Transparent places are white, an orientation that the file tells is followed, and of several frames the first is read.

    Args:
        cell: The path of a file, its bytes, or pixels ``[height, width]`` or ``[height, width, channels]``.
        feature: The form.

    Raises:
        UnusableImage: It cannot be used.

    Example:
        >>> feature = ImageFeature(column="photo", channels=1, height=2, width=2)
        >>> picture(np.full((4, 2, 3), 255, np.uint8), feature)[0].tolist()
        [[[255, 255], [255, 255]]]
    """
    with reading(feature.max_pixels), opened(cell, feature.max_pixels) as image:
        return _formed(image, feature)


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


def opened(cell: str | bytes | Bytes, max_pixels: int) -> Image:
    """An image with its size and mode, of which no pixel has been read.

    Raises:
        UnusableImage: There is none, or it is too large, or not what its name says.
    """
    require_pillow()
    from PIL import Image

    if isinstance(cell, np.ndarray):
        return Image.fromarray(cell)
    if isinstance(cell, str):
        check_file(cell)
    elif not cell:
        raise UnusableImage("empty")
    with reading(max_pixels):
        image = Image.open(cell if isinstance(cell, str) else io.BytesIO(cell), formats=FORMATS)
    told = FORMAT_OF.get(Path(cell).suffix.lower()) if isinstance(cell, str) else None
    kind = "JPEG" if image.format == "MPO" else image.format  # several JPEG in one file, as some cameras write
    why = "" if told in (None, kind) else f"a {kind} by its content, a {told} by its name"
    if image.width * image.height > max_pixels:
        why = f"{image.width:,} x {image.height:,} pixels, more than {max_pixels:,}"
    if why:
        image.close()
        raise UnusableImage(why)
    return image


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

"""One image: what is read of it, and why some are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polytask.errors import PolytaskError
from polytask.images import ImageFeature, Images, UnusableImage, picture

RED = np.full((6, 4, 3), (200, 20, 40), np.uint8)


def form(channels: int = 3, size: tuple[int, int] = (6, 4), **more: Any) -> ImageFeature:
    return ImageFeature(column="photo", channels=channels, height=size[0], width=size[1], **more)


def packed(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP", "JPEG"])
def test_every_format_in_color_and_to_grey(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{kind.lower()}"
    Image.fromarray(RED).save(path, **({"quality": 100} if kind in ("JPEG", "WEBP") else {}))
    pixels, resized, _ = picture(str(path), form())
    assert pixels.shape == (3, 6, 4)
    assert not resized
    assert np.abs(pixels.astype(int) - RED.transpose(2, 0, 1)).max() <= 3
    grey, *_ = picture(path.read_bytes(), form(1))
    assert np.abs(grey.astype(int) - (0.299 * 200 + 0.587 * 20 + 0.114 * 40)).max() <= 3


def test_sixteen_bits_keep_their_upper_eight() -> None:
    deep = np.array([[0, 256 * 7 + 3], [65_535, 256 * 100]], np.uint16)
    assert picture(packed(Image.fromarray(deep)), form(1, (2, 2)))[0].tolist() == [[[0, 7], [255, 100]]]


def test_what_is_transparent_is_white() -> None:
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, :, 3] = 255
    assert picture(packed(Image.fromarray(clear)), form(1, (2, 2)))[0].tolist() == [[[0, 0], [255, 255]]]
    named = Image.fromarray(np.zeros((2, 2), np.uint8)).convert("P")
    assert picture(packed(named, transparency=0), form(1, (2, 2)))[0].min() == 255


def test_the_orientation_that_a_camera_notes_is_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    top_white = np.zeros((8, 16), np.uint8)
    top_white[:4] = 255
    turned = picture(packed(Image.fromarray(top_white), "PNG", exif=exif), form(1, (16, 8)))[0][0]
    assert turned[:, 4:].min() == 255
    assert turned[:, :4].max() == 0


def test_three_ways_to_another_shape() -> None:
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 200  # what is left of it in the middle
    sizes = {way: picture(wide, form(1, (4, 4), resize=way))[0][0] for way in ("stretch", "crop", "pad")}
    assert sizes["crop"].min() == 200
    assert sizes["pad"][0].max() == 0
    assert sizes["stretch"][:, 0].max() < 100 < sizes["stretch"][:, 1].min()
    assert picture(wide, form(1, (4, 4))).resized
    assert np.array_equal(picture(wide[..., None], form(1, (4, 4))).pixels[0], sizes["stretch"])


def test_what_cannot_be_used_says_why(tmp_path: Path) -> None:
    whole = packed(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    files: dict[str, tuple[bytes, str]] = {
        "a.png": (b"", "empty"),
        "b.png": (whole[: len(whole) // 2], "damaged (image file is truncated)"),
        "c.png": (b"hello", "not an image, or a damaged one"),
        "d.jpg": (whole, "a PNG by its content, a JPEG by its name"),
        "e.png": (whole[:100] + bytes(50) + whole[150:], "damaged"),
        "f.png": (packed(Image.new("1", (20_000, 9_000))), "more than 50,000,000"),
        "g.png": (packed(Image.new("1", (8_000, 7_000))), "8,000 x 7,000 pixels, more than 50,000,000"),
        "h.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
        "i.tif": (packed(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "pixels that are fractions"),
    }
    for name, (data, told) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnusableImage) as caught:
            picture(str(tmp_path / name), form())
        assert told in str(caught.value), name
    for path, told in (
        ("none.png", "no such file"),
        (".", "a folder"),
        ("c.png/x.png", "no such file"),
        ("\0", "cannot be read"),
    ):
        with pytest.raises(UnusableImage, match=told):
            picture(str(tmp_path / path), form())
    with pytest.raises(UnusableImage, match="empty"):
        picture(b"", form())
    Image.fromarray(RED).save(tmp_path / "no ending", "PNG")
    assert picture(str(tmp_path / "no ending"), form())[0].shape == (3, 6, 4)


def test_settings() -> None:
    assert Images(size=[2, 3]).size == (2, 3)
    with pytest.raises(PolytaskError, match="size: an image has one pixel at least"):
        Images(size=(0, 3))

"""Labels of pixels as cells of a table: what files may hold, where each pixel goes, and what is said of those of no use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from polytask import CSV, Recipe
from polytask.errors import CellsError, PolytaskError
from polytask.images import ImageFeature, Resize, picture, png
from polytask.maps import Sort, arrays_of, read_maps, tensors
from polytask.preparation import Prepared, prepare

CODES = np.array([[0, 1, 2], [2, 7, 0]], np.uint8)
FORM = ImageFeature(column="photo", channels=1, height=2, width=3)


def read(cells: Any, sort: Sort = "codes", form: ImageFeature = FORM) -> list[Any]:
    """The arrays of a column, None where there is none."""
    column = cells if isinstance(cells, pa.Array) else pa.array(cells)
    labels, _ = read_maps(pa.chunked_array([column]), form, sort, "task 'mask'")
    arrays = arrays_of(labels)
    return [arrays[row] if known else None for row, known in enumerate(labels.is_valid().to_pylist())]


def saved(image: Image.Image, path: Path) -> str:
    image.save(path)
    return str(path)


def test_every_kind_of_file_holds_the_same_codes(tmp_path: Path) -> None:
    with_palette = Image.frombytes("P", (3, 2), CODES.tobytes())
    with_palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, *[0] * 759])
    grey_in_color = Image.fromarray(np.repeat(CODES[..., None], 3, 2))
    np.save(tmp_path / "whole.npy", CODES.astype(np.int64))
    np.save(tmp_path / "floats.npy", CODES.astype(np.float64)[..., None])
    files = [
        saved(with_palette, tmp_path / "palette.png"),
        saved(Image.fromarray(CODES), tmp_path / "grey.png"),
        saved(Image.fromarray(CODES.astype(np.uint16)), tmp_path / "deep.png"),
        saved(grey_in_color, tmp_path / "color.png"),
        saved(Image.fromarray(CODES).convert("LA"), tmp_path / "opacity.png"),
        saved(Image.fromarray(CODES.astype(np.int32)), tmp_path / "whole.tiff"),
        str(tmp_path / "whole.npy"),
        str(tmp_path / "floats.npy"),
    ]
    for found in (read([*files, None]), read([png(CODES), png(CODES.astype(np.uint16)), None])):
        assert found[-1] is None
        assert all(np.array_equal(array, CODES) and array.dtype == np.int16 for array in found[:-1])
    bits = saved(Image.fromarray(CODES > 1), tmp_path / "bits.png")
    with Image.open(bits) as image:
        assert image.mode == "1"
    assert np.array_equal(read([bits])[0], CODES > 1)


def test_columns_of_arrays_are_taken_as_they_are() -> None:
    numbers = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 4
    numbers[0, 0, 0] = np.nan
    found = read(tensors(numbers, np.array([False, True])), "numbers")
    assert np.array_equal(found[0], numbers[0], equal_nan=True)
    assert found[1] is None
    assert np.array_equal(read(tensors(numbers[..., None]), "numbers")[1], numbers[1])
    assert np.array_equal(read(tensors(CODES[None].astype(np.int64)))[0], CODES)
    assert np.array_equal(read(tensors(CODES[None] > 1))[0], CODES > 1)
    larger = ImageFeature(column="photo", channels=1, height=4, width=6)
    assert np.array_equal(read(tensors(CODES[None]), form=larger)[0], CODES.repeat(2, 0).repeat(2, 1))
    sliced = tensors(np.stack([CODES, CODES + 1])).slice(1)
    assert np.array_equal(read(sliced)[0], CODES + 1)


def test_depths_of_sixteen_bits_and_of_floats_are_kept(tmp_path: Path) -> None:
    depth = np.array([[0, 65_535, 1000], [7, 300, 40_000]], np.uint16)
    np.save(tmp_path / "depth.npy", depth / 7)
    files = [
        saved(Image.fromarray(depth), tmp_path / "a.png"),
        saved(Image.fromarray(depth / np.float32(2)), tmp_path / "b.tiff"),
    ]
    found = read([*files, str(tmp_path / "depth.npy")], "numbers")
    for array, wanted in zip(found, (depth, depth / 2, depth / 7), strict=True):
        assert np.array_equal(array, wanted.astype(np.float32))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(16, 8), (8, 16), (8, 8), (24, 40), (37, 22)])
def test_labels_go_where_their_image_goes(resize: Resize, size: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 2, (5, 5), dtype=np.uint8)
    rows, columns = (np.arange(side) * 5 // side for side in size)
    mask = blocks[rows][:, columns]
    form = ImageFeature(column="photo", channels=1, height=20, width=20, resize=resize)
    image = picture((mask * 200 + 50).astype(np.uint8), form).pixels
    codes = read([png(mask)], form=form)[0]
    depth = read([png(mask)], "numbers", form)[0]
    there = codes >= 0
    assert np.array_equal(there, np.isfinite(depth))
    assert np.array_equal(image[0] > 0, there), "what is padded has no label"
    assert there.all() == (resize != "pad" or size[0] == size[1])
    assert ((image[0] > 150) == (codes == 1))[there].mean() > 0.93, "but for what is mixed at edges"
    assert np.array_equal(codes[there], depth[there])


def rows(folder: Path, n: int = 24) -> pd.DataFrame:
    """Images of a bright half with masks and depths in files beside them."""
    mask = np.zeros((6, 6), np.uint8)
    mask[:, 3:] = 1
    for row in range(n):
        Image.fromarray(mask * 200 + np.uint8(row)).save(folder / f"photo{row}.png")
        Image.fromarray(mask).save(folder / f"mask{row}.png")
        np.save(folder / f"depth{row}.npy", mask + np.float32(row + 1))
    numbers = np.arange(n).astype(str)
    names = {"photo": "photo{}.png", "mask": "mask{}.png", "depth": "depth{}.npy"}
    return pd.DataFrame({name: [text.format(number) for number in numbers] for name, text in names.items()})


def prepared(folder: Path, table: pd.DataFrame, **more: Any) -> Prepared:
    table.to_csv(folder / "labels.csv", index=False)
    tasks = [{"kind": "segmentation", "name": "mask"}, {"kind": "dense_regression", "name": "depth"}]
    fields = {"sources": [folder / "labels.csv"], "tasks": tasks, "columns": {"photo": "image"}, "encoder": "cnn"}
    return prepare(Recipe(**{**fields, **more}))


def noise(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "mask4.png")


def array(name: str, values: Any) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / name, values)


WRONG: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("mask", "nowhere.png", lambda _: None, "no such file"),
    ("mask", "mask4.png", lambda folder: (folder / "mask4.png").write_bytes(b""), "empty"),
    (
        "mask",
        "mask4.png",
        lambda folder: (folder / "mask4.png").write_bytes((folder / "mask4.png").read_bytes()[:50]),
        "damaged",
    ),
    ("mask", "mask4.png", lambda folder: (folder / "mask4.png").write_text("a note"), "not an image, or a damaged one"),
    ("mask", "mask4.png", noise, "colors where codes of one channel are wanted"),
    ("mask", "x.npy", array("x.npy", np.full((6, 6), 0.5)), "values that are no codes from 0 to 32,767"),
    ("mask", "below.npy", array("below.npy", np.full((6, 6), -3)), "values that are no codes from 0 to 32,767"),
    ("mask", "x.npy", array("x.npy", np.zeros(36, int)), "an array of shape (36,)"),
    ("mask", "x.npy", array("x.npy", np.zeros((0, 6), int)), "an array of shape (0, 6)"),
    ("depth", "x.npy", array("x.npy", np.full((6, 6), "deep")), "an array of <U4"),
    ("depth", "x.npy", lambda folder: (folder / "x.npy").write_bytes(b"deep"), "no array of numbers, or a damaged one"),
    ("depth", "x.npy", array("x.npy", np.full((6, 6), np.inf)), "36 pixels"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a name so short that messages have room for it."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize(("name", "file", "spoil", "told"), WRONG)
def test_a_label_of_no_use_is_told_by_its_task_column_row_and_file(
    folder: Path, name: str, file: str, spoil: Callable[[Path], object], told: str
) -> None:
    table = rows(folder)
    spoil(folder)
    table.loc[4, name] = file
    with pytest.raises(PolytaskError) as caught:
        prepared(folder, table)
    said = str(caught.value)
    assert said.startswith(f"task {name!r}, column {name!r}: ")
    assert f"{told}" in said
    assert "in row 5 of labels" in said
    assert caught.value.mend
    if "pixels" not in told:
        assert f"{folder.name}/{file}' in row 5" in said
        data = prepared(folder, table, images={"on_damaged": "skip"})
        assert any(re.search(rf"labels of '{name}' not used: 1 row: row 5 of labels \(.*{file}\)", note) for note in data.notes)
        assert sum(int(part.present[name].sum()) for part in (data.training, data.validation, data.test)) == len(table) - 1


def test_labels_that_say_nothing_of_their_images(folder: Path) -> None:
    table = rows(folder)
    segmentation = {"kind": "segmentation", "name": "mask"}
    for change, told in (
        ({"ignore": [0, 1]}, "no training row has a label"),
        ({"ignore": [1]}, "masks have 2 to 254 classes. Found: in 16 masks there is 0"),
    ):
        with pytest.raises(PolytaskError, match=re.escape(told)):
            prepared(folder, table, tasks=[{**segmentation, **change}])
    with pytest.raises(PolytaskError, match="holds no labels of pixels"):
        prepared(folder, table.assign(mask=1), tasks=[segmentation])
    np.save(folder / "mask2.npy", np.eye(2, dtype=bool))  # of another size and kind
    table.loc[2, "mask"] = "mask2.npy"
    table.loc[3, "mask"] = None
    assert prepared(folder, table).tasks[0].codec.classes == (0, 1)
    Image.fromarray(np.full((6, 6), 9, np.uint8)).save(folder / "nine.png")
    table.to_csv(folder / "train.csv", index=False)
    table.assign(mask="nine.png")[:2].to_csv(folder / "test.csv", index=False)
    with pytest.raises(CellsError) as caught:
        prepared(folder, table, sources=[CSV(folder / "train.csv", test=folder / "test.csv")])
    said = str(caught.value)
    assert "task 'mask', column 'mask': 2 masks are of classes that training has not seen" in said
    assert "'9' in row 1 of train (test)" in said
    assert "name what means no label in ignore" in said

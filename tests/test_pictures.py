"""Columns of images: their form, what is kept of them on disk, and those that are missing or cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

from polytask.columns import InputCodec, describe_column
from polytask.errors import CellsError, PolytaskError
from polytask.images import ImageFeature, Images
from polytask.pictures import form_of, located, read_pictures
from polytask.sources import Frame
from polytask.tables import as_table, image_array


def column(cells: Any, kind: Any = None) -> pa.ChunkedArray:
    return pa.chunked_array([cells if isinstance(cells, pa.Array) else pa.array(cells, kind)])


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three color images of 9 x 7 pixels and a grey one of 5 x 5."""
    draw = np.random.default_rng(0)
    for name, shape in (("a", (9, 7, 3)), ("b", (9, 7, 3)), ("c", (9, 7, 3)), ("d", (5, 5))):
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in "abcd"]


def test_the_form_is_that_of_the_images_where_they_are_alike(files: list[str]) -> None:
    def found(cells: list[str], **settings: Any) -> tuple[int, int, int]:
        return form_of("photo", column(cells), Images(**settings)).shape

    assert found(files[:3]) == (3, 9, 7)
    assert found(files[3:]) == (1, 5, 5)
    assert found(files) == (3, 64, 64)
    assert found(files, size=8, color="grey") == (1, 8, 8)
    assert found(["nowhere.png"]) == (3, 64, 64)
    large = image_array(np.zeros((2, 200, 100), np.uint8), "x")
    assert form_of("x", column(large), Images()).shape == (1, 64, 64)


def test_paths_bytes_and_arrays_are_the_same_images(files: list[str]) -> None:
    arrays = np.stack([np.asarray(Image.open(file)) for file in files[:3]])
    as_bytes = [Path(file).read_bytes() for file in files[:3]]
    structs = [{"bytes": data, "path": None} for data in as_bytes]
    form = form_of("photo", column(files[:3]), Images())
    expected = np.moveaxis(arrays, 3, 1)
    for cells in (files[:3], as_bytes, structs, image_array(arrays, "x")):
        read = read_pictures(column(cells), form)
        assert np.array_equal(read.pixels, expected)
        assert read.n_resized == 0
    sliced = pa.chunked_array([image_array(arrays, "x")]).slice(1)
    assert np.array_equal(read_pictures(sliced, form).pixels, expected[1:])
    small = read_pictures(column(image_array(arrays, "x")), form.model_copy(update={"height": 4, "width": 4}))
    assert np.array_equal(
        small.pixels, read_pictures(column(files[:3]), form.model_copy(update={"height": 4, "width": 4})).pixels
    )
    assert small.n_resized == 3


def test_many_are_read_in_their_order(tmp_path: Path) -> None:
    for i in range(200):
        Image.new("L", (2, 2), i).save(tmp_path / f"{i}.png")
    cells = column([str(tmp_path / f"{i}.png") for i in range(200)])
    read = read_pictures(cells, ImageFeature(column="x", channels=1, height=2, width=2))
    assert read.pixels[:, 0, 0, 0].tolist() == list(range(200))


def test_those_that_cannot_be_used_are_told_or_skipped(files: list[str]) -> None:
    Path(files[1]).write_bytes(b"")
    cells = column([*files, None, "gone.png"])
    form = form_of("photo", cells, Images(size=4))
    told = (
        "column 'photo': 2 images cannot be used. Found: 'empty: .*/b.png' in row 2, 'no such file: gone.png' in row 6. Mend "
        "these files or cells, or leave such rows out with images.on_damaged: skip."
    )
    with pytest.raises(CellsError, match=told):
        read_pictures(cells, form)
    read = read_pictures(cells, form.model_copy(update={"on_damaged": "skip"}))
    assert list(read.unusable) == [1, 5]
    assert read.missing.tolist() == [False] * 4 + [True, False]
    assert read.there.tolist() == [True, False, True, True, False, False]


def test_the_mean_and_deviation_are_those_of_the_rows_asked_for() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 5, 4, 3), dtype=np.uint8)
    cells, rows = column(image_array(images, "x")), np.arange(300) % 3 == 0
    form = form_of("x", cells, Images())
    fitted = read_pictures(cells, form).where(rows).fitted(form)
    assert fitted.mean == pytest.approx(images[rows].mean((0, 1, 2)), rel=1e-12)
    assert fitted.deviation == pytest.approx(images[rows].std((0, 1, 2)), rel=1e-9)


def test_a_missing_image_has_the_mean_color_and_is_told_apart(files: list[str]) -> None:
    table = pa.table({"photo": [files[0], None, files[2]], "area": [1.0, 2.0, 3.0]})
    codec = InputCodec.fit(table, table.column_names, {"photo": "image"})
    assert codec.numbers == ("photo is missing", "area")
    encoded = codec.encode(table)
    assert encoded["numbers"][:, 0].tolist() == [0, 1, 0]
    assert encoded["image_photo"].shape == (3, 3, 9, 7)
    assert encoded["image_photo"][1].flatten(1).double().mean(1).tolist() == [round(m) for m in codec.image_features[0].mean]
    assert InputCodec(**codec.model_dump(mode="json")) == codec
    tried = codec.made_up(5)["image_photo"]
    assert (tried.shape, tried.dtype) == ((5, 3, 9, 7), torch.uint8)


def test_cells_of_arrays_may_be_missing() -> None:
    whole = image_array(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), "x")
    holes = [
        pa.array([[0, 1, 2, 3], None, [8, 9, 10, 11]], whole.type.storage_type),
        pc.if_else([True, False, True], whole.storage, None),
    ]
    tables = [pa.table({"x": pa.ExtensionArray.from_storage(whole.type, storage)}) for storage in holes]
    for table in tables:
        read = read_pictures(table["x"], form_of("x", table["x"], Images()))
        assert read.missing.tolist() == [False, True, False]
        assert read.pixels[[0, 2]].flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    first, second = (Frame(table).fingerprint() for table in tables)
    assert first == second, "whatever lies beneath a hole"
    assert first != Frame(pa.table({"x": whole})).fingerprint()


def test_decoded_images_are_kept_and_read_again_only_where_a_file_changed(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, cells = tmp_path / "kept", column([*files[:3], None, "gone.png"])
    form = form_of("photo", cells, Images(on_damaged="skip"))
    first = read_pictures(cells, form, cache)
    (kept,) = cache.glob("*.npy")
    assert not list(cache.glob(".*")), "no drafts are left"

    def fail(*_: Any) -> Any:
        raise AssertionError("it was read again")

    with monkeypatch.context() as patch:
        patch.setattr("polytask.pictures.picture", fail)
        again = read_pictures(cells, form, cache)
        with pytest.raises(CellsError, match=r"no such file: gone\.png' in row 5"):
            read_pictures(cells, form.model_copy(update={"on_damaged": "error"}), cache)
    assert np.array_equal(first.pixels, again.pixels)
    assert again.unusable == first.unusable == {4: "no such file: gone.png"}
    assert again.missing.tolist() == [False, False, False, True, False]
    again.pixels[0] = 0  # nothing that is done with them changes the file
    assert np.array_equal(read_pictures(cells, form, cache).pixels, first.pixels)

    expected = first.pixels.copy()
    kept.write_bytes(kept.read_bytes()[:200])  # cut short
    assert np.array_equal(read_pictures(cells, form, cache).pixels, expected)
    Image.new("RGB", (7, 9), "white").save(files[0])
    os.utime(files[0], ns=(1, 1))
    assert read_pictures(cells, form, cache).pixels[0].min() == 255
    assert len(list(cache.glob("*.npy"))) == 2
    (tmp_path / "file").touch()
    with pytest.raises(PolytaskError, match="the decoded images cannot be kept"):
        read_pictures(cells, form, tmp_path / "file" / "inside")


def test_paths_begin_where_the_table_lies() -> None:
    table = pa.table({"photo": ["a.png", None, "/abs/b.png"], "y": ["a", "b", "c"]})
    found = located(table, ["photo", "other"], Path("/data"))
    assert found["photo"].to_pylist() == ["/data/a.png", None, "/abs/b.png"]
    assert found["y"].equals(table["y"])


def test_columns_of_images_are_known_by_their_type_and_hinted_at_by_their_names() -> None:
    table = as_table({"scan": np.zeros((3, 8, 8), bool), "file": np.array(["a.png", "b.JPG", "c.tiff"])})
    assert describe_column(table["scan"]) == ("image", "images of 8 x 8")
    assert describe_column(table["file"]) == ("category", "text, 3 names of image files: say image to read them")


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), "Put the channels last: x.transpose(0, 2, 3, 1)."),
        (np.full((2, 8, 8), 1.5), "numbers that are no brightness. Found: float64 from 1.5 to 1.5"),
        (np.full((2, 8, 8), np.nan), "numbers that are no brightness"),
        (np.full((2, 8, 8), 300), "Found: int64 from 300 to 300"),
        (np.full((2, 8, 8), "x"), "numbers that are no brightness"),
        (np.zeros((2, 0, 8), np.uint8), "not an array of images"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray[Any, Any], told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        image_array(array, "x")
    assert told in str(caught.value)


def test_a_column_that_can_hold_none() -> None:
    with pytest.raises(PolytaskError, match=r"column 'age' holds no images\. Found: cells of type int64"):
        form_of("age", column([1, 2]), Images())

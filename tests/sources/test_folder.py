from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polytask.errors import PolytaskError
from polytask.source import open_source
from polytask.sources import IDX, Folder, MultiDigits
from tests.cli.command import done, mistake


def make(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / name)
    return folder


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    place = make(tmp_path / "pets", "cat/2.png", "cat/indoors/1.png", "dog/1.png", "dog/.hidden.png", ".git/x.png", "new.png")
    source = open_source(place)
    assert isinstance(source, Folder)
    table = source.read()
    assert [Path(path).relative_to(place).as_posix() for path in table["image"].to_pylist()] == [
        "cat/2.png",
        "cat/indoors/1.png",
        "dog/1.png",
        "new.png",
    ]
    assert table["class"].to_pylist() == ["cat", "cat", "dog", None]
    assert (source.label, source.images, source.labels) == ("pets", ("image",), ("class",))
    assert open_source(make(tmp_path / "new", "1.png")).read().column_names == ["image"]
    before = source.fingerprint()
    make(place, "dog/3.png")
    assert source.fingerprint() != before


def test_a_run_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "pets", *(f"{kind}/{i}.png" for i in range(20) for kind in ("cat", "dog")))
    said = done("fit", "pets", "--epochs", "1", "--out", "run")
    assert "task 'class' is taken for binary" in said
    answers = done("predict", "run", "pets/cat")
    assert answers.splitlines()[0] == "class"
    assert len(answers.splitlines()) == 21
    (tmp_path / "pets/dog/notes.txt").write_text("none")
    assert "'not an image, or a damaged one: dog/notes.txt' in row 41 of pets" in mistake("fit", "pets", "--epochs", "1")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((), "no such folder"),
        (("train/cat/1.png", "test/cat/2.png"), "its folders are parts of a split, not classes. Found: test, train."),
        ((".hidden/1.png",), "no files in it, or in its folders"),
    ],
)
def test_folders_that_are_refused(names: tuple[str, ...], told: str, tmp_path: Path) -> None:
    with pytest.raises(PolytaskError) as caught:
        Folder(make(tmp_path / "pets", *names)).read()
    assert told in str(caught.value)


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def digits(folder: Path, n: int = 60) -> Path:
    """MNIST's four files, with squares of 28 x 28 whose brightness is their label."""
    folder.mkdir(exist_ok=True)
    for name in ("train", "t10k"):
        labels = np.arange(n, dtype=np.uint8) % 10
        images = np.broadcast_to(25 * labels[:, None, None] + 10, (n, 28, 28)).astype(np.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def test_idx_files_with_their_labels(tmp_path: Path) -> None:
    place = digits(tmp_path) / "train-images-idx3-ubyte"
    source = open_source(place, test=tmp_path / "t10k-images-idx3-ubyte")
    assert isinstance(source, IDX)
    parts = source.parts()
    assert parts["main"]["label"].to_pylist()[:12] == [*range(10), 0, 1]
    assert parts["test"]["image"].combine_chunks().to_numpy_ndarray()[3].max() == 85
    before = source.fingerprint()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(60, np.uint8)))
    assert source.fingerprint() != before
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(PolytaskError, match=r"not one label for every image. Found: shape \(5,\) for 60 images"):
        source.read()
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert source.read().column_names == ["image"]
    for data, told in (
        (b"hello", "not an IDX file"),
        (idx(np.zeros((9, 2, 2), np.uint8))[:-1], "not as long as its sizes say"),
    ):
        place.write_bytes(data)
        with pytest.raises(PolytaskError, match=told):
            source.read()


@pytest.mark.parametrize("of_mnist", [True, False])
def test_two_digits_on_a_canvas(of_mnist: bool, tmp_path: Path) -> None:
    source = MultiDigits(path=digits(tmp_path) if of_mnist else None, rows=50, held_rows=20, masks=True)
    parts = source.parts()
    assert {part: len(table) for part, table in parts.items()} == {"main": 50, "validation": 20, "test": 20}
    assert parts["main"].equals(source.parts()["main"]), "the same again"
    assert not parts["main"].equals(source.model_copy(update={"seed": 1}).parts()["main"])
    table = parts["main"]
    images, left, right = (table[name].combine_chunks().to_numpy_ndarray() for name in ("image", "left_mask", "right_mask"))
    side = 32 if of_mnist else 12
    assert images.shape == (50, side, side)
    assert set(np.unique(left)) <= {0, 1}
    assert not left[:, -4:].any()
    assert not right[:, :4].any()
    if of_mnist:
        assert (images[:, 0, 0] == 25 * table["left"].to_numpy() + 10).all()
        assert (images[:, -1, -1] == 25 * table["right"].to_numpy() + 10).all()
    assert (images[(left | right) == 0] < 64).all()
    assert source.inputs == ("image",), "the masks are no inputs"


def test_no_digit_is_in_two_parts() -> None:
    parts = MultiDigits(offset=0).parts()  # one canvas for each: every left digit once
    seen = [
        {
            image.tobytes()
            for image in MultiDigits(offset=8).parts()[part]["image"].combine_chunks().to_numpy_ndarray()[:, :8, :8]
        }
        for part in parts
    ]
    assert all(one.isdisjoint(two) for i, one in enumerate(seen) for two in seen[:i])

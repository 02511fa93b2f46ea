"""Answers with an array in every row: files beside a CSV file, which are labels again, and cells of a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from polytask import Recipe, fit, load
from polytask.cli.answers import write_answers
from polytask.errors import PolytaskError
from polytask.maps import arrays_of, tensors
from tests.cli.command import done, mistake

N, SIDE = 40, 8


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels.csv, whose masks and depths are files, and a run."""
    folder, draw = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    for row in range(N):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[: draw.integers(2, 6), : draw.integers(2, 6)] = 7
        Image.fromarray(mask * 20 + draw.integers(0, 60, mask.shape, dtype=np.uint8)).save(folder / f"photo{row}.png")
        Image.fromarray(mask).save(folder / f"mask{row}.png")
        np.save(folder / f"depth{row}.npy", mask + np.float32(row))
    names = {"photo": "photo{}.png", "mask": "mask{}.png", "depth": "depth{}.npy"}
    table = pd.DataFrame({name: [text.format(row) for row in range(N)] for name, text in names.items()})
    table.assign(size=np.arange(N)).to_csv(folder / "labels.csv", index=False)
    tasks = [
        {"kind": "segmentation", "name": "mask"},
        {"kind": "dense_regression", "name": "depth"},
        {"kind": "reconstruction", "name": "again/and \N{SNOWMAN}", "column": "photo"},
        {"kind": "regression", "name": "size"},
    ]
    encoder = {"kind": "cnn", "widths": [4, 4], "vector": 4}
    trainer = {"epochs": 1, "device": "cpu", "best": "mean"}
    images = {"on_damaged": "skip"}
    source = folder / "labels.csv"
    fit(
        Recipe(sources=[source], tasks=tasks, columns={"photo": "image"}, encoder=encoder, trainer=trainer, images=images),
        folder / "run",
    )
    return folder


@pytest.fixture
def folder(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own to write answers into, beside a way to the run."""
    monkeypatch.chdir(tmp_path)
    return learned


def hidden() -> list[str]:
    return [path.name for path in Path().iterdir() if path.name.startswith(".")]


def test_files_hold_the_answers_and_are_labels_again(folder: Path) -> None:
    said = done("predict", folder / "run", folder / "labels.csv", "--out", "answers.csv")
    assert said.splitlines()[-1] == "arrays lie in answers_files: codes and images as .png, numbers as .npy"
    assert hidden() == []
    answers, wanted = pd.read_csv("answers.csv"), load(folder / "run").predict(folder / "labels.csv")
    assert answers["mask"][0] == "answers_files/mask-000001.png"
    assert answers["again/and \N{SNOWMAN}"][N - 1] == f"answers_files/again_and_-{N:06}.png"
    for name, read in (("mask", Image.open), ("depth", np.load), ("again/and \N{SNOWMAN}", Image.open)):
        arrays: list[Any] = []
        for path in answers[name]:
            found = read(path)
            arrays.append(np.asarray(found))
            if isinstance(found, Image.Image):
                found.close()
        expected = arrays_of(wanted[name].combine_chunks())
        assert np.array_equal(np.stack(arrays), expected)
        assert arrays[0].dtype == expected.dtype
    given = pd.read_csv(folder / "labels.csv")
    given["photo"] = [str(folder / name) for name in given["photo"]]
    given[["mask", "depth", "size"]] = answers[["mask", "depth", "size"]]
    given.to_csv("back.csv", index=False)
    scores = load(folder / "run").evaluate("back.csv")
    assert scores["mask"].scores["pixel_accuracy"].value == 1
    assert scores["depth"].scores["abs_error"].value == pytest.approx(0, abs=1e-4)
    assert "miou" in done("evaluate", folder / "run", "back.csv")


def test_earlier_answers_are_replaced_only_where_that_is_asked_for(folder: Path) -> None:
    words = ("predict", folder / "run", folder / "labels.csv", "--tasks", "mask", "--out", "a.csv")
    done(*words)
    Path("a.csv").unlink()
    assert "a_files: the folder for the arrays of the answers exists" in mistake(*words)
    assert not Path("a.csv").exists()
    Path("a_files", "mask-000001.png").write_bytes(b"")
    done(*words, "--overwrite")
    assert Path("a_files", "mask-000001.png").stat().st_size
    Path("a_files", "thesis.txt").write_text("mine")
    before = Path("a.csv").read_bytes()
    assert "a_files: the folder for the arrays of the answers holds something else" in mistake(*words, "--overwrite")
    assert Path("a_files", "thesis.txt").read_text() == "mine"
    assert Path("a.csv").read_bytes() == before
    Path("b_files").write_text("mine")
    assert "is a file, where a folder for the arrays" in mistake(*words[:-1], "b.csv", "--overwrite")
    assert hidden() == []
    assert "rows written" in done("predict", folder / "run", folder / "labels.csv", "--tasks", "size", "--out", "b.csv")


def test_arrays_are_not_printed_and_stay_in_parquet(folder: Path) -> None:
    told = mistake("predict", folder / "run", folder / "labels.csv")
    assert "answers mask, depth, again/and \N{SNOWMAN}: an array for every row cannot be printed" in told
    assert "--out answers.parquet" in told
    assert done("predict", folder / "run", folder / "labels.csv", "--tasks", "size").startswith("size\n")
    done("predict", folder / "run", folder / "labels.csv", "--out", "a.parquet", "--probabilities")
    table = pq.read_table("a.parquet")
    assert table["mask:7"].type.shape == [SIDE, SIDE]
    assert not Path("a_files").exists()


def test_a_row_without_an_answer_has_an_empty_cell_and_no_file(folder: Path) -> None:
    pd.DataFrame({"photo": [folder / "photo0.png", "nowhere.png", folder / "photo2.png"]}).to_csv("new.csv", index=False)
    with pytest.warns(UserWarning, match="1 row is left out"):
        done("predict", folder / "run", "new.csv", "--tasks", "mask,size", "--out", "a.csv")
    assert Path("a.csv").read_text().splitlines()[2] == ","
    assert sorted(path.name for path in Path("a_files").iterdir()) == ["mask-000001.png", "mask-000003.png"]


def test_a_writing_that_fails_leaves_nothing(folder: Path) -> None:
    del folder
    whole = pa.table({"mask": tensors(np.zeros((2, 3, 3), np.uint8)), "Mask": tensors(np.zeros((2, 3, 3), np.uint16))})

    def tables() -> Any:
        yield whole
        raise PolytaskError("the file ends")

    with pytest.raises(PolytaskError, match="the file ends"):
        write_answers(tables(), Path("a.csv"))
    assert list(Path().iterdir()) == []
    written = write_answers([whole, whole.slice(1)], Path("a.csv"))
    assert (written.n_rows, written.columns) == (3, ("mask", "Mask"))
    names = ["Mask_2-000001.png", "Mask_2-000002.png", "Mask_2-000003.png", *(f"mask-00000{row}.png" for row in (1, 2, 3))]
    assert sorted(path.name for path in Path("a_files").iterdir()) == names

"""Clips: images of several frames, from arrays and files to answers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from polytask import Arrays, Frame, Recipe, fit, load
from polytask.columns import describe_column
from polytask.encoder import Encoder
from polytask.encoders.cnn_lstm import CNNLSTM
from polytask.errors import PolytaskError
from polytask.images import ImageFeature, Images, UnusableImage, picture
from polytask.pictures import form_of, read_pictures
from polytask.preparation import prepare
from polytask.sharing import Sharing
from polytask.tables import as_table, image_array
from polytask.testing import check_encoder, check_sharing
from tests.cli.command import done, mistake
from tests.contracts.examples import example

TRAINER = {"epochs": 2, "batch_size": 16, "device": "cpu", "best": "mean"}
SMALL = {"kind": "cnn_lstm", "widths": [8, 8], "width": 8}


def moving(n: int = 240, side: int = 9, frames: int = 5) -> dict[str, Any]:
    """Dots that move left or right by a pixel a frame, around the edge: only the order of the frames tells which."""
    draw = np.random.default_rng(0)
    right = draw.integers(0, 2, n).astype(bool)
    clips = np.zeros((n, frames, side, side), np.uint8)
    start, height = draw.integers(0, side, (2, n))
    for frame in range(frames):
        clips[np.arange(n), frame, height, (start + np.where(right, frame, -frame)) % side] = 255
    return {"film": clips, "right": right, "height": height.astype(float)}


def gif(frames: np.ndarray[Any, Any], kind: str = "GIF") -> bytes:
    """Grey frames ``[T, H, W]`` as a file."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    more = {"WEBP": {"lossless": True}, "TIFF": {}}.get(kind, {})
    first.save(buffer, kind, save_all=True, append_images=others, **more)
    return buffer.getvalue()


def form(frames: int, side: int = 6, channels: int = 1) -> ImageFeature:
    return ImageFeature(column="film", channels=channels, height=side, width=side, frames=frames)


def levels(n: int, side: int = 6) -> np.ndarray[Any, Any]:
    """Frames that are as bright as 10 times their number."""
    return np.repeat(np.arange(n, dtype=np.uint8) * 10, side * side).reshape(n, side, side)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_frames_of_a_file_are_spread_over_it_or_the_last_is_repeated(kind: str) -> None:
    data = gif(levels(10), kind)
    found = {n: picture(data, form(n)) for n in (1, 4, 10, 12)}
    assert found[1].pixels.shape == (1, 6, 6)
    assert found[4].pixels.shape == (4, 1, 6, 6)
    brightness = {n: read.pixels.reshape(n, -1).max(1).tolist() for n, read in found.items()}
    assert brightness == {1: [0], 4: [0, 30, 60, 90], 10: list(range(0, 100, 10)), 12: [*range(0, 100, 10), 90, 90]}
    assert [found[n].short for n in found] == [False, False, False, True]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own of the same, which columns of images keep quiet
def test_what_is_wrong_in_a_later_frame_is_told() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64), dtype=np.uint8)
    for kind in ("GIF", "PNG", "TIFF"):
        data = gif(noise, kind)
        assert picture(data[: len(data) // 2], form(1)).pixels.shape == (1, 6, 6) or kind == "TIFF"
        with pytest.raises(UnusableImage, match=r"damaged|not an image"):
            picture(data[: len(data) * 2 // 3], form(6))
    film = gif(levels(10))
    with pytest.raises(UnusableImage, match=r"damaged \(its end is missing\)"):
        picture(film[: film.rindex(b"\x21\xf9") - 1], form(4))  # between two frames
    assert picture(film + bytes(3), form(4)).pixels.shape == (4, 1, 6, 6)
    pages = [Image.fromarray(noise[0]), Image.new("1", (3000, 3000))]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(UnusableImage, match="3,000 x 3,000 pixels, more than 1,000,000"):
        picture(buffer.getvalue(), form(2).model_copy(update={"max_pixels": 1_000_000}))


def test_arrays_files_and_the_cache_give_the_same_clips(tmp_path: Path) -> None:
    films = np.random.default_rng(0).integers(0, 2, (5, 4, 6, 6), dtype=np.uint8) * 255
    arrays = pa.chunked_array([image_array(films[..., None], "film")])
    files = pa.chunked_array([[gif(film) for film in films]])
    wanted = form_of("film", arrays, Images())
    assert (wanted.frames, wanted.shape) == (4, (4, 1, 6, 6))
    assert form_of("film", files, Images(frames=4, color="grey")).shape == wanted.shape
    assert form_of("film", files, Images(size=5)).shape == (3, 5, 5)
    for cells, cache in ((arrays, None), (files, None), (files, tmp_path), (files, tmp_path)):
        assert np.array_equal(read_pictures(cells, wanted, cache).pixels, films[:, :, None])
    longer = wanted.model_copy(update={"frames": 6})
    for _ in range(2):
        kept = read_pictures(files, longer, tmp_path)
        assert (kept.n_short, kept.pixels.shape) == (5, (5, 6, 1, 6, 6))
    small = read_pictures(arrays, wanted.model_copy(update={"frames": 2, "height": 3, "width": 3}))
    assert (small.pixels.shape, small.n_resized, small.n_short) == ((5, 2, 1, 3, 3), 5, 0)
    fitted = read_pictures(arrays, wanted).fitted(wanted)
    assert fitted.mean == pytest.approx((films.mean(),))
    assert fitted.deviation == pytest.approx((films.std(),))


def test_what_the_axes_of_an_array_are() -> None:
    def found(*shape: int) -> str:
        return describe_column(as_table({"x": np.zeros(shape, np.uint8)})["x"])[1]

    assert found(7, 6, 5) == "images of 6 x 5"
    assert found(7, 6, 5, 3) == "images of 6 x 5 x 3"
    assert found(7, 6, 9, 8) == "clips of 6 frames of 9 x 8 x 1"
    assert found(7, 3, 9, 8, 1) == "clips of 3 frames of 9 x 8 x 1"
    for shape, told in (
        (
            (7, 3, 9, 8),
            r"Put the channels last: x.transpose(0, 2, 3, 1). Give grey clips [N, frames, height, width] a last axis",
        ),
        ((7, 6, 9, 2), "the last axis of images is their channels: 1, 3 or 4. Found: shape (7, 6, 9, 2)."),
        ((7, 6, 3, 9, 8), "Put the channels last: x.transpose(0, 1, 3, 4, 2)."),
    ):
        with pytest.raises(PolytaskError) as caught:
            image_array(np.zeros(shape, np.uint8), "x")
        assert told in str(caught.value)


def tables() -> list[pa.Table]:
    """Two tables with clips: grey ones beside a number and a category with missing cells; and color alone."""
    rng = np.random.default_rng(0)
    grey, color = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((12, 3, 8, 8, 1), (8, 3, 8, 8, 3)))
    beside = {"age": pa.array(rng.normal(size=12)), "kind": pa.array(["flat", "house", None] * 4)}
    return [
        pa.table({"film": image_array(grey, "film"), **beside}),
        pa.table({"film": image_array(color, "film")}),
    ]


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_the_encoder_keeps_its_contract_on_clips(cell: str) -> None:
    encoder = CNNLSTM(widths=(4, 6), width=3, depth=2, cell=cell)
    check_encoder(encoder, tables())
    codec = encoder.fit_inputs(tables()[0], tables()[0].column_names, {})
    stem = encoder.stem(codec).spec
    assert [(s.kind, s.width, s.space) for s in (stem, *(part.spec for part in encoder.stages(stem)))] == [
        ("map", 4, (3, 4, 4)),
        ("map", 6, (3, 2, 2)),
        ("sequence", 6, (3,)),
        ("sequence", 6, (3,)),
    ]


@pytest.mark.parametrize("kind", ["cross_stitch", "mtan", "mmoe"])
def test_tasks_share_what_they_see_in_clips(kind: str) -> None:
    check_sharing(example(Sharing, kind), CNNLSTM(widths=(4, 6), width=3), tables())


def test_the_order_of_frames_is_learned_from_clips_and_not_from_one_frame() -> None:
    rows = moving()
    tasks = [{"kind": "binary", "name": "right"}, {"kind": "regression", "name": "height"}]
    trainer = {**TRAINER, "epochs": 20, "optimizer": {"lr": 1e-2}}
    run = fit(Recipe(sources=[Frame(rows)], tasks=tasks, encoder=SMALL, trainer=trainer))
    assert run.recipe.encoder == Recipe(sources=[Frame(rows)], tasks=tasks, encoder={**SMALL, "kind": "cnn_lstm"}).encoder
    assert run.scores()["right"].scores["accuracy"].value > 0.85
    assert run.scores()["height"].scores["r2"].value > 0.9
    assert "'film' holds clips of 5 frames of 9 x 9 pixels" in run.record["notes"]
    backwards = {**rows, "film": rows["film"][:, ::-1]}
    assert (run.predict(backwards)["right"] != rows["right"]).mean() > 0.85
    first = {"images": {"frames": 1}, "encoder": {"kind": "cnn", "widths": [8, 8]}}
    still = fit(Recipe(sources=[Frame(rows)], tasks=tasks, trainer={**trainer, "epochs": 10}, **first))
    assert still.scores()["right"].scores["accuracy"].value < 0.75
    assert still.scores()["height"].scores["r2"].value > 0.5


def test_encoders_of_stills_refuse_clips() -> None:
    rows, tasks = moving(20), [{"kind": "binary", "name": "right"}]
    sources = [Arrays(rows["film"], {"right": rows["right"]})]
    assert Recipe(sources=sources, tasks=tasks).encoder.kind == "cnn_lstm"
    assert Recipe(sources=sources, tasks=tasks, images={"frames": 1}).encoder.kind == "cnn"
    assert Recipe(sources=["a.csv"], tasks=tasks, columns={"a": "image"}, images=Images(frames=4)).encoder.kind == "cnn_lstm"
    for kind in Encoder.kinds():
        if Encoder.find(kind).reads_images and not Encoder.find(kind).reads_clips:
            told = f"encoder {kind}: it reads still images, not clips. Found: 'image' with 5 frames. Take encoder: cnn_lstm"
            with pytest.raises(PolytaskError, match=told):
                prepare(Recipe(sources=sources, tasks=tasks, encoder=example(Encoder, kind)))
    two = {**rows, "still": rows["film"][:, 0]}
    told = "images of several numbers of frames. Found: 'film' 5 frames, 'still' 1 frame. Set images.frames"
    with pytest.raises(PolytaskError, match=told):
        fit(Recipe(sources=[Frame(two)], tasks=tasks, encoder=SMALL))
    assert fit(Recipe(sources=[Frame(two)], tasks=tasks, encoder=SMALL, trainer=TRAINER, images={"frames": 3})).scores()


def test_pixels_of_clips_are_not_labeled() -> None:
    rows = {**moving(40), "mask": moving(40)["film"][:, 0] // 255}
    for task in ({"kind": "segmentation", "name": "mask"}, {"kind": "reconstruction", "name": "film"}):
        with pytest.raises(PolytaskError, match=r"at every pixel of a still image, and this is a clip\. Found: 'film' with 5"):
            prepare(Recipe(sources=[Frame({**rows, "film": rows["film"]})], tasks=[task]))


def test_files_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = moving(40)
    for i, film in enumerate(rows["film"]):
        Path(f"{i}.gif").write_bytes(gif(film[: 5 - i % 2]))
    table = pd.DataFrame({"film": [f"{i}.gif" for i in range(40)], "right": rows["right"]})
    table.loc[7, "film"] = None
    table.to_csv("films.csv", index=False)
    words = ("fit", "films.csv", "--image", "film", "--task", "right", "--epochs", "1", "--set", "images.frames=5")
    said = " ".join(done(*words, "--set", "encoder.widths=[4,4]", "--out", "run").split())
    assert "note: 'film' holds clips of 5 frames of 9 x 9 pixels; 19 clips with fewer repeat their last" in said
    assert load("run").recipe.encoder.kind == "cnn_lstm"
    assert len(done("predict", "run", "films.csv").splitlines()) == 41
    data = Path("3.gif").read_bytes()
    Path("3.gif").write_bytes(data[: len(data) * 2 // 3])
    assert "1 image cannot be used. Found: 'damaged (" in mistake(*words)
    assert mistake(*words, "--encoder", "cnn").startswith("encoder cnn: it reads still images, not clips.")
    assert "agrees with predict" in " ".join(done("export", "run", "--to", "onnx").split())

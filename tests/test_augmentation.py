"""Training images changed at random: where pixels and labels go, what is drawn, and what a task that varies with it says."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from polytask import Arrays, Binary, Frame, Multiclass, Recipe, Regression, fit
from polytask.augmentation import Augmentation, Operation
from polytask.augmenting import Augmenter, affine_maps, left_out, moved_labels, moved_pixels, recolored, rectangles
from polytask.batch import Batch
from polytask.errors import PolytaskError
from polytask.fitting import train_bundle
from polytask.model import build_model
from polytask.preparation import Prepared, prepare
from polytask.seeding import _mixed, uniform
from polytask.task import Task
from polytask.tasks import Reconstruction
from tests.cli.command import mistake
from tests.houses import houses
from tests.resuming import same_as_whole

N, SIDE = 48, 12
LOTS = Augmentation(flip=0.5, crop=0.2, shift=0.1, rotation=30, zoom=0.2, shear=10, color=0.3, erasing=0.5)
CODES, DEPTH, PICTURE = "codes", "numbers", "image"


def rows(**more: Any) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    bright = draw.integers(0, 2, N)
    images = (draw.integers(0, 60, (N, SIDE, SIDE, 3)) + 150 * bright[:, None, None, None]).astype(np.uint8)
    return {"scan": images, "bright": np.where(bright, "yes", "no"), "level": bright + draw.normal(size=N), **more}


def recipe(source: dict[str, Any] | None = None, **more: Any) -> Recipe:
    trainer = {"epochs": 2, "batch_size": 16, "device": "cpu"} | more.pop("trainer", {})
    tasks = more.pop("tasks", [Binary("bright"), Regression("level")])
    encoder = {"kind": "cnn", "widths": [4, 4], "vector": 8, "dropout": 0.0}
    return Recipe(**{"sources": [Frame(source or rows())], "tasks": tasks, "trainer": trainer, "encoder": encoder} | more)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(recipe())


def augmenter(asked: Augmentation, prepared: Prepared, seed: int = 0) -> Augmenter:
    return Augmenter(asked, [part.codec for part in prepared.inputs], [fitted.task for fitted in prepared.tasks], seed)


def batch_of(prepared: Prepared, n: int = 16) -> Batch:
    return prepared.training.batch(torch.arange(n))


def fixed(**values: Sequence[float]) -> Any:
    """Draws that are given: by default the middle, where no operation does anything but those that are certain."""
    return lambda name, n: torch.tensor([values.get(name, [0.0 if name == "crop" else 0.5] * n)])


def the_map(asked: Augmentation, aspect: float = 1.0, **draws: Sequence[float]) -> Tensor:
    return affine_maps(asked, fixed(**draws), torch.tensor([aspect]))


def image(height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 255, (1, 3, height, width))).float()


def moved(pixels: Tensor, maps: Tensor) -> Tensor:
    return moved_pixels(pixels, maps).round()


def test_pixels_go_where_plain_operations_put_them() -> None:
    square, flat = image(), image(6, 9)
    nothing = the_map(LOTS, flip=[0.9])
    assert torch.equal(moved(square, nothing), square)
    both = {"flip": 1.0, "vertical_flip": 1.0}
    assert torch.equal(moved(flat, the_map(Augmentation(flip=1.0), 1.5)), flat.flip(-1))
    assert torch.equal(moved(flat, the_map(Augmentation(**both), 1.5)), flat.flip(-1, -2))
    right_angle = the_map(Augmentation(rotation=90), rotation=[1.0])
    assert torch.equal(moved(square, right_angle), square.rot90(1, (-1, -2)))
    two_right_three_down = the_map(Augmentation(shift=0.5), shift=[0.5 + 2 / SIDE, 0.5 + 3 / SIDE])
    assert torch.equal(moved(square, two_right_three_down)[..., 3:, 2:], square.roll((3, 2), (-2, -1))[..., 3:, 2:])
    assert torch.equal(moved(square, two_right_three_down)[..., 3:, :2], square[..., :-3, :2].flip(-1)), "mirrored outside"
    quarter = the_map(Augmentation(crop=0.5), crop=[1.0, 0.0, 1.0])  # the lower left
    assert torch.equal(moved_labels(square, quarter, math.nan)[..., ::2, ::2], square[..., SIDE // 2 :, : SIDE // 2])
    larger = the_map(Augmentation(zoom=1.0), zoom=[1.0])
    assert torch.equal(moved_labels(square, larger, math.nan)[..., ::2, ::2], square[..., 3:9, 3:9])
    odd = image(13, 13)
    leaning = moved_labels(odd, the_map(Augmentation(shear=45), shear=[1.0]), math.nan)
    assert torch.equal(leaning[..., 0, :7], odd[..., 0, 6:]), "upright lines lean by 45 degrees about the middle"
    assert torch.equal(leaning[..., 6, :], odd[..., 6, :])


def test_a_picture_that_is_not_square_is_turned_and_not_sheared() -> None:
    """A disk stays a disk: turned by 45 degrees it has its pixels but for those at the rim."""
    y, x = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(60) - 29.5, indexing="ij")
    disk = ((x**2 + y**2) < 64).to(torch.uint8)[None]
    turned = moved_labels(disk, the_map(Augmentation(rotation=45), 3.0, rotation=[1.0]), 255)
    assert int(((turned == 1) != (disk == 1)).sum()) < 0.1 * int(disk.sum())


def test_what_comes_from_outside_has_no_label() -> None:
    codes, depth = torch.ones(1, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4)
    depth[0, 1, 1] = torch.nan
    half = the_map(Augmentation(shift=0.5), shift=[1.0, 0.5])
    assert moved_labels(codes, half, 255).tolist() == [[[255, 255, 1, 1]] * 4]
    found = moved_labels(depth, half, math.nan)
    assert (
        found.isnan()[0].tolist() == [[True, True, False, False], [True, True, False, True]] + [[True, True, False, False]] * 2
    )


def test_image_mask_and_depth_move_alike(prepared: Prepared) -> None:
    """A bright square on black, twice as large as its mask and depth, is after it where they tell it, and they are it."""
    batch = batch_of(prepared)
    pixels = torch.zeros(16, 3, 2 * SIDE, 2 * SIDE, dtype=torch.uint8)
    pixels[:, :, 10:18, 4:14] = 200
    mask = (pixels[:, 0, ::2, ::2] > 0).to(torch.uint8)
    labels = {CODES: mask, DEPTH: mask.float() * 7, PICTURE: pixels}
    codec = prepared.inputs[0].codec
    large = codec.image_features[0].model_copy(update={"height": 2 * SIDE, "width": 2 * SIDE})
    larger = codec.model_copy(update={"image_features": (large,)})
    augment = Augmenter(LOTS.without(["erasing", "color"]), [larger], [], seed=0)
    augment.spatial = {CODES: "codes", DEPTH: "numbers", PICTURE: "image"}
    inputs = ({**batch.inputs[0], large.key: pixels},)
    after = augment(replace(batch, inputs=inputs, targets=labels, labeled=dict.fromkeys(labels)), 0)
    bright = torch.nn.functional.avg_pool2d(after.inputs[0][large.key][:, 0].float(), 2)
    codes, depth, picture = after.targets[CODES], after.targets[DEPTH], after.targets[PICTURE]
    assert torch.equal(picture, after.inputs[0][large.key])
    assert torch.equal(depth.isnan(), codes == 255)
    assert torch.equal(depth[codes != 255], codes[codes != 255] * 7.0)
    assert (codes == 255).any()
    told = codes != 255
    sure = told & ((bright > 150) | (bright < 50))
    assert float(sure.sum() / told.sum()) > 0.85
    assert float(((bright > 100) == (codes == 1))[sure].float().mean()) > 0.995
    assert not torch.equal(codes, mask)


def test_tasks_of_every_pixel_are_given_what_moved_with_the_image() -> None:
    """A bright square on dark noise, its mask, its depth with holes; then they are trained with mixup too."""
    draw = np.random.default_rng(3)
    masks = np.zeros((N, 16, 16), np.uint8)
    for mask, (top, left) in zip(masks, draw.integers(2, 8, (N, 2)), strict=True):
        mask[top : top + 6, left : left + 6] = 1
    scans = (draw.integers(0, 40, masks.shape) + 200 * masks).astype(np.uint8)
    depth = np.where(draw.random(masks.shape) < 0.1, np.nan, 1.0 + masks).astype(np.float32)
    tasks = [
        {"kind": "segmentation", "name": "mask"},
        {"kind": "dense_regression", "name": "depth"},
        {"kind": "reconstruction", "name": "image"},
        {"kind": "binary", "name": "bright"},
    ]
    source = Arrays(scans, {"mask": masks, "depth": depth, "bright": rows()["bright"]})
    asked = recipe(sources=[source], tasks=tasks, trainer={"epochs": 1})
    data = prepare(asked)
    moved_alike = LOTS.without(["color", "erasing"])
    batch = data.training.batch(torch.arange(data.training.n_rows))
    after = augmenter(moved_alike, data)(batch, 0)
    image, mask, deep = after.inputs[0]["image_image"][:, 0], after.targets["mask"], after.targets["depth"]
    assert torch.equal(after.targets["image"][:, 0], image)
    told = (mask != 255) & ((image > 180) | (image < 60))
    assert float(((image > 120) == (mask == 1))[told].float().mean()) > 0.99
    holes = deep.isnan()
    assert holes[mask == 255].all()
    near, far = deep[(mask == 0) & ~holes], deep[(mask == 1) & ~holes]
    assert float(near.max()) < float(far.min()), "no depth is a mean of two"
    erased = augmenter(Augmentation(erasing=1.0, color=0.2), data)(batch, 0)
    differ = (erased.targets["image"] != erased.inputs[0]["image_image"]).flatten(1).float().mean(1)
    assert (differ > 0).all(), "what was erased is to be told"
    assert (differ < 0.4).all()
    mixed = asked.model_copy(update={"augmentation": LOTS.model_copy(update={"mixup": 0.3})})
    losses = train_bundle(mixed, data)[1][-1].training
    assert set(losses) == {"mask", "depth", "image", "bright"}
    assert all(math.isfinite(loss) for loss in losses.values())


def test_a_row_whose_labeled_pixels_all_went_outside_has_no_label(prepared: Prepared) -> None:
    """They are in the lowest lines, which a shift takes away in about a third of the rows."""
    batch, augment = batch_of(prepared), augmenter(Augmentation(shift=0.5), prepared)
    codes, depth = torch.full((16, SIDE, SIDE), 255, dtype=torch.uint8), torch.full((16, SIDE, SIDE), math.nan)
    codes[:, -2:], depth[:, -2:] = 1, 1.0
    hidden = torch.arange(12)
    labels = {CODES: codes, DEPTH: depth}
    augment.spatial = {CODES: "codes", DEPTH: "numbers"}
    after = augment(replace(batch, targets=labels, labeled={CODES: None, DEPTH: hidden}), 0)
    there = (after.targets[CODES] == 1).flatten(1).any(1)
    assert 4 < int(there.sum()) < 14
    assert torch.equal(after.present(CODES), there)
    assert torch.equal(after.present(DEPTH), there & (torch.arange(16) < 12))


def test_a_clip_moves_as_one() -> None:
    frames = torch.rand(2, 5, 3, 8, 8) * 255
    maps = torch.cat([the_map(Augmentation(flip=1.0)), the_map(Augmentation(rotation=90), rotation=[1.0])])
    alone = torch.stack([moved_pixels(frames[:, i], maps) for i in range(5)], 1)
    torch.testing.assert_close(moved_pixels(frames, maps), alone)
    factors = torch.tensor([[0.5, 1.0, 1.0], [1.0, 1.0, 0.0]])
    dark, grey = recolored(frames, factors)
    torch.testing.assert_close(dark, frames[0] * 0.5)
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey))


def test_colors_change_as_told_and_a_rectangle_of_the_picture_is_erased(prepared: Prepared) -> None:
    pixels = image()
    torch.testing.assert_close(recolored(pixels, torch.ones(1, 3)), pixels)
    flat = recolored(pixels, torch.tensor([[1.0, 0.0, 1.0]]))
    grey = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    torch.testing.assert_close(flat, grey.mean().expand_as(flat))
    draws = uniform(3, torch.arange(4000 * 5).view(4000, 5))
    found = rectangles(0.25, draws, 40, 60)
    shares = found.flatten(1).float().mean(1)
    some = shares > 0
    assert 0.22 < float(some.float().mean()) < 0.28
    assert 0.015 < float(shares[some].min()) < 0.04
    assert 0.25 < float(shares.max()) < 0.36
    whole = found.any(1).sum(1) * found.any(2).sum(1)
    assert torch.equal(whole, found.flatten(1).sum(1)), "a rectangle"
    before = batch_of(prepared)
    after = augmenter(Augmentation(erasing=1.0), prepared)(before, 0).inputs[0]["image_scan"]
    changed = (after != before.inputs[0]["image_scan"]).any(1)
    mean = torch.tensor(prepared.inputs[0].codec.image_features[0].mean).round().to(torch.uint8)
    assert changed.any((1, 2)).all()
    assert (after.permute(0, 2, 3, 1)[changed] == mean).all()


def test_draws_are_a_function_of_seed_step_and_row(prepared: Prepared) -> None:
    data, augment = prepared.training, augmenter(LOTS, prepared)
    key = "image_scan"

    def images(rows: Tensor, step: int = 3) -> Tensor:
        return augment(data.batch(rows), step).inputs[0][key]

    whole = images(torch.arange(16))
    assert torch.equal(torch.cat([images(torch.arange(5)), images(torch.arange(5, 16))]), whole), "pieces are the whole"
    assert torch.equal(images(torch.arange(16).flip(0)).flip(0), whole), "the place in a batch says nothing"
    assert not torch.equal(images(torch.arange(16), step=4), whole)
    other = augmenter(LOTS, prepared, seed=1)(data.batch(torch.arange(16)), 3).inputs[0][key]
    assert not torch.equal(other, whole)
    without = augmenter(LOTS.without(["rotation"]), prepared)
    flipped = augmenter(Augmentation(flip=0.5), prepared)(data.batch(torch.arange(16)), 3).inputs[0][key]
    plain = data.batch(torch.arange(16)).inputs[0][key]
    assert {
        tuple(row)
        for row in torch.stack(
            [(flipped == plain).flatten(1).all(1), (flipped == plain.flip(-1)).flatten(1).all(1)], 1
        ).tolist()
    } == {(True, False), (False, True)}
    assert without.settings.flip == 0.5


def test_numbers_of_a_row_are_those_of_the_generator_that_draws_steps() -> None:
    seed, index = 12345, torch.tensor([0, 1, 7, 10**9])
    expected = [(_mixed(seed, int(i)) << 1 >> 40) * 2**-24 for i in index]
    assert uniform(seed, index).tolist() == expected
    numbers = uniform(seed, torch.arange(100_000))
    assert 0 <= float(numbers.min()) < 1e-4
    assert 1 - 1e-4 < float(numbers.max()) < 1
    counts = torch.histc(numbers, 100, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 150  # chi-squared with 99 degrees of freedom


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = recipe(augmentation={**LOTS.model_dump(), "mixup": 0.4}, trainer={"epochs": 3, "checkpoint": 0.0, "accumulate": 2})
    whole = same_as_whole(asked, "run", 2, again=asked)
    plain = fit(asked.model_copy(update={"augmentation": Augmentation()}))
    assert plain.history[0]["training"] != whole.history[0]["training"]
    assert (
        Recipe.from_yaml_text(
            asked.model_copy(update={"sources": ()}).to_yaml().replace("sources: []", "sources: [a.csv]")
        ).augmentation
        == asked.augmentation
    )


def test_pieces_of_a_batch_are_augmented_as_the_whole(prepared: Prepared) -> None:
    asked = LOTS.model_dump()
    one, two = (train_bundle(recipe(augmentation=asked, trainer={"accumulate": n}), prepared)[1] for n in (1, 3))
    for left, right in zip(one, two, strict=True):
        assert left.training == pytest.approx(right.training, rel=1e-4)
        assert left.validation == pytest.approx(right.validation, rel=1e-3)


def test_what_a_task_varies_with_is_left_out_and_told() -> None:
    tasks = [Binary("bright", varies_with=("flip", "rotation")), Regression("level", varies_with=("flip",))]
    asked = recipe(tasks=tasks, augmentation=LOTS)
    run = fit(asked)
    told = [note for note in run.record["notes"] if note.startswith("augmentation")]
    assert told == [
        "augmentation: flip is left out, for 'bright', 'level' vary with it",
        "augmentation: rotation is left out, for 'bright' varies with it",
    ]
    data = prepare(asked)
    assert augmenter(LOTS, data).settings == LOTS.without(["flip", "rotation"])


class Comparing(Task):
    """A task whose loss compares rows."""

    couples_rows: ClassVar[bool] = True

    def fit_target(self, column: Any) -> Any:
        raise NotImplementedError

    encode = row_losses = estimate = views = scorers = fit_target


def test_mixup_is_left_out_where_rows_cannot_be_mixed(prepared: Prepared) -> None:
    mixed = Augmentation(mixup=0.2)
    codecs = [prepared.inputs[0].codec]

    comparing = Comparing("pairs")
    assert left_out(mixed, codecs, [comparing]) == {"mixup": "the loss of 'pairs' compares rows"}
    hiding = Reconstruction("scan", masked=0.5)
    assert left_out(mixed, codecs, [hiding]) == {"mixup": "'scan' is to tell what is hidden of one image"}
    assert left_out(mixed, codecs, [hiding.model_copy(update={"masked": 0.0})]) == {}
    beside = prepare(recipe(rows(kind=np.where(np.arange(N) % 2, "a", "b"))))
    reason = {"mixup": "'kind' cannot be mixed, and stands beside an image"}
    assert left_out(mixed, [beside.inputs[0].codec], []) == reason
    assert left_out(mixed, codecs, []) == {}


@pytest.mark.parametrize("hidden", [0, 20])
def test_mixup_gives_the_loss_of_the_mixture(hidden: int) -> None:
    """For cross-entropy that of mixed one-hot targets; where a label is missing the other alone counts."""
    level = np.arange(N, dtype=float)
    level[:hidden] = np.nan
    kinds = np.array(["a", "b", "c"])[np.arange(N) % 3]
    asked = recipe(rows(kind=kinds, level=level), tasks=[Multiclass("kind"), Regression("level")], drop=["bright"])
    data = prepare(asked)
    model = build_model(asked.encoder, asked.sharing, asked.head, [data.inputs[0].codec], data.tasks).eval()
    batch = batch_of(data, 30)
    after = augmenter(Augmentation(mixup=0.8), data)(batch, 2)
    assert after.mixed is not None
    order, share = after.mixed.order, after.mixed.share
    assert sorted(order.tolist()) == list(range(30))
    assert 0.01 < share < 0.99
    own, others = batch.inputs[0]["image_scan"].float(), batch.inputs[0]["image_scan"][order].float()
    assert float((after.inputs[0]["image_scan"] - (share * own + (1 - share) * others)).abs().max()) <= 0.51
    outputs, losses = model(after.inputs), model.losses(after)
    target = torch.nn.functional.one_hot(batch.targets["kind"], 3).float()
    soft = share * target + (1 - share) * target[order]
    expected = -(outputs["kind"].log_softmax(1) * soft).sum(1).mean() / data.tasks[0].scale
    torch.testing.assert_close(losses["kind"], expected)
    there, truth = batch.present("level"), batch.targets["level"]
    each = [data.tasks[1].losses(outputs["level"], truth[places]) * there[places] for places in (torch.arange(30), order)]
    expected = (share * each[0] + (1 - share) * each[1]).sum() / there.sum() / data.tasks[1].scale
    torch.testing.assert_close(losses["level"], expected)


def test_a_missing_image_and_rows_of_other_inputs_stay_as_they_are() -> None:
    """Two sources with images of other columns; in one some are missing, in the other all are there."""
    files = [None if i % 4 == 0 else png(cell) for i, cell in enumerate(rows()["scan"])]
    first = pa.table({"scan": pa.array(files, pa.binary()), "bright": rows()["bright"]})
    second = {"photo": rows()["scan"][:20], "size": np.arange(20.0), "level": np.arange(20.0) ** 2}
    sources = [Frame(first, name="scans"), Frame(second, name="photos")]
    data = prepare(recipe(sources=sources, columns={"scan": "image"}))
    n = data.training.n_rows
    batch = data.training.batch(torch.arange(n))
    scans, photos = batch.inputs
    missing = scans["numbers"][:, 0] > 0
    assert 2 < int(missing.sum()) < len(missing) / 2
    for settings in (LOTS, Augmentation(mixup=0.5)):
        after = augmenter(settings, data)(batch, 1)
        same = (after.inputs[0]["image_scan"] == scans["image_scan"]).flatten(1).all(1)
        assert same[missing].all()
        assert not same[~missing].all()
        assert not torch.equal(after.inputs[1]["image_photo"], photos["image_photo"])
    assert after.mixed is not None
    order, first_photo = after.mixed.order, len(missing)
    assert torch.equal(order[:first_photo][missing], missing.nonzero().squeeze(1))
    assert (order[:first_photo] < first_photo).all()
    mixed = (
        after.mixed.share * photos["numbers"] + (1 - after.mixed.share) * photos["numbers"][order[first_photo:] - first_photo]
    )
    torch.testing.assert_close(after.inputs[1]["numbers"], mixed)
    alone, whole = augmenter(LOTS, data)(data.training.batch(torch.tensor([n - 1])), 1), augmenter(LOTS, data)(batch, 1)
    assert torch.equal(alone.inputs[1]["image_photo"][0], whole.inputs[1]["image_photo"][-1])


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_what_is_asked_for_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(Augmentation.model_fields) == set(get_args(Operation))
    with pytest.raises(PolytaskError, match=r"rotation.*less than or equal to 180"):
        recipe(augmentation={"rotation": 200})
    with pytest.raises(PolytaskError, match=r"flip.*should be a valid number.*True"):
        recipe(augmentation={"flip": True})  # of every image?
    with pytest.raises(PolytaskError, match=r"augmentation.*Did you mean 'rotation'"):
        recipe(augmentation={"rotate": 20})
    with pytest.raises(PolytaskError, match=r"varies_with.*'flip', 'vertical_flip'"):
        Binary("bright", varies_with=("flips",))  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    houses(40).to_csv("houses.csv", index=False)
    told = mistake("fit", "houses.csv", "--task", "price", "--drop", "id", "--set", "augmentation.flip=0.5")
    assert told.startswith("augmentation: there is no image to augment among the inputs. Found: ")
    assert told.endswith("Leave augmentation out, or say which column holds images, as in --image COLUMN.")

"""Tasks with an answer at every pixel, from labels to answers: beside tasks of whole rows, in every scheme and balancer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from polytask import Arrays, Balance, ExportedModel, Frame, Recipe, Run, fit, load
from polytask.balancer import Balancer
from polytask.encoder import Encoder
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.maps import tensors
from polytask.model import MultiTaskModel, build_model
from polytask.preparation import Prepared, prepare
from polytask.sharing import Sharing
from polytask.task import Task
from polytask.tasks import _dense, dense_regression
from polytask.tasks.dense_regression import DenseRegression
from polytask.tasks.segmentation import Segmentation
from tests.cli.command import done, mistake
from tests.contracts.examples import example
from tests.resuming import same_as_whole

N, SIDE = 60, 12
TRAINER = {"epochs": 2, "batch_size": 16, "device": "cpu", "best": "mean", "optimizer": {"lr": 1e-2}}
TASKS: list[dict[str, Any]] = [
    {"kind": "segmentation", "name": "mask"},
    {"kind": "dense_regression", "name": "depth"},
    {"kind": "reconstruction", "name": "again", "column": "image"},
    {"kind": "regression", "name": "size"},
]
SMALL = {"kind": "cnn", "widths": [6, 8], "vector": 8}


def squares(n: int = N) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Bright squares on noise, the nearer the larger; in row 1 there is no mask, in row 2 no depth, in row 3 no size."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 60, (n, SIDE, SIDE))
    mask, depth, size = np.zeros((n, SIDE, SIDE), np.int16), np.full((n, SIDE, SIDE), 5.0, np.float32), np.zeros(n)
    for row in range(n):
        top, left, side = draw.integers(0, 6), draw.integers(0, 6), draw.integers(3, 7)
        place = np.s_[row, top : top + side, left : left + side]
        images[place] += 150
        mask[place], depth[place], size[row] = 7, 5 - side / 2, side**2
    mask[1], depth[2], size[3] = -1, np.nan, np.nan
    depth[4, :2] = np.nan
    return images.astype(np.uint8), {"mask": mask, "depth": depth, "size": size}


def only(*names: str, **others: Any) -> Arrays:
    """The source with these labels, and others."""
    images, labels = squares()
    return Arrays(images, {name: labels[name] for name in names} | others)


def recipe(encoder: object = SMALL, tasks: list[dict[str, Any]] = TASKS, n: int = N, **more: Any) -> Recipe:
    return Recipe(**{"sources": [Arrays(*squares(n))], "tasks": tasks, "encoder": encoder, "trainer": TRAINER, **more})


@pytest.fixture(scope="module")
def learned() -> Run:
    return fit(recipe(n=240, trainer={**TRAINER, "epochs": 12}))


def test_pixels_are_learned_beside_whole_rows(learned: Run) -> None:
    scores = {task: {name: score.value for name, score in each.scores.items()} for task, each in learned.scores().items()}
    assert scores["mask"]["miou"] > 0.85
    assert scores["depth"]["delta_1"] > 0.85
    assert scores["size"]["r2"] > 0.6
    for task, metric in (("mask", "miou"), ("depth", "rel_error"), ("again", "rmse")):
        score = learned.scores()[task].scores[metric]
        assert (score.value > score.constant) == score.higher_is_better
        assert score.low <= score.value <= score.high


def test_scores_are_those_of_the_answers(learned: Run) -> None:
    images, labels = squares(40)
    scores, answers = learned.evaluate(Arrays(images, labels)), learned.predict(images)
    rows = np.arange(40) != 1
    right, said = labels["mask"][rows] == 7, answers["mask"][rows] == 7
    ious = [(a & b).sum() / (a | b).sum() for a, b in ((right, said), (~right, ~said))]
    assert scores["mask"].scores["miou"].value == pytest.approx(np.mean(ious))
    assert scores["mask"].scores["pixel_accuracy"].value == pytest.approx((right == said).mean())
    assert scores["mask"].n_rows == 39
    there = ~np.isnan(labels["depth"])
    apart = np.abs(labels["depth"] - answers["depth"])[there]
    assert scores["depth"].scores["abs_error"].value == pytest.approx(apart.mean(), rel=1e-5)
    assert scores["depth"].scores["rel_error"].value == pytest.approx((apart / labels["depth"][there]).mean(), rel=1e-5)
    brightness = (images.astype(float) - answers["again"]) / 255
    assert scores["again"].scores["rmse"].value == pytest.approx(np.sqrt((brightness**2).mean()), rel=0.01)  # rounded to bytes


def test_answers_are_arrays_in_the_numbers_of_the_labels(learned: Run, tmp_path: Path) -> None:
    images = squares(5)[0]
    learned.save(tmp_path / "run")
    again = load(tmp_path / "run")
    answers, table = again.predict(images, probabilities=True), again.predict(pa.table({"image": tensors(images)}))
    assert {name: (cells.shape, cells.dtype.name) for name, cells in answers.items()} == {
        "mask": ((5, SIDE, SIDE), "uint8"),
        "mask:0": ((5, SIDE, SIDE), "float32"),
        "mask:7": ((5, SIDE, SIDE), "float32"),
        "depth": ((5, SIDE, SIDE), "float32"),
        "again": ((5, SIDE, SIDE), "uint8"),
        "size": ((5,), "float64"),
    }
    assert set(np.unique(answers["mask"])) <= {0, 7}
    assert np.allclose(answers["mask:0"] + answers["mask:7"], 1, atol=1e-5)
    assert table["mask"].combine_chunks().to_numpy_ndarray().tolist() == answers["mask"].tolist()
    kept = again.keep("depth", "size")
    assert (kept.predict(images)["depth"] == answers["depth"]).all()
    frames = {kind: list(again.predict(frame)["mask"][0]) for kind, frame in frames_of(images).items()}
    assert all(np.array_equal(np.array(mask), answers["mask"][0]) for mask in frames.values())


def frames_of(images: np.ndarray[Any, Any]) -> dict[str, Any]:
    import polars as pl

    return {"polars": pl.DataFrame({"image": images})}


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_an_exported_network_answers_pixels(learned: Run, target: str, tmp_path: Path) -> None:
    agreement = learned.export(tmp_path / "model", to=target)
    assert set(agreement.differences) == {task["name"] for task in TASKS}
    images = squares(5)[0]
    exported, answers = ExportedModel(tmp_path / "model").predict(images), learned.predict(images)
    assert all(np.allclose(exported[name], answers[name], atol=1e-4) for name in answers)
    if target == "onnx":
        rows = ExportedModel(tmp_path / "model").predict([{"image": image} for image in images])
        assert all(np.array_equal(row["mask"], mask) for row, mask in zip(rows, answers["mask"], strict=True))


def prepared(tasks: list[dict[str, Any]] = TASKS, encoder: object = SMALL) -> tuple[Recipe, Prepared]:
    asked = recipe(encoder, tasks)
    return asked, prepare(asked)


def losses_of(
    sharing: object, encoder: object = SMALL, tasks: list[dict[str, Any]] = TASKS
) -> tuple[MultiTaskModel, dict[str, torch.Tensor]]:
    asked, data = prepared(tasks, encoder)
    made = Sharing.coerce(sharing)
    model = build_model(asked.encoder, made, asked.head, [data.inputs[0].codec], data.tasks)
    return model, model.losses(next(data.training.batches(16)))


@pytest.mark.parametrize("kind", Sharing.kinds())
def test_every_scheme_trains_tasks_of_pixels(kind: str) -> None:
    branches = {"branches": {0: [["mask", "size"], ["depth", "again"]]}}
    scheme = Sharing.find(kind)(**branches) if kind == "tree" else example(Sharing, kind)
    model, losses = losses_of(scheme)
    assert list(losses) == [task["name"] for task in TASKS]
    Balance(model, "upgrad" if scheme.shares else "equal").backward(losses)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None and p.grad.any() for p in model.heads.parameters())


@pytest.mark.parametrize("masked", [0.0, 0.5])
def test_every_balancer_runs_with_tasks_of_pixels(masked: float) -> None:
    tasks = [{**task, "masked": masked} if task["kind"] == "reconstruction" else task for task in TASKS]
    for kind in Balancer.kinds():
        model, losses = losses_of("hard", tasks=tasks)
        balance = Balance(
            model, example(Balancer, kind).model_copy(update={"weights": {"depth": 2.0}} if kind == "fixed" else {})
        )
        balance.backward(losses)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None), kind


@pytest.mark.parametrize("kind", [kind for kind in Encoder.kinds() if Encoder.find(kind).reads_images])
def test_every_encoder_of_images_has_pixels_to_answer(kind: str) -> None:
    model, losses = losses_of("hard", example(Encoder, kind))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in model.heads.parameters())


def test_a_hidden_label_of_pixels_reaches_nothing() -> None:
    """Neither of a row without a label nor of a pixel."""
    asked, data = prepared()
    model = build_model(asked.encoder, asked.sharing, asked.head, [data.inputs[0].codec], data.tasks)
    batch = data.training.batch(torch.arange(16))
    model.eval()
    names, found = ("mask", "depth"), []
    for garbage in (0, 1):
        targets = dict(batch.targets)
        for name in names:
            target = targets[name].clone()
            target[~batch.present(name)] = garbage
            targets[name] = target
        model.zero_grad()
        total = sum(model.losses(type(batch)(batch.inputs, targets, batch.labeled, batch.n_rows)).values())
        assert isinstance(total, torch.Tensor)
        total.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_what_is_hidden_is_not_seen_by_its_task_and_seen_by_the_others() -> None:
    tasks = [{**TASKS[2], "masked": 0.5, "patch": 3}, TASKS[3]]
    asked = recipe(tasks=tasks, sources=[only("size")])
    data = prepare(asked)
    fitted, batch = data.tasks[0], data.training.batch(torch.arange(8))
    inputs, target = fitted.task.hidden(batch.inputs, batch.targets["again"], fitted.codec, 5)
    marks, seen, whole = target[:, 1:].bool(), inputs[0]["image_image"], batch.inputs[0]["image_image"]
    assert marks.flatten(1).float().mean(1).tolist() == pytest.approx([0.5] * 8)
    assert torch.equal(seen[~marks], whole[~marks])
    assert seen[marks].unique().tolist() == [round(fitted.codec.image.mean[0])]  # type: ignore[union-attr]
    output = torch.randn(8, 1, SIDE, SIDE)
    apart = (output - fitted.task.on_scale(batch.targets["again"], fitted.codec)).square()
    assert torch.allclose(fitted.losses(output, target), (apart * marks).flatten(1).sum(1) / marks.flatten(1).sum(1), atol=1e-5)
    model = build_model(asked.encoder, asked.sharing, asked.head, [data.inputs[0].codec], data.tasks)
    plain = build_model(
        asked.encoder,
        asked.sharing,
        asked.head,
        [data.inputs[0].codec],
        prepare(recipe(tasks=TASKS[2:], sources=[only("size")])).tasks,
    )
    assert torch.equal(model.eval().losses(batch)["size"], plain.eval().losses(batch)["size"])
    model.train()
    model.clock.step = 3
    first, second = model.losses(batch)["again"], model.losses(batch)["again"]
    model.clock.step = 4
    assert torch.equal(first, second)
    assert not torch.equal(first, model.losses(batch)["again"])


def test_rows_without_other_labels_teach_a_reconstruction() -> None:
    images, labels = squares()
    known = np.where(np.arange(N) < 20, labels["size"], np.nan)
    data = prepare(recipe(sources=[Arrays(images, {"size": known})], tasks=TASKS[2:]))
    assert data.training.n_rows > 20
    assert int(data.training.present["again"].sum()) == data.training.n_rows
    assert int(data.training.present["size"].sum()) < 20


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/labels.csv with paths of photos, masks and depths of another size that begin there."""
    monkeypatch.chdir(tmp_path)
    images, labels = squares()
    folder = tmp_path / "data"
    folder.mkdir()
    for row in range(N):
        Image.fromarray(images[row]).save(folder / f"{row}.png")
        Image.fromarray(labels["mask"][row].clip(0).astype(np.uint8)).resize((24, 24), 0).save(folder / f"{row}-mask.png")
        np.save(folder / f"{row}.npy", labels["depth"][row])
    paths = {"photo": [f"{row}.png" for row in range(N)], "mask": [f"{row}-mask.png" for row in range(N)]}
    frame = pd.DataFrame({**paths, "depth": [f"{row}.npy" for row in range(N)], "size": labels["size"]})
    frame.loc[1, "mask"] = None
    frame.to_csv(folder / "labels.csv", index=False)
    return folder


WORDS = ("--image", "photo", "--task", "mask:segmentation", "--task", "depth:dense_regression", "--task", "size:regression")
FAST = ("--epochs", "1", "--set", "encoder.widths=[4,4]")


def test_masks_and_depths_in_files_on_the_command_line(files: Path) -> None:
    del files
    said = done("fit", "data/labels.csv", *WORDS, *FAST, "--out", "run")
    assert "miou" in said
    assert "delta_1" in said
    run = load("run")
    assert run.bundle.tasks["mask"].codec.space == (SIDE, SIDE)
    assert run.bundle.tasks["mask"].codec.classes == (0, 7)
    assert "miou" in done("evaluate", "run", "data/labels.csv")


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(files: Path) -> None:
    tasks = [*TASKS[:2], {**TASKS[2], "column": "photo", "masked": 0.4}, TASKS[3]]
    asked = Recipe(
        sources=[files / "labels.csv"],
        tasks=tasks,
        columns={"photo": "image"},
        encoder={"widths": [4, 4]},
        trainer={**TRAINER, "epochs": 3, "checkpoint": 0.0},
    )
    same_as_whole(asked, "run", 2)


def test_what_cannot_be_asked_of_pixels_says_so(files: Path) -> None:
    del files
    told = "a segmentation task has an answer at every pixel, and encoder tabm makes one vector of a row. Take an encoder of"
    assert told in mistake(
        "fit", "data/labels.csv", *WORDS[2:4], "--task", "size:regression", "--encoder", "tabm", "--drop", "photo"
    )
    labels, small = squares()[1], np.zeros((N, 4, 4))
    wrong: list[tuple[dict[str, Any], Arrays, str]] = [
        ({"tasks": [{**TASKS[0], "head": "linear"}]}, only("mask"), "the head linear gives one answer for the whole row"),
        ({"tasks": [{**TASKS[3], "head": "upsampling"}]}, only("size"), "the head upsampling gives a map of answers"),
        ({"tasks": [{"kind": "reconstruction", "name": "size"}]}, only("size"), "column 'size' is no image among the inputs"),
        (
            {"tasks": [TASKS[0], {**TASKS[3], "depends_on": ["mask"]}]},
            only("mask", "size"),
            "its estimate cannot be read by another task",
        ),
        ({"tasks": TASKS[:1]}, only(mask=small), "masks have 2 to 254 classes"),
        ({"tasks": TASKS[:1]}, only(mask=labels["size"]), "holds no labels of pixels"),
        ({"tasks": [{**TASKS[1], "loss": "scale_invariant"}]}, only(depth=labels["depth"] - 4), "have no logarithm"),
        ({"tasks": TASKS[:1], "split": {"stratify": ["mask"]}}, only("mask"), "no task 'mask'"),
    ]
    for fields, source, words in wrong:
        with pytest.raises(PolytaskError, match=words):
            fit(recipe(**fields, sources=[source]))
    table = {"x": np.arange(N, dtype=float), "mask": [None] * N}
    with pytest.raises(PolytaskError, match="and none is among the inputs"):
        fit(Recipe(sources=[Frame(table)], tasks=[TASKS[0]], encoder="cnn"))


def test_a_comparison_knows_pixels_and_trees_leave_them_out() -> None:
    found = fit(recipe()).compare(seeds=1, others=["mtan"])
    said = " ".join(str(found).split())
    assert "miou" in said
    assert "rel_error" in said
    assert "task 'mask' is left out: trees here learn a number or one of several classes, and a segmentation task is" in said


@pytest.mark.parametrize(
    "task", [Segmentation("mask"), DenseRegression("depth"), DenseRegression("depth", loss="mse", transform="log")]
)
def test_labels_that_are_read_in_pieces_are_the_same(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({name: tensors(values) for name, values in squares()[1].items() if np.ndim(values) == 3})
    found = []
    for n_pixels in (2**22, 3 * SIDE**2):
        monkeypatch.setattr(_dense, "PIECE", n_pixels)
        labels = task.labels_of(table)
        fitted = FittedTask.fit(task, labels)
        found.append((fitted.codec, task.encode(labels, fitted.codec)))
    (one, (target, present)), (two, (again, same)) = found
    assert (one.center, one.scale, one.null_loss) == pytest.approx((two.center, two.scale, two.null_loss), rel=1e-6)
    assert one.classes == two.classes
    torch.testing.assert_close(target, again, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.equal(present, same)
    monkeypatch.setattr(dense_regression, "MOST_SORTED", 500)
    assert FittedTask.fit(task, labels).codec.null_loss == pytest.approx(one.null_loss, rel=0.05)

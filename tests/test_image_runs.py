"""Images from a table to answers: trained, saved, loaded, kept, resumed, on their own and beside numbers and categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from polytask import Arrays, Balance, Frame, Recipe, Split, fit, load
from polytask.balancer import Balancer
from polytask.batch import Dataset, Stored
from polytask.encoder import Encoder
from polytask.errors import PolytaskError
from polytask.model import MultiTaskModel, build_model
from polytask.preparation import prepare
from polytask.sharing import Sharing
from polytask.update import Updater
from tests.cli.command import done, mistake
from tests.contracts.examples import example
from tests.resuming import same_as_whole

N = 60
TRAINER = {"epochs": 2, "batch_size": 16, "device": "cpu", "best": "mean"}
TASKS = [{"kind": "binary", "name": "bright"}, {"kind": "regression", "name": "level"}]


def rows(n: int = N) -> dict[str, Any]:
    """Images of some brightness, which one task asks for; the other asks for that and a number beside it."""
    draw = np.random.default_rng(0)
    bright = draw.integers(0, 2, n)
    images = (draw.integers(0, 100, (n, 8, 8)) + 120 * bright[:, None, None]).astype(np.uint8)
    beside = draw.normal(size=n)
    return {
        "scan": images,
        "beside": beside,
        "kind": np.where(draw.random(n) < 0.5, "a", "b"),
        "bright": np.where(bright, "yes", "no"),
        "level": bright + beside,
    }


def recipe(encoder: object = None, **more: Any) -> Recipe:
    fields = {"sources": [Frame(rows())], "tasks": TASKS, "trainer": TRAINER, **more}
    return Recipe(**fields, **({} if encoder is None else {"encoder": encoder}))


def test_the_encoder_follows_from_the_inputs() -> None:
    table, images = rows(), rows()["scan"]
    assert recipe().encoder.kind == "cnn"
    assert recipe({"widths": [4, 4]}).encoder.kind == "cnn"
    assert (
        Recipe(sources=[Arrays(images, {"y": table["level"]})], tasks=[{"kind": "regression", "name": "y"}]).encoder.kind
        == "cnn"
    )
    plain = {"sources": ["labels.csv"], "tasks": TASKS}
    assert Recipe(**plain).encoder.kind == "tabm"
    assert Recipe(**plain, encoder={"width": 8}).encoder.kind == "tabm"
    assert Recipe(**plain, columns={"photo": "image"}).encoder.kind == "cnn"
    assert Recipe(**plain, columns={"photo": "image"}, encoder="vit").encoder.kind == "vit"


@pytest.mark.parametrize("kind", [kind for kind in Encoder.kinds() if Encoder.find(kind).reads_images])
def test_a_run_is_saved_loaded_kept_and_answers(kind: str, tmp_path: Path) -> None:
    run = fit(recipe(example(Encoder, kind)), tmp_path / "run")
    again, new = load(tmp_path / "run"), {name: rows()[name][:5] for name in ("scan", "beside", "kind")}
    answers = again.predict(new)
    assert {task: len(column) for task, column in answers.items()} == {"bright": 5, "level": 5}
    assert all((answers[task] == run.predict(new)[task]).all() for task in answers)
    kept = again.keep("level")
    assert (kept.predict(new)["level"] == answers["level"]).all()
    assert again.evaluate(rows())["level"].scores["r2"].value == pytest.approx(run.evaluate(rows())["level"].scores["r2"].value)
    whole = run.bundle.predict(Frame(rows()).read())["level"].to_numpy()
    assert np.allclose(whole[:5], answers["level"], atol=1e-4), "a row's answer is its own"


def test_both_the_image_and_what_stands_beside_it_are_learned_from() -> None:
    trainer = {**TRAINER, "epochs": 25, "optimizer": {"lr": 1e-2}}
    run = fit(recipe({"kind": "cnn", "widths": [8, 8], "vector": 16}, trainer=trainer, sources=[Frame(rows(240))]))
    assert run.scores()["bright"].scores["accuracy"].value > 0.9
    assert run.scores()["level"].scores["r2"].value > 0.8  # 0.25 without the number, 0.75 without the image


def test_batches_are_cut_from_one_array_that_is_not_copied() -> None:
    asked = recipe()
    data = prepare(asked)
    parts = [getattr(data, name).inputs[0]["image_scan"] for name in ("training", "validation", "test")]
    assert all(isinstance(part, Stored) for part in parts)
    assert len({part.array.data_ptr() for part in parts}) == 1
    batch = data.training.batch(torch.tensor([3, 1]))
    cut = data.training.where(torch.arange(data.training.n_rows) == 3).batch(torch.tensor([0]))
    assert torch.equal(batch.inputs[0]["image_scan"][:1], cut.inputs[0]["image_scan"])
    assert sum(part.n_rows for part in data.training.batches(4096)) == data.training.n_rows


def losses_of(sharing: object, encoder: object = "cnn") -> tuple[MultiTaskModel, dict[str, torch.Tensor]]:
    """A network that reads images and what stands beside them, with the losses of a batch."""
    asked = recipe(example(Encoder, encoder) if isinstance(encoder, str) else encoder, sharing=sharing)
    data = prepare(asked)
    model = build_model(asked.encoder, asked.sharing, asked.head, [data.inputs[0].codec], data.tasks)
    return model, model.losses(next(data.training.batches(16)))


@pytest.mark.parametrize("kind", Sharing.kinds())
def test_every_scheme_trains_on_images(kind: str) -> None:
    branches = {"branches": {0: [["bright"], ["level"]]}}
    scheme = Sharing.find(kind)(**branches) if kind == "tree" else example(Sharing, kind)
    model, losses = losses_of(scheme)
    Balance(model, "upgrad" if scheme.shares else "equal").backward(losses)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("encoder", ["cnn", "vit", "cnn_lstm"])
def test_every_balancer_runs_on_images(encoder: str) -> None:
    for kind in Balancer.kinds():
        model, losses = losses_of("hard", encoder)
        balance = Balance(
            model, example(Balancer, kind).model_copy(update={"weights": {"level": 2.0}} if kind == "fixed" else {})
        )
        balance.backward(losses)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None), kind


@pytest.mark.parametrize("encoder", ["cnn", "vit", "cnn_lstm", "resnet"])
def test_what_tasks_share_has_the_weighted_sum_of_their_gradients(encoder: str) -> None:
    model, losses = losses_of("hard", encoder)
    shared = list(model.trunk.parameters())
    rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses.values()]
    balance = Balance(model, "upgrad")
    balance.backward(losses)
    weights = list(balance.weights.values())
    for parameter, *each in zip(shared, *rows, strict=True):
        expected = sum(weight * gradient for weight, gradient in zip(weights, each, strict=True))
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5)


def in_float64(data: Dataset) -> Dataset:
    def doubled(values: Mapping[str, Any]) -> dict[str, Any]:
        floats = (torch.is_tensor(value) and value.is_floating_point() for value in values.values())
        return {key: value.double() if wide else value for (key, value), wide in zip(values.items(), floats, strict=True)}

    return replace(data, inputs=tuple(doubled(part) for part in data.inputs), targets=doubled(data.targets))


@pytest.mark.parametrize("kind", [kind for kind in Encoder.kinds() if Encoder.find(kind).reads_images])
def test_a_batch_of_images_in_pieces_is_the_whole_batch(kind: str) -> None:
    """In float64 and without dropout: losses and gradients of a step that some rows have no label for."""
    table = rows()
    table["level"][::3] = np.nan
    encoder = example(Encoder, kind)
    calm = encoder.model_copy(update={"dropout": 0.0} if "dropout" in type(encoder).model_fields else {})
    found = []
    for n_pieces in (1, 4):
        asked = recipe(calm, sources=[Frame(table)], trainer={**TRAINER, "clip": None, "average": None, "accumulate": n_pieces})
        data = prepare(asked)
        model = build_model(asked.encoder, asked.sharing, asked.head, [data.inputs[0].codec], data.tasks).double()
        update = Updater(model.train(), asked.trainer, asked.balancer, data.training.tasks)
        losses = update.in_pieces(torch.arange(32), in_float64(data.training).batch, 1e-3)
        found.append([*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 2
    assert max(float((one - other).abs().max()) for one, other in zip(*found, strict=True)) < 1e-12


@pytest.mark.parametrize("kind", [kind for kind in Encoder.kinds() if Encoder.find(kind).reads_images])
def test_bfloat16_is_close_to_float32_on_images(kind: str) -> None:
    trainer = {**TRAINER, "epochs": 3, "optimizer": {"lr": 5e-3}}
    full, half = (fit(recipe(example(Encoder, kind), trainer={**trainer, "precision": p})) for p in ("float32", "bfloat16"))
    weights = half.bundle.model.state_dict().values()
    assert {value.dtype for value in weights if value.is_floating_point()} == {torch.float32}
    for one, other in zip(full.history, half.history, strict=True):
        assert one["training"] != other["training"]
        assert other["training"] == pytest.approx(one["training"], rel=0.05)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/labels.csv with paths that begin there, and the images in data/img."""
    monkeypatch.chdir(tmp_path)
    table = rows()
    (tmp_path / "data" / "img").mkdir(parents=True)
    for i, image in enumerate(table["scan"]):
        Image.fromarray(image).resize((8 + i % 2, 8)).save(tmp_path / "data" / "img" / f"{i}.png")
    frame = pd.DataFrame({"photo": [f"img/{i}.png" for i in range(N)], **{k: v for k, v in table.items() if k != "scan"}})
    frame.to_csv(tmp_path / "data" / "labels.csv", index=False)
    frame.drop(columns=["bright", "level"])[:6].to_csv(tmp_path / "data" / "new.csv", index=False)
    return tmp_path / "data"


WORDS = ("--image", "photo", "--task", "bright", "--task", "level:regression", "--epochs", "1", "--set", "encoder.widths=[4,4]")


def test_a_column_of_paths_on_the_command_line(photos: Path) -> None:
    changes = ("--set", "images.cache=kept", "--set", "augmentation={flip: 0.5, rotation: 10}")
    said = done("fit", "data/labels.csv", *WORDS, "--out", "run", *changes, "--set", "tasks.bright.varies_with=[flip]")
    assert "note: augmentation: flip is left out, for 'bright' varies with it" in said
    assert "note: 60 images of 'photo' of other sizes brought to 64 x 64 pixels, each side for itself" in " ".join(said.split())
    assert len(list((photos.parent / "kept").glob("*.npy"))) == 1
    answers = done("predict", "run", "data/new.csv")
    assert len(answers.splitlines()) == 7
    assert "bright" in done("evaluate", "run", "data/labels.csv")
    drafted = done("init", "data/labels.csv", *WORDS)
    assert "  photo: image" in drafted
    assert "\naugmentation:\n  flip: 0.0" in drafted
    Path("recipe.yaml").write_text(drafted, encoding="utf-8")
    assert done("fit", "recipe.yaml", "--out", "run2").count("level") > 1
    assert load("run2").recipe.encoder == load("run").recipe.encoder


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(photos: Path) -> None:
    asked = Recipe(
        sources=[photos / "labels.csv"],
        tasks=TASKS,
        columns={"photo": "image"},
        images={"size": 8},
        encoder={"widths": [4, 4]},
        trainer={**TRAINER, "epochs": 3, "checkpoint": 0.0},
    )
    same_as_whole(asked, "run", 2)


def test_images_that_cannot_be_used_are_refused_by_row_or_left_out(photos: Path) -> None:
    (photos / "img" / "3.png").write_bytes(b"")
    (photos / "img" / "5.png").unlink()
    told = mistake("fit", "data/labels.csv", *WORDS)
    assert told == (
        "column 'photo': 2 images cannot be used. Found: 'empty: img/3.png' in row 4 of labels, 'no such file: img/5.png' in "
        "row 6 of labels. Mend these files or cells, or leave such rows out with images.on_damaged: skip."
    )
    said = " ".join(done("fit", "data/labels.csv", *WORDS, "--set", "images.on_damaged=skip", "--out", "run").split())
    assert "left out, for their images cannot be used: 2 rows: row 4 of labels (empty: img/3.png), row 6 of labels" in said
    run = load("run")
    assert sum(run.record["rows"].values()) == N - 2
    with pytest.warns(
        UserWarning, match=r"2 rows are left out: the image cannot be used\. Found: 'empty: img/3\.png' in row 4"
    ):
        answers = run.predict("data/new.csv")
    assert answers["level"].is_null().to_pylist() == [False, False, False, True, False, True]
    with pytest.warns(UserWarning, match="2 rows are left out"):
        assert run.evaluate("data/labels.csv")["bright"].n_rows == N - 2


def test_an_encoder_that_does_not_read_such_inputs_says_so(photos: Path) -> None:
    del photos
    told = "encoder tabm: it reads numbers and categories, not images. Found: photo. Take one of images, such as encoder: cnn"
    assert told in mistake("fit", "data/labels.csv", *WORDS[:-2], "--encoder", "tabm")
    told = "encoder cnn: it reads images, and none is among the inputs. Found: photo, beside, kind. Say which column is one"
    assert told in mistake("fit", "data/labels.csv", *WORDS[2:-2], "--encoder", "cnn")
    two = {**rows(), "other": np.zeros((N, 6, 6), np.uint8)}
    with pytest.raises(PolytaskError, match=r"encoder cnn: images of several sizes\. Found: 'scan' 8 x 8, 'other' 6 x 6"):
        fit(recipe(sources=[Frame(two)]))
    assert fit(recipe({"widths": [4, 4]}, sources=[Frame(two)], images={"size": 8}, split=Split(test=0.2))).scores()

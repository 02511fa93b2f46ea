"""Clustering and embedding in whole trainings: beside other tasks, stopped and gone on with, saved, evaluated and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score

from polytask import Arrays, Balance, ExportedModel, Frame, Recipe, Run, fit, load
from polytask.balancer import Balancer
from polytask.errors import PolytaskError
from polytask.model import MultiTaskModel, build_model
from polytask.preparation import Prepared, prepare
from polytask.sharing import Sharing
from tests.cli.command import done, mistake
from tests.contracts.examples import example
from tests.resuming import same_as_whole

TASKS: list[dict[str, Any]] = [
    {"kind": "regression", "name": "height"},
    {"kind": "clustering", "name": "group", "column": "sort", "n_clusters": 3},
    {"kind": "embedding", "name": "near", "column": "breed", "width": 4},
]
TRAINER = {"epochs": 6, "batch_size": 32, "device": "cpu", "best": "mean", "optimizer": {"lr": 1e-2}}
SMALL = {"kind": "table", "width": 16, "depth": 2}


def blobs(n: int = 150, seed: int = 0) -> pd.DataFrame:
    """Three blobs in four dimensions, whose ``sort`` every third row says; ``breed`` says it of all but one new one."""
    draw = np.random.default_rng(seed)
    sort = draw.integers(0, 3, n)
    x = draw.normal(size=(n, 4)) + 6 * np.eye(4)[sort]
    frame = pd.DataFrame(x, columns=list("abcd"))
    frame["sort"] = np.where(np.arange(n) % 3 == 0, np.array(["oak", "elm", "fir"])[sort], None)
    frame["breed"] = np.where(np.arange(n) == 7, "new", sort.astype(str))
    frame["height"] = x[:, 0] + draw.normal(size=n) / 5
    return frame


def recipe(**more: Any) -> Recipe:
    return Recipe(**{"sources": [Frame(blobs())], "tasks": TASKS, "encoder": SMALL, "trainer": TRAINER, **more})


@pytest.fixture(scope="module")
def learned() -> Run:
    return fit(recipe())


def test_groups_and_neighbors_are_found_beside_another_task(learned: Run) -> None:
    scores = learned.evaluate(blobs(90, seed=1))
    assert {task: list(each.scores) for task, each in scores.items()} == {
        "height": ["r2", "rmse", "mae"],
        "group": ["nmi", "ari", "accuracy", "silhouette", "evenness"],
        "near": ["recall_at_1", "recall_at_5"],
    }
    assert scores["group"].scores["nmi"].value > 0.85
    assert scores["group"].scores["evenness"].value > 0.95
    assert scores["near"].scores["recall_at_1"].value > 0.9
    assert scores["near"].scores["recall_at_5"].value >= scores["near"].scores["recall_at_1"].value
    assert not [note for note in learned.record["notes"] if "clusters" in note or "not finite" in note]
    begun = [epoch["epoch"] for epoch in learned.history if "group" in epoch["training"]]
    assert begun == [3, 4, 5, 6]  # a third of all epochs the others come first


def test_scores_are_those_of_the_answers_and_need_no_labels(learned: Run) -> None:
    frame = blobs(90, seed=1)
    answers, known = learned.predict(frame, probabilities=True), frame["sort"].notna().to_numpy()
    wanted = normalized_mutual_info_score(frame["sort"][known], answers["group"][known])
    assert learned.evaluate(frame)["group"].scores["nmi"].value == pytest.approx(wanted)
    assert answers["group"].dtype == np.int64
    soft = answers[[f"group:{k}" for k in range(3)]].to_numpy()
    assert (soft.argmax(1) == answers["group"]).all()
    assert np.allclose(soft.sum(1), 1)
    assert np.allclose(np.linalg.norm(np.stack(answers["near"]), axis=1), 1)
    bare = learned.evaluate(frame[list("abcd")])
    assert list(bare) == ["group"]
    assert np.isnan(bare["group"].scores["nmi"].value)
    same = learned.evaluate(frame)["group"].scores["silhouette"].value
    assert bare["group"].scores["silhouette"].value == pytest.approx(same)


def test_labels_are_never_learned_from() -> None:
    """With others, or none, the network is the same bit for bit."""
    frame, tasks = blobs(), [TASKS[0], TASKS[1]]
    split, trainer = {"stratify": False}, {**TRAINER, "epochs": 3}
    one, other = (
        fit(recipe(sources=[Frame(f)], tasks=tasks, split=split, trainer=trainer)) for f in (frame, frame.assign(sort="x"))
    )
    unlabeled = [TASKS[0], {**TASKS[1], "column": None}]
    none = fit(recipe(sources=[Frame(frame.drop(columns="sort"))], tasks=unlabeled, split=split, trainer=trainer))
    assert list(none.scores()["group"].scores) == ["silhouette", "evenness"]
    for key, value in one.bundle.model.state_dict().items():
        assert torch.equal(other.bundle.model.state_dict()[key], value), key
        assert torch.equal(none.bundle.model.state_dict()[key], value), key


def test_a_saved_run_answers_the_same_and_goes_on(learned: Run, tmp_path: Path) -> None:
    learned.save(tmp_path / "run")
    again, frame = load(tmp_path / "run"), blobs(20, seed=2)
    before, after = learned.predict(frame, probabilities=True), again.predict(frame, probabilities=True)
    assert before.drop(columns="near").equals(after.drop(columns="near"))
    assert again.keep("group").predict(frame)["group"].equals(before["group"])
    later = fit(recipe(warm_start={"run": str(tmp_path / "run")}, trainer={**TRAINER, "epochs": 1}))
    assert "group" in later.history[-1]["training"]  # what has begun does not begin again
    first = later.history[0]["validation"]["group"]
    assert first == pytest.approx(min(epoch["validation"].get("group", 9) for epoch in learned.history), abs=0.1)


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before the clustering begins, and after."""
    monkeypatch.chdir(tmp_path)
    blobs().to_csv("blobs.csv", index=False)
    asked = recipe(sources=["blobs.csv"], trainer={**TRAINER, "epochs": 5, "checkpoint": 0.0})
    whole = same_as_whole(asked, "run", 1, 3)
    assert [epoch["epoch"] for epoch in whole.history if "group" in epoch["training"]] == [2, 3, 4, 5]


def test_an_exported_network_says_the_same(learned: Run, tmp_path: Path) -> None:
    agreement = learned.export(tmp_path / "model", to="onnx")
    assert set(agreement.differences) == {"height", "group", "near"}
    frame = blobs(20, seed=3)
    exported, answers = ExportedModel(tmp_path / "model").predict(frame), learned.predict(frame)
    assert exported["group"].equals(answers["group"])
    assert np.allclose(np.stack(exported["near"]), np.stack(answers["near"]), atol=1e-5)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(recipe())


def losses_of(prepared: Prepared, sharing: object) -> tuple[MultiTaskModel, dict[str, torch.Tensor]]:
    asked = recipe()
    model = build_model(asked.encoder, Sharing.coerce(sharing), asked.head, [prepared.inputs[0].codec], prepared.tasks)
    return model, model.losses(next(prepared.training.batches(64)))


@pytest.mark.parametrize("kind", Sharing.kinds())
def test_every_scheme_trains_them(prepared: Prepared, kind: str) -> None:
    branches = {"branches": {0: [["height", "group"], ["near"]]}}
    scheme = Sharing.find(kind)(**branches) if kind == "tree" else example(Sharing, kind)
    model, losses = losses_of(prepared, scheme)
    assert list(losses) == ["height", "group", "near"]
    Balance(model, "upgrad" if scheme.shares else "equal").backward(losses)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None and p.grad.any() for p in model.heads.parameters())


def test_every_balancer_runs_with_a_task_that_begins_later(prepared: Prepared) -> None:
    for kind in Balancer.kinds():
        model, losses = losses_of(prepared, "hard")
        fixed = {"weights": {"near": 2.0}} if kind == "fixed" else {}
        balance = Balance(model, example(Balancer, kind).model_copy(update=fixed))
        balance.start(list(losses))
        balance.backward({task: loss for task, loss in losses.items() if task != "group"})
        balance.backward(model.losses(next(prepared.training.batches(64))))
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None), kind


def test_alone_it_waits_for_nobody_and_a_cluster_is_the_same_to_all_members() -> None:
    alone = [{**TASKS[1], "warmup": 3}]
    run = fit(recipe(tasks=alone, encoder={"kind": "tabm", "width": 64, "members": 8}))
    assert [epoch["epoch"] for epoch in run.history if "group" in epoch["training"]] == [1, 2, 3, 4, 5, 6]
    assert run.evaluate(blobs(90, seed=1))["group"].scores["nmi"].value > 0.6
    apart = fit(recipe(tasks=[TASKS[0], *alone], sharing="separate", trainer={**TRAINER, "epochs": 4}))
    assert all("group" in epoch["training"] for epoch in apart.history)


def test_patience_waits_for_tasks_that_have_not_begun() -> None:
    tasks = [TASKS[0], {**TASKS[1], "warmup": 4}]
    run = fit(recipe(tasks=tasks, trainer={**TRAINER, "patience": 1, "optimizer": {"lr": 1e-12}}))
    assert [epoch["epoch"] for epoch in run.history if "group" in epoch["training"]][:1] == [5]
    late = fit(recipe(tasks=tasks, trainer={**TRAINER, "minutes": 1e-6}))
    assert "task 'group' was not learned: the training ended before its loss began" in late.record["notes"]


def test_a_collapse_is_told() -> None:
    frame = blobs().drop(columns="breed")
    for name in "abcd":
        frame[name] = 1.0 * (np.arange(len(frame)) < 5)  # two points: there are no three groups
    frame["height"] = np.arange(150) % 7
    tasks = [TASKS[0], {**TASKS[1], "targets": "dec", "warmup": 0}]
    run = fit(recipe(sources=[Frame(frame)], tasks=tasks))
    (note,) = [note for note in run.record["notes"] if "of 3 clusters" in note]
    assert "Try a smaller n_clusters, or targets: balanced" in note


def test_embed_gives_what_the_heads_read(learned: Run, tmp_path: Path) -> None:
    frame = blobs(30, seed=4)
    vectors = learned.embed(frame)
    assert (vectors.shape, vectors.dtype) == ((30, 16), np.float32)
    head: Any = learned.bundle.model.heads["task height"]  # type: ignore[union-attr]
    codec = learned.bundle.tasks["height"].codec
    said = (torch.from_numpy(vectors) @ head.network.weight.T + head.network.bias)[:, 0] * codec.scale + codec.center
    assert said.tolist() == pytest.approx(learned.predict(frame)["height"].tolist(), rel=1e-4)
    assert not np.allclose(vectors, learned.embed(frame, stage=1))
    assert learned.embed(frame, stage=0).shape[0] == 30
    for task in ("group", "near"):
        assert np.array_equal(learned.embed(frame, task), vectors)
    apart = fit(recipe(sharing="separate", trainer={**TRAINER, "epochs": 1}))
    with pytest.raises(PolytaskError, match="do not have one representation: the sharing gives each its own"):
        apart.embed(frame)
    assert apart.embed(frame, "near").shape == (30, 16)
    for ask, words in (
        (lambda: learned.embed(frame, stage=7), "no stage 7"),
        (lambda: learned.embed(frame, "nea"), "no task 'nea' in this run"),
    ):
        with pytest.raises(PolytaskError, match=words):
            ask()


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blobs().drop(columns="breed").to_csv("blobs.csv", index=False)
    fast = ("--epochs", "2", "--set", "trainer.best=mean", "--encoder", "table")
    words = ("fit", "blobs.csv", "--task", "height", "--task", "group:clustering")
    assert "silhouette" in done(*words, "--drop", "sort", "--set", "tasks.1.n_clusters=3", *fast, "--out", "run")
    assert "evenness" in done("evaluate", "run", "blobs.csv")
    done("predict", "run", "blobs.csv", "--probabilities", "--out", "answers.csv")
    assert list(pd.read_csv("answers.csv").columns) == ["height", "group", "group:0", "group:1", "group:2"]
    said = done("embed", "run", "blobs.csv", "--out", "vectors.npy")
    vectors = np.load("vectors.npy", allow_pickle=False)
    assert f"150 rows of {vectors.shape[1]} numbers" in said
    for suffix, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        done("embed", "run", "blobs.csv", "--task", "group", "--out", f"vectors{suffix}")
        assert np.allclose(read(f"vectors{suffix}").to_numpy(), vectors, atol=1e-6)
    assert "written as .npy, .csv or .parquet" in mistake("embed", "run", "blobs.csv", "--out", "vectors.txt")
    told = mistake("fit", "blobs.csv", "--task", "height", "--task", "sort:clustering")
    assert "has the name of a column, which it does not take for labels" in told
    done("report", "run")
    assert "Sizes of the groups" in Path("run/report.html").read_text(encoding="utf-8")


def test_digits_fall_into_groups_while_they_are_reconstructed() -> None:
    """As benchmarks/clustering.py, with a few epochs: better than k-means on their pixels, and no collapse."""
    digits = load_digits()
    source = Arrays((digits.images * 15.9375).astype(np.uint8), {"digit": digits.target})
    tasks = [
        {"kind": "clustering", "name": "group", "column": "digit", "warmup": 6},
        {"kind": "reconstruction", "name": "image"},
    ]
    encoder = {"kind": "cnn", "widths": [32, 64], "vector": 64, "dropout": 0}
    run = fit(Recipe(sources=[source], tasks=tasks, encoder=encoder, trainer={"epochs": 10, "best": "mean", "device": "cpu"}))
    scores = run.evaluate(source)["group"].scores
    raw = normalized_mutual_info_score(digits.target, KMeans(10, n_init=3, random_state=0).fit_predict(digits.data))
    assert scores["nmi"].value > raw + 0.03
    assert scores["evenness"].value > 0.95

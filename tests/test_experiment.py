"""fit, Run, load: the path that everybody takes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from polytask import (
    CSV,
    Arrays,
    Binary,
    Frame,
    Multiclass,
    Ordinal,
    PolytaskError,
    Recipe,
    Regression,
    Run,
    Table,
    Trainer,
    fit,
    load,
)
from tests.houses import houses

SMALL: dict[str, Any] = {"encoder": Table(width=16, depth=1, embedding="plain"), "trainer": Trainer(epochs=3, device="cpu")}
TASKS = [Regression("price"), Ordinal("condition"), Binary("waterfront")]


def write(folder: Path, name: str = "houses.csv", **options: Any) -> Path:
    houses().to_csv(folder / name, index=False, **options)
    return folder / name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = write(tmp_path_factory.mktemp("data"))
    return fit(Recipe(sources=[CSV(path)], tasks=TASKS, drop=["id"], **SMALL))


def test_scores_are_per_task_with_interval_and_constant(run: Run) -> None:
    scores = run.scores()
    assert list(scores) == ["price", "condition", "waterfront"]
    r2 = scores["price"].scores["r2"]
    assert r2.low <= r2.value <= r2.high
    assert r2.constant == pytest.approx(0, abs=0.1)
    assert scores["price"].n_rows == run.record["rows"]["test"]


def test_save_and_load_answer_alike(run: Run, tmp_path: Path) -> None:
    run.save(tmp_path / "run")
    loaded = load(tmp_path / "run")
    new = houses(20, seed=5).drop(columns=["price", "condition", "waterfront"])
    pd.testing.assert_frame_equal(run.predict(new), loaded.predict(new))
    assert loaded.scores().to_dict() == run.scores().to_dict()
    assert loaded.recipe == run.recipe
    assert loaded.history == json.loads(json.dumps(run.history))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "history.jsonl",
        "model",
        "recipe.yaml",
        "run.json",
        "scores.json",
    ]
    assert "**price** (regression" in (tmp_path / "run/model/README.md").read_text(encoding="utf-8")


def test_a_frame_comes_back_as_the_same_kind_with_rows_in_order(run: Run) -> None:
    new = houses(30, seed=5).drop(columns=["price", "condition", "waterfront"])
    new.index = new.index + 100
    answers = run.predict(new)
    assert answers.index.equals(new.index)
    assert list(answers.columns) == ["price", "condition", "waterfront"]
    assert answers["condition"].dtype == np.int64
    assert isinstance(run.predict(pl.from_pandas(new)), pl.DataFrame)
    assert isinstance(run.predict(pa.Table.from_pandas(new)), pa.Table)
    backwards = run.predict(new.iloc[::-1])
    np.testing.assert_allclose(backwards["price"].to_numpy()[::-1], answers["price"].to_numpy(), rtol=1e-5)


def test_probabilities_sum_to_one(run: Run) -> None:
    answers = run.predict(houses(10, seed=5), tasks=["condition"], probabilities=True)
    shares = answers[[name for name in answers.columns if name.startswith("condition:")]]
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)


def test_other_columns_types_and_unseen_categories_are_taken(run: Run) -> None:
    new = houses(10, seed=5).astype({"age": "float64", "rooms": "str"})
    new.loc[0, "suburb"] = "mars"
    new.loc[1, ["lot", "suburb"]] = [np.nan, None]
    new["extra"] = "x"
    assert len(run.predict(new)) == 10
    assert np.isfinite(run.predict(new)["price"]).all()


def test_evaluate_scores_what_has_labels(run: Run) -> None:
    scores = run.evaluate(houses(50, seed=6).drop(columns="price"))
    assert list(scores) == ["condition", "waterfront"]
    assert scores["condition"].n_rows == 50


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda run: run.predict(houses(5).drop(columns="age")), "1 input column is missing: 'age'"),
        (lambda run: run.predict(houses(5), tasks=["prise"]), "no task 'prise' in this run. Did you mean 'price'?"),
        (lambda run: run.predict(houses(5), source="flats"), "no source 'flats' in this run. There is: houses."),
        (lambda run: run.predict(houses(5).assign(age="old")), "column 'age'"),
        (lambda run: run.evaluate(houses(5).drop(columns=["price", "condition", "waterfront"])), "no label column"),
        (lambda run: run.predict("nowhere.csv"), "no file 'nowhere.csv'"),
        (
            lambda run: run.evaluate(houses(50).assign(condition=9)),
            "50 labels are not among those of the training rows. Found: '9' in row 1 of frame.",
        ),
    ],
)
def test_mistakes_with_new_rows_are_told(run: Run, use: Any, message: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        use(run)
    assert message in str(caught.value)


def test_a_run_is_not_overwritten_without_being_asked(run: Run, tmp_path: Path) -> None:
    run.save(tmp_path / "run")
    with pytest.raises(PolytaskError, match="there is a run already"):
        run.save(tmp_path / "run")
    run.save(tmp_path / "run", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(PolytaskError, match="the folder holds something else than a run"):
        run.save(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/thesis.txt").is_file()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(PolytaskError, match="is a file, not a folder"):
        run.save(tmp_path / "file")


def test_the_place_is_checked_before_training(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("x", encoding="utf-8")
    seen: list[object] = []
    with pytest.raises(PolytaskError, match="something else"):
        fit(Recipe(sources=[Frame(houses())], tasks=TASKS, **SMALL), tmp_path / "out", on_epoch=seen.append)
    assert not seen


def damage(folder: Path, what: str) -> None:
    weights, manifest = folder / "model/weights.safetensors", folder / "model/manifest.json"
    if what == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "no weights":
        weights.unlink()
    elif what == "no manifest":
        manifest.unlink()
    elif what == "broken manifest":
        manifest.write_text("{", encoding="utf-8")
    elif what == "other weights":
        tensors = load_file(weights)
        save_file({key: torch.zeros(3) for key in tensors}, weights)
    elif what == "broken scores":
        (folder / "scores.json").write_text("[]", encoding="utf-8")
    else:
        fields = json.loads(manifest.read_text(encoding="utf-8"))
        if what == "a newer format":
            fields["format"] = 99
        elif what == "an unknown plug-in":
            fields["encoder"] = {"kind": "quantum"}
        elif what == "a giant":
            fields["encoder"]["width"] = 10**7
        manifest.write_text(json.dumps(fields), encoding="utf-8")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated weights", "the weights are missing or damaged"),
        ("no weights", "the weights are missing or damaged"),
        ("no manifest", "not a polytask model: it has no manifest"),
        ("broken manifest", "the file is damaged"),
        ("other weights", "of the weights do not fit the manifest"),
        ("broken scores", "scores.json: this is not of a run"),
        ("a newer format", "written by a newer polytask"),
        ("an unknown plug-in", "no encoder of kind 'quantum'"),
        ("a giant", "the manifest asks for a larger network than the weights are"),
    ],
)
def test_a_damaged_run_is_told(run: Run, tmp_path: Path, what: str, message: str) -> None:
    damage(run.save(tmp_path / "run"), what)
    with pytest.raises(PolytaskError) as caught:
        load(tmp_path / "run")
    assert message in str(caught.value)


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(PolytaskError, match="no such run folder"):
        load(tmp_path / "nothing")
    with pytest.raises(PolytaskError, match="it has no manifest"):
        load(tmp_path)


def test_arrays_in_arrays_out() -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(200, 3))
    source = Arrays(X, {"y": X[:, 0], "z": np.where(X[:, 1] > 0, "up", "down")})
    run = fit(Recipe(sources=[source], tasks=[Regression("y"), Multiclass("z")], **SMALL))
    answers = run.predict(X[:7])
    assert set(answers) == {"y", "z"}
    assert set(answers["z"]) <= {"up", "down"}


def test_a_users_loss_and_metric() -> None:
    def within_ten_percent(y_true: np.ndarray[Any, Any], y_pred: np.ndarray[Any, Any]) -> float:
        return float((abs(y_true - y_pred) < 0.1 * y_true).mean())

    def absolute(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output[:, 0] - target).abs()

    task = Regression("price", loss=absolute, metrics=("mae", within_ten_percent))
    run = fit(Recipe(sources=[Frame(houses())], tasks=[task, Ordinal("condition")], **SMALL))
    assert list(run.scores()["price"].scores) == ["mae", "within_ten_percent"]
    codec = run.bundle.tasks["price"].codec
    prices = (houses()["price"] - codec.center) / codec.scale
    assert codec.start[0] == pytest.approx(prices.median(), abs=0.2)  # the best constant under an absolute error
    wrong = Regression("price", loss=lambda output, target: output.mean())
    with pytest.raises(PolytaskError, match=r"task 'price': the loss must give one value per row\. Found: shape"):
        fit(Recipe(sources=[Frame(houses())], tasks=[wrong, Ordinal("condition")], **SMALL))


def test_a_saved_run_with_a_users_loss_still_answers_and_scores(tmp_path: Path) -> None:
    def absolute(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output[:, 0] - target).abs()

    fit(Recipe(sources=[Frame(houses())], tasks=[Regression("price", loss=absolute)], **SMALL), tmp_path / "run")
    loaded = load(tmp_path / "run")
    assert "r2" in loaded.evaluate(houses(30, seed=3))["price"].scores
    assert loaded.recipe.tasks[0].loss == "external:absolute"


def test_a_file_without_header_is_read_like_the_training_file(tmp_path: Path) -> None:
    frame = houses()
    names = tuple(frame.columns)
    train = tmp_path / "train.data"
    frame.to_csv(train, index=False, header=False)
    run = fit(Recipe(sources=[CSV(train, header=False, names=names)], tasks=TASKS, drop=["id"], **SMALL))
    assert run.predict(train).num_rows == 400
    assert run.predict(write(tmp_path, "with_header.csv")).equals(run.predict(train))


def test_two_sources_with_other_columns_answer_for_their_own_tasks(tmp_path: Path) -> None:
    prices, areas = houses(150, 1).drop(columns="sqft_living"), houses(150, 2).drop(columns=["lot", "price"])
    sources = [Frame(prices, name="prices"), Frame(areas, name="areas")]
    run = fit(Recipe(sources=sources, tasks=[Regression("price"), Regression("sqft_living")], **SMALL))
    assert list(run.predict(prices)) == ["price"]
    assert list(run.predict(areas, source="areas")) == ["sqft_living"]
    assert list(run.predict(areas, tasks=["price"])) == ["price"]
    assert list(run.evaluate(areas, source="areas")) == ["sqft_living"]


def test_compare_needs_the_data_it_was_trained_on(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "moving.csv")
    fit(Recipe(sources=[CSV(path)], tasks=TASKS, drop=["id"], **SMALL), tmp_path / "run")
    loaded = load(tmp_path / "run")
    path.write_text(path.read_text(encoding="utf-8").replace("north", "south"), encoding="utf-8")
    with pytest.raises(PolytaskError, match="the data of 'moving' changed since this run"):
        loaded.compare(1)
    path.unlink()
    with pytest.raises(PolytaskError, match=r"no file 'moving\.csv'"):
        loaded.compare(1)


def test_a_training_is_not_lost_where_its_place_cannot_be_written(tmp_path: Path) -> None:
    place = tmp_path / "parent/run"

    def block(_: object) -> None:  # while it trains, the folder it would be saved in becomes a file
        if place.parent.is_dir():
            shutil.rmtree(place.parent)
            place.parent.write_text("", encoding="utf-8")

    with (
        pytest.warns(UserWarning, match="cannot write the checkpoint"),
        pytest.raises(PolytaskError, match=r"The run was saved in '(.*)' instead") as caught,
    ):
        fit(Recipe(sources=[Frame(houses())], tasks=TASKS, **SMALL), place, on_epoch=block)
    rescued = Path(str(caught.value).split("saved in '")[1].split("'")[0])
    assert len(load(rescued).predict(houses(5))) == 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PolytaskError, match="cannot be written"):
        run.save(tmp_path / "locked/run")

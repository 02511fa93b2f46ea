"""Rows that do not count alike: a whole weight is that many equal rows, in losses, constants, tuning and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor

import polytask
from polytask.batch import Dataset
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.fitting import metric_values, row_losses
from polytask.model import mean_losses
from polytask.preparation import prepare
from polytask.recipe import Recipe
from polytask.task import Task
from polytask.tasks.binary import Binary
from polytask.tasks.count import Count
from polytask.tasks.multiclass import Multiclass
from polytask.tasks.multilabel import Multilabel
from polytask.tasks.ordinal import Ordinal
from polytask.tasks.quantile import Quantile
from polytask.tasks.regression import Regression

LABELS = [0, 1, 3, 2, 1, 0, 0, 5]
TIMES = [1, 2, 6, 4, 1, 1, 1, 9]
CASES: list[tuple[Task, list[object]]] = [
    (Regression("y"), LABELS),
    (Regression("y", loss="absolute"), LABELS),
    (Regression("y", loss="huber", huber_delta=0.3), LABELS),
    (Regression("y", loss=lambda output, target: (output[:, 0] - target).square().square()), LABELS),
    (Quantile("y"), LABELS),
    (Count("y"), LABELS),
    (Multiclass("y"), LABELS),
    (Multiclass("y", focal=2.0, label_smoothing=0.1), LABELS),
    (Ordinal("y"), LABELS),
    (Binary("y"), [label > 0 for label in LABELS]),
    (Binary("y", focal=1.0, class_weights={True: 2}), [label > 0 for label in LABELS]),
    (Multilabel("y", columns=("a", "b")), ["1,0", "1,", "0,1", ",1", "0,0", "1,1", "0,", "1,0"]),
]


def mean_loss(fitted: FittedTask, task: FittedTask, target: Tensor, weights: Tensor) -> float:
    """Of the constant of one on the rows of another."""
    return float(
        (task.losses(torch.tensor(fitted.codec.start).expand(len(target), -1), target) * weights).sum() / weights.sum()
    )


@pytest.mark.parametrize(("task", "labels"), CASES)
def test_the_best_constant_is_that_of_repeated_rows(task: Task, labels: list[object]) -> None:
    weights = torch.tensor(TIMES).double()
    weighted = FittedTask.fit(task, pa.array(labels), weights)
    plain = FittedTask.fit(task, pa.array(labels))
    target, _ = task.encode(pa.array(labels), weighted.codec)
    repeated = target.repeat_interleave(torch.tensor(TIMES), 0)
    assert weighted.codec.mean_weight == np.mean(TIMES)
    best = mean_loss(weighted, weighted, repeated, torch.ones(len(repeated)))
    assert weighted.codec.null_loss == pytest.approx(best, rel=1e-5)
    assert best < mean_loss(plain, weighted, repeated, torch.ones(len(repeated))), "the constant without weights is worse"
    generator = torch.Generator().manual_seed(0)
    for size in (0.01, 0.1, 1.0):
        other = torch.tensor(weighted.codec.start) + size * torch.randn(weighted.codec.width, generator=generator)
        constant = weighted.losses(other.expand(len(repeated), -1), repeated).double().mean()
        assert float(constant) >= best * (1 - 1e-5)


@pytest.mark.parametrize(
    "task",
    [
        Binary("y", threshold="f1"),
        Binary("y", threshold="balanced_accuracy", calibration="temperature"),
        Multiclass("y", calibration="temperature"),
        Regression("y", transform="log1p"),
    ],
)
def test_what_is_tuned_is_that_of_repeated_rows(task: Task) -> None:
    labels = pa.array([label > 0 for label in LABELS] if task.kind == "binary" else LABELS)
    fitted = FittedTask.fit(task, labels)
    target, _ = task.encode(labels, fitted.codec)
    output = torch.randn(len(target), fitted.codec.width, generator=torch.Generator().manual_seed(2))
    times = torch.tensor(TIMES[::-1])
    weighted = fitted.tuned(output, target, times.double()).codec
    repeated = fitted.tuned(output.repeat_interleave(times, 0), target.repeat_interleave(times, 0)).codec
    assert weighted.thresholds == pytest.approx(repeated.thresholds)
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-4)
    assert weighted.residuals == pytest.approx(repeated.residuals)
    assert weighted != fitted.tuned(output, target).codec


@pytest.mark.parametrize("transform", ["standardize", "log1p", "quantile"])
def test_the_constant_answer_is_the_weighted_mean(transform: str) -> None:
    fitted = FittedTask.fit(Regression("y", transform=transform), pa.array(LABELS), torch.tensor(TIMES).double())
    assert fitted.constant_views(1)["value"].item() == pytest.approx(np.average(LABELS, weights=TIMES), rel=1e-5)


def days(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    frame = {"x": x, "heat": 3 * x + rng.normal(size=n), "wet": x + rng.normal(size=n) > 0.5, "hours": rng.integers(0, 4, n)}
    return pd.DataFrame(frame)


TASKS = [
    Regression("heat", weight_column="hours", metrics=("r2", "rmse")),
    Binary("wet", weight_column="hours"),
    Count("hours"),
]


def recipe(frame: pd.DataFrame, tasks: list[Task], **fields: object) -> Recipe:
    return Recipe(sources=[frame], tasks=tasks, trainer={"epochs": 3}, encoder={"kind": "table", "width": 8}, **fields)


def test_a_row_without_weight_has_no_label_and_the_column_is_no_input() -> None:
    frame = days()
    prepared = prepare(recipe(frame, TASKS[:2]))
    assert prepared.inputs[0].codec.names == ("x",)
    parts = (prepared.training, prepared.validation, prepared.test)
    assert sum(int(part.present["heat"].sum()) for part in parts) == (frame.hours > 0).sum()
    training = prepared.training
    assert float(training.weights["heat"][training.present["heat"]].mean()) == pytest.approx(1.0, rel=1e-6)


def test_losses_and_scores_are_those_of_repeated_rows(tmp_path: Path) -> None:
    frame = days()
    run = polytask.fit(Recipe.from_yaml_text(recipe_of_file(frame, tmp_path).to_yaml()), tmp_path / "run")
    bundle, rows = polytask.load(tmp_path / "run").bundle, frame[frame.hours > 0]
    table = pa.Table.from_pandas(rows, preserve_index=False)
    labels = {name: bundle.tasks[name].task.labels_of(table) for name in ("heat", "wet")}
    weighted = bundle.dataset(table, 0, labels)
    twice = torch.from_numpy(np.repeat(np.arange(len(rows)), rows.hours))
    batch = weighted.batch(twice)
    repeated = Dataset(batch.inputs, batch.targets, {name: mask[twice] for name, mask in weighted.present.items()})
    assert mean_losses(bundle.model, weighted) == pytest.approx(mean_losses(bundle.model, repeated), rel=1e-5)
    ours, theirs = metric_values(bundle, weighted), metric_values(bundle, repeated)
    for task in labels:
        assert ours[task] == pytest.approx(theirs[task], rel=1e-6)
        assert row_losses(bundle, weighted)[task].mean() == pytest.approx(row_losses(bundle, repeated)[task].mean(), rel=1e-5)
    plain = metric_values(bundle, Dataset(weighted.inputs, weighted.targets, weighted.present))
    assert plain["heat"]["r2"] != pytest.approx(ours["heat"]["r2"], rel=1e-6)
    assert run.evaluate(frame)["heat"].scores["r2"].value == pytest.approx(ours["heat"]["r2"], rel=1e-6)


def recipe_of_file(frame: pd.DataFrame, folder: Path) -> Recipe:
    frame.to_csv(folder / "days.csv", index=False)
    return Recipe(
        sources=[str(folder / "days.csv")],
        tasks=TASKS[:2],
        trainer={"epochs": 3, "batch_size": 64, "best": "mean"},
        encoder={"kind": "table", "width": 8},
    )


def test_a_task_of_its_own_may_be_learned_from_the_weight_column() -> None:
    scores = polytask.fit(recipe(days(), TASKS)).scores()
    assert scores["heat"].n_rows < scores["hours"].n_rows


def test_a_users_metric_is_given_the_weights() -> None:
    def share(y_true: np.ndarray, y_pred: np.ndarray, sample_weight: np.ndarray) -> float:
        return float(sample_weight.mean())

    def unaware(y_true: np.ndarray, y_pred: np.ndarray) -> float:
        return 1.0

    task = Regression("heat", weight_column="hours", metrics=(share,))
    run = polytask.fit(recipe(days(), [task]))
    assert run.scores()["heat"].scores["share"].value == pytest.approx(1.0, abs=0.2)
    with pytest.raises(PolytaskError, match=r"the metric 'unaware' failed.*sample_weight"):
        polytask.fit(recipe(days(), [Regression("heat", weight_column="hours", metrics=(unaware,))]))


def test_mistakes_are_told() -> None:
    frame = days()
    with pytest.raises(PolytaskError, match=r"no column 'hour' in .*Did you mean 'hours'"):
        polytask.fit(recipe(frame, [Regression("heat", weight_column="hour")]))
    frame.loc[3, "hours"] = -2
    with pytest.raises(PolytaskError) as caught:
        polytask.fit(recipe(frame, [Regression("heat", weight_column="hours")]))
    assert str(caught.value) == (
        "task 'heat', weight_column 'hours': 1 weight is negative. Found: -2 in row 4 of frame. Give weights from 0."
    )

"""Verdicts on data whose tasks are known to hurt, help, or do nothing to one another."""

from __future__ import annotations

import polars as pl
import pytest

from polytask import Frame, Recipe, Regression
from polytask.evaluation.comparison import Comparison
from polytask.evaluation.trials import compare
from polytask.preparation import prepare
from tests.groups import grouped, related

TASKS = ["up 1", "up 2", "down 1", "down 2"]


def compared(
    rows: pl.DataFrame, judging: pl.DataFrame, tasks: list[str], seeds: int, width: int, batch: int, rate: float
) -> Comparison:
    recipe = Recipe(
        sources=[Frame(rows, test=judging)],
        tasks=[Regression(name) for name in tasks],
        encoder={"kind": "table", "width": width, "depth": 1, "embedding": "plain", "dropout": 0.0},
        trainer={"epochs": 30, "patience": "never", "device": "cpu", "batch_size": batch, "optimizer": {"lr": rate}},
    )
    return compare(recipe, prepare(recipe), seeds, trees=False).comparison


def verdicts(found: Comparison) -> list[str]:
    return [verdict.verdict for verdict in found["run"].verdicts]


@pytest.mark.slow
def test_groups_that_want_other_features_are_hurt_by_a_trunk_too_small_for_both() -> None:
    table = grouped(1000, bent=True, spread=0.5)
    table = table.select([name for name in table.columns if name.startswith("x") or name in TASKS])
    found = compared(table[:500], table[500:], TASKS, seeds=5, width=8, batch=128, rate=2e-2)
    assert verdicts(found) == ["hurt"] * 4
    assert found["run"].delta_m is not None
    assert found["run"].delta_m.by_task < 0
    assert set(found.picks.values()) == {"alone"}


@pytest.mark.slow
def test_related_tasks_with_few_rows_each_are_helped() -> None:
    rows, judging = related()
    found = compared(rows, judging, ["t0", "t1", "t2", "t3"], seeds=5, width=16, batch=48, rate=5e-3)
    assert verdicts(found) == ["helped"] * 4
    assert all(verdict.change < -15 for verdict in found["run"].verdicts)
    assert set(found.picks.values()) == {"run"}


def test_of_a_task_and_its_copy_nothing_can_be_told() -> None:
    table = grouped(500, noise=0.5).with_columns(pl.col("up 1").alias("copy"))
    table = table.select([name for name in table.columns if name.startswith("x") or name in ("up 1", "copy")])
    found = compared(table[:200], table[200:], ["up 1", "copy"], seeds=3, width=16, batch=64, rate=5e-3)
    assert verdicts(found) == ["can't tell"] * 2

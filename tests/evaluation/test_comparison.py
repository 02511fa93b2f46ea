"""What a comparison found, as plain values and as a table."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from polytask.errors import PolytaskError
from polytask.evaluation.comparison import Comparison, Costs, Result
from polytask.evaluation.delta_m import DeltaM
from polytask.evaluation.verdict import TaskComparison

RECIPE = {"encoder": {"kind": "tabm"}, "sharing": {"kind": "hard"}, "balancer": {"kind": "equal"}}
COSTS = Costs(1_234_567, 2_400, 56_000_000, 3_000_000, 9_000)


def result(name: str, tasks: list[str], change: float | None = None, costs: Costs | None = COSTS) -> Result:
    numbers = dict.fromkeys(tasks, 0.5)
    word = "helped" if change is None or change < 0 else "hurt"
    verdicts = [] if change is None else [TaskComparison(t, 0.5, 0.4, change, change - 1, change + 1, word, 3) for t in tasks]
    metrics = {task: {"r2": 0.25, "rmse": 123456.7} for task in tasks}
    gains = None if change is None else DeltaM(-change, math.nan, {})
    seeds = ((1.0, 2.0), (3.0, 2.0), (2.0, 2.0)) if costs else ()
    return Result(name, {}, numbers, numbers, metrics, 3 if costs else 1, 12.5, costs, tuple(verdicts), gains, seeds)


def comparison(tasks: list[str], names: list[str], change: float = -12.3) -> Comparison:
    found = tuple(result(name, tasks, change) for name in names)
    trees = result("boosted trees", tasks, change, costs=None)
    rows = dict.fromkeys(tasks, 4321)
    return Comparison(
        result("alone", tasks), found, trees, RECIPE, (0, 1, 2), rows, "test", {}, {"ple": "it failed"}, ("mind",)
    )


@pytest.mark.parametrize("n_tasks", [1, 2, 40])
@pytest.mark.parametrize("names", [["run"], ["run", "mmoe", "ple + balancer:cagrad", "cross_stitch", "balancer:" + "x" * 40]])
@pytest.mark.parametrize("change", [-12.3, 123456.7])
def test_a_table_is_at_most_a_hundred_columns_wide_and_has_everything(n_tasks: int, names: list[str], change: float) -> None:
    tasks = [f"a rather long name of a task, number {number}" for number in range(n_tasks)]
    lines = str(comparison(tasks, names, change)).splitlines()
    assert max(map(len, lines)) <= 100
    for number in range(n_tasks):
        assert sum(line.split("  ")[0].endswith(f" task, number {number}"[-12:]) for line in lines) >= 2
    cells = " ".join(lines)
    word = "helped" if change < 0 else "hurt"
    assert cells.count(f"{word} ") - cells.count("helped, hurt") == n_tasks * len(names)
    assert cells.count("better -12.3 %") == (n_tasks if change < 0 else 0)


def test_one_candidate_has_a_line_per_task() -> None:
    text = str(comparison(["price", "grade"], ["run"]))
    assert "price  0.5000  helped -12.3 % (-13.3 to -11.3)  better -12.3 % (-13.3 to -11.3)\n" in text
    assert "run                 2           0     0       +12.30 % ± 1.00                   -\n" in text
    assert "alone               1.23M    3M         2.4k    9k              56MB     12.5          3\n" in text
    assert "up to 0.3 of these 4 verdicts would be wrong by chance (up to 8% each" in " ".join(text.split())
    assert text.endswith("ple is left out: it failed\nmind")


def test_rows_are_told_where_tasks_have_others() -> None:
    found = comparison(["price", "grade"], ["run"])
    assert "rows" not in str(found).splitlines()[4]
    assert "  rows  " in str(replace(found, n_rows={"price": 5, "grade": 1000})).splitlines()[4]


def test_it_comes_back_from_json() -> None:
    found = comparison(["price"], ["run", "mmoe"])
    again = Comparison.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert str(again) == str(found)
    assert again["mmoe"].costs == COSTS
    assert math.isnan(again["mmoe"].delta_m.by_task)  # type: ignore[union-attr]
    with pytest.raises(PolytaskError, match=r"this is not a comparison.*Compare again"):
        Comparison.from_dict({"tasks": []})

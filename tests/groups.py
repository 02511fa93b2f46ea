"""Tasks in two groups that want opposite things of the same inputs, and tasks that all want the same."""

from __future__ import annotations

import numpy as np
import polars as pl

from polytask.recipe import Recipe
from polytask.sources.frame import Frame
from polytask.tasks.regression import Regression

N_INPUTS = 6
GROUPS = {"up": ("up 1", "up 2", "up 3"), "down": ("down 1", "down 2", "down 3")}
TASKS = tuple(task for tasks in GROUPS.values() for task in tasks)


def grouped(n_rows: int = 400, *, bent: bool = False, noise: float = 0.1, spread: float = 0.2, seed: int = 0) -> pl.DataFrame:
    """Inputs x1, x2, ... and the targets of six tasks, in two groups of three.

    The weights of the tasks in ``up`` lie about one matrix, those in ``down`` about its negative. A task's target is a sum of
    its signals ``x W``, or, ``bent``, of what is above one in each: it is flat where those of the other group are not, so that
    one group's features are of no use to the other.

    Args:
        n_rows: Rows.
        bent: Whether the signals are bent; else the correlation of two tasks is about 1 in a group and -1 between groups.
        noise: The deviation of the noise, in those of a target.
        spread: How far the weights of the tasks in a group are apart, in deviations of the weights.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n_rows, N_INPUTS))
    common = rng.normal(size=(N_INPUTS, 4))
    columns = {f"x{i + 1}": inputs[:, i] for i in range(N_INPUTS)}
    for group, tasks in GROUPS.items():
        sign = 1.0 if group == "up" else -1.0
        for task in tasks:
            signals = sign * inputs @ (common + spread * rng.normal(size=common.shape))
            target = (np.maximum(signals - 1, 0) if bent else signals).sum(1)
            columns[task] = target + noise * target.std() * rng.normal(size=n_rows)
    return pl.DataFrame(columns)


def related(n_tasks: int = 4, n_rows: int = 40, n_judging: int = 400, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tasks with few rows each that all hang on the same sum of forty inputs: t0 = ± tanh(x w) and noise, t1 likewise.

    Returns:
        Rows to learn from, ``n_rows`` for each task, with the label of that task only; and rows to judge on, with all labels.
    """
    rng = np.random.default_rng(seed)
    n_learning = n_tasks * n_rows
    inputs = rng.normal(size=(n_learning + n_judging, 40))
    signal = np.tanh(1.5 * inputs @ rng.normal(size=40) / 40**0.5)
    targets = np.outer(signal, rng.choice([-1, 1], n_tasks)) + 0.2 * rng.normal(size=(len(inputs), n_tasks))
    owners = np.arange(n_learning) % n_tasks
    targets[:n_learning][owners[:, None] != np.arange(n_tasks)] = np.nan
    columns = {f"x{i}": inputs[:, i] for i in range(40)} | {f"t{i}": targets[:, i] for i in range(n_tasks)}
    return pl.DataFrame(columns)[:n_learning], pl.DataFrame(columns)[n_learning:]


def recipe(table: pl.DataFrame, **fields: object) -> Recipe:
    """All six tasks from such a table, with a small network."""
    encoder = {"kind": "table", "width": 8, "depth": 2, "embedding": "plain", "dropout": 0.0}
    given = {"sources": [Frame(table)], "tasks": [Regression(name) for name in TASKS], "encoder": encoder}
    return Recipe(**(given | fields))

"""Five hundred columns to predict: as any other run, in a time and a memory that are printed."""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import pytest

from polytask import Arrays, Recipe, Regression, Split, fit

N_TASKS, N_ROWS = 500, 1000


@pytest.mark.slow
def test_five_hundred_regressions(capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N_ROWS, 16))
    targets = x @ draw.normal(size=(16, N_TASKS)) + 0.1 * draw.normal(size=(N_ROWS, N_TASKS))
    targets[draw.random(targets.shape) < 0.1] = np.nan
    names = [f"y{index}" for index in range(N_TASKS)]
    source = Arrays(x, dict(zip(names, targets.T, strict=True)))
    tasks = [Regression(name) for name in names]
    split = Split(stratify=False)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    run = fit(Recipe(sources=[source], tasks=tasks, split=split, trainer={"epochs": 5, "batch_size": 128}))
    fitted = time.perf_counter()
    answers = run.predict(x)
    predicted = time.perf_counter()
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    told = f"{N_TASKS} tasks, {N_ROWS} rows: fit {fitted - began:.1f} s, predict {predicted - fitted:.1f} s"
    with capsys.disabled():
        sys.stdout.write(f"\n{told}, {megabytes:.0f} MB more at most\n")
    assert list(answers) == names
    assert np.mean([run.scores()[name].scores["r2"].value for name in names]) > 0.2

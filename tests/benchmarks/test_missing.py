from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from benchmarks.missing import main, run, with_hidden
from benchmarks.tables import ALONE, TOGETHER, with_changes
from polytask.preparation import prepare
from polytask.recipe import Recipe
from polytask.sources import Frame
from polytask.tasks import Binary, Multiclass, Regression
from tests.houses import houses

TASKS = ["sqft_living", "condition", "waterfront"]


def recipe(n_rows: int) -> Recipe:
    tasks = [Regression("sqft_living"), Multiclass("condition"), Binary("waterfront")]
    return Recipe(sources=[Frame(houses(n_rows))], tasks=tasks, drop=["id"], encoder={"kind": "table", "width": 16})


def test_labels_are_hidden_by_share_and_task_and_those_of_the_test_rows_stay() -> None:
    whole = prepare(recipe(2000))
    some, most = with_hidden(whole, 30, seed=0), with_hidden(whole, 90, seed=0)
    for part in ("training", "validation"):
        n_rows = getattr(whole, part).n_rows
        kept = {task: getattr(some, part).present[task].numpy() for task in TASKS}
        for task in TASKS:
            assert kept[task].mean() == pytest.approx(0.7, abs=3 * np.sqrt(0.21 / n_rows))
            left = getattr(most, part).present[task].numpy()
            assert left.mean() == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / n_rows))
            assert not (left & ~kept[task]).any()
        both = (kept["sqft_living"] & kept["condition"]).mean()
        assert both == pytest.approx(0.49, abs=3 * np.sqrt(0.25 / n_rows))
    assert some.test is whole.test
    other = with_hidden(whole, 30, seed=1).training.present["condition"]
    assert not bool((other == some.training.present["condition"]).all())
    again = with_hidden(whole, 30, seed=0).training.present["condition"]
    assert bool((again == some.training.present["condition"]).all())
    assert bool((with_hidden(whole, 0, 0).training.present["condition"] == whole.training.present["condition"]).all())


def test_the_tables_say_what_hiding_costs(capsys: pytest.CaptureFixture[str]) -> None:
    frame = houses(300)
    frame.loc[::4, "sqft_living"] = np.nan
    asked = recipe(300).model_copy(update={"sources": (Frame(frame),)})
    changes = ["trainer.epochs=10", "trainer.optimizer.lr=0.02", "encoder.embedding=plain"]
    (found,) = run({"houses": asked}, [0.0, 90.0], seeds=2, changes=changes)
    assert [one.share for one in found] == [0.0, 90.0]
    for one in found:
        assert list(one.losses) == TASKS
        for task, methods in one.losses.items():
            assert methods[ALONE].shape == methods[TOGETHER].shape == (2, 45)
            missing = np.isnan(methods[ALONE])
            assert bool(missing.any()) == (task == "sqft_living")
            assert (missing == np.isnan(methods[TOGETHER])).all()
            assert (np.nanmean(methods[ALONE], 1) > 0).all()
    assert found[1].labels["condition"] < 0.2 * found[0].labels["condition"]
    for task in ("sqft_living", "condition"):
        assert np.nanmean(found[1].losses[task][ALONE]) > 1.05 * np.nanmean(found[0].losses[task][ALONE])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "houses: 210 training and 45 test rows; seeds: 2"
    rows = [line.split() for line in lines if line.split()[:1] == ["condition"]]
    assert [row[1] for row in rows] == ["0", "90"]
    assert len(rows[1]) == len(rows[0]) + 3  # the cost of hiding, with its interval
    assert lines[-2].startswith("    0 % hidden  ")
    assert lines[-1].startswith("   90 % hidden  ")


def test_settings_are_changed_and_nothing_else() -> None:
    asked = with_changes(recipe(50), ["trainer.epochs=3", "balancer=dwa"])
    plain = recipe(50)
    assert (asked.trainer.epochs, asked.balancer.kind) == (3, "dwa")
    assert (asked.tasks, asked.drop, asked.encoder, asked.split) == (plain.tasks, plain.drop, plain.encoder, plain.split)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sets", "kc_houses"], "no set 'kc_houses': give some of kc_house, bike_sharing, adult"),
        (["--shares", "0,100"], "a share is a percentage from 0 to less than 100"),
    ],
)
def test_mistakes_are_told(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    monkeypatch.setattr(sys, "argv", ["missing", *words])
    with pytest.raises(SystemExit):
        main()
    assert told in capsys.readouterr().err


def test_data_that_are_absent_are_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.missing.ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["missing", "--quick", "--sets", "adult"])
    main()
    assert f"adult: not in {tmp_path}; POLYTASK_DATA names the folder" in capsys.readouterr().out

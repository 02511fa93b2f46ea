"""A bundle, and the same with some of its tasks only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polytask import CSV, Binary, Frame, Hard, Ordinal, PolytaskError, Recipe, Regression, Run, Table, Trainer, fit
from polytask.bundle import n_parameters
from polytask.sharing import Sharing
from tests.houses import houses

SMALL: dict[str, Any] = {"encoder": Table(width=12, depth=2), "trainer": Trainer(epochs=2, device="cpu")}
TASKS = (Regression("price"), Ordinal("condition"), Binary("waterfront", calibration="temperature"))


def of(n_rows: int = 150, **fields: Any) -> Recipe:
    return Recipe(**{"sources": [Frame(houses(n_rows))], "tasks": TASKS, "drop": ["id"], **SMALL, **fields})


def two_sources(**fields: Any) -> Recipe:
    """Prices with a living area, and conditions without."""
    prices = Frame(houses(150, 1).drop(columns=["condition", "waterfront"]), name="prices")
    lakes = Frame(houses(120, 2).drop(columns=["price", "sqft_living"]), name="lakes")
    return of(**{"sources": [prices, lakes], **fields})


@pytest.fixture(scope="module")
def run() -> Run:
    return fit(of(sharing=Hard(stages=1)))


@pytest.fixture(scope="module")
def apart() -> Run:
    return fit(two_sources(mixing={"kind": "weighted", "weights": {"prices": 2, "lakes": 1}}))


def test_kept_tasks_answer_bit_for_bit_and_the_others_are_gone(run: Run) -> None:
    kept, new = run.keep("waterfront", "price"), houses(50, 5)
    whole = run.predict(new, probabilities=True)
    answers = kept.predict(new, probabilities=True)
    pd.testing.assert_frame_equal(answers, whole[list(answers.columns)], check_exact=True)
    assert list(kept.scores()) == list(kept.bundle.tasks) == ["price", "waterfront"]
    assert kept.scores()["price"] is run.scores()["price"]
    keys, before = (item.bundle.model.state_dict().keys() for item in (kept, run))
    assert keys < before
    assert all(".task condition." in key for key in before - keys)
    assert {key.split(".")[1] for key in before - keys} == {"private", "task condition"}
    left = n_parameters(kept.bundle.model)
    assert kept.record["parameters"] == left < run.record["parameters"]
    assert kept.record["notes"][-1] == (
        f"kept of a run of 3 tasks: {left:,} of its {run.record['parameters']:,} parameters are left"
    )
    with pytest.raises(PolytaskError, match="no task 'condition' in this run"):
        kept.predict(new, tasks=["condition"])


def test_input_columns_that_no_kept_task_needs_are_gone(apart: Run) -> None:
    kept, rows = apart.keep("price"), houses(40, 5)
    answers = kept.predict(rows.drop(columns="price"))
    pd.testing.assert_frame_equal(answers, apart.predict(rows.drop(columns="price"), tasks=["price"]), check_exact=True)
    assert [list(part.sources) for part in kept.bundle.manifest.inputs] == [["prices"]]
    assert kept.record["parameters"] < 0.7 * apart.record["parameters"]
    assert [source.label for source in kept.recipe.sources] == ["prices"]
    assert dict(kept.recipe.mixing.weights) == {"prices": 2}
    assert kept.record["data"].keys() == {"prices"}
    both = apart.keep("price", "condition")
    both.bundle.check_answers(apart.bundle, ["price", "condition"])


def test_the_recipe_of_what_is_kept_has_the_same_inputs(run: Run, tmp_path: Path) -> None:
    houses(150).to_csv(tmp_path / "houses.csv", index=False)
    asked = of(
        sources=[CSV(tmp_path / "houses.csv")],
        balancer={"kind": "fixed", "weights": {"price": 2, "condition": 3}},
        primary=["price", "condition"],
        split={"stratify": ("condition", "waterfront")},
        columns={"rooms": "category"},
        sharing=Hard(stages=1),
    )
    columns = {"houses": run.bundle.manifest.inputs[0].codec.names}
    recipe = asked.keep(["price"], columns)
    assert recipe.to_dict()["balancer"] == {"kind": "fixed", "weights": {"price": 2.0}}
    assert (recipe.primary, recipe.split.stratify, dict(recipe.columns)) == (("price",), (), {"rooms": "category"})
    assert Recipe.from_yaml_text(recipe.to_yaml()) == recipe
    assert fit(recipe).bundle.manifest.inputs[0].codec.names == columns["houses"]  # and condition is no input


def test_a_kept_run_is_saved_compared_and_kept_again(run: Run) -> None:
    kept = run.keep("price", "condition")
    assert kept.compare(1, trees=False).tasks == ("price", "condition")
    assert list(kept.keep("price").bundle.tasks) == ["price"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["pirce"], "no task 'pirce' in this run. Did you mean 'price'?"),
        (["price", "id"], "no task 'id' in this run. There is: price, condition, waterfront."),
        ([], "tasks: no task is named. There is: price, condition, waterfront."),
    ],
)
def test_mistakes_are_told(run: Run, tasks: list[str], message: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        run.keep(*tasks)
    assert str(caught.value) == message


def test_a_scheme_with_weights_of_its_own_is_parted_by_names() -> None:
    run = fit(of(sharing=Sharing.coerce("gated")))
    kept, new = run.keep("waterfront"), houses(30, 5)
    np.testing.assert_array_equal(kept.predict(new)["waterfront"], run.predict(new)["waterfront"])


def test_a_scheme_that_does_not_part_its_tasks_is_told() -> None:
    run = fit(of(sharing=Sharing.coerce("two_branch")))
    run.keep("price", "condition")
    what = "sharing two_branch: the answers of 'condition' depend on which other tasks there are"
    with pytest.raises(PolytaskError, match=what):
        run.keep("condition")

"""Per task the best way to learn, by validation, as one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polytask import Binary, Frame, Ordinal, PolytaskError, Recipe, Regression, Run, Table, Trainer, fit, load
from polytask.evaluation import trials
from polytask.evaluation.picking import picks
from polytask.fitting import train_bundle
from polytask.model import Snapshots
from polytask.preparation import prepare
from tests.houses import houses

TASKS = [Regression("price"), Ordinal("condition"), Binary("waterfront", calibration="temperature")]


def asked(**fields: Any) -> Recipe:
    given = {
        "sources": [Frame(houses(160))],
        "tasks": TASKS,
        "drop": ["id"],
        "encoder": Table(width=12, depth=2, embedding="plain"),
        "trainer": Trainer(epochs=4, device="cpu"),
    }
    return Recipe(**(given | fields))


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is picked, whatever the losses say; to be filled."""
    found: dict[str, str] = {}
    monkeypatch.setattr(trials, "picks", lambda *_: found)
    return found


OTHERS: list[Any] = ["cross_stitch", {"encoder": Table(width=8, depth=1, embedding="plain")}]
PICKS = {"price": "alone", "condition": "cross_stitch", "waterfront": "encoder:table(width=8, depth=1)"}


def picked(chosen: dict[str, str]) -> Run:
    chosen |= PICKS
    return fit(asked()).pick(1, OTHERS, trees=False)[1]


def test_each_task_answers_as_its_own_network_does(chosen: dict[str, str], tmp_path: Path) -> None:
    run, new = picked(chosen), houses(40, 5)
    assert run.record["picked"] == PICKS
    assert isinstance(run.bundle.model, Snapshots)
    names = {task: one.sharing for one in run.bundle.manifest.snapshots for task in one.tasks}
    assert [names[task] and names[task].kind for task in PICKS] == ["separate", "cross_stitch", None]
    answers = run.predict(new, probabilities=True)
    for task, changes in (("price", {"sharing": "separate"}), ("condition", {"sharing": "cross_stitch"})):
        other = asked(**changes)
        bundle, _ = train_bundle(other, prepare(other))
        expected = bundle.predict(Frame(new).read(), [task])[task].to_numpy()
        np.testing.assert_array_equal(answers[task], expected)
    run.save(tmp_path / "run")
    again = load(tmp_path / "run")
    pd.testing.assert_frame_equal(again.predict(new, probabilities=True), answers, check_exact=True)
    assert again.scores().to_dict() == run.scores().to_dict()
    assert run.evaluate(houses(160)).keys() == PICKS.keys()
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "networks, with the sharing" in card
    assert "cross_stitch: Misra" in card
    manifest = json.loads((tmp_path / "run" / "model" / "manifest.json").read_text(encoding="utf-8"))
    assert {"encoder", "sharing", "tasks"} == set(manifest["snapshots"][0])


def test_what_was_picked_is_kept_apart_but_neither_compared_nor_gone_on_from(chosen: dict[str, str], tmp_path: Path) -> None:
    run, new = picked(chosen), houses(40, 5)
    kept = run.keep("price", "waterfront")
    pd.testing.assert_frame_equal(kept.predict(new), run.predict(new)[["price", "waterfront"]], check_exact=True)
    one = kept.keep("price")
    assert one.bundle.manifest.snapshots == ()
    assert one.bundle.manifest.sharing.kind == "separate"
    with pytest.raises(
        PolytaskError, match=r"sharing .*cross_stitch.*: the answers of 'condition' depend on which other tasks"
    ):
        run.keep("condition")
    for ask in (run.compare, run.pick):
        with pytest.raises(PolytaskError, match="this run was picked of several trainings"):
            ask(1)
    run.save(tmp_path / "run")
    with pytest.raises(PolytaskError, match="its tasks were picked of several networks"):
        fit(asked(warm_start={"run": tmp_path / "run"}))


def test_tasks_that_read_one_another_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[Any] = []

    def first(validation: Any, tasks: Any) -> dict[str, str]:
        groups.extend(tasks)
        return {"price": "alone", "condition": "run", "waterfront": "alone"}

    monkeypatch.setattr(trials, "picks", first)
    tasks = [Regression("price", depends_on="waterfront"), *TASKS[1:]]
    _, run = fit(asked(tasks=tasks)).pick(1, trees=False)
    assert groups == [("price", "waterfront"), ("condition",)]
    assert run.bundle.tasks["price"].task.reads == ()
    assert len(run.predict(houses(10, 1))) == 10


def test_without_validation_rows_nothing_is_picked() -> None:
    run = fit(asked(split={"validation": 0.0, "test": 0.3}, tasks=TASKS[:2]))
    with pytest.raises(PolytaskError, match="pick: there are no validation rows to pick by"):
        run.pick(1)
    assert run.compare(1, trees=False).picks == {}


def test_it_is_chosen_by_validation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = asked(split={"validation": 0.1})
    prepared = prepare(recipe)
    seen: list[Any] = []

    def watched(validation: Any, tasks: Any) -> dict[str, str]:
        seen.append(
            {name: {task: [len(run) for run in runs] for task, runs in own.items()} for name, own in validation.items()}
        )
        return picks(validation, tasks)

    monkeypatch.setattr(trials, "picks", watched)
    trials.compare(recipe, prepared, 2, trees=False)
    assert prepared.validation.n_rows != prepared.test.n_rows
    assert seen == [{name: dict.fromkeys(PICKS, [prepared.validation.n_rows] * 2) for name in ("alone", "run")}]


def test_the_simplest_within_a_standard_error_is_taken() -> None:
    draw = np.random.default_rng(0)
    base = draw.exponential(1, (3, 200))
    noise = draw.normal(0, 0.2, (3, 200))
    little = base + noise - noise.mean() + 0.001
    found = {"alone": {"t": list(base)}, "run": {"t": list(little)}, "mmoe": {"t": list(base - 0.5)}}
    assert picks({name: found[name] for name in ("alone", "run")}, [["t"]]) == {"t": "run"}
    assert picks(found, [["t"]]) == {"t": "mmoe"}
    assert picks({"alone": found["mmoe"], "run": found["alone"]}, [["t"]]) == {"t": "alone"}
    assert picks({"alone": {}, "run": {}}, [["t"]]) == {}

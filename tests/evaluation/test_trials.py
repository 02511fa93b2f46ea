"""Candidates and each task alone, trained and judged."""

from __future__ import annotations

from typing import Any

import pytest

from polytask import Frame, Multiclass, PolytaskError, Recipe, Regression, Table, Trainer, fit
from polytask.evaluation import trials
from polytask.evaluation.trials import Interrupted, Trials, compare
from polytask.fitting import train_bundle
from polytask.preparation import prepare
from polytask.sharing import Sharing
from tests.houses import houses

SMALL: dict[str, Any] = {
    "encoder": Table(width=16, depth=1, embedding="plain"),
    "trainer": Trainer(epochs=2, device="cpu"),
    "drop": ["id", "waterfront"],
}
TASKS = [Regression("price"), Multiclass("suburb")]
ASKED = Recipe(sources=[Frame(houses(160))], tasks=TASKS, **SMALL)


@pytest.fixture(scope="module")
def found() -> Trials:
    steps: list[tuple[str, int, int]] = []
    done = compare(ASKED, prepare(ASKED), 2, ["mmoe", "balancer:dwa"], on_fit=lambda *step: steps.append(step))
    each = ["alone", "run", "mmoe", "balancer:dwa"]
    names = ["boosted trees", *(f"{name}, seed {seed}" for seed in (0, 1) for name in each)]
    assert steps == [(name, number, 9) for number, name in enumerate(names, start=1)]
    return done


def test_every_candidate_is_judged_on_every_task(found: Trials) -> None:
    told = found.comparison
    assert [one.name for one in told.results] == ["alone", "run", "mmoe", "balancer:dwa", "boosted trees"]
    for one in told.results[1:]:
        assert [verdict.task for verdict in one.verdicts] == ["price", "suburb"]
        assert {verdict.alone for verdict in one.verdicts} == set(told.alone.losses.values())
        assert one.delta_m is not None
    assert [len(one.delta_m_of_seeds) for one in told.results] == [0, 2, 2, 2, 1]
    assert [one.n_trainings for one in told.results] == [2, 2, 2, 2, 1]
    assert list(told["run"].metrics["price"]) == ["r2", "rmse", "mae"]
    assert told["mmoe"].differs == {"sharing": Sharing.coerce("mmoe").to_dict()}
    assert told.n_rows == {"price": 24, "suburb": 24}
    assert (told.seeds, told.judged_on, told.left_out) == ((0, 1), "test", {})
    assert set(told.picks) == {"price", "suburb"}
    assert told.notes == (
        "still learning when the epochs were over, for half of the tasks or more: alone, run, mmoe, balancer:dwa. "
        "With another trainer.epochs these verdicts may be others",
    )


def test_the_run_is_trained_as_it_was(found: Trials) -> None:
    run = fit(ASKED)
    assert found.firsts["run"][0].predict(run._prepared and Frame(houses(160)).read()) == run.bundle.predict(
        Frame(houses(160)).read()
    )


def test_alone_is_as_a_training_with_that_task_only(found: Trials) -> None:
    asked = ASKED.model_copy(update={"sharing": Sharing.coerce("separate")})
    for task in ("price", "suburb"):
        alone, _ = train_bundle(asked, prepare(asked), tasks=[task])
        table = Frame(houses(160)).read()
        assert found.firsts["alone"][0].predict(table, [task]) == alone.predict(table, [task])


def test_what_fails_is_left_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = trials.train_bundle

    def failing(recipe: Recipe, *given: Any, **options: Any) -> Any:
        if recipe.sharing.kind == "mmoe" and options["seed"] == 1:
            raise PolytaskError("the loss is no longer finite", where="epoch 1")
        return trained(recipe, *given, **options)

    monkeypatch.setattr(trials, "train_bundle", failing)
    told = compare(ASKED, prepare(ASKED), 2, ["mmoe"], trees=False).comparison
    assert [one.name for one in told.results] == ["alone", "run"]
    assert told.left_out == {"mmoe": "its training with seed 1 failed: epoch 1: the loss is no longer finite"}


@pytest.mark.parametrize(("after", "n_seeds"), [(1, None), (5, 2)])
def test_what_was_done_before_an_interruption_is_kept(after: int, n_seeds: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def interrupted(_: str, number: int, __: int) -> None:
        nonlocal count
        count += 1
        if number > after:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"interrupted in training {after + 1} of 6, of ") as caught:
        compare(ASKED, prepare(ASKED), 3, trees=False, on_fit=interrupted)
    kept = caught.value.comparison
    assert (kept and len(kept.seeds)) == n_seeds
    assert kept is None or kept["run"].n_trainings == n_seeds


def test_one_task_cannot_be_compared_and_what_cannot_be_trained_is_told_before_any_training() -> None:
    one = ASKED.model_copy(update={"tasks": (Regression("price"),)})
    with pytest.raises(PolytaskError, match="there is one task only"):
        compare(one, prepare(one), 1)
    steps: list[str] = []
    with pytest.raises(PolytaskError, match=r"^compare, hard\(stages=9\), sharing hard: stages is 9"):
        compare(ASKED, prepare(ASKED), 1, [{"kind": "hard", "stages": 9}], on_fit=lambda name, *_: steps.append(name))
    assert steps == []

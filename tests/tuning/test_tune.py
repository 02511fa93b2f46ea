"""The search as a whole: what it draws, stops, keeps, goes on with and says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from polytask import Binary, Frame, PolytaskError, Recipe, Regression, load, tune
from polytask.fitting import row_losses
from polytask.preparation import prepare
from polytask.tuning import session
from polytask.tuning.front import front_of
from polytask.tuning.outcome import Tuning, what_mattered
from polytask.tuning.space import Space
from polytask.tuning.trials import Trial
from polytask.tuning.tune import seconds_of
from tests.houses import houses

N_TRIALS = 6
QUICK: dict[str, Any] = {"encoder": {"width": 8, "members": 2}, "trainer": {"epochs": 2, "batch_size": 64}}
LR = {"trainer.optimizer.lr": {"search": [1e-9, 1e-2], "log": True, "start": 1e-4}}


def recipe(**changes: Any) -> Recipe:
    tasks = [Regression("price"), Binary("waterfront")]
    return Recipe(sources=[Frame(houses(160))], tasks=tasks, drop=["id"], **QUICK | changes)


def alike(trials: Any) -> list[Trial]:
    """Trials but for how long they took."""
    return [replace(trial, seconds=0.0, reports=tuple(trial.reports)) for trial in trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuning, Path]:
    """A search that was not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "tuned"
    return tune(recipe(), N_TRIALS, out=out, search=LR, space="training", seeds=2), out


def test_the_best_is_the_least_and_its_recipe_trains_to_the_same_losses(whole: tuple[Tuning, Path]) -> None:
    found, out = whole
    assert [(trial.arm, trial.number) for trial in found.trials] == [
        (arm, n) for arm in ("tuned", "equal") for n in range(N_TRIALS)
    ]
    done = [trial for trial in found.trials if trial.state == "complete"]
    assert found.best.objective == min(trial.objective for trial in done if trial.objective is not None)
    assert found.best.objective == sum(found.best.losses.values()) / 2
    assert found.recipe == Recipe.from_yaml(out / "recipe.yaml").model_copy(update={"sources": found.recipe.sources})
    run = load(out / "run")
    assert run.recipe.to_dict() == found.recipe.to_dict()
    for task, loss in found.best.losses.items():
        assert min(epoch["validation"][task] for epoch in run.history) == loss


def test_with_equal_weights_the_same_is_searched_with_the_same_draws(whole: tuple[Tuning, Path]) -> None:
    found, _ = whole
    pairs = list(zip(found.trials[:N_TRIALS], found.trials[N_TRIALS:], strict=True))
    for tuned, equal in pairs:
        assert equal.values == {name: value for name, value in tuned.values.items() if "weights" not in name}
        assert "balancer.weights.price" in tuned.values
    assert pairs[0][0].losses == pairs[0][1].losses
    assert all(tuned.losses != equal.losses for tuned, equal in pairs[1:])


def test_who_is_behind_is_stopped(whole: tuple[Tuning, Path]) -> None:
    found, _ = whole
    stopped = [trial for trial in found.trials if trial.state == "pruned"]
    assert stopped
    assert {trial.epochs for trial in stopped} == {1}
    rivals = {arm: [t.reports[0] for t in found.trials if t.arm == arm] for arm in ("tuned", "equal")}
    for trial in stopped:
        assert trial.reports[0] > min(rivals[trial.arm][: trial.number])
        assert trial.rungs == {"completed_rung_0": trial.reports[0]}


def test_test_rows_judge_once_with_several_seeds(whole: tuple[Tuning, Path]) -> None:
    found, out = whole
    judged = found.judgment
    assert judged is not None
    assert judged.seeds == (0, 1)
    assert set(judged.losses) == {trial.name for trial in found.contenders.values()}
    assert sorted(path.name for path in (out / "finals").iterdir()) == sorted(
        f"{name}-seed-{seed}.safetensors" for name in judged.losses for seed in (0, 1)
    )
    again = row_losses(load(out / "run").bundle, prepare(recipe()).test)["price"]
    assert np.array_equal(judged.losses[found.best.name]["price"][0], again)
    assert all(losses["price"].shape == (2, judged.n_rows) for losses in judged.losses.values())


def test_what_is_told_and_kept(whole: tuple[Tuning, Path]) -> None:
    found, out = whole
    said = str(found)
    assert said.startswith(
        "Validation loss, in units of the best constant's; mean over price, waterfront; 6 trials of each kind\n"
    )
    assert f"\nbest with tuned weights  {found.contenders['tuned'].objective:.4f}" in said
    assert "With as many trials, that with tuned weights is" in said
    assert max(map(len, said.splitlines())) <= 100
    told = json.loads((out / "tune.json").read_text(encoding="utf-8"))
    assert (told["best"], told["trials_per_arm"]) == (found.best.name, N_TRIALS)
    assert told["improvement_in_percent"] == found.improvement
    lines = (out / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(
        "trial,state,objective,loss price,loss waterfront,epochs,seconds,encoder.dropout,trainer.optimizer.lr"
    )
    assert len(lines) == 1 + 2 * N_TRIALS
    again = yaml.safe_load((out / "search.yaml").read_text(encoding="utf-8"))
    assert again["trainer"]["optimizer"]["lr"] == LR["trainer.optimizer.lr"]


def test_it_goes_on_where_it_was_and_the_end_is_the_same(whole: tuple[Tuning, Path], tmp_path: Path) -> None:
    found, _ = whole

    def stop(trial: Trial) -> None:
        if trial.name == "equal-3":
            raise KeyboardInterrupt

    out = tmp_path / "tuned"
    with pytest.raises(
        KeyboardInterrupt, match=r"interrupted in trial 9; the 8 trials before it are kept .* same command goes on"
    ):
        tune(recipe(), N_TRIALS, out=out, search=LR, on_trial=stop)
    with (out / "trials.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"arm": "tuned", "number": 4, "val')  # as a kill in the middle of writing leaves it
    seen: list[str] = []
    again = tune(recipe(), N_TRIALS, out=out, search=LR, seeds=1, fit_best=False, on_epoch=lambda name, _: seen.append(name))
    assert alike(again.trials) == alike(found.trials)
    assert seen[0] == "tuned-4"
    assert not (out / "run").exists()


def test_killed_it_goes_on(whole: tuple[Tuning, Path], tmp_path: Path) -> None:
    found, _ = whole
    data = tmp_path / "houses.parquet"
    houses(160).to_parquet(data)
    asked = recipe().to_dict() | {"sources": [str(data)]}
    asked["trainer"]["optimizer"]["lr"] = LR["trainer.optimizer.lr"]
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(asked), encoding="utf-8")
    words = ["tune", "asked.yaml", "--trials", str(N_TRIALS), "--no-fit", "--seeds", "1"]
    command = [sys.executable, "-m", "polytask", *words]
    log, env = tmp_path / "tuned" / "trials.jsonl", os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (log.is_file() and log.read_text(encoding="utf-8").count("\n") >= 4):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    n_kept = log.read_text(encoding="utf-8").count("\n") - 1
    assert process.returncode == -signal.SIGKILL
    assert 3 <= n_kept < 2 * N_TRIALS
    fresh: list[str] = []
    again = tune(
        tmp_path / "asked.yaml",
        N_TRIALS,
        out=tmp_path / "tuned",
        fit_best=False,
        seeds=1,
        on_epoch=lambda n, _: fresh.append(n),
    )
    assert len({name for name in fresh if name.startswith(("tuned", "equal"))}) == 2 * N_TRIALS - max(n_kept, 2) - (n_kept < 2)
    assert alike(again.trials) == alike(found.trials)


def test_another_search_is_refused_there(whole: tuple[Tuning, Path], tmp_path: Path) -> None:
    _, out = whole
    other = Recipe(**{**dict(recipe()), "sources": [Frame(houses(160, seed=1))]})
    for asked, told in (
        (recipe(seed=1), r"a search of another recipe \(seed\)\. Give the recipe and the data that it was begun with"),
        (recipe(sharing="mmoe"), r"another recipe \(sharing\)"),
        (other, r"another data \(frame\)"),
    ):
        with pytest.raises(PolytaskError, match=told):
            tune(asked, N_TRIALS, out=out, search=LR)
    with pytest.raises(PolytaskError, match=r"another pareto"):
        tune(recipe(), N_TRIALS, out=out, search=LR, pareto=True)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(PolytaskError, match="the folder holds something else than a search"):
        tune(recipe(), 1, out=tmp_path)
    with pytest.raises(PolytaskError, match="is a file, not a folder"):
        tune(recipe(), 1, out=tmp_path / "mine.txt")


def test_a_damaged_file_and_another_writer_are_told(tmp_path: Path) -> None:
    out = tmp_path / "tuned"

    def also_write(trial: Trial) -> None:
        with (out / "trials.jsonl").open("a", encoding="utf-8") as file:
            file.write("{}\n")

    with pytest.raises(PolytaskError, match="another process writes its trials here"):
        tune(recipe(), 2, out=out, on_trial=also_write)
    with pytest.raises(PolytaskError, match="the file of trials is damaged"):
        tune(recipe(), 2, out=out)
    assert len(tune(recipe(), 1, out=out, overwrite=True, fit_best=False, baseline=False, seeds=1).trials) == 1


def test_where_the_time_is_over_what_was_found_is_told(tmp_path: Path) -> None:
    found = tune(recipe(), 3, 0.001, tmp_path / "tuned", fit_best=False)
    assert [trial.name for trial in found.trials] == ["tuned-0", "equal-0"]
    assert found.judgment is None  # there is nothing to compare
    assert "No trial has a lower validation loss than the default recipe: the search improved nothing." in str(found)
    assert "the time was enough for 1 of 3 trials with tuned weights; the same command with more goes on" in found.notes
    more = tune(recipe(), 2, out=tmp_path / "tuned", fit_best=False, seeds=1)
    assert [trial.name for trial in more.trials] == ["tuned-0", "tuned-1", "equal-0", "equal-1"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("2h30m", 9000), (7, 7)])
def test_times_are_read(text: str | float, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budget": "30"}, "budget: this is no time. Found: '30'. Write it as 90s, 30m, 2h or 1h30m."),
        ({"budget": "half an hour"}, "budget: this is no time."),
        ({"budget": "0s"}, "budget: there is no time in it."),
        ({"trials": 0}, "trials: at least one is needed. Found: 0."),
        ({"choose": "tuned-1"}, "choose: only of a front can a trial be chosen"),
        ({"pareto": True, "choose": "prise=2"}, "choose: no task 'prise'. Did you mean 'price'?"),
        ({"pareto": True, "choose": "price=much"}, "choose: not a weight of task 'price'. Found: 'much'."),
        ({"pareto": True, "choose": "price=1,waterfront"}, "choose: 'waterfront' says no weight. Write it as"),
        ({"pareto": True, "choose": "tuned-9", "trials": 1}, "choose: no complete trial 'tuned-9'. Did you mean 'tuned-0'?"),
        ({"space": "given"}, "space: nothing is to be searched. Found: given."),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(PolytaskError) as error:
        tune(recipe(), **{"trials": 3, "fit_best": False, **options})
    assert told in str(error.value)


def test_a_front_needs_two_tasks() -> None:
    with pytest.raises(PolytaskError, match=r"pareto: a front needs two tasks at least\. Found: price\."):
        tune(recipe(primary=["price"]), 1, pareto=True)


def test_without_validation_rows_nothing_can_be_chosen() -> None:
    with pytest.raises(PolytaskError, match="no validation row has a label to choose by"):
        tune(recipe(split={"validation": 0.0}), 1)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PolytaskError, match=r'a search needs the package .*\. Install it: pip install "polytask\[tune\]"'):
        tune(recipe(), 1)


def test_the_whole_front_is_searched_drawn_and_chosen_from(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"out": tmp_path / "tuned", "pareto": True, "seeds": 1, "fit_best": False, "search": LR}
    found = tune(recipe(), 4, **asked)
    assert {trial.state for trial in found.trials} == {"complete"}
    assert list(found.front) == front_of(found.trials, ["price", "waterfront"])
    for trial in found.front:
        assert not any(all(other.losses[task] < trial.losses[task] for task in trial.losses) for other in found.trials)
    assert found.best.objective == min(trial.objective or 9.0 for trial in found.trials)
    assert "on the front, which no other beats for every task" in str(found)
    drawn = (tmp_path / "tuned" / "front.svg").read_text(encoding="utf-8")
    assert ">price</text>" in drawn
    assert f"chosen: {found.best.name}</text>" in drawn
    by_price = tune(recipe(), 4, **asked, choose={"price": 1, "waterfront": 0})
    assert by_price.best.losses["price"] == min(trial.losses["price"] for trial in found.trials)
    named = tune(recipe(), 4, **asked, choose="tuned-3")
    seen = [set(each.judgment.losses if each.judgment else ()) for each in (found, by_price, named)]
    earlier = sorted((seen[0] | seen[1]) - seen[2])
    told = f"the test rows judged earlier results of this search too: {', '.join(earlier)}. Who chooses"
    assert any(note.startswith(told) for note in named.notes) == bool(earlier)
    assert alike(named.trials) == alike(found.trials)


def test_trials_that_fail_are_left_out_and_data_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n_prepared: list[Recipe] = []

    def counted(asked: Recipe) -> Any:
        n_prepared.append(asked)
        return prepare(asked)

    monkeypatch.setattr(session, "prepare", counted)
    given = {"sharing.stages": {"search": [0, 3], "start": 0}, "tasks.price.weight": {"search": [0.5, 2.0]}}
    found = tune(recipe(), 5, search=given, space="given", seeds=1, fit_best=False)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert all(trial.values["sharing.stages"] == 3 for trial in failed)
    assert any("trials with tuned weights failed, the first of them: sharing hard: stages is 3" in note for note in found.notes)
    assert len(n_prepared) == 1
    with pytest.raises(PolytaskError, match="stages is 3, but the encoder has 1"):  # the recipe itself
        tune(recipe(sharing={"kind": "hard", "stages": 3}), 2)


def test_primary_tasks_alone_make_the_objective_and_one_task_needs_no_baseline() -> None:
    found = tune(recipe(primary=["price"]), 1, seeds=1, fit_best=False, space="network")
    assert found.judges == ("price",)
    assert found.best.objective == found.best.losses["price"]
    alone = Recipe(sources=[Frame(houses(160))], tasks=[Regression("price")], drop=["id"], **QUICK)
    said = tune(alone, 1, seeds=1, fit_best=False)
    assert [trial.arm for trial in said.trials] == ["tuned"]
    assert said.notes == ("no weights of tasks are searched, so there are no trials with equal weights to compare with",)
    assert "best with" not in str(said)


def test_a_balancer_of_the_recipes_is_compared_with_equal_weights_by_its_name() -> None:
    found = tune(recipe(balancer="uncertainty"), 1, seeds=1, fit_best=False)
    assert [trial.arm for trial in found.trials] == ["tuned", "equal"]
    assert found.trials[0].losses != found.trials[1].losses
    assert "\nbest with uncertainty  " in str(found)


def test_what_mattered_stands_out_from_chance() -> None:
    space = Space.of(recipe(), {"encoder.dropout": {"search": [0.0, 0.5]}, **LR})
    values = [(0.5 * (i * 7 % 60) / 60, 10 ** (-9 + 7 * i / 60)) for i in range(60)]
    trials = [
        Trial("tuned", i, {"encoder.dropout": d, "trainer.optimizer.lr": lr}, "complete", {}, abs(i - 50) / 50, 1, 1.0)
        for i, (d, lr) in enumerate(values)
    ]
    first, second = what_mattered(space, trials, trials[50])
    assert (first.name, first.importance > first.chance, second.importance < second.chance) == (
        "trainer.optimizer.lr",
        True,
        True,
    )
    assert (first.first, first.best) == (values[0][1], values[50][1])
    assert what_mattered(space, trials[:10], trials[0]) == ()

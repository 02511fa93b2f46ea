"""`polytask tune`."""

from __future__ import annotations

import signal
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from polytask.cli.progress import TuneProgress
from polytask.training import Epoch
from polytask.tuning.trials import Trial
from tests.cli.command import TASKS, done, mistake, polytask, write_houses

SMALL = ["--epochs", "1", "--set", "encoder.members=2", "--set", "encoder.width=8"]
TUNE = ["tune", "houses.csv", *TASKS, *SMALL]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_houses(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_data_files_and_tasks_are_tuned_and_the_recipe_is_fitted() -> None:
    said = done(*TUNE, "--trials", "2", "--seeds", "1", "--set", "encoder.depth={search: [1, 3]}")
    assert said.startswith("task 'price' is taken for regression: ")
    assert "\ntrial 1 of at most 4  tuned-0  " in said
    assert "\ntrial 4 of at most 4  equal-1  " in said
    assert "\nthe best recipe\n" in said
    assert "\nbest with equal weights  " in said
    assert "\nsaved in tuned: recipe.yaml, tune.json, trials.csv, run\nnext: polytask show tuned/run\n" in said
    assert max(map(len, said.splitlines())) <= 100
    assert "depth:\n    search:\n    - 1\n    - 3\n    start: 1\n" in Path("tuned/search.yaml").read_text(encoding="utf-8")
    assert "Scores on the test rows" in done("fit", "tuned/recipe.yaml")
    again = done(*TUNE, "--trials", "2", "--seeds", "1", "--set", "encoder.depth={search: [1, 3]}")
    assert again[again.index("\nValidation loss") :] == said[said.index("\nValidation loss") :]
    assert "trial 1 of" not in again
    assert "recipe (trainer)" in mistake(*TUNE, "--trials", "2", "--set", "trainer.clip=2")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "encoder.width={search: [9, 8]}"], "encoder.width.search: the range is empty. Found: [9, 8]."),
        (["--set", "encoder.widht={search: [8, 9]}"], "no field 'widht'. Did you mean 'width'?"),
        (["--set", "sharing={search: [hard, mmo]}"], "sharing, with mmo: no sharing of kind 'mmo'. Did you mean 'mmoe'?"),
        (["--budget", "soon"], "budget: this is no time. Found: 'soon'. Write it as 90s, 30m, 2h or 1h30m."),
        (["--space", "al"], "space: no space 'al'. Did you mean 'all'?"),
        (["--choose", "tuned-1"], "choose: only of a front can a trial be chosen. Found: 'tuned-1'. Add --pareto"),
        (["--out", "houses.csv"], "is a file, not a folder for a search."),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(words: list[str], told: str) -> None:
    assert told in mistake(*TUNE, *words)
    assert not Path("tuned").exists()


def test_a_recipe_to_be_tuned_is_told_by_its_file() -> None:
    text = "sources: [houses.csv]\ntasks: [{kind: regression, name: price}]\nencoder: {width: {search: [8, 4]}}\n"
    Path("asked.yaml").write_text(text, encoding="utf-8")
    assert mistake("fit", "asked.yaml").startswith(
        "asked.yaml, encoder.width: the recipe says what to search here, not a value. `polytask tune` finds one"
    )
    assert mistake("tune", "asked.yaml").startswith("asked.yaml, encoder.width.search: the range is empty.")
    assert "no file 'askd.yaml'" in mistake("tune", "askd.yaml")
    assert "a recipe says this already: --task" in mistake("tune", "asked.yaml", "--task", "price")


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = TuneProgress.trial

    def stop(progress: TuneProgress, each: Trial) -> None:
        trial(progress, each)
        if progress.done == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TuneProgress, "trial", stop)
    answer = polytask(*TUNE, "--trials", "2")
    kept = Path("tuned").absolute()
    assert answer.code == 130
    assert answer.err == f"interrupted in trial 4; the 3 trials before it are kept in {kept}: the same command goes on\n"
    assert (kept / "trials.csv").is_file()
    monkeypatch.undo()
    monkeypatch.chdir(kept.parent)
    said = done(*TUNE, "--trials", "2", "--no-fit", "--seeds", "1")
    assert "\ngoing on with 3 trials done before\ntrial 4 of at most 4  equal-1  " in said
    assert "\nnext: polytask fit tuned/recipe.yaml --out run/\n" in said


def test_in_a_terminal_there_is_a_bar_with_the_best_so_far() -> None:
    text = StringIO()
    with TuneProgress(4, Console(file=text, force_terminal=True, width=100)) as progress:
        for number in range(2):
            progress.epoch(f"tuned-{number}", Epoch(1, 2, 0.1, 1e-3, {"a": 1.0}, {"a": 0.5}, 0.5, {}, ("a",)))
            progress.trial(Trial("tuned", number, {}, "complete", {"a": 0.5 + number}, 0.5 + number, 2, 1.0))
        progress.epoch("tuned-2", Epoch(1, 2, 0.1, 1e-3, {"a": 1.0}, {"a": 0.75}, 0.75, {}, ("a",)))
        assert progress.display is not None
        progress.display.live.refresh()
    said = text.getvalue()
    assert "trial 1 of at most 4  tuned-0  0.5000, the best so far" in said
    assert "trial 2 of at most 4  tuned-1  1.5000 (best 0.5000)" in said
    assert "best 0.5000 (tuned-0)" in said
    assert "tuned-2: epoch   1  mean 0.7500  a 0.7500" in said

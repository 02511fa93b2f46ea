"""`polytask fit --folds`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from polytask import Recipe, cross_validate, load
from polytask.cli.progress import FitProgress, FoldsProgress
from polytask.training import Epoch
from tests.cli.command import LABELS, TASKS, done, mistake, polytask, write_houses

FIT = ["fit", "houses.csv", *TASKS, "--epochs", "2", "--set", "encoder.width=8"]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_houses(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_with_out_the_run_is_saved_and_the_folds_beside_it() -> None:
    said = done(*FIT, "--out", "alone")
    both = done(*FIT, "--folds", "3", "--out", "run")
    assert both.index("saved in run\n") < both.index("\nfold 1 of 3  price r2 ")
    assert "\nScores over 3 folds, each judged by the network that has not seen it\ntask        metric " in both
    assert both.endswith("\nsaved in run/folds.json\n" + said[said.index("next:") :].replace("alone", "run"))
    assert load("run").scores().to_dict() == load("alone").scores().to_dict()
    expected = cross_validate(Recipe.from_yaml("run/recipe.yaml"), 3)
    assert json.loads(Path("run/folds.json").read_text(encoding="utf-8")) == expected.to_dict()
    assert str(expected) in both
    assert max(map(len, both.splitlines())) <= 100


def test_without_out_nothing_is_kept() -> None:
    said = done(*FIT, "--folds", "2")
    assert "no network is kept; with --out FOLDER one is trained" in said
    assert "saved in" not in said
    assert "Scores on the test rows" not in said
    assert sorted(path.name for path in Path().iterdir()) == ["houses.csv", "new.csv"]


def test_a_test_file_judges_the_run_and_no_fold() -> None:
    said = done(*FIT, "--folds", "2", "--out", "run", "--test", "houses.csv")
    assert "rows: 136 training, 24 validation, 160 test" in said
    kept = json.loads(Path("run/folds.json").read_text(encoding="utf-8"))
    assert kept["n_rows"] == dict.fromkeys(LABELS, 160)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folds", "1"], "folds: at least two folds are needed. Found: 1. Ask for 5 or 10."),
        (["--folds", "161"], "split: too few rows for 161 folds. Found: 160 rows. Give more rows, or ask for fewer folds."),
        (["--folds", "4", "--group", "suburb"], "split.group: too few groups for 4 folds. Found: 3 groups."),
        (["--folds", "4", "--time", "sold"], "split.time: rows in the order of time have no folds."),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(words: list[str], told: str) -> None:
    assert told in mistake(*FIT, *words, "--out", "run")
    assert not Path("run").exists()
    assert told in mistake(*FIT, *words)


def interrupt_in(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C in the training of a fold."""

    def epoch(_: FoldsProgress, fold: int, __: Epoch) -> None:
        if fold == number:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FoldsProgress, "epoch", epoch)


def test_an_interrupt_says_what_is_lost_and_what_not(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_in(monkeypatch, 2)
    answer = polytask(*FIT, "--folds", "3", "--out", "run")
    assert answer.code == 130
    lost = "interrupted in fold 2 of 3; the scores of those before it are above; "
    assert answer.err == lost + "the run in run is saved, without folds.json\n"
    assert "\nfold 1 of 3  price r2 " in answer.out
    assert load("run").scores()
    assert not Path("run/folds.json").exists()
    answer = polytask(*FIT, "--folds", "3")
    assert (answer.code, answer.err) == (130, lost + "nothing was to be saved\n")


def test_an_interrupt_of_the_first_training_says_that_no_fold_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FitProgress, "__call__", lambda *_: signal.raise_signal(signal.SIGINT))
    answer = polytask(*FIT, "--folds", "3", "--out", "run")
    assert answer.code == 130
    run = Path("run").absolute()
    assert answer.err == (
        f"stopped by SIGINT; the training is saved: `polytask resume {run}` goes on with it, without the folds; "
        "after it, `polytask fit run/recipe.yaml --folds 3` trains these\n"
    )
    monkeypatch.undo()
    monkeypatch.chdir(run.parent)
    done("resume", "run")
    assert "Scores over 3 folds" in done("fit", "run/recipe.yaml", "--folds", "3")


@pytest.fixture
def _full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, text: str, **options: str) -> int:
        if "folds.json" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)


@pytest.mark.usefixtures("_full_disk")
def test_what_cannot_be_written_is_printed_all_the_same() -> None:
    answer = polytask(*FIT, "--folds", "2", "--out", "run")
    assert answer.code == 2
    assert answer.err.startswith("error: run/folds.json: cannot be written. Found: No space left on device. Make room")
    assert "Scores over 2 folds" in answer.out
    assert load("run").scores()
    assert not list(Path("run").glob("*folds.json*"))

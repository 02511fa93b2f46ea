"""What is said while a network trains."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from polytask.cli.progress import N_LINES, CompareProgress, FitProgress, FoldsProgress
from polytask.scores import Score, Scores, TaskScores
from polytask.training import Epoch


def epoch(
    number: int,
    loss: float,
    best: bool,
    validation: bool = True,
    tasks: tuple[str, ...] = ("price", "condition"),
    last: int = 200,
) -> Epoch:
    losses = {task: loss + index for index, task in enumerate(tasks)}
    mean = sum(losses.values()) / len(losses)
    judged = (losses, mean) if validation else ({}, None)
    return Epoch(number, last, float(number), 1e-3, losses, *judged, weights={}, best=tasks if best else ())


def said(n_epochs: int, n_done: int, terminal: bool = False, **options: bool) -> str:
    """What is said of a training that stops after ``n_done`` of at most ``n_epochs`` epochs; the second is the best."""
    text = StringIO()
    with FitProgress(Console(file=text, force_terminal=terminal, width=100)) as progress:
        for number in range(1, n_done + 1):
            progress(epoch(number, 0.5 if number == 2 else 0.75, number <= 2, last=n_epochs, **options))
    return text.getvalue()


def test_every_epoch_of_a_short_training_is_told() -> None:
    assert said(3, 3) == (
        "Losses on the validation rows, divided by that of the best constant (1 knows nothing)\n"
        "epoch   1  mean 1.2500  price 0.7500  condition 1.7500\n"
        "epoch   2  mean 1.0000  price 0.5000  condition 1.5000\n"
        "epoch   3  mean 1.2500  price 0.7500  condition 1.7500  (best: epoch 2)\n"
        "best epoch 2 of 3, 3.0 s\n"
    )


def test_each_task_has_its_best_epoch() -> None:
    text = StringIO()
    with FitProgress(Console(file=text, width=100)) as progress:
        for number, best in enumerate([("price", "condition"), ("price",), ()], start=1):
            progress(replace(epoch(number, 0.5, True, last=3), best=best))
    assert "epoch   2  mean 1.0000  price 0.5000  condition 1.5000  (best: epochs 1 to 2)" in text.getvalue()
    assert text.getvalue().endswith("best epochs 1 to 2 of 3, 3.0 s: price 2, condition 1\n")


def test_how_many_rows_a_second() -> None:
    for rows in ("rows", "images"):
        text = StringIO()
        with FitProgress(Console(file=text, width=100), rows) as progress:
            for number in (1, 2):
                progress(replace(epoch(number, 0.5, True), rows=4500))
        assert text.getvalue().endswith(f"best epoch 2 of 2, 2.0 s, 4,500 {rows}/s\n")


@pytest.mark.parametrize(("n_epochs", "n_done"), [(200, 200), (200, 47), (15, 15), (11, 11), (200, 1), (20, 20)])
def test_the_first_some_and_the_last_epoch_are_told(n_epochs: int, n_done: int) -> None:
    lines = [int(line.split()[1]) for line in said(n_epochs, n_done).splitlines() if line.startswith("epoch ")]
    assert lines[0] == 1
    assert lines[-1] == n_done
    assert lines == sorted(set(lines))
    assert len(lines) <= N_LINES + 2


def test_without_validation_rows_the_training_losses_are_told() -> None:
    text = said(2, 2, validation=False)
    assert text.startswith("Losses on the training rows, ")
    assert "epoch   1  mean 1.2500  price 0.7500" in text


def test_many_tasks_are_folded() -> None:
    text = StringIO()
    with FitProgress(Console(file=text, width=100)) as progress:
        progress(epoch(1, 0.5, True, tasks=tuple(f"a task {index}" for index in range(30))))
    assert max(map(len, text.getvalue().splitlines())) <= 100
    assert "29.5000" in text.getvalue()


def test_a_terminal_shows_a_bar_and_the_last_losses_stay() -> None:
    text = said(200, 5, terminal=True)
    assert "epoch 5 of at most 200" in text
    assert "left" in text
    assert text.endswith("condition 1.7500  (best: epoch 2)\nbest epoch 2 of 5, 5.0 s\n")


def interrupted(n_done: int, console: Console) -> None:
    with FitProgress(console) as progress:
        for number in range(1, n_done + 1):
            progress(epoch(number, 0.5, True))
        raise KeyboardInterrupt


def test_an_interrupt_leaves_the_last_losses_and_says_nothing_of_a_best_epoch() -> None:
    text = StringIO()
    with pytest.raises(KeyboardInterrupt):
        interrupted(3, Console(file=text, width=100))
    assert text.getvalue().splitlines()[-1].startswith("epoch   3  mean")


def test_nothing_is_said_of_a_training_that_never_began() -> None:
    assert said(5, 0) == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_comparing_names_every_training(terminal: bool) -> None:
    text = StringIO()
    with CompareProgress(Console(file=text, force_terminal=terminal, width=100)) as progress:
        progress("all together", 1, 2)
        progress("price", 2, 2)
    assert "training 2 of 2" in text.getvalue()
    assert "price" in text.getvalue()
    assert terminal or text.getvalue() == "training 1 of 2: all together\ntraining 2 of 2: price\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_every_fold_is_told_by_the_first_metric_of_its_tasks(terminal: bool) -> None:
    text = StringIO()
    score = Score(0.25, 0.2, 0.3, 0.0, True)
    price = TaskScores("price", "regression", 9, {"r2": score, "rmse": score})
    with FoldsProgress(2, Console(file=text, force_terminal=terminal, width=100)) as progress:
        for number in (1, 2):
            progress.epoch(number, epoch(1, 0.5, True))
            progress.fold(number, Scores({"price": price, "unscored": TaskScores("unscored", "regression", 9, {})}))
    assert progress.done == 2
    assert ("mean 1.0000  price 0.5000" in text.getvalue()) == terminal
    assert "fold 2 of 2  price r2 0.25\n" in text.getvalue()
    assert terminal or text.getvalue() == "fold 1 of 2  price r2 0.25\nfold 2 of 2  price r2 0.25\n"

"""What is said while a network trains: a live display in a terminal, a line every so often elsewhere."""

from __future__ import annotations

import math
import textwrap
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from polytask.errors import counted, listed

if TYPE_CHECKING:
    from polytask.scores import Scores
    from polytask.training import Epoch
    from polytask.tuning.trials import Trial

N_LINES = 10
WIDTH = 100


class _Shown:
    """Has a display in a terminal, and none elsewhere; it is gone at the end of ``with``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.display = _Display(console) if console.is_terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.display is not None:
            self.display.live.stop()

    def _say(self, text: str) -> None:
        line = textwrap.fill(text, WIDTH, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class FitProgress(_Shown):
    """Follows one training; call it after every epoch, inside ``with``.

    Args:
        console: Where to say it.
        rows: What rows are, where it is told how many a second are trained on.
    """

    def __init__(self, console: Console, rows: str = "rows") -> None:
        super().__init__(console)
        self.unit = f"{rows}/s"
        self.latest: Epoch | None = None
        self.best: dict[str, int] = {}  # the best epoch so far of each task
        self.rows = 0  # that were trained on
        self.said = 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        if self.latest is None:
            return
        if self.said != self.latest.epoch:
            self._say(self._losses(self.latest))
        if kind is None:
            each = "" if self._best().startswith("epoch ") else f": {listed(f'{task} {n}' for task, n in self.best.items())}"
            self._say(f"best {self._best()} of {self.latest.epoch}, {self.latest.seconds:.1f} s{self._rate()}{each}")

    def __call__(self, epoch: Epoch) -> None:
        """Take in an epoch."""
        if self.latest is None:
            rows = "validation" if epoch.validation else "training"
            self._say(f"Losses on the {rows} rows, divided by that of the best constant (1 knows nothing)")
        self.latest = epoch
        self.rows += epoch.rows
        self.best |= dict.fromkeys(epoch.best, epoch.epoch)
        if self.display is not None:
            words = f"epoch {epoch.epoch} of at most {epoch.last}{self._rate()}"
            self.display.show(words, epoch.epoch, epoch.last, self._losses(epoch))
        elif epoch.epoch == 1 or epoch.epoch % math.ceil(epoch.last / N_LINES) == 0:
            self._say(self._losses(epoch))
            self.said = epoch.epoch

    def _rate(self) -> str:
        """How many rows a second were trained on so far, all else that a training does included."""
        if self.latest is None or not self.rows or not self.latest.seconds:
            return ""
        return f", {self.rows / self.latest.seconds:,.0f} {self.unit}"

    def _losses(self, epoch: Epoch) -> str:
        """The losses of an epoch on a line, and the best epoch so far."""
        best = f"  (best: {self._best()})" if self.best and set(epoch.best) != set(self.best) else ""
        return f"{_losses_of(epoch)}{best}"

    def _best(self) -> str:
        """The best epoch, or the first and the last of those that are best for some task."""
        first, last = (least(self.best.values(), default=0) for least in (min, max))
        return f"epoch {last}" if first == last else f"epochs {first} to {last}"


class FoldsProgress(_Shown):
    """Follows the trainings of a cross-validation: ``epoch`` after each of their epochs, ``fold`` when a fold has judged.

    Args:
        n_folds: How many there are.
        console: Where to say it.

    Attributes:
        done: The folds that have judged.
    """

    def __init__(self, n_folds: int, console: Console) -> None:
        super().__init__(console)
        self.n_folds = n_folds
        self.done = 0

    def epoch(self, number: int, epoch: Epoch) -> None:
        """Take in an epoch of the training of a fold."""
        if self.display is not None:
            words, passed = f"fold {number} of {self.n_folds}", (number - 1) * epoch.last + epoch.epoch
            self.display.show(words, passed, self.n_folds * epoch.last, _losses_of(epoch))

    def fold(self, number: int, scores: Scores) -> None:
        """Take in the scores of a fold; the first metric of each task is told."""
        self.done = number
        first = [(task, *pair) for task, found in scores.items() for pair in list(found.scores.items())[:1]]
        told = "  ".join(f"{task} {metric} {score.value:.4g}" for task, metric, score in first)
        self._say(f"fold {number} of {self.n_folds}  {told}")


class CompareProgress(_Shown):
    """Follows the trainings of a comparison; call it before each, inside ``with``.

    Args:
        console: Where to say it.
    """

    def __call__(self, name: str, number: int, total: int) -> None:
        """Take in that a training begins."""
        words = f"training {number} of {total}"
        if self.display is not None:
            self.display.show(words, number - 1, total, name)
        else:
            self._say(f"{words}: {name}")


class TuneProgress(_Shown):
    """Follows a search: ``epoch`` after each epoch of its trainings, ``trial`` when a trial is done.

    Args:
        n_trials: How many there will be at most.
        console: Where to say it.
    """

    def __init__(self, n_trials: int, console: Console) -> None:
        super().__init__(console)
        self.n_trials, self.n_before, self.done = n_trials, 0, 0
        self.best: Trial | None = None
        self.training = ""

    def epoch(self, name: str, epoch: Epoch) -> None:
        """Take in an epoch of a training."""
        if self.n_before:
            self._say(f"going on with {counted(self.n_before, 'trial')} done before")
            self.n_before = 0
        if self.display is not None:
            best = "" if self.best is None else f"best {self.best.objective:.4f} ({self.best.name})\n"
            words = f"trial {self.done + 1} of at most {self.n_trials}" if self.done < self.n_trials else "final trainings"
            self.display.show(words, self.done, self.n_trials, f"{best}{name}: {_losses_of(epoch)}")
        elif name not in (self.training, "") and "-" not in name.split()[0]:
            self._say(name)
        self.training = name

    def trial(self, trial: Trial) -> None:
        """Take in a trial; those that were there before ``epoch`` was first called are only counted."""
        self.done += 1
        better = trial.state == "complete" and (self.best is None or _objective(trial) < _objective(self.best))
        self.best = trial if better else self.best
        if not self.training:
            self.n_before += 1
            return
        told = "failed" if trial.objective is None else f"{trial.objective:.4f}"
        stopped = f", stopped at epoch {trial.epochs}" if trial.state == "pruned" else ""
        best = ", the best so far" if better else "" if self.best is None else f" (best {self.best.objective:.4f})"
        self._say(f"trial {self.done} of at most {self.n_trials}  {trial.name}  {told}{stopped}{best}")


def _objective(trial: Trial) -> float:
    return math.inf if trial.objective is None else trial.objective


def _losses_of(epoch: Epoch) -> str:
    """The losses of an epoch on a line: their mean and that of each task."""
    losses = epoch.validation or epoch.training
    mean = sum(losses.values()) / len(losses) if epoch.selection is None else epoch.selection
    tasks = "  ".join(f"{task} {loss:.4f}" for task, loss in losses.items())
    return f"epoch {epoch.epoch:>3}  mean {mean:.4f}  {tasks}"


class _Display:
    """A bar with the time left, above some text; it appears when there is something to show, and leaves nothing behind."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("left"))
        self.bar = Progress(*columns, console=console)
        self.row = self.bar.add_task("")
        self.live = Live(console=console, transient=True, refresh_per_second=8)

    def show(self, words: str, done: int, total: int, text: str) -> None:
        self.bar.update(self.row, description=words, completed=done, total=total)
        self.live.update(Group(self.bar, Text(text)))
        self.live.start()

"""What a search found, and how it is told."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.errors import counted, listed
from polytask.recipe import Recipe
from polytask.seeding import derived_seed
from polytask.tuning.arms import best_of, importances
from polytask.tuning.front import front_of
from polytask.tuning.judging import Judgment
from polytask.tuning.search import text_of
from polytask.tuning.space import Space
from polytask.tuning.trials import Arm, Trial

if TYPE_CHECKING:
    from polytask.run import Run

N_SHUFFLES = 20
MIN_TRIALS = 15  # before which it is not said what mattered
MIN_SURE = 100
WIDEST = 40
MAX_COLUMNS = 6  # tasks that have a column of their own


@dataclass(frozen=True)
class Mattered:
    """How much a place had to do with being among the best trials.

    Attributes:
        name: The place.
        importance: Its share; all sum to 1.
        chance: The share that a place which does not matter reaches in one of twenty searches; from shuffled trials.
        first: Its value in the first trial; None where it was none of those searched.
        best: Its value in the best trial; None where it was no part of it.
    """

    name: str
    importance: float
    chance: float
    first: Any
    best: Any


@dataclass(frozen=True, repr=False)
class Tuning:
    """What a search found; printed as tables.

    Attributes:
        recipe: The best recipe, a plain one.
        best: Its trial.
        trials: The trials of both arms.
        space: What was searched.
        judges: The tasks whose mean loss is the objective.
        n_trials: The trials of each arm that are compared.
        contenders: The first trial ("default"), and the best of each arm ("equal" and "tuned").
        front: The trials that no other beats for every task, where the front was asked for; else none.
        mattered: What had to do with being among the best, most of all first.
        judgment: What the test rows say; None where there are none, or nothing is better than the default recipe.
        run: The best network; None where it was not asked for.
        notes: What the reader should know.
    """

    recipe: Recipe
    best: Trial
    trials: tuple[Trial, ...]
    space: Space
    judges: tuple[str, ...]
    n_trials: int
    contenders: Mapping[str, Trial]
    front: tuple[Trial, ...] = ()
    mattered: tuple[Mattered, ...] = ()
    judgment: Judgment | None = None
    run: Run | None = None
    notes: tuple[str, ...] = ()

    @property
    def improvement(self) -> float:
        """How much lower the validation loss of the best trial is than that of the default recipe, in percent."""
        return change_of(self.contenders["default"], self.best)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "best": self.best.name,
            "judges": list(self.judges),
            "trials_per_arm": self.n_trials,
            "contenders": {role: _told(trial) for role, trial in self.contenders.items()},
            "improvement_in_percent": self.improvement,
            "front": [_told(trial) for trial in self.front],
            "mattered": [asdict(each) for each in self.mattered],
            "test": None if self.judgment is None else self.judgment.to_dict(),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return f"Tuning of {len(self.trials)} trials, the best {self.best.name}\n{self}"

    def __str__(self) -> str:
        parts = [self._validation(), self._on_test(), self._front_table(), self._mattered_table()]
        parts.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(part for part in parts if part)

    @property
    def _names(self) -> Mapping[str, str]:
        """The contenders in words."""
        best = f"best with {self.space.weighing}" if "equal" in self.contenders else "best"
        return {"default": "default recipe", "equal": "best with equal weights", "tuned": best}

    def _validation(self) -> str:
        """The validation losses of the contenders, and what was gained."""
        tasks = self._columns()
        several = len(self.judges) > 1
        rows = [["", *(["mean"] if several else []), *tasks, "epochs", "trial"]]
        shown = {name: self.contenders[role] for role, name in self._names.items() if role in self.contenders}
        if self.best.name not in {trial.name for trial in shown.values()}:
            shown["best of all"] = self.best  # where the time ended between the two arms
        for name, trial in shown.items():
            if trial.objective is not None:
                losses = [f"{trial.losses[task]:.4f}" for task in tasks]
                rows.append([name, *([f"{trial.objective:.4f}"] if several else []), *losses, str(trial.epochs), trial.name])
        of = f"; mean over {listed(self.judges)}" if several else ""
        each = " of each kind" if "equal" in self.contenders else ""
        title = f"Validation loss, in units of the best constant's{of}; {counted(self.n_trials, 'trial')}{each}"
        return "\n".join([*_wrapped(title), *_table(rows), *_wrapped(self._gain())])

    def _columns(self) -> Sequence[str]:
        """The tasks that have a column of their own: not where there are many."""
        return self.judges if len(self.judges) <= MAX_COLUMNS else ()

    def _gain(self) -> str:
        """In words, whether it was worth it."""
        gain, default = self.improvement, self.contenders["default"]
        if self.best.number == 0 and self.best.losses == default.losses:
            return "No trial has a lower validation loss than the default recipe: the search improved nothing."
        if gain <= 0:
            said = f"The chosen trial has a mean validation loss {-gain:.1f} % above the default recipe's."
        else:
            said = f"The search lowered the validation loss by {gain:.1f} %."
        if "equal" in self.contenders and "tuned" in self.contenders and not self.front:
            own = change_of(self.contenders["equal"], self.contenders["tuned"])
            more = f"{own:.1f} % lower than" if own > 0 else f"{-own:.1f} % higher than" if own < 0 else "as high as"
            said += f" With as many trials, that with {self.space.weighing} is {more} that with equal weights."
        return said + " These rows chose among the trials, so their losses are too low: see the test rows."

    def _on_test(self) -> str:
        """What the test rows say of the contenders."""
        judged = self.judgment
        if judged is None:
            return ""
        seeds = f"mean over the seeds {listed(judged.seeds)}" if len(judged.seeds) > 1 else f"seed {judged.seeds[0]}"
        lines = _wrapped(f"Loss on the {judged.n_rows:,} test rows, which chose nothing; {seeds}")
        pairs = [(self.contenders["default"], self.best, "default", "best")]
        if "equal" in self.contenders and "tuned" in self.contenders:
            pairs.append((self.contenders["equal"], self.contenders["tuned"], "equal", "tuned"))
        for before, after, *names in pairs:
            if before.name != after.name:
                rows = _table([["task", *names, "change", "95 % interval", ""], *_changes(judged, before.name, after.name)])
                lines += [*rows, *_wrapped(_verdict(judged, before.name, after.name)), ""]
        if len(judged.seeds) == 1:
            lines += _wrapped("One seed only: the intervals do not know how much another training would differ.")
        return "\n".join(lines).rstrip() if len(lines) > 2 else ""

    def _front_table(self) -> str:
        if not self.front:
            return ""
        by_arm = {arm: sum(trial.arm == arm for trial in self.front) for arm in ("tuned", "equal")}
        own, equal = f"{by_arm['tuned']} with {self.space.weighing}", f"{by_arm['equal']} with equal weights"
        split = f": {own}, {equal}" if "equal" in self.contenders else ""
        title = f"{counted(len(self.front), 'trial')} on the front, which no other beats for every task{split}"
        tasks = self._columns()
        rows = [["trial", *tasks, "mean", ""]]
        for trial in self.front:
            mark = "chosen" if trial.name == self.best.name else ""
            rows.append([trial.name, *(f"{trial.losses[task]:.4f}" for task in tasks), f"{trial.objective:.4f}", mark])
        return "\n".join([*_wrapped(title), *_table(rows)])

    def _mattered_table(self) -> str:
        if not self.mattered:
            return ""
        n_trials = sum(trial.arm == "tuned" and trial.objective is not None for trial in self.trials)
        rows = [["what mattered", "share", "by chance", "default", "best"]]
        rows += [[m.name, f"{m.importance:.2f}", f"{m.chance:.2f}", _value(m.first), _value(m.best)] for m in self.mattered]
        few = f"{n_trials} trials are few: take it for a hint. " if n_trials < MIN_SURE else ""
        said = "By chance: what a field that does not matter reaches in one search of twenty (shuffled trials)."
        none = " No field stands out from chance." if all(m.importance <= m.chance for m in self.mattered) else ""
        return "\n".join([*_table(rows), *_wrapped(few + said + none)])


def change_of(before: Trial, after: Trial) -> float:
    """How much lower the objective is, in percent."""
    assert before.objective is not None
    assert after.objective is not None
    return 100 * (before.objective - after.objective) / abs(before.objective) if before.objective else 0.0


def contenders_of(trials: Sequence[Trial]) -> dict[str, Trial]:
    """The first trial, and the best of each arm that was searched."""
    found = {"default": next(trial for trial in trials if trial.name == "tuned-0")}
    for arm in ("equal", "tuned"):
        own = [trial for trial in trials if trial.arm == arm]
        found |= {arm: best_of(own)} if own else {}
    return found


def what_mattered(space: Space, trials: Sequence[Trial], best: Trial) -> tuple[Mattered, ...]:
    """The places by importance, over the complete trials and those that were stopped; none where there are few.

    A trial that was stopped was not among the best, and by what it had reached it is not taken for one.
    """
    known = [trial for trial in trials if trial.objective is not None]
    if len(known) < MIN_TRIALS or len({name for trial in known for name in trial.values}) < 2:
        return ()
    worst = max(trial.objective or 0.0 for trial in known)
    values = [t.objective if t.state == "complete" else max(worst, t.objective or 0.0) for t in known]
    plain = [float(value or 0.0) for value in values]
    found = importances(space, known, plain)
    draw = random.Random(derived_seed(space.base.seed, "shuffles"))
    shuffled = [importances(space, known, draw.sample(plain, len(plain))) for _ in range(N_SHUFFLES)]
    chance = {name: float(np.quantile([each.get(name, 0.0) for each in shuffled], 0.95)) for name in found}
    first = next((trial.values for trial in known if trial.number == 0), {})
    return tuple(Mattered(name, share, chance[name], first.get(name), best.values.get(name)) for name, share in found.items())


def notes_of(trials: Sequence[Trial], n_wanted: int, arms: Sequence[Arm], weighing: str) -> Iterator[str]:
    """What is to be said of how the search went."""
    for arm in arms:
        own = [trial for trial in trials if trial.arm == arm]
        counts = {state: sum(trial.state == state for trial in own) for state in ("pruned", "failed")}
        kind = "" if len(arms) == 1 else f" with {weighing}" if arm == "tuned" else " with equal weights"
        if len(own) < n_wanted:
            yield f"the time was enough for {len(own)} of {n_wanted} trials{kind}; the same command with more goes on"
        if counts["pruned"]:
            yield f"{counts['pruned']} of {len(own)} trials{kind} were stopped early, where others were better at that epoch"
        if counts["failed"]:
            why = next(trial.why for trial in own if trial.state == "failed")
            yield f"{counts['failed']} of {len(own)} trials{kind} failed, the first of them: {why}"


def front_for(trials: Sequence[Trial], judges: Sequence[str]) -> tuple[Trial, ...]:
    """The front over the tasks that are objectives."""
    return tuple(front_of(trials, judges))


def _changes(judged: Judgment, before: str, after: str) -> Iterator[list[str]]:
    """A row per task: its loss before and after, and whether that can be told from chance."""
    words = {"helped": "better", "hurt": "worse"}
    found = judged.against(before, after)
    for task, told in found.items():
        span = f"{told.change_low:+.1f} % to {told.change_high:+.1f} %"
        verdict = words.get(told.verdict, told.verdict)
        yield [task, f"{told.alone:.4f}", f"{told.together:.4f}", f"{told.change:+.1f} %", span, verdict]
    if len(found) > 1:
        one, two = (float(np.mean([judged.mean(trial, task) for task in found])) for trial in (before, after))
        yield ["mean", f"{one:.4f}", f"{two:.4f}", f"{100 * (two / one - 1):+.1f} %", "", ""]


def _verdict(judged: Judgment, before: str, after: str) -> str:
    """For how many tasks it was worth it."""
    found = [told.verdict for told in judged.against(before, after).values()]
    words = {"helped": "better for", "hurt": "worse for", "can't tell": "not to be told from chance for"}
    counts = [f"{said} {found.count(verdict)}" for verdict, said in words.items() if verdict in found]
    return f"Of {counted(len(found), 'task')}: {', '.join(counts)}."


def _told(trial: Trial) -> dict[str, Any]:
    return {"trial": trial.name, "objective": trial.objective, "losses": dict(trial.losses), "values": dict(trial.values)}


def _value(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value) if isinstance(value, str) else text_of(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{cell:{'<' if i == 0 else '>'}{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)

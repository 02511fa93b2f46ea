"""One session of a search: it makes the trials that are not there yet, and then the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from polytask.bundle import Bundle
from polytask.checkpoint import Stopped
from polytask.errors import PolytaskError, listed
from polytask.experiment import fit, resume
from polytask.preparation import Prepared, preparation_key, prepare, with_tasks
from polytask.recipe import Recipe
from polytask.run import Run, load
from polytask.run_folder import RECIPE, is_unfinished, write_whole
from polytask.training import Epoch
from polytask.tuning.arms import Late, best_of, next_trial
from polytask.tuning.front import chosen_of, draw_front
from polytask.tuning.judging import Contender, Judgment, judge, judged_before, spent
from polytask.tuning.outcome import Tuning, contenders_of, front_for, notes_of, what_mattered
from polytask.tuning.space import Space
from polytask.tuning.trials import BEST, OUTCOME, RUN, Arm, Ledger, Trial

N_KEPT = 2  # preparations of the data


class Data:
    """The data of a search: prepared once for all recipes that prepare it alike.

    Args:
        base: The first recipe.
    """

    def __init__(self, base: Recipe) -> None:
        self.kept: dict[str, Prepared] = {}
        self.base = self(base)

    def __call__(self, recipe: Recipe) -> Prepared:
        """The data for a recipe."""
        key = preparation_key(recipe)
        prepared = self.kept.pop(key, None)
        self.kept = dict([*self.kept.items()][-(N_KEPT - 1) :])
        self.kept[key] = prepare(recipe) if prepared is None else prepared
        return with_tasks(self.kept[key], recipe)

    def judges(self, recipe: Recipe) -> tuple[str, ...]:
        """The tasks whose mean validation loss is the objective.

        Raises:
            PolytaskError: There is none.
        """
        training, validation = self.base.training.present, self.base.validation.present
        learning = [task for task in training if bool(training[task].any()) and bool(validation[task].any())]
        found = tuple(task for task in (recipe.primary or learning) if task in learning)
        if not found:
            mend = "Give the split a share for validation."
            raise PolytaskError("no validation row has a label to choose by", where="tune", mend=mend)
        return found


class Session:
    """One call of ``tune``."""

    def __init__(
        self,
        space: Space,
        data: Data,
        judges: tuple[str, ...],
        ledger: Ledger,
        n_trials: int,
        pareto: bool,
        budget: float,
        on_trial: Callable[[Trial], None] | None,
        on_epoch: Callable[[str, Epoch], None] | None,
    ) -> None:
        self.spaces: dict[Arm, Space] = {"tuned": space, "equal": space.with_equal_weights()}
        self.data, self.judges, self.ledger, self.n_trials, self.pareto = data, judges, ledger, n_trials, pareto
        self.on_trial, self.on_epoch = on_trial, on_epoch
        self.place = ledger.folder
        before = sum(trial.seconds for trial in ledger.trials) + spent(self.place)
        self.end = time.monotonic() + budget - before
        self.n_before, self.searching = len(ledger.trials), True
        for trial in ledger.trials:
            self._tell(trial)

    def search(self, arms: Sequence[Arm]) -> Sequence[Arm]:
        """Make the trials, of both kinds in turn, so that whenever it ends there are as many of each; the arms."""
        for number in range(self.n_trials):
            for arm in arms:
                done = self.ledger.of(arm)
                if len(done) > number:
                    continue
                try:
                    trial = self._made(arm, done)
                except Late:
                    return arms
                self.ledger.add(trial)
                self._tell(trial)
        return arms

    def finish(self, arms: Sequence[Arm], choose: str | Mapping[str, float] | None, seeds: int, fit_best: bool) -> Tuning:
        """Choose, train and judge the best, and write what was found."""
        self.searching = False
        self.ledger.write_table()
        n_compared = min(self.n_trials, *(len(self.ledger.of(arm)) for arm in arms))
        trials = [trial for arm in arms for trial in self.ledger.of(arm)[: self.n_trials]]
        front = front_for(trials, self.judges) if self.pareto else ()
        best = chosen_of(trials, front, self.judges, choose) if self.pareto else best_of(trials)
        best = self._first_alike(best)
        found = contenders_of([trial for trial in trials if trial.number < n_compared])
        if self.pareto:
            found[best.arm] = best
        found = {role: self._first_alike(trial) for role, trial in found.items()}
        recipe = self._recipe(best)
        if self.place is not None:
            write_whole(self.place / BEST, recipe.to_yaml())
        run = self._fitted(recipe) if fit_best else None
        judgment = self._judged(found, best, None if run is None else run.bundle, seeds)
        notes = [
            *notes_of(self.ledger.trials, self.n_trials, arms, self.spaces["tuned"].weighing),
            *self._notes(arms, judgment),
        ]
        made = Tuning(
            recipe=recipe,
            best=best,
            trials=tuple(trials),
            space=self.spaces["tuned"],
            judges=self.judges,
            n_trials=n_compared,
            contenders=found,
            front=front,
            mattered=what_mattered(self.spaces["tuned"], self.ledger.of("tuned")[: self.n_trials], found["tuned"]),
            judgment=judgment,
            run=run,
            notes=tuple(notes),
        )
        if self.place is not None:
            if self.pareto:
                draw_front(trials, self.judges, best, self.place, self.spaces["tuned"].weighing)
            write_whole(self.place / OUTCOME, json.dumps(made.to_dict(), indent=1, ensure_ascii=False) + "\n")
        return made

    def interrupted(self, interrupt: KeyboardInterrupt) -> KeyboardInterrupt:
        """What to say of Ctrl-C."""
        n_kept = len(self.ledger.trials)
        doing = f"in trial {n_kept + 1}" if self.searching else "in the final trainings"
        text = f"interrupted {doing}; nothing was to be kept"
        if self.place is not None:
            self.ledger.write_table()
            text = f"interrupted {doing}; the {n_kept} trials before it are kept in {self.place}: the same command goes on"
        return Stopped(text, interrupt.signal) if isinstance(interrupt, Stopped) else KeyboardInterrupt(text)

    def _made(self, arm: Arm, done: Sequence[Trial]) -> Trial:
        """The next trial of an arm. The first of both are the same where the recipe itself has equal weights."""
        first = self.ledger.of("tuned")[:1]
        if arm == "equal" and not done and first and self._recipe(first[0]) == self.spaces["equal"].base:
            return replace(first[0], arm="equal", values=self.spaces["equal"].starts(), seconds=0.0)
        deadline = self.end - self._reserve()
        if done and time.monotonic() > deadline:
            raise Late
        tell = self._epochs_of(f"{arm}-{len(done)}")
        return next_trial(
            self.spaces[arm], arm, done, self.data, self.judges, pareto=self.pareto, deadline=deadline, on_epoch=tell
        )

    def _reserve(self) -> float:
        """The seconds that one final training of each contender takes."""
        if not self.ledger.trials:
            return 0.0
        return sum(trial.seconds for trial in {t.name: t for t in contenders_of(self.ledger.trials).values()}.values())

    def _epochs_of(self, name: str) -> Callable[[Epoch], None] | None:
        """What is called after every epoch of a training of that name."""
        return None if self.on_epoch is None else partial(self.on_epoch, name)

    def _tell(self, trial: Trial) -> None:
        if self.on_trial is not None:
            self.on_trial(trial)

    def _recipe(self, trial: Trial) -> Recipe:
        space = self.spaces[trial.arm]
        return space.base if trial.number == 0 else space.recipe(trial.values)

    def _first_alike(self, trial: Trial) -> Trial:
        """The first trial of the other arm in place of its copy."""
        first = self.ledger.of("tuned")[0]
        return first if trial.number == 0 and self._recipe(trial) == self._recipe(first) else trial

    def _fitted(self, recipe: Recipe) -> Run:
        """The run of the best recipe, in the folder where there is one; what is there of it is not trained again."""
        tell = self._epochs_of("the best recipe")
        if self.place is None:
            return fit(recipe, on_epoch=tell)
        place = self.place / RUN
        with suppress(PolytaskError):  # of the recipe that was the best before, or with a network that no file holds
            if is_unfinished(place):
                return resume(place, recipe, on_epoch=tell)
            if (place / RECIPE).is_file() and Recipe.from_yaml(place / RECIPE).to_dict() == recipe.to_dict():
                return load(place)
        return fit(recipe, place, overwrite=True, on_epoch=tell)

    def _judged(self, found: Mapping[str, Trial], best: Trial, bundle: Bundle | None, seeds: int) -> Judgment | None:
        """What the test rows say of the contenders, where there are several; each is one, where two roles are one trial's."""
        several = {trial.name: trial for trial in [*found.values(), best]}
        if not self.data.base.test.n_rows or len(several) == 1:
            return None
        contenders = []
        for trial in several.values():
            recipe = self._recipe(trial)
            own = bundle if trial.name == best.name else None
            contenders.append(Contender(trial.name, recipe, self.data(recipe), trial.seconds, own))
        return judge(contenders, seeds, self.place, lambda seconds: time.monotonic() + seconds < self.end, self.on_epoch)

    def _notes(self, arms: Sequence[Arm], judgment: Judgment | None) -> Sequence[str]:
        notes = []
        if (
            len(arms) == 1
            and self.spaces["tuned"].base == self.spaces["equal"].base
            and not self.spaces["tuned"].searches_weights
        ):
            notes.append("no weights of tasks are searched, so there are no trials with equal weights to compare with")
        earlier = [] if judgment is None else judged_before(self.place, judgment.losses)
        if earlier:
            what = f"the test rows judged earlier results of this search too: {listed(earlier)}"
            notes.append(f"{what}. Who chooses by them has no unseen rows left")
        if not self.data.base.test.n_rows:
            notes.append("there are no test rows: how much of the gain is real cannot be said. Give the split a share for test")
        return notes

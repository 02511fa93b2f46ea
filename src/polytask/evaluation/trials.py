"""The trainings of a comparison: every candidate and each task alone, over the same seeds, data and budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from polytask.bundle import Bundle, n_parameters
from polytask.errors import PolytaskError, listed, one_line
from polytask.evaluation.boosting import best_boosted
from polytask.evaluation.candidates import Candidate, Other, candidates
from polytask.evaluation.comparison import ALONE, TREES, Comparison, Costs
from polytask.evaluation.costs import flops_per_row, n_learned, step_memory
from polytask.evaluation.found import Found, result, with_holds
from polytask.evaluation.picking import picks
from polytask.fitting import metric_values, row_losses, task_losses, task_metrics, train_bundle, tuned_on, untrained
from polytask.preparation import Prepared, prepare
from polytask.reading import reads_of, together
from polytask.recipe import Recipe
from polytask.training import Epoch

OnFit = Callable[[str, int, int], None]


class Interrupted(KeyboardInterrupt):
    """A comparison was interrupted.

    Attributes:
        comparison: Of the seeds with which everything had been trained; None where there was none.
    """

    def __init__(self, text: str, comparison: Comparison | None) -> None:
        super().__init__(text)
        self.comparison = comparison


@dataclass
class Trial:
    """A candidate and its trainings.

    Attributes:
        candidate: What is trained.
        prepared: On what.
        planned: The parameters of its network, and the operations and memory that it takes.
        found: What came out.
        kept: Per seed parameters and operations of what answers afterwards.
        first: The network and the history of the first seed.
    """

    candidate: Candidate
    prepared: Prepared
    planned: tuple[int, int, int]
    found: Found = field(default_factory=Found)
    kept: list[tuple[int, int]] = field(default_factory=list)
    first: tuple[Bundle, list[Epoch]] | None = None

    def train(self, seed: int, judged_on: str, scales: Mapping[str, float]) -> None:
        """Train once more.

        Args:
            seed: Of the training.
            judged_on: The part that judges.
            scales: The units of the losses of tasks that have no best constant.
        """
        began = time.perf_counter()
        bundle, history = train_bundle(self.candidate.recipe, self.prepared, seed=seed)
        self.found.seconds.append(time.perf_counter() - began)
        judged = getattr(self.prepared, judged_on)
        judged = judged.select([task for task in judged.tasks if bool(judged.present[task].any())])
        parts = [(self.found.losses, judged)]
        if self.prepared.validation.n_rows:
            parts.append((self.found.validation, self.prepared.validation))
        units = {task: (bundle.tasks[task].codec.null_loss or 1.0) / scale for task, scale in scales.items()}
        for place, data in parts:
            for task, losses in row_losses(bundle, data).items():
                place.setdefault(task, []).append(losses * units.get(task, 1.0))
        for task, metrics in metric_values(bundle, judged).items():
            self.found.metrics.setdefault(task, []).append(metrics)
        shared = not self.candidate.recipe.sharing.independent
        self.kept.append((n_parameters(bundle.model), flops_per_row(bundle.model, judged)) if shared else self.planned[:2])
        self.first = self.first or (bundle, history)

    @property
    def was_cut(self) -> bool:
        """Whether for half of the tasks or more the best epoch of the first training was the last that there could be."""
        history = [] if self.first is None else self.first[1]
        best = {task: epoch for epoch in history for task in epoch.best}
        return bool(best) and 2 * sum(epoch.epoch == epoch.last for epoch in best.values()) >= len(best)

    def costs(self) -> Costs:
        """What its networks cost."""
        parameters, flops = (round(sum(values) / len(values)) for values in zip(*self.kept, strict=True))
        return Costs(*self.planned, kept_parameters=parameters, kept_flops=flops)


@dataclass(frozen=True)
class Trials:
    """A comparison, and what it leaves of its trainings.

    Attributes:
        comparison: What was found.
        firsts: By candidate the network and the history of the first seed.
    """

    comparison: Comparison
    firsts: Mapping[str, tuple[Bundle, list[Epoch]]]


def compare(
    recipe: Recipe,
    prepared: Prepared,
    seeds: int = 3,
    others: Sequence[Other] = (),
    *,
    trees: bool = True,
    on_fit: OnFit | None = None,
) -> Trials:
    """Train a recipe, others that differ from it in some parts, and each task alone, and judge them on the test rows.

    Alone means: the encoder, trainer, split, inputs and batches of the recipe, and a network of its own for each task, all of
    them trained at once (``separate``). So a task alone takes as many steps as the tasks together, and where labels are missing
    or sources are separate it learns from the rows of each batch that have its label, as it does together with the others. It
    stops, and chooses its epoch, for itself. Where nothing is shared nothing is balanced, ``primary`` says nothing, and no task
    reads another: one that is given another learns from, and is judged on, the rows where that says yes.

    Args:
        recipe: What to train.
        prepared: Its data.
        seeds: How many trainings of each; their seeds follow the recipe's.
        others: See ``candidates``.
        trees: Whether to fit gradient boosting to each target.
        on_fit: Called before each training with its name, its number from 1, and how many there are.

    Raises:
        Interrupted: Ctrl-C; it holds the comparison of the seeds that were done.
        PolytaskError: A candidate cannot be trained, which is found before any training; there is one task only, or no
            held-out row to judge on; the tasks alone cannot be trained.
    """
    if seeds < 1:
        raise PolytaskError("at least one seed is needed", where="compare", found=str(seeds))
    plan = candidates(recipe, others)
    contest = _Contest(recipe, prepared, plan, range(recipe.seed, recipe.seed + seeds))
    return contest.run(trees, on_fit or (lambda *_: None))


class _Contest:
    """A comparison while it goes on."""

    def __init__(self, recipe: Recipe, prepared: Prepared, plan: Sequence[Candidate], seeds: Sequence[int]) -> None:
        self.recipe, self.prepared, self.seeds = recipe, prepared, tuple(seeds)
        self.judged_on = "test" if prepared.test.n_rows else "validation"
        self.data = getattr(prepared, self.judged_on)
        self.judged = [fitted for fitted in prepared.tasks if bool(self.data.present[fitted.task.name].any())]
        if not self.judged:
            raise PolytaskError("no row is held out to judge on", where="compare", mend="Give the split a share for test.")
        self.trials = {candidate.name: self._trial(candidate) for candidate in plan}
        self.scales: dict[str, float] = {}
        self.left_out: dict[str, str] = {}
        self.trees = Found()
        self.n_done = 0  # seeds

    def _trial(self, candidate: Candidate) -> Trial:
        """A candidate, tried for two steps.

        Raises:
            PolytaskError: It cannot be trained.
        """
        recipe, prepared = candidate.recipe, self.prepared
        if recipe.encoder != self.recipe.encoder:  # it may read the columns otherwise
            prepared = prepare(recipe)
        own = {task.name: task for task in recipe.tasks}
        prepared = replace(prepared, tasks=tuple(replace(fitted, task=own[fitted.task.name]) for fitted in prepared.tasks))
        try:
            flops = flops_per_row(untrained(recipe, prepared).model, prepared.training)
            return Trial(candidate, prepared, (n_learned(recipe, prepared), flops, step_memory(recipe, prepared)))
        except (PolytaskError, RuntimeError) as error:
            told = error if isinstance(error, PolytaskError) else PolytaskError(one_line(error))
            where = f"compare, {candidate.name}{', ' if told.where else ''}{told.where}"
            raise PolytaskError(told.what, where=where, found=told.found, mend=told.mend) from error

    def run(self, trees: bool, on_fit: OnFit) -> Trials:
        """Train everything, seed by seed, so that what is there after each of them can be compared."""
        total, number = len(self.seeds) * len(self.trials) + trees, 0
        name = TREES
        try:
            if trees:
                on_fit(TREES, number := 1, total)
                self._boost()
            for name, seed in self._steps():
                on_fit(f"{name}, seed {seed}", number := number + 1, total)
                self._train(name, seed)
        except KeyboardInterrupt as interrupt:
            text = f"interrupted in training {number} of {total}, of {name!r}"
            raise Interrupted(text, self._told(self.n_done) if self.n_done else None) from interrupt
        firsts = {name: trial.first for name, trial in self.trials.items() if trial.first is not None}
        return Trials(self._told(len(self.seeds)), firsts)

    def _steps(self) -> Iterator[tuple[str, int]]:
        """Each training: of what it is, and its seed."""
        for n_done, seed in enumerate(self.seeds):
            self.n_done = n_done
            yield from [(name, seed) for name in self.trials]

    def _train(self, name: str, seed: int) -> None:
        """Train once; a candidate that fails is left out, and the others go on.

        Raises:
            PolytaskError: It is alone that fails, or the last candidate.
        """
        trial = self.trials[name]
        try:
            trial.train(seed, self.judged_on, self.scales)
        except (PolytaskError, RuntimeError) as error:
            if name == ALONE or len(self.trials) == 2:
                text = f"the training of {name!r} with seed {seed} failed, so nothing is compared"
                raise PolytaskError(text, where="compare", found=one_line(error)) from error
            self.left_out[name] = f"its training with seed {seed} failed: {one_line(error)}"
            del self.trials[name]
            return
        if name == ALONE and not self.scales and trial.first is not None:
            unscaled = [fitted.task.name for fitted in self.prepared.tasks if fitted.codec.null_loss is None]
            self.scales = {task: trial.first[0].tasks[task].codec.null_loss or 1.0 for task in unscaled}

    def _boost(self) -> None:
        """Fit boosted trees to every target to which they apply."""
        began = time.perf_counter()
        for fitted in self.judged:
            task = fitted.task.name
            try:
                predict = best_boosted(fitted, self.prepared)
                told = tuned_on(fitted, predict, self.prepared)
            except (PolytaskError, ValueError) as error:
                self.left_out[f"{TREES}, task {task!r}"] = one_line(error)
                continue
            output = predict(self.data)
            self.trees.losses[task] = [task_losses(told, output, self.data)]
            self.trees.metrics[task] = [task_metrics(told, output, self.data)]
            if bool(self.prepared.validation.n_rows and self.prepared.validation.present[task].any()):
                self.trees.validation[task] = [task_losses(told, predict(self.prepared.validation), self.prepared.validation)]
        self.trees.seconds.append(time.perf_counter() - began)

    def _told(self, n_seeds: int) -> Comparison:
        """The comparison, of the first seeds."""
        found = {name: trial.found.until(n_seeds) for name, trial in self.trials.items()}
        results = [
            result(name, found[name], found[ALONE], self.judged, trial.candidate.differs, trial.costs())
            for name, trial in self.trials.items()
        ]
        if self.trees.losses:
            results.append(result(TREES, self.trees, found[ALONE], self.judged))
        results = with_holds(results)
        alike = {name: found[name].validation for name, t in self.trials.items() if t.prepared.inputs == self.prepared.inputs}
        return Comparison(
            alone=results[0],
            candidates=tuple(one for one in results[1:] if one.name != TREES),
            trees=results[-1] if self.trees.losses else None,
            recipe={part: getattr(self.recipe, part).to_dict() for part in ("encoder", "sharing", "balancer")},
            seeds=self.seeds[:n_seeds],
            n_rows={task: len(runs[0]) for task, runs in found[ALONE].losses.items()},
            judged_on=self.judged_on,
            picks=picks(alike, together([task.name for task in self.recipe.tasks], reads_of(self.recipe.tasks))),
            left_out=dict(self.left_out),
            notes=tuple(self._notes(n_seeds)),
        )

    def _notes(self, n_seeds: int) -> Iterator[str]:
        """What a reader should know."""
        if self.judged_on == "validation":
            yield "there are no test rows: these verdicts are of the validation rows, which also chose the epochs"
        if n_seeds == 1:
            yield "one seed only: the intervals do not know how much another training would differ"
        if unjudged := [f.task.name for f in self.prepared.tasks if f not in self.judged]:
            yield f"tasks without a label in the {self.judged_on} rows, which are not judged: {listed(map(repr, unjudged))}"
        if self.recipe.primary:
            yield (
                f"primary tasks are {listed(map(repr, self.recipe.primary))}: together with them the others have epochs that "
                "are not chosen for them, and alone they have"
            )
        if cut := [name for name, trial in self.trials.items() if trial.was_cut]:
            yield (
                f"still learning when the epochs were over, for half of the tasks or more: {listed(cut)}. With another "
                "trainer.epochs these verdicts may be others"
            )
        if self.recipe.trainer.minutes is not None:
            yield "trainer.minutes ends a training by the clock: alone trains the networks of all tasks in them"
        if any("encoder" in trial.candidate.differs for trial in self.trials.values()):
            yield "a candidate with another encoder differs from alone in that too, not only in what is shared"

"""The search itself: what is drawn next, and which trainings are stopped early."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from polytask.errors import PolytaskError
from polytask.fitting import train_bundle
from polytask.preparation import Prepared
from polytask.recipe import Recipe
from polytask.seeding import derived_seed
from polytask.training import Epoch
from polytask.tuning.search import Search, Value, rounded
from polytask.tuning.space import Space
from polytask.tuning.trials import Arm, State, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as Asked

# Of the trainings that come as far as a rung one in so many goes on; the first rung is at this share of the first trial.
REDUCTION = 3
FIRST_RUNG = 1 / 9
N_RANDOM = 10  # that are drawn blindly, before there is something to learn from


class Late(Exception):  # noqa: N818
    """The time for the search is over."""


class _Pruned(Exception):  # noqa: N818
    """Others were better at this epoch."""


def optuna_or_mend() -> None:
    """Have the package that draws, and keep it quiet.

    Raises:
        PolytaskError: It is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        mend = 'Install it: pip install "polytask[tune]".'
        raise PolytaskError(f"a search needs the package {error.name!r}", where="tune", mend=mend) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def next_trial(
    space: Space,
    arm: Arm,
    before: Sequence[Trial],
    prepared: Callable[[Recipe], Prepared],
    judges: Sequence[str],
    *,
    pareto: bool = False,
    deadline: float = math.inf,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trial:
    """Draw values, train with them, and say how it went: a function of the trials before, so that a search can go on.

    Args:
        space: What is searched.
        arm: Of which arm it is.
        before: All trials of the arm so far; the first is that of the recipe itself, and is never stopped.
        prepared: The data for a recipe.
        judges: The tasks whose mean loss is the objective.
        pareto: Each of these tasks is an objective of its own; no trial is stopped then.
        deadline: By ``time.monotonic()``; a later trial than the first ends there.
        on_epoch: Called after every epoch.

    Raises:
        Late: The deadline came before the end; the trial is lost.
        PolytaskError: The first trial failed, of which the reason is the recipe's.
    """
    began, number = time.perf_counter(), len(before)
    study = _study(space, before, judges, pareto)
    asked = study.ask()
    follower = _Follower(judges, None if pareto or number == 0 else asked, math.inf if number == 0 else deadline, on_epoch)
    values: dict[str, Value] = {}
    state: State = "complete"
    why = ""
    try:
        if number == 0:
            values, recipe = space.starts(), space.base
        else:
            recipe = space.drawn(lambda name, search, whole: values.setdefault(name, _suggested(asked, name, search, whole)))
        train_bundle(recipe, prepared(recipe), on_epoch=follower)
        if follower.objective is None:
            raise PolytaskError("no epoch has a finite validation loss", where="tune")
    except _Pruned:
        state = "pruned"
    except PolytaskError as error:
        if number == 0:
            raise
        state, why = "failed", str(error)
    attributes = study.get_trials(deepcopy=False)[number].system_attrs
    rungs = {key: value for key, value in attributes.items() if key.startswith("completed_rung")}
    return Trial(
        arm=arm,
        number=number,
        values=values,
        state=state,
        losses=follower.losses,
        objective=None if state == "failed" else follower.objective,
        epochs=follower.epochs,
        seconds=round(time.perf_counter() - began, 3),
        reports=tuple(follower.reports),
        rungs=rungs,
        why=why,
    )


class _Follower:
    """Called after every epoch: knows the loss of the weights that are kept, and ends the training where that is enough."""

    def __init__(
        self, judges: Sequence[str], asked: Asked | None, deadline: float, on_epoch: Callable[[Epoch], None] | None
    ) -> None:
        self.judges, self.asked, self.deadline, self.on_epoch = judges, asked, deadline, on_epoch
        self.losses: dict[str, float] = {}
        self.reports: list[float] = []
        self.epochs = 0

    @property
    def objective(self) -> float | None:
        """The mean validation loss so far; None before every task has one."""
        if not self.losses.keys() >= set(self.judges):
            return None
        return sum(self.losses[task] for task in self.judges) / len(self.judges)

    def __call__(self, epoch: Epoch) -> None:
        self.losses |= {task: epoch.validation[task] for task in epoch.best if task in epoch.validation}
        self.epochs = epoch.epoch
        if self.on_epoch is not None:
            self.on_epoch(epoch)
        objective = self.objective
        if objective is not None and epoch.epoch:
            self.reports += [objective] * (epoch.epoch - len(self.reports))
            if self.asked is not None:
                self.asked.report(objective, epoch.epoch)
                if self.asked.should_prune():
                    raise _Pruned
        if time.monotonic() > self.deadline:
            raise Late


def importances(space: Space, trials: Sequence[Trial], objective: Sequence[float]) -> dict[str, float]:
    """How much each place had to do with being among the best fifth of these trials; PED-ANOVA, normalized to 1.

    Watanabe 2023, arXiv:2304.10255.

    Args:
        space: What was searched.
        trials: Those with an objective.
        objective: That of each.
    """
    import optuna

    study = optuna.create_study()
    for trial, value in zip(trials, objective, strict=True):
        values, distributions = _known(space, trial)
        study.add_trial(optuna.create_trial(value=value, params=values, distributions=distributions))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.2)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _study(space: Space, before: Sequence[Trial], judges: Sequence[str], pareto: bool) -> Study:
    """What optuna would know after these trials, with draws that are a function of the seed and of their number."""
    import optuna

    seed = derived_seed(space.base.seed, "tune", len(before)) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=False, n_startup_trials=N_RANDOM
        )
    if pareto:
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * len(judges))
    else:
        first = max(1, round(before[0].epochs * FIRST_RUNG)) if before else 1
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
        study = optuna.create_study(sampler=sampler, pruner=pruner)
    for trial in before:
        study.add_trial(_told(space, trial, judges, pareto))
    return study


def _told(space: Space, trial: Trial, judges: Sequence[str], pareto: bool) -> FrozenTrial:
    """A trial as optuna has it. One that failed is as bad as any: its values are to be avoided."""
    import optuna

    values, distributions = _known(space, trial)
    states = {"complete": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
    pruned = optuna.trial.TrialState.FAIL if pareto else optuna.trial.TrialState.PRUNED
    state = states.get(trial.state, pruned)
    done = trial.state == "complete"
    objectives = [trial.losses[task] for task in judges] if pareto else [trial.objective]
    return optuna.create_trial(
        state=state,
        values=[float(value) for value in objectives if value is not None] if done else None,
        params=values,
        distributions=distributions,
        system_attrs=dict(trial.rungs),
        intermediate_values={} if pareto or trial.state == "failed" else dict(enumerate(trial.reports, 1)),
    )


def _known(space: Space, trial: Trial) -> tuple[dict[str, Value], dict[str, BaseDistribution]]:
    """The values of a trial with their distributions."""
    places = {name: space.by_name[name] for name in trial.values}
    distributions = {name: _distribution(place.search, name in space.whole) for name, place in places.items()}
    return dict(trial.values), distributions


def _distribution(search: Search, whole: bool) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not search.is_range:
        return CategoricalDistribution(search.labels)
    low, high = search.ends()
    if whole:
        return IntDistribution(int(low), int(high), log=search.log, step=int(search.step or 1))
    return FloatDistribution(low, high, log=search.log, step=search.step)


def _suggested(asked: Asked, name: str, search: Search, whole: bool) -> Value:
    if not search.is_range:
        return str(asked.suggest_categorical(name, search.labels))
    low, high = search.ends()
    if whole:
        return asked.suggest_int(name, int(low), int(high), log=search.log, step=int(search.step or 1))
    value = asked.suggest_float(name, low, high, log=search.log, step=search.step)
    return min(max(rounded(value), low), high)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The complete trial with the least objective, the earliest of several; the first of a search is always complete."""
    done = [trial for trial in trials if trial.state == "complete" and trial.objective is not None]
    return min(done, key=lambda trial: (trial.objective, trial.number))

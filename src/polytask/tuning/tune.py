"""tune(recipe): search the values of a recipe's fields, compare with equal weights, judge once on the test rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from polytask.errors import PolytaskError, shown
from polytask.experiment import anchored
from polytask.recipe import Recipe, read_fields, told_of
from polytask.run_folder import write_whole
from polytask.training import Epoch
from polytask.tuning.arms import optuna_or_mend
from polytask.tuning.defaults import default_searches
from polytask.tuning.front import preferences
from polytask.tuning.outcome import Tuning
from polytask.tuning.session import Data, Session
from polytask.tuning.space import Space
from polytask.tuning.trials import SPACE, Arm, Ledger, Trial

UNITS = {"s": 1, "m": 60, "h": 3600}
TIME = re.compile(r"(\d+(?:\.\d+)?)([smh])")


def tune(
    recipe: Recipe | Mapping[str, Any] | str | Path | Space,
    trials: int = 40,
    budget: float | str | None = None,
    out: str | Path | None = None,
    *,
    search: Mapping[str, Any] | None = None,
    space: str = "training",
    pareto: bool = False,
    choose: str | Mapping[str, float] | None = None,
    baseline: bool = True,
    seeds: int = 3,
    fit_best: bool = True,
    overwrite: bool = False,
    on_trial: Callable[[Trial], None] | None = None,
    on_epoch: Callable[[str, Epoch], None] | None = None,
) -> Tuning:
    """Search for the recipe with the least validation loss.

    Learning rate, weight decay, dropout and the tasks' weights are searched around the recipe's own values, and what the recipe
    says itself with ``{"search": [1e-4, 1e-2], "log": True}`` or ``{"search": ["mmoe", "hard", "ple"]}`` in place of a value.
    Values are drawn by TPE (Watanabe 2023, arXiv:2304.11127), and trainings that others are ahead of are stopped by successive
    halving (Li 2020, arXiv:1810.05934). As many trials are made with equal weights, so that what the weights gained is seen.

    The search is a function of the recipe, its seed and the data, and each trial of those before it; the time that a budget
    leaves decides only how many there are.

    Args:
        recipe: A recipe, its plain values, its file, or what ``space_of`` made of these. Its ``primary`` tasks, or else all,
            make the objective: the mean of their normalized validation losses.
        trials: How many, of each of the two kinds.
        budget: Seconds, or a text such as "90s", "30m" or "1h30m", for all of it; what earlier sessions in the same folder took
            counts. The first trial of each kind and one final training of each are made in any case.
        out: A folder. What is there of the same search is gone on with. None keeps nothing.
        search: More to be searched, by the path of the field.
        space: What is searched where the recipe does not say: "training", "network", "all", or nothing with "given".
        pareto: Search for the whole front over the tasks; no trial is stopped early then.
        choose: Which trial of the front to take: its name, or how much each task counts.
        baseline: Make as many trials with equal weights.
        seeds: How often the default recipe and the best ones are trained for the test rows, if there is time.
        fit_best: Train the best recipe and keep it as a run in ``out/run``.
        overwrite: Begin anew where there is another search.
        on_trial: Called after every trial, first with those that were there.
        on_epoch: Called with the name of what is trained and every epoch.

    Raises:
        KeyboardInterrupt: Ctrl-C; the trials are kept in ``out``, and the same call goes on with them.
        PolytaskError: Whatever is wrong with the recipe, what is to be searched, the data or the folder.
    """
    optuna_or_mend()
    seconds = _checked(trials, seeds, budget, choose, pareto)
    searched = recipe if isinstance(recipe, Space) else space_of(recipe, search, space)
    data = Data(searched.base)
    judges = data.judges(searched.base)
    if pareto and len(judges) < 2:
        mend = "Leave out --pareto (pareto=True)."
        raise PolytaskError("a front needs two tasks at least", where="pareto", found=judges[0], mend=mend)
    if not isinstance(choose, str) or "=" in choose:
        preferences(choose, judges)  # a mistake in them is told before anything is trained
    place = None if out is None else Path(out).expanduser().absolute()
    asked = {"recipe": searched.to_dict(), "pareto": pareto, "data": searched.base.fingerprints()}
    ledger = Ledger(place, asked, overwrite)
    if place is not None:
        write_whole(place / SPACE, searched.to_yaml())
    session = Session(searched, data, judges, ledger, trials, pareto, seconds, on_trial, on_epoch)
    try:
        arms = session.search(arms_of(searched, baseline))
        return session.finish(arms, choose, seeds, fit_best)
    except KeyboardInterrupt as interrupt:
        raise session.interrupted(interrupt) from None


def space_of(
    recipe: Recipe | Mapping[str, Any] | str | Path, search: Mapping[str, Any] | None = None, level: str = "training"
) -> Space:
    """What is searched, in a recipe whose paths are absolute.

    Raises:
        PolytaskError: It cannot be, or nothing is.
    """
    if isinstance(recipe, str | Path):
        with told_of(str(recipe)):
            return space_of(read_fields(recipe), search, level)
    given = Space.of(recipe, search)
    base = anchored(given.base)
    fields = {**given.fields, "sources": base.sources} | ({"warm_start": base.warm_start} if base.warm_start else {})
    found = replace(given, base=base, fields=fields).with_searches(default_searches(base, level))
    if next(found.places(), None) is None:
        mend = "Write {search: [1e-4, 1e-2], log: true} in place of a value, or choose another --space."
        raise PolytaskError("nothing is to be searched", where="space", found=level, mend=mend)
    return found


def seconds_of(budget: float | str) -> float:
    """A time in seconds.

    Raises:
        PolytaskError: It cannot be read, or is none.

    Example:
        >>> seconds_of("1h30m"), seconds_of("90s"), seconds_of(5)
        (5400.0, 90.0, 5.0)
    """
    parts = TIME.findall(budget) if isinstance(budget, str) else []
    if isinstance(budget, str) and (not parts or "".join(map("".join, parts)) != budget):
        raise PolytaskError("this is no time", where="budget", found=repr(budget), mend="Write it as 90s, 30m, 2h or 1h30m.")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts) if isinstance(budget, str) else float(budget)
    if not 0 < seconds < math.inf:
        raise PolytaskError("there is no time in it", where="budget", found=repr(budget), mend="Give more, as in 30m.")
    return seconds


def _checked(trials: int, seeds: int, budget: float | str | None, choose: object, pareto: bool) -> float:
    """The seconds there are, once the other arguments are known to be right.

    Raises:
        PolytaskError: One is not.
    """
    for name, number in (("trials", trials), ("seeds", seeds)):
        if number < 1:
            raise PolytaskError("at least one is needed", where=name, found=str(number))
    if choose is not None and not pareto:
        mend = "Add --pareto (pareto=True), or leave it out: the best is that with the least objective."
        raise PolytaskError("only of a front can a trial be chosen", where="choose", found=shown(choose), mend=mend)
    return math.inf if budget is None else seconds_of(budget)


def arms_of(space: Space, baseline: bool) -> tuple[Arm, ...]:
    """The kinds of trials: with equal weights too, where that is not the same."""
    same = not space.searches_weights and space.base == space.with_equal_weights().base
    return ("tuned", "equal") if baseline and not same else ("tuned",)

"""Which way to learn is best for each task, by the validation rows alone, and the network that does so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polytask.bundle import Bundle
from polytask.errors import counted, listed
from polytask.evaluation.comparison import ALONE
from polytask.intervals import paired_interval
from polytask.preparation import Prepared
from polytask.training import gradient_notes, left_out

if TYPE_CHECKING:
    from polytask.evaluation.trials import Trials

PICKED = "picked"  # what a run's record calls its tasks' candidates


def picks(
    validation: Mapping[str, Mapping[str, Sequence[NDArray[np.float64]]]], tasks: Sequence[Sequence[str]]
) -> dict[str, str]:
    """Per task the candidate to take, by validation losses: the simplest that is not clearly worse than the best.

    Best is the least mean loss over rows and seeds. The run's own recipe is the simplest, then come the other candidates as
    they were named, and last alone: the first of them whose loss is above the best by no more than the standard error of that
    difference, over seeds and rows, is taken. (The rule of one standard error: Breiman, Friedman, Olshen and Stone 1984,
    Classification and Regression Trees, section 3.4.3.) Tasks of which one reads another go together, by their mean.

    Args:
        validation: By candidate and task the losses of the validation rows, ``[N]`` for each seed.
        tasks: Their names, in groups that go together; a group without validation labels is left out.

    Example:
        >>> run, mmoe, alone = ([np.array([1.0, 2.0, 3.0, 2.0]) + x] for x in (0.0, [-0.1, 0.1, 0.0, -0.1], -1.0))
        >>> found = {"alone": {"a": run, "b": alone}, "run": {"a": run, "b": run}, "mmoe": {"a": mmoe, "b": mmoe}}
        >>> picks(found, [["a"], ["b"]])
        {'a': 'run', 'b': 'alone'}
    """
    order = [*(name for name in validation if name != ALONE), ALONE]
    found: dict[str, str] = {}
    for group in tasks:
        judged = [task for task in group if task in validation[ALONE]]
        losses = {name: [np.stack(validation[name][task]) for task in judged] for name in order if judged}
        best = min(losses.values(), key=lambda own: sum(float(each.mean()) for each in own), default=[])
        for name, own in losses.items():
            gaps = [paired_interval(each - least) for each, least in zip(own, best, strict=True)]
            if not sum(gap.mean for gap in gaps) > sum(gap.error for gap in gaps):
                found |= dict.fromkeys(group, name)
                break
    return found


def picked(trials: Trials, prepared: Prepared) -> tuple[Bundle, list[dict[str, Any]], dict[str, Any]]:
    """The network in which each task is learned as was picked for it, with its history and facts for its record.

    The networks are those of the first seed; the history is that of the candidate with the most tasks. A task without
    validation labels goes with the first candidate.
    """
    found, names = trials.comparison, [fitted.task.name for fitted in prepared.tasks]
    first = found.candidates[0].name
    chosen = {task: found.picks.get(task, first) for task in names}
    tasks = {name: [task for task in names if chosen[task] == name] for name in dict.fromkeys(chosen.values())}
    parts = [(trials.firsts[name][0], own) for name, own in tasks.items()]
    bundle = trials.firsts[first][0].picked(parts)
    histories = {name: trials.firsts[name][1] for name in tasks}
    told = "; ".join(f"{name}: {listed(own, len(own))}" for name, own in tasks.items())
    n_options = f"{len(found.candidates) + 1} ways to learn, {counted(len(found.seeds), 'training')} of each"
    notes = dict.fromkeys(note for history in histories.values() for note in (*left_out(history), *gradient_notes(history)))
    facts = {
        PICKED: chosen,
        "seconds": round(sum(found[name].seconds for name in tasks), 3),
        "best_epochs": {
            task: epoch.epoch for name, own in tasks.items() for epoch in histories[name] for task in epoch.best if task in own
        },
        "notes": [*prepared.notes, *notes, f"picked by validation losses of {n_options}: {told}"],
    }
    history = histories[max(tasks, key=lambda name: len(tasks[name]))]
    return bundle, [epoch.to_dict() for epoch in history], facts

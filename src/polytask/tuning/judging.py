"""What the test rows say, once, at the end: the recipe as it was, the best with equal weights, the best with tuned weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polytask import checkpoint
from polytask.bundle import Bundle
from polytask.evaluation.verdict import TaskComparison, compare_losses
from polytask.fitting import metric_values, row_losses, train_bundle
from polytask.preparation import Prepared
from polytask.recipe import Recipe
from polytask.training import Epoch
from polytask.tuning.trials import FINALS

Losses = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Contender:
    """A recipe to judge.

    Attributes:
        trial: The name of its trial.
        recipe: What to train.
        prepared: Its data.
        seconds: How long a training of it takes.
        bundle: What was trained with the recipe's own seed already; None for nothing.
    """

    trial: str
    recipe: Recipe
    prepared: Prepared
    seconds: float
    bundle: Bundle | None = None


@dataclass(frozen=True)
class Judgment:
    """Losses on the test rows.

    Attributes:
        losses: By the name of the trial and the task, ``[S, N]`` for S seeds and N rows.
        metrics: By the name of the trial, task and metric, the mean over the seeds.
        seeds: The seeds.
        n_rows: The test rows.
    """

    losses: Mapping[str, Losses]
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    seeds: tuple[int, ...]
    n_rows: int

    def mean(self, trial: str, task: str) -> float:
        """The mean loss of a task."""
        return float(self.losses[trial][task].mean())

    def against(self, other: str, trial: str) -> dict[str, TaskComparison]:
        """What a trial gained over another, by task."""
        pairs = self.losses[other], self.losses[trial]
        return {task: compare_losses(task, pairs[0][task], pairs[1][task]) for task in pairs[1]}

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        losses = {trial: {task: self.mean(trial, task) for task in found} for trial, found in self.losses.items()}
        return {"seeds": list(self.seeds), "rows": self.n_rows, "losses": losses, "metrics": self.metrics}


def judge(
    contenders: Sequence[Contender],
    seeds: int,
    folder: Path | None,
    has_time: Callable[[float], bool],
    on_epoch: Callable[[str, Epoch], None] | None = None,
) -> Judgment:
    """Train each recipe with several seeds and judge it on the test rows; what was judged before is taken from the folder.

    Args:
        contenders: The recipes, which differ.
        seeds: How many seeds, from the recipe's own on.
        folder: Where the losses are kept; None for nowhere.
        has_time: Whether there is time for so many seconds more; the first seed is trained in any case.
        on_epoch: Called after every epoch with what is trained.

    Raises:
        PolytaskError: A training failed, or its losses cannot be kept.
    """
    first = contenders[0].recipe.seed
    found: dict[str, list[Mapping[str, Any]]] = {contender.trial: [] for contender in contenders}
    done: list[int] = []
    for seed in range(first, first + seeds):
        if done and not has_time(sum(contender.seconds for contender in contenders)):
            break
        for contender in contenders:
            found[contender.trial].append(_judged(contender, seed, folder, on_epoch))
        done.append(seed)
    losses = {
        trial: {task: np.stack([each["losses"][task].numpy() for each in runs]) for task in runs[0]["losses"]}
        for trial, runs in found.items()
    }
    return Judgment(
        losses, {trial: _mean(runs) for trial, runs in found.items()}, tuple(done), contenders[0].prepared.test.n_rows
    )


def spent(folder: Path | None) -> float:
    """The seconds that were spent on what is kept in a folder."""
    files = [] if folder is None else sorted((folder / FINALS).glob("*.safetensors"))
    return sum(float(checkpoint.read(path)["seconds"]) for path in files)


def judged_before(folder: Path | None, now: Collection[str]) -> list[str]:
    """The trials of a folder's search that the test rows have judged, but for those they judge now."""
    files = [] if folder is None else (folder / FINALS).glob("*.safetensors")
    return sorted({path.name.partition("-seed-")[0] for path in files} - set(now))


def _judged(
    contender: Contender, seed: int, folder: Path | None, on_epoch: Callable[[str, Epoch], None] | None
) -> Mapping[str, Any]:
    place = None if folder is None else folder / FINALS / f"{contender.trial}-seed-{seed}.safetensors"
    if place is not None and place.is_file():
        return checkpoint.read(place)
    began, name = time.perf_counter(), f"final training of {contender.trial}, seed {seed}"
    bundle = contender.bundle if seed == contender.recipe.seed else None
    if bundle is None:
        tell = None if on_epoch is None else lambda epoch: on_epoch(name, epoch)
        bundle, _ = train_bundle(contender.recipe, contender.prepared, seed=seed, on_epoch=tell)
    test = contender.prepared.test
    rows = test.select([task for task in test.tasks if bool(test.present[task].any())])
    losses = {task: torch.from_numpy(values) for task, values in row_losses(bundle, rows).items()}
    metrics = {task: {name: _plain(v) for name, v in each.items()} for task, each in metric_values(bundle, rows).items()}
    found = {"losses": losses, "metrics": metrics, "seconds": time.perf_counter() - began}
    if place is not None:
        place.parent.mkdir(exist_ok=True)
        checkpoint.write(place, found)
    return found


def _mean(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    metrics = runs[0]["metrics"]
    return {
        task: {
            name: float(np.mean([run["metrics"][task][name] for run in runs]))
            for name, value in each.items()
            if value is not None
        }
        for task, each in metrics.items()
    }


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None

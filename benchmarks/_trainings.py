"""Trainings of one recipe with other parts, over seeds, and a file that keeps them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polytask.component import Component
from polytask.fitting import metric_values, row_losses, train_bundle
from polytask.preparation import Prepared
from polytask.recipe import Recipe


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        data: The set.
        changes: Of its recipe.
        seed: Of the weights and of the order of rows.
        parts: What took the place of the recipe's own parts, in plain values.
        losses: By task, the mean over the test rows that have its label, in units of the best constant's.
        metrics: By task and metric, on the same rows.
        seconds: CPU time of the training.
    """

    data: str
    changes: list[str]
    seed: int
    parts: dict[str, dict[str, Any]]
    losses: dict[str, float]
    metrics: dict[str, dict[str, float]]
    seconds: float

    @property
    def key(self) -> str:
        """What was asked for."""
        return _key(self.data, self.changes, self.seed, self.parts)


class Trainings:
    """Trains what is asked for, unless a file has it from before, and adds it to the file.

    Args:
        file: Of JSON lines; None keeps nothing.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
        self.known = {training.key: training for training in (Training(**json.loads(line)) for line in lines)}
        self.warm = False

    def __call__(
        self, data: str, recipe: Recipe, prepared: Prepared, changes: Sequence[str], parts: Mapping[str, Component], seeds: int
    ) -> list[Training]:
        """The trainings of a recipe with other parts, one for each seed.

        Args:
            data: What the set is called.
            recipe: With the changes.
            prepared: Its data.
            changes: Of the recipe, as they were asked for.
            parts: Such as ``{"balancer": CAGrad()}``.
            seeds: How many.
        """
        plain = {name: part.to_dict() for name, part in parts.items()}
        found = []
        for seed in range(seeds):
            key = _key(data, changes, seed, plain)
            if key not in self.known:
                self._add(Training(data, list(changes), seed, plain, **self._trained(recipe, prepared, parts, seed)))
            found.append(self.known[key])
        return found

    def _trained(self, recipe: Recipe, prepared: Prepared, parts: Mapping[str, Component], seed: int) -> dict[str, Any]:
        if not self.warm:  # what comes first in a process is slow
            short = recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"epochs": 1})})
            train_bundle(short, prepared)
            self.warm = True
        began = time.process_time()
        bundle, _ = train_bundle(recipe.model_copy(update=dict(parts)), prepared, seed=seed)
        seconds = time.process_time() - began
        losses = {task: float(np.mean(values)) for task, values in row_losses(bundle, prepared.test).items()}
        return {"losses": losses, "metrics": metric_values(bundle, prepared.test), "seconds": seconds}

    def _add(self, training: Training) -> None:
        self.known[training.key] = training
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(training)) + "\n")


def _key(data: str, changes: Sequence[str], seed: int, parts: Mapping[str, Any]) -> str:
    return json.dumps([data, list(changes), seed, dict(parts)], sort_keys=True)

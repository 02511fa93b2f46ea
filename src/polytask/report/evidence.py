"""What a report is written from: a run, and where its data are still there and unchanged, what it says of the judged rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.batch import Dataset
from polytask.bundle import Bundle
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.fitting import row_weights
from polytask.model import outputs_on
from polytask.preparation import Prepared
from polytask.recipe import Recipe
from polytask.report.rows import Rows, SourceRows, source_rows
from polytask.scores import Scores

Floats = NDArray[np.float64]

MAX_JUDGED = 40_000  # rows of the judged part that are looked at one by one; scores are of all of them
COMPARED = "compare.json"


class Trained(Protocol):
    """What a report needs of a run."""

    recipe: Recipe
    bundle: Bundle
    history: list[Mapping[str, Any]]
    record: dict[str, Any]
    folder: Path | None

    def scores(self) -> Scores:
        """The scores on the judged rows."""

    def prepared(self) -> Prepared:
        """The data, or a PolytaskError that says why they are not to be had."""


@dataclass(frozen=True)
class Judged:
    """What one task was answered on the judged rows that have its label.

    Attributes:
        fitted: The task.
        index: Which of the judged rows these are.
        views: The answers, see Task.views; as arrays.
        truth: What is true, in the same units.
        losses: The normalized loss of each row.
        weights: How much each row counts; None where all count alike.
    """

    fitted: FittedTask
    index: Rows
    views: Mapping[str, NDArray[Any]]
    truth: NDArray[Any]
    losses: Floats
    weights: Floats | None

    @property
    def name(self) -> str:
        """The task's name."""
        return self.fitted.task.name

    def error(self) -> tuple[str, Floats]:
        """What is averaged over rows to say how good answers are, in plain words, and of each row.

        The distance from the truth where a number is answered; else 1 where the answer is right, or the share of right labels.
        """
        if "value" in self.views:
            return "mean absolute error", np.abs(self.views["value"] - self.truth).astype(float)
        if "label" not in self.views:
            return "loss", self.losses
        right = self.views["label"] == self.truth
        if right.ndim == 1:
            return "share right", right.astype(float)
        known = self.truth >= 0
        return "share of labels right", (right & known).sum(1) / np.maximum(known.sum(1), 1)

    @property
    def higher_is_better(self) -> bool:
        """Whether ``error`` is a share of what is right."""
        return self.error()[0].startswith("share")


@dataclass(frozen=True)
class Evidence:
    """A run with all that its report is written from.

    Attributes:
        run: The run.
        name: What it is called: its folder's name, or what the caller says.
        prepared: Its data; None where they are not to be had.
        why_not: Why they are not, as a sentence that ends without a full stop.
        compared: What ``compare.json`` says; empty where there is none.
    """

    run: Trained
    name: str
    prepared: Prepared | None = None
    why_not: str = ""
    compared: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Trained, name: str) -> Evidence:
        """Find the data of a run, and see whether they are split as they were."""
        compared = _compared(run.folder)
        try:
            prepared = run.prepared()
        except PolytaskError as error:
            return cls(run, name, None, str(error).rstrip("."), compared)
        if prepared.parts != run.record.get("parts", prepared.parts):
            why = "the rows are split otherwise than for the training, so that rows held out now may have been learned from"
            return cls(run, name, None, why, compared)
        return cls(run, name, prepared, "", compared)

    @property
    def tasks(self) -> list[FittedTask]:
        """The tasks, in the recipe's order."""
        return list(self.run.bundle.tasks.values())

    @property
    def part(self) -> str:
        """The part of the data that was judged on."""
        return str(self.run.record["scored_on"])

    @property
    def n_judged(self) -> int:
        """How many rows that part has."""
        return int(self.run.record["rows"][self.part])

    @cached_property
    def chosen(self) -> Rows:
        """Which of the judged rows are looked at one by one, in order."""
        assert self.prepared is not None
        n_rows = getattr(self.prepared, self.part).n_rows
        return sampled(n_rows, MAX_JUDGED)

    @cached_property
    def judged(self) -> dict[str, Judged]:
        """What each task was answered, by name; without the tasks that have no label there, and empty without data."""
        if self.prepared is None:
            return {}
        data: Dataset = getattr(self.prepared, self.part)
        if len(self.chosen) < data.n_rows:
            mask = torch.zeros(data.n_rows, dtype=torch.bool)
            mask[torch.from_numpy(self.chosen)] = True
            data = data.where(mask)
        bundle = self.run.bundle
        known = [name for name in bundle.tasks if name in data.present and bool(data.present[name].any())]
        outputs = outputs_on(bundle.model, data, known)
        return {name: _judged(bundle.tasks[name], outputs[name], data) for name in known}

    @cached_property
    def rows(self) -> list[SourceRows]:
        """The rows of ``chosen`` as their sources have them."""
        assert self.prepared is not None
        return source_rows(self.run.recipe, self.prepared, self.part, self.chosen)

    def column(self, name: str) -> pa.Array:
        """A column's cells in the rows of ``chosen``; null in rows of sources that have no such column."""
        parts = [
            rows.table.column(name).combine_chunks() if name in rows.table.column_names else pa.nulls(len(rows.table))
            for rows in self.rows
        ]
        types = {part.type for part in parts if not pa.types.is_null(part.type)}
        common = types.pop() if len(types) == 1 else pa.string()
        return pa.concat_arrays([part.cast(common) for part in parts])

    def row_name(self, row: int) -> str:
        """Words for one of the rows of ``chosen``."""
        for rows in self.rows:
            at = int(np.searchsorted(rows.index, row))
            if at < len(rows.index) and rows.index[at] == row:
                return rows.name(at)
        return f"row {row + 1:,}"


def sampled(n_rows: int, most: int, seed: int = 0) -> Rows:
    """So many of the rows at most, at random, in order.

    Example:
        >>> sampled(3, 5).tolist(), len(sampled(1000, 5))
        ([0, 1, 2], 5)
    """
    if n_rows <= most:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, most, replace=False))


def _judged(fitted: FittedTask, output: Tensor, data: Dataset) -> Judged:
    name = fitted.task.name
    rows = data.present[name]
    answered, target = output[rows], data.targets[name][rows]
    weights = row_weights(data, name)
    with torch.inference_mode():
        views = {view: values.numpy() for view, values in fitted.views(answered).items()}
        truth = fitted.task.truth(target, fitted.codec).numpy()
        losses = fitted.answer_losses(answered, target).double() / (fitted.codec.null_loss or 1.0)
    index = np.flatnonzero(rows.numpy())
    return Judged(fitted, index, views, truth, losses.numpy(), None if weights is None else weights.numpy())


def _compared(folder: Path | None) -> Mapping[str, Any]:
    """What lies beside a run of its comparison; empty where that is not there or of another form."""
    path = None if folder is None else folder / COMPARED
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"alone", "candidates"} <= found.keys() else {}


def names_of(tasks: Sequence[FittedTask]) -> list[str]:
    """The names of tasks."""
    return [fitted.task.name for fitted in tasks]

"""What a report is written from: a run, and where its data are still there and unchanged, what it says of the judged rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from polytask.batch import Dataset
from polytask.bundle import Bundle
from polytask.cells import is_text
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.fitting import labeled_outputs, row_weights
from polytask.preparation import Prepared
from polytask.recipe import Recipe
from polytask.report.rows import Rows, SourceRows, source_rows
from polytask.scorer import Scorer
from polytask.scores import Scores

Floats = NDArray[np.float64]

MAX_PIXELS = 20_000  # that are drawn of a task with a number at each
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
        views: The answers, see Task.views; as arrays. Of a task with an answer at every pixel sums over pixels ("statistics").
        truth: What is true, in the same units.
        losses: The normalized loss of each row.
        weights: How much each row counts; None where all count alike.
        pixels: Of a task with a number at every pixel some answers and what is true there, ``[n]`` each.
    """

    fitted: FittedTask
    index: Rows
    views: Mapping[str, NDArray[Any]]
    truth: NDArray[Any]
    losses: Floats
    weights: Floats | None
    pixels: tuple[Floats, Floats] | None = None

    @property
    def name(self) -> str:
        """The task's name."""
        return self.fitted.task.name

    def error(self) -> tuple[str, Floats]:
        """What is averaged over rows to say how good answers are, in plain words, and of each row.

        The distance from the truth where a number is answered; else 1 where the answer is right, or the share of right labels;
        of a task with an answer at every pixel its first metric.
        """
        if "statistics" in self.views:
            return f"mean {self.scorer.name} of a row", self.scores_of(self.scorer, np.arange(len(self.index)))
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
        """Whether more of ``error`` is better."""
        return self.scorer.higher_is_better if "statistics" in self.views else self.error()[0].startswith("share")

    @property
    def scorers(self) -> list[Scorer]:
        """The metrics of the task."""
        return list(self.fitted.task.chosen_scorers(self.fitted.codec).values())

    @property
    def scorer(self) -> Scorer:
        """The first of them."""
        return self.scorers[0]

    def scores_of(self, scorer: Scorer, rows: NDArray[np.intp]) -> Floats:
        """What a metric says of each of these rows by itself, for a task whose answers are known as sums over pixels."""
        sums, none = torch.from_numpy(self.views["statistics"]), torch.zeros(1)
        return np.array([float(scorer.compute(sums[row : row + 1], none)) for row in rows.tolist()])


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
    def data(self) -> Dataset:
        """The rows of ``chosen``."""
        data: Dataset = getattr(self.prepared, self.part)
        return data if len(self.chosen) == data.n_rows else data.where(marked(self.chosen, data.n_rows))

    @cached_property
    def judged(self) -> dict[str, Judged]:
        """What each task was answered, by name; without the tasks that have no label there, and empty without data."""
        if self.prepared is None:
            return {}
        bundle, data = self.run.bundle, self.data
        known = [name for name in bundle.tasks if name in data.present and bool(data.present[name].any())]
        parts: dict[str, list[_Part]] = {name: [] for name in known}
        n_pixels = max(1, MAX_PIXELS // max(1, data.n_rows))
        for name, output, target in labeled_outputs(bundle, data, known):
            parts[name].append(_part(bundle.tasks[name], output, target, n_pixels, len(parts[name])))
        return {name: _joined(bundle.tasks[name], parts[name], data) for name in known}

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

    @property
    def images(self) -> list[str]:
        """The input columns that hold images."""
        forms = [form for part in self.run.bundle.manifest.inputs for form in part.codec.image_features]
        return list(dict.fromkeys(form.column for form in forms))

    def row_title(self, row: int) -> str:
        """Words for one of the rows of ``chosen``, with the files of its images."""
        columns = [self.column(name) for name in self.images]
        files = [short_path(column[row].as_py()) for column in columns if is_text(column.type) and column[row].is_valid]
        return " · ".join([self.row_name(row), *files])


def short_path(path: str) -> str:
    """The end of a path, which tells files apart.

    Example:
        >>> short_path("/data/scans/left/3.png")
        'left/3.png'
    """
    return "/".join(PurePath(path).parts[-2:])


def sampled(n_rows: int, most: int, seed: int = 0) -> Rows:
    """So many of the rows at most, at random, in order.

    Example:
        >>> sampled(3, 5).tolist(), len(sampled(1000, 5))
        ([0, 1, 2], 5)
    """
    if n_rows <= most:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, most, replace=False))


def marked(rows: Rows, n_rows: int) -> Bool[Tensor, " N"]:
    """True for these of so many rows."""
    mask = torch.zeros(n_rows, dtype=torch.bool)
    mask[torch.from_numpy(rows)] = True
    return mask


class _Part(NamedTuple):
    """What is kept of a batch: see ``Judged``."""

    views: Mapping[str, Tensor]
    truth: Tensor
    losses: Tensor
    pixels: tuple[Tensor, Tensor] | None


def _part(fitted: FittedTask, output: Tensor, target: Tensor, n_pixels: int, number: int) -> _Part:
    with torch.inference_mode():
        views, truth = fitted.judged(output, target)
        losses = fitted.answer_losses(output, target).double() / (fitted.codec.null_loss or 1.0)
        pixels = None
        if fitted.task.spatial == "numbers":
            value, true = fitted.views(output)["value"].flatten(1), fitted.task.truth(target, fitted.codec).flatten(1)
            places = torch.randint(value.shape[1], (len(value), n_pixels), generator=torch.Generator().manual_seed(number))
            some, there = value.gather(1, places), true.gather(1, places)
            known = ~there.isnan()
            pixels = some[known].double(), there[known].double()
        return _Part(views, truth, losses, pixels)


def _joined(fitted: FittedTask, parts: Sequence[_Part], data: Dataset) -> Judged:
    name = fitted.task.name
    weights = row_weights(data, name)
    pixels = [part.pixels for part in parts if part.pixels is not None]
    return Judged(
        fitted,
        np.flatnonzero(data.present[name].numpy()),
        {view: torch.cat([part.views[view] for part in parts]).numpy() for view in parts[0].views},
        torch.cat([part.truth for part in parts]).numpy(),
        torch.cat([part.losses for part in parts]).numpy(),
        None if weights is None else weights.numpy(),
        (torch.cat([p[0] for p in pixels]).numpy(), torch.cat([p[1] for p in pixels]).numpy()) if pixels else None,
    )


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

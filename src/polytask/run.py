"""Run: a trained network with its record, what can be asked of it, and its folder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import nn

from polytask.bundle import Bundle, n_parameters
from polytask.checkpoint import sync
from polytask.errors import PolytaskError, did_you_mean, listed, rows_named
from polytask.evaluation.card import model_card
from polytask.evaluation.comparison import Comparison, compare
from polytask.evaluation.conflict import agreement_of, pairs_over_time, weights_over_time
from polytask.fitting import score
from polytask.given import seen_labels
from polytask.gradients.conflict import Agreement
from polytask.pictures import located
from polytask.preparation import Prepared, label_array, prepare
from polytask.reading import given_of, with_read
from polytask.recipe import Recipe
from polytask.run_folder import (
    CARD,
    HISTORY,
    MEND,
    MODEL,
    RECIPE,
    RECORD,
    SCORES,
    aside,
    cannot_write,
    check_free,
    finished,
    read_record,
)
from polytask.scores import Scores
from polytask.source import PIECE_ROWS, Source, like, open_source

PIECE_BYTES = 1 << 28


class Run:
    """What ``fit`` returns and what lies in a run folder.

    Attributes:
        recipe: What was asked for.
        bundle: The trained network with its codecs.
        history: One Epoch per pass over the training rows, as plain values.
        record: Versions, row counts, data fingerprints, seconds, notes.
    """

    def __init__(
        self,
        recipe: Recipe,
        bundle: Bundle,
        scores: Scores,
        history: Sequence[Mapping[str, Any]],
        record: Mapping[str, Any],
        prepared: Prepared | None = None,
    ) -> None:
        self.recipe, self.bundle, self.history, self.record = recipe, bundle, list(history), dict(record)
        self._scores, self._prepared = scores, prepared

    def __repr__(self) -> str:
        return f"Run of {len(self.bundle.tasks)} tasks, {len(self.history)} epochs\n{self._scores}"

    def scores(self) -> Scores:
        """The scores on the test rows (on the validation rows where the recipe has no test rows)."""
        return self._scores

    def conflicts(self) -> Agreement:
        """How far the tasks' gradients of the shared parameters agreed, over the whole training: cosines, norm ratios."""
        return agreement_of(self.history)

    def pairs_over_time(self) -> list[dict[str, Any]]:
        """A row per epoch and pair of tasks that was looked at: epoch, task, other, cosine, norm_ratio."""
        return pairs_over_time(self.history)

    def weights_over_time(self) -> list[dict[str, Any]]:
        """A row per epoch and task: epoch, task, weight in the epoch's last step, cosine_with_mean or None."""
        return weights_over_time(self.history)

    def predict(
        self, data: object, tasks: Sequence[str] | None = None, *, source: str | None = None, probabilities: bool = False
    ) -> Any:
        """Answers for new rows, in their order; label columns are not needed.

        Args:
            data: A path, data frame, NumPy array, mapping of columns, or source.
            tasks: Which tasks to answer; None for all that were trained on such rows.
            source: The training source these rows are like, where sources had different input columns.
            probabilities: Add a column ``task:class`` per class.

        Returns:
            A frame of the kind that was given, with a column per task; a pyarrow Table for a path or a source.

        Raises:
            PolytaskError: Input columns are missing or of another type, or a name is unknown.
        """
        given, table = self._open(data, source)
        with rows_named(partial(_row_of, given, 0)):
            answers = self.bundle.predict(table, tasks, source=self._like(given, source), probabilities=probabilities)
        return answers if isinstance(data, Source) else like(data, answers)

    def predict_pieces(
        self, data: object, tasks: Sequence[str] | None = None, *, source: str | None = None, probabilities: bool = False
    ) -> Iterator[pa.Table]:
        """As ``predict``, but a table for so many rows at a time: for CSV and Parquet files that are larger than memory.

        The tables one after the other are what ``predict`` gives for a path.

        Raises:
            PolytaskError: As ``predict``.
        """
        given, reader = self._reader(data, source)
        like_source = self._like(given, source)
        if reader is given:
            tables: Iterable[pa.Table] = [given.read()]
        else:
            tables = reader.read_in_pieces(getattr(given, given.datum), self._needed())
        n_before = 0
        features = [feature for part in self.bundle.manifest.inputs for feature in part.codec.image_features]
        n_bytes = sum(math.prod(feature.shape) for feature in features)
        for piece in _of_rows(tables, min(PIECE_ROWS, PIECE_BYTES // max(n_bytes, 1))):
            table = self._located(given, piece)
            with rows_named(partial(_row_of, given, n_before)):
                answers = self.bundle.predict(table, tasks, source=like_source, probabilities=probabilities)
            yield answers
            n_before += len(table)

    def evaluate(self, data: object, *, source: str | None = None) -> Scores:
        """Scores on rows with label columns, of every task whose column is there.

        Args:
            data: As for ``predict``.
            source: The training source these rows are like; only its tasks are scored.

        Raises:
            PolytaskError: No label column is there, or one could belong to tasks of several sources.
        """
        given, table = self._open(data, source)
        chosen = self._like(given, source)
        index = self.bundle.input_set(table, chosen)
        with rows_named(partial(_row_of, given, 0)):
            rows = self.bundle.dataset(table, index, self._labels(table, chosen))
        return score(self.bundle, rows, self.recipe.seed)

    def compare(self, seeds: int = 3, *, on_fit: Callable[[str, int, int], None] | None = None) -> Comparison:
        """Train each task alone at the same budget on the same split, over several seeds, and say whether sharing helped.

        Args:
            seeds: How many seeds; the first is the recipe's.
            on_fit: Called before each training with its name, its number and how many there are.

        Raises:
            PolytaskError: The run began from another, or was loaded and its data are gone or have changed.
        """
        if self.recipe.warm_start is not None:
            what = "a run that began with the weights of another cannot be compared: they know more than its own rows"
            mend = f"Compare {self.recipe.warm_start.run}, or fit without warm_start."
            raise PolytaskError(what, where="compare", mend=mend)
        if self._prepared is None:
            known = self.record["data"]
            changed = [label for label, digest in self.recipe.fingerprints().items() if digest != known.get(label)]
            if changed:
                mend = "Fit again, then compare."
                raise PolytaskError(
                    f"the data of {listed(map(repr, changed))} changed since this run", where="compare", mend=mend
                )
            self._prepared = prepare(self.recipe)
        return compare(self.recipe, self._prepared, seeds, on_fit)

    def keep(self, *tasks: str) -> Run:
        """The same run with these tasks only, to ship without the others: their answers are the same, bit for bit.

        The other heads are gone, and the parts of the trunk and the input columns that only they needed. The history and the
        row counts stay those of the whole training.

        Raises:
            PolytaskError: A task is unknown or none is named, the sharing scheme does not part the tasks, or all of them are
                tasks that this run took along from the one that it began from.
        """
        bundle, begun = self.bundle.keep(tasks), self.recipe.warm_start
        columns = {source: part.codec.names for part in bundle.manifest.inputs for source in part.sources}
        recipe = self.recipe.keep(tasks, columns)
        if begun is not None and not recipe.tasks:
            what, mend = "all of these tasks are those of the earlier run", f"Keep them of {begun.run}."
            raise PolytaskError(what, where="keep", found=listed(tasks), mend=mend)
        left, before = n_parameters(bundle.model), n_parameters(self.bundle.model)
        note = f"kept of a run of {len(self.bundle.tasks)} tasks: {left:,} of its {before:,} parameters are left"
        record = self.record | {
            "parameters": left,
            "data": {source.label: self.record["data"][source.label] for source in recipe.sources},
            "notes": [*self.record["notes"], note],
        }
        scores = Scores({task: self._scores[task] for task in self._scores if task in tasks})
        return Run(recipe, bundle, scores, self.history, record)

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write the run folder: recipe.yaml, run.json, scores.json, history.jsonl, README.md and model/.

        It is written beside its place and then moved there, so that no half-written run is ever seen.

        Raises:
            PolytaskError: The folder exists, or cannot be written.
        """
        return self.write(check_free(folder, overwrite))

    def write(self, place: Path) -> Path:
        """As ``save``, to a place that is known to be free."""
        draft, before = place.with_name(f".{place.name}.new"), aside(place)
        try:
            shutil.rmtree(draft, ignore_errors=True)
            self.bundle.save(draft / MODEL)
            (draft / RECIPE).write_text(self.recipe.to_yaml(), encoding="utf-8")
            (draft / RECORD).write_text(_json(self.record), encoding="utf-8")
            (draft / SCORES).write_text(_json(self._scores.to_dict()), encoding="utf-8")
            (draft / HISTORY).write_text("".join(_json(epoch, None) for epoch in self.history), encoding="utf-8")
            (draft / MODEL / CARD).write_text(model_card(self.bundle, self._scores, self.record), encoding="utf-8")
            for path in (*draft.rglob("*"), draft):
                sync(path)
            if place.exists():
                shutil.rmtree(before, ignore_errors=True)
                place.rename(before)
            draft.rename(place)  # a crash between these two is mended by settled
            sync(place.parent)
            shutil.rmtree(before, ignore_errors=True)
        except OSError as error:
            raise cannot_write(error, place, "Save it to another place.") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return place

    def _open(self, data: object, source: str | None) -> tuple[Source, pa.Table]:
        """New rows, read with the options of the training source of the same name, else of the same kind."""
        given, reader = self._reader(data, source)
        table = given.read() if reader is given else reader.read_other(getattr(given, given.datum), self._needed())
        return given, self._located(given, table)

    def _located(self, given: Source, table: pa.Table) -> pa.Table:
        """The rows with the paths of images where they lie."""
        features = [feature for part in self.bundle.manifest.inputs for feature in part.codec.image_features]
        return located(table, [feature.column for feature in features], given.folder_of("main"))

    def _reader(self, data: object, source: str | None) -> tuple[Source, Source]:
        """New rows, and the source that knows how to read them: the given one where it is one, or no training source is."""
        given = data if isinstance(data, Source) else open_source(data)
        alike = [item for item in self.recipe.sources if item.kind == given.kind]
        if isinstance(data, Source) or not alike:
            return given, given
        named = [item for item in alike if item.label in (source, given.label)]
        return given, (named or alike)[0]

    def _needed(self) -> set[str]:
        return {name for part in self.bundle.manifest.inputs for name in part.codec.names}

    def _like(self, given: Source, source: str | None) -> str | None:
        labels = [label for part in self.bundle.manifest.inputs for label in part.sources]
        if source is not None and source not in labels:
            raise PolytaskError(f"no source {source!r} in this run", mend=did_you_mean(source, labels))
        return source or (given.label if given.label in labels else None)

    def _labels(self, table: pa.Table, source: str | None) -> dict[str, pa.Array]:
        tasks = [fitted.task for fitted in self.bundle.tasks.values()]
        if source is not None:
            mine = {name for part in self.bundle.manifest.inputs for name in part.sources.get(source, ())}
            tasks = [task for task in tasks if task.name in mine]
        named = {task.name: task for task in tasks if set(task.own_columns) <= set(table.column_names)}
        # Without the label of what it is given it is not known whether a task is seen.
        there = [task for name, task in named.items() if set(with_read([name], given_of(tasks))) <= named.keys()]
        if not there:
            wanted = listed(dict.fromkeys(column for task in tasks for column in task.own_columns))
            raise PolytaskError(
                "the rows have no label column", where="evaluate", found=listed(table.column_names), mend=f"Needed: {wanted}."
            )
        by_column: dict[str, list[str]] = {}
        for task in there:
            for column in task.label_columns:
                by_column.setdefault(column, []).append(task.name)
        for column, names in by_column.items():
            if len(names) > 1 and len({task.source for task in there if task.name in names}) > 1:
                what = f"column {column!r} could label the tasks {listed(map(repr, names))}"
                raise PolytaskError(what, where="evaluate", mend="Say which source the rows are like (--source).")
        labels = {task.name: label_array(task, table) for task in there}
        return seen_labels(labels, there, {name: fitted.codec for name, fitted in self.bundle.tasks.items()})[0]


def load(folder: str | Path, modules: Mapping[str, nn.Module] | None = None) -> Run:
    """Read a run folder. No code from it is run.

    Args:
        folder: What ``save`` or ``polytask fit --out`` wrote.
        modules: Networks of your own that the model was made with, by class name.

    Raises:
        PolytaskError: Not a run folder, or a damaged one.
    """
    place = finished(folder)
    bundle = Bundle.load(place / MODEL, modules)
    recipe = Recipe.from_yaml(place / RECIPE)
    record, scores, history = read_record(place)
    run = Run(recipe, bundle, _scores(scores, place / SCORES), history, record)
    _check_of_one_run(run, place)
    return run


def _scores(values: Mapping[str, Any], path: Path) -> Scores:
    try:
        return Scores.from_dict(values)
    except PolytaskError as error:
        raise PolytaskError(error.what, where=str(path), found=error.found, mend=MEND) from None


def _check_of_one_run(run: Run, place: Path) -> None:
    """Refuse files that were written by different runs.

    Raises:
        PolytaskError: A file tells of tasks, sources or a network that the others do not know.
    """
    tasks, sources = {task.name for task in run.recipe.tasks}, {source.label for source in run.recipe.sources}
    learned = {name for epoch in run.history for name in epoch["training"]}  # before some were kept, of more tasks
    said = {SCORES: set(run.scores()) - tasks, RECORD: set(run.record["data"]) - sources}
    if run.recipe.warm_start is None:  # else there may be tasks of the earlier run, which were not trained here
        said = {MODEL: set(run.bundle.tasks) - tasks, HISTORY: learned if learned.isdisjoint(tasks) else set(), **said}
    for file, strange in said.items():
        if strange:
            found = f"{listed(map(repr, sorted(strange)))}, where the recipe has {listed(map(repr, sorted(tasks | sources)))}"
            raise PolytaskError(f"{file} is not of the run that {RECIPE} is of", where=str(place), found=found, mend=MEND)
    told, there = run.record["parameters"], n_parameters(run.bundle.model)
    if told != there:
        found = f"{told:,} parameters, where the model has {there:,}"
        raise PolytaskError(f"{RECORD} is not of the run that {MODEL} is of", where=str(place), found=found, mend=MEND)


def _row_of(source: Source, n_before: int, row: int) -> str:
    """Words for a row of new data, of which so many were read before."""
    return f"row {n_before + row + 1:,} of {source.label}"


def _of_rows(tables: Iterable[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """Tables of ``n_rows`` rows each but for the last: cut where one table would be, a batch holds the same rows."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while (count := sum(map(len, held))) > n_rows:
            joined = pa.concat_tables(held)
            yield joined.slice(0, n_rows)
            held = [joined.slice(n_rows)] if count > n_rows else []
    if held:
        yield pa.concat_tables(held)


def _json(value: object, indent: int | None = 1) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"

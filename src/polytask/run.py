"""Run: a trained network with its record, what can be asked of it, and its folder."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from polytask.bundle import Bundle, n_parameters
from polytask.errors import PolytaskError, counted, did_you_mean, listed, rows_named
from polytask.evaluation.candidates import Other
from polytask.evaluation.card import model_card
from polytask.evaluation.comparison import Comparison
from polytask.evaluation.conflict import agreement_of, pairs_over_time, weights_over_time
from polytask.evaluation.picking import PICKED, picked
from polytask.evaluation.trials import OnFit, compare
from polytask.export.agreement import Exported
from polytask.fitting import score
from polytask.given import seen_labels
from polytask.gradients.conflict import Agreement
from polytask.input_sets import input_set_of
from polytask.labeling import labels_of_rows
from polytask.pictures import located
from polytask.preparation import Prepared, prepare
from polytask.reading import given_of, with_read
from polytask.recipe import Recipe
from polytask.representation import embedded
from polytask.run_folder import (
    CARD,
    HISTORY,
    MEND,
    MODEL,
    RECIPE,
    RECORD,
    SCORES,
    cannot_write,
    check_free,
    finished,
    read_record,
    read_scores,
    replacing,
)
from polytask.scores import Scores
from polytask.source import PIECE_ROWS, Source, reader_of
from polytask.tables import like, tables_of

PIECE_BYTES = 1 << 28
T = TypeVar("T")


class Run:
    """What ``fit`` returns and what lies in a run folder.

    Attributes:
        recipe: What was asked for.
        bundle: The trained network with its codecs.
        history: One Epoch per pass over the training rows, as plain values.
        record: Versions, row counts, data fingerprints, seconds, notes.
        folder: Where it was saved to or loaded from; None where it was not.
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
        self.folder: Path | None = None

    def __repr__(self) -> str:
        return f"Run of {len(self.bundle.tasks)} tasks, {len(self.history)} epochs\n{self._scores}"

    def _repr_html_(self) -> str:
        """What a notebook shows: what was trained, its scores and its notes."""
        tasks, epochs = counted(len(self.bundle.tasks), "task"), counted(len(self.history), "epoch")
        rows = ", ".join(f"{count:,} {part}" for part, count in self.record["rows"].items())
        head = f"<b>Run of {tasks}</b>, {epochs}; rows: {rows}; {self.record['parameters']:,} parameters"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.record["notes"])
        return f"<div>{head}{self._scores._repr_html_()}{f'<ul>{notes}</ul>' if notes else ''}</div>"

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
        ask = partial(self.bundle.predict, tasks=tasks, probabilities=probabilities)
        return self._asked_in_pieces(ask, data, source, self._bytes_of_a_row(tasks, probabilities))

    def embed(
        self, data: object, task: str | None = None, *, stage: int = -1, source: str | None = None
    ) -> NDArray[np.float32]:
        """The shared representation of new rows, in their order: the features that the heads read, as one vector per row.

        A sequence or a map is averaged over its places, an ensemble over its members.

        Args:
            data: As for ``predict``.
            task: Whose features, where tasks have some of their own; None for those that all share.
            stage: After which part of the network: 0 the stem, then the stages; negative counts from the end.
            source: As for ``predict``.

        Returns:
            An array ``[N, D]``; NaN in rows whose image cannot be used, and is to be skipped.

        Raises:
            PolytaskError: As ``predict``; there is no such stage, or no task is named and their features differ.
        """
        ask = partial(embedded, self.bundle, task=task, stage=stage)
        return np.concatenate(list(self._asked_in_pieces(ask, data, source, self._bytes_of_a_row((), False))))

    def _asked_in_pieces(self, ask: Callable[..., T], data: object, source: str | None, n_bytes: int) -> Iterator[T]:
        """What a question gives for so many rows at a time, of which each takes so many bytes."""
        given, reader = reader_of(data, self.recipe.sources, source)
        like_source = self._like(given, source)
        if reader is given:
            tables: Iterable[pa.Table] = [given.read()]
        else:
            tables = reader.read_in_pieces(getattr(given, given.datum), self._needed())
        n_before = 0
        for piece in tables_of(tables, max(1, min(PIECE_ROWS, PIECE_BYTES // n_bytes))):
            table = self._located(given, piece)
            with rows_named(partial(_row_of, given, n_before)):
                answers = ask(table, source=like_source)
            yield answers
            n_before += len(table)

    def _bytes_of_a_row(self, tasks: Sequence[str] | None, probabilities: bool) -> int:
        """What the images of a row take in memory, with the answers of which there is one at every pixel."""
        images = [feature for part in self.bundle.manifest.inputs for feature in part.codec.image_features]
        codecs = [fitted.codec for name, fitted in self.bundle.tasks.items() if tasks is None or name in tasks]
        answers = [4 * math.prod(codec.space) * (1 + probabilities * codec.width) for codec in codecs if codec.space]
        return max(1, sum(math.prod(image.shape) for image in images) + sum(answers))

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
        index = input_set_of(self.bundle.manifest.inputs, table, chosen)
        with rows_named(partial(_row_of, given, 0)):
            rows = self.bundle.dataset(table, index, self._labels(table, index, chosen))
        return score(self.bundle, rows, self.recipe.seed)

    def compare(
        self, seeds: int = 3, others: Sequence[Other] = (), *, trees: bool = True, on_fit: OnFit | None = None
    ) -> Comparison:
        """Say per task whether sharing helped it: against a network of its own, at the same budget and on the same split.

        Args:
            seeds: How many trainings of each; the first seed is the recipe's.
            others: Other ways to learn the tasks, such as "mmoe", "balancer:cagrad", ``MMoE(n_experts=8)`` or
                ``{"sharing": "ple", "balancer": "cagrad"}``: in what they differ from the run's recipe.
            trees: Whether to fit gradient boosting to each target too.
            on_fit: Called before each training with its name, its number and how many there are.

        Raises:
            Interrupted: Ctrl-C; it holds the comparison of the seeds that were done.
            PolytaskError: Another way cannot be trained, which is found before any training; the run began from another, was
                picked, or was loaded and its data are gone or have changed.
        """
        return compare(self.recipe, self._data("compare"), seeds, others, trees=trees, on_fit=on_fit).comparison

    def pick(
        self, seeds: int = 3, others: Sequence[Other] = (), *, trees: bool = True, on_fit: OnFit | None = None
    ) -> tuple[Comparison, Run]:
        """Compare, and make a run in which each task is learned as is best for it by the validation rows alone.

        It holds the networks of the first seed: some tasks may share one, others have one of their own. See
        ``polytask.evaluation.picking.picks`` for the rule. It is scored once, on the test rows.

        Raises:
            Interrupted: As for ``compare``.
            PolytaskError: As for ``compare``, or there are no validation rows.
        """
        prepared = self._data("pick")
        if not prepared.validation.n_rows:
            mend = "Give the split a share for validation, and fit again."
            raise PolytaskError("there are no validation rows to pick by", where="pick", mend=mend)
        trials = compare(self.recipe, prepared, seeds, others, trees=trees, on_fit=on_fit)
        bundle, history, facts = picked(trials, prepared)
        record = self.record | facts | {"parameters": n_parameters(bundle.model)}
        scores = score(bundle, getattr(prepared, record["scored_on"]), self.recipe.seed)
        return trials.comparison, Run(self.recipe, bundle, scores, history, record, prepared)

    def _data(self, where: str) -> Prepared:
        """The run's data, for trainings like its own.

        Raises:
            PolytaskError: Trainings would not be like its own, or the data are gone or have changed.
        """
        if self.recipe.warm_start is not None:
            what = "a run that began with the weights of another cannot be compared: they know more than its own rows"
            mend = f"Compare {self.recipe.warm_start.run}, or fit without warm_start."
            raise PolytaskError(what, where=where, mend=mend)
        if PICKED in self.record:
            what, mend = "this run was picked of several trainings", "Compare the run that it was picked of."
            raise PolytaskError(what, where=where, mend=mend)
        return self.prepared()

    def prepared(self) -> Prepared:
        """The run's data, split and encoded as for its training; read again where the run was loaded.

        Raises:
            PolytaskError: They are gone, or have changed since.
        """
        if self._prepared is None:
            known = self.record["data"]
            changed = [label for label, digest in self.recipe.fingerprints().items() if digest != known.get(label)]
            if changed:
                raise PolytaskError(f"the data of {listed(map(repr, changed))} changed since this run", mend="Fit again.")
            self._prepared = prepare(self.recipe)
        return self._prepared

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

    def export(
        self, folder: str | Path, to: str = "onnx", tasks: Sequence[str] | None = None, overwrite: bool = False
    ) -> Exported:
        """Write the network for others to run, with what makes inputs of rows and answers of outputs, and a model card.

        What is written is first asked whether it says what ``predict`` says, of rows of the training's sources and of made-up
        ones with missing cells and unseen categories. ``polytask.export.serving.ExportedModel`` reads it, without torch where
        it is ONNX.

        Args:
            folder: Where to.
            to: "onnx", or "torch" for a program of torch.export.
            tasks: Which tasks to answer; None for all.
            overwrite: Replace an exported model that is there.

        Returns:
            How far it agrees with ``predict``.

        Raises:
            PolytaskError: The place is taken, a name is unknown, a part of the network cannot be exported, or the answers
                differ by more than 1e-5; then nothing is written.
        """
        from polytask.export.exporting import export  # here, for torch.export takes a second to load

        return export(self.bundle, self.recipe.sources, self._scores, self.record, folder, to, tasks, overwrite)

    def report(self, out: str | Path | None = None, *, others: Sequence[Run] = (), overwrite: bool = False) -> Path:
        """Write one HTML page that says how good the run is and why; it needs no network. Needs the extra ``report``.

        Args:
            out: The file; None for ``report.html`` in the run's folder, or ``comparison.html`` with others.
            others: Runs to hold against this one; the page is then about what differs.
            overwrite: Replace what is there, if it is no report.

        Returns:
            Where it is.

        Raises:
            PolytaskError: A package is missing, the run has no folder and no file is named, or it cannot be written.
        """
        try:
            from polytask.report.page import apart, check_place, page, write
        except ModuleNotFoundError as error:
            mend = f'Install it: pip install "polytask[report]", or pip install {error.name}.'
            raise PolytaskError(f"a report needs the package {error.name!r}", mend=mend) from error
        if out is None and self.folder is None:
            raise PolytaskError("this run lies in no folder", where="report", mend="Name a file, or save the run first.")
        usual = Path(self.folder or "") / ("comparison.html" if others else "report.html")
        place = usual if out is None else Path(out).expanduser().absolute()
        check_place(place, overwrite)
        runs = (self, *others)
        names = apart([run.folder.name if run.folder is not None else "run" for run in runs])
        write(place, page(list(zip(names, runs, strict=True))))
        return place

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write the run folder: recipe.yaml, run.json, scores.json, history.jsonl, README.md and model/.

        It is written beside its place and then moved there, so that no half-written run is ever seen.

        Raises:
            PolytaskError: The folder exists, or cannot be written.
        """
        return self.write(check_free(folder, overwrite))

    def write(self, place: Path) -> Path:
        """As ``save``, to a place that is known to be free."""
        try:
            with replacing(place) as draft:
                self.bundle.save(draft / MODEL)
                (draft / RECIPE).write_text(self.recipe.to_yaml(), encoding="utf-8")
                (draft / RECORD).write_text(_json(self.record), encoding="utf-8")
                (draft / SCORES).write_text(_json(self._scores.to_dict()), encoding="utf-8")
                (draft / HISTORY).write_text("".join(_json(epoch, None) for epoch in self.history), encoding="utf-8")
                (draft / MODEL / CARD).write_text(model_card(self.bundle, self._scores, self.record), encoding="utf-8")
        except OSError as error:
            raise cannot_write(error, place, "Save it to another place.") from error
        self.folder = place
        return place

    def _open(self, data: object, source: str | None) -> tuple[Source, pa.Table]:
        """New rows, read with the options of the training source of the same name, else of the same kind."""
        given, reader = reader_of(data, self.recipe.sources, source)
        table = given.read() if reader is given else reader.read_other(getattr(given, given.datum), self._needed())
        return given, self._located(given, table)

    def _located(self, given: Source, table: pa.Table) -> pa.Table:
        """The rows with the paths of images where they lie."""
        names = [feature.column for part in self.bundle.manifest.inputs for feature in part.codec.image_features]
        tasks = [fitted.task for fitted in self.bundle.tasks.values()]
        maps = [task.label_column for task in tasks if task.spatial in ("codes", "numbers")]
        return located(table, list(dict.fromkeys([*names, *maps])), given.folder_of("main"))

    def _needed(self) -> set[str]:
        return {name for part in self.bundle.manifest.inputs for name in part.codec.names}

    def _like(self, given: Source, source: str | None) -> str | None:
        labels = [label for part in self.bundle.manifest.inputs for label in part.sources]
        if source is not None and source not in labels:
            raise PolytaskError(f"no source {source!r} in this run", mend=did_you_mean(source, labels))
        return source or (given.label if given.label in labels else None)

    def _labels(self, table: pa.Table, index: int, source: str | None) -> dict[str, pa.Array]:
        tasks = [fitted.task for fitted in self.bundle.tasks.values()]
        if source is not None:
            mine = {name for part in self.bundle.manifest.inputs for name in part.sources.get(source, ())}
            tasks = [task for task in tasks if task.name in mine]
        named = {task.name: task for task in tasks if set(task.needed_columns) <= set(table.column_names)}
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
        form = next(iter(self.bundle.manifest.inputs[index].codec.image_features), None)
        labels = labels_of_rows(there, table, form)
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
    run = Run(recipe, bundle, read_scores(scores, place / SCORES), history, record)
    _check_of_one_run(run, place)
    run.folder = place
    return run


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


def _json(value: object, indent: int | None = 1) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"

"""fit(recipe) -> Run: the one path that the library, the command line and the estimator all take."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

import polytask
from polytask.bundle import Bundle, n_parameters
from polytask.checkpoint import STATE, Checkpoints, sync
from polytask.errors import PolytaskError, did_you_mean, listed, rows_named
from polytask.evaluation.card import model_card
from polytask.evaluation.comparison import Comparison, compare
from polytask.fitting import score, train_bundle
from polytask.preparation import Prepared, label_array, prepare
from polytask.recipe import Recipe
from polytask.run_folder import (
    CARD,
    CHECKPOINTS,
    HISTORY,
    MEND,
    MODEL,
    RECIPE,
    RECORD,
    SCORES,
    aside,
    begin,
    cannot_write,
    check_free,
    finished,
    read_record,
    settled,
)
from polytask.scores import Scores
from polytask.source import PIECE_ROWS, Source, like, open_source
from polytask.training import Epoch, gradient_notes, left_out


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
        for table in _of_rows(tables, PIECE_ROWS):
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
            changed = [
                label for label, digest in self._fingerprints(self.recipe).items() if digest != self.record["data"].get(label)
            ]
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
        return self._write(check_free(folder, overwrite))

    def _write(self, place: Path) -> Path:
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
        return given, given.read() if reader is given else reader.read_other(getattr(given, given.datum), self._needed())

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
        there = [task for task in tasks if set(task.own_columns) <= set(table.column_names)]
        if not there:
            wanted = listed(column for task in tasks for column in task.own_columns)
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
        return {task.name: label_array(task, table) for task in there}

    @staticmethod
    def _fingerprints(recipe: Recipe) -> dict[str, str]:
        return {source.label: source.fingerprint() for source in recipe.sources}


def fit(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Run:
    """Train one network for all tasks of a recipe and score it on the test rows.

    Args:
        recipe: What to learn from what, and how.
        out: A folder to save the run in.
        overwrite: Replace an earlier run there, once this one is trained.
        on_epoch: Called after every epoch, with its losses.

    Raises:
        Stopped: Ctrl-C or SIGTERM, where ``out`` is given; the training is saved, and ``resume(out)`` goes on with it.
        PolytaskError: Whatever is wrong with the recipe, the data or the place to save to; said before training where it can
            be.
    """
    place = None if out is None else check_free(out, overwrite)
    return _run(_anchored(recipe), place, on_epoch, anew=True)


def resume(folder: str | Path, recipe: Recipe | None = None, *, on_epoch: Callable[[Epoch], None] | None = None) -> Run:
    """Go on with a training that was stopped or killed, bit for bit as if it had not been.

    Args:
        folder: The ``out`` of that ``fit``. Where its run is finished already, this is ``load``.
        recipe: The same recipe again, where it has what a file cannot hold: rows in memory, functions, networks.
        on_epoch: Called after every epoch, and first for those done before.

    Raises:
        PolytaskError: There is no such training, or its recipe or data have changed.
        Stopped: As for ``fit``.
    """
    place = settled(folder)
    asked = place / CHECKPOINTS / RECIPE
    if not asked.is_file():
        if (place / RECORD).is_file():
            shutil.rmtree(aside(place), ignore_errors=True)  # what a crash at the very end left
            return load(place)
        raise PolytaskError("no training to go on with", where=str(folder), mend="`polytask fit ... --out` begins one.")
    stored = Recipe.from_yaml(asked)
    given = stored if recipe is None else _anchored(recipe)
    one, two = given.to_dict(), stored.to_dict()
    if other := [key for key in one if one[key] != two[key]]:
        what = f"the training was begun with another {listed(other)}"
        raise PolytaskError(what, where=str(asked), mend="Give the same recipe, or fit anew with overwrite=True.")
    return _run(given, place, on_epoch, anew=False)


def _run(recipe: Recipe, place: Path | None, on_epoch: Callable[[Epoch], None] | None, *, anew: bool) -> Run:
    """Prepare, train, score and save."""
    began = time.perf_counter()
    prepared = prepare(recipe)
    fingerprints, origin = Run._fingerprints(recipe), prepared.origin
    if place is None:
        bundle, history = train_bundle(recipe, prepared, on_epoch=on_epoch)
        before = 0.0
    else:
        data = fingerprints if origin is None else fingerprints | {str(origin.settings.run): origin.fingerprint}
        with _saving(recipe, place / CHECKPOINTS, data, anew) as checkpoints:
            bundle, history = train_bundle(recipe, prepared, on_epoch=on_epoch, checkpoints=checkpoints)
        before = checkpoints.seconds
    judged = "test" if prepared.test.n_rows else "validation" if prepared.validation.n_rows else "training"
    scores = score(bundle, getattr(prepared, judged), recipe.seed)
    record: dict[str, Any] = {
        "polytask": polytask.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rows": {part: getattr(prepared, part).n_rows for part in ("training", "validation", "test")},
        "scored_on": judged,
        "parameters": n_parameters(bundle.model),
        "seconds": round(before + time.perf_counter() - began, 3),
        "best_epochs": {task: epoch.epoch for epoch in history for task in epoch.best},
        "data": fingerprints,
        "parts": dict(prepared.parts),
        "notes": [*prepared.notes, *left_out(history), *gradient_notes(history)],
    }
    if origin is not None:
        record["warm_start"] = {"run": str(origin.settings.run), "weights": origin.fingerprint}
        record["notes"] += origin.seen_before(fingerprints, prepared.parts)
    run = Run(recipe, bundle, scores, [epoch.to_dict() for epoch in history], record, prepared)
    if place is not None:
        _write_or_rescue(run, place)
    return run


@contextmanager
def _saving(recipe: Recipe, folder: Path, data: Mapping[str, str], anew: bool) -> Iterator[Checkpoints]:
    """The checkpoints of a training, while signals end it at a step; nothing is left of one that failed before the first."""
    checkpoints = Checkpoints(folder, recipe.trainer.checkpoint, data)
    try:
        if anew:
            begin(recipe.to_yaml(), folder)
    except OSError as error:
        mend = "Choose a place you may write to."
        raise cannot_write(error, folder.parent, mend) from None
    try:
        with checkpoints.listening():
            yield checkpoints
    except PolytaskError:
        if not (folder / STATE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # it holds something else, and is not ours to remove
                folder.parent.rmdir()
        raise


def _write_or_rescue(run: Run, place: Path) -> None:
    """Save a run; where that fails, put it elsewhere rather than lose the training, and say so."""
    try:
        run._write(place)
    except PolytaskError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="polytask-"))
        try:
            mend = f"The run was saved in {str(run.save(elsewhere / 'run'))!r} instead: move it where you want it."
        except PolytaskError:
            shutil.rmtree(elsewhere, ignore_errors=True)
            kept = (place / CHECKPOINTS / STATE).is_file()
            goes_on = f"`polytask resume {place}` goes on from its last checkpoint" if kept else "fit again"
            mend = f"{str(elsewhere.parent)!r} cannot take it either. Make room, then {goes_on}."
        raise PolytaskError(error.what, where=error.where, found=error.found, mend=mend) from error


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
        said |= {MODEL: set(run.bundle.tasks) - tasks, HISTORY: learned if learned.isdisjoint(tasks) else set()}
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


def _anchored(recipe: Recipe) -> Recipe:
    sources, begun = tuple(source.anchored() for source in recipe.sources), recipe.warm_start
    return recipe.model_copy(update={"sources": sources, "warm_start": begun and begun.anchored()})


def _json(value: object, indent: int | None = 1) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"

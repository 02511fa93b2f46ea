"""From a recipe to tensors: read the sources, split the rows, fit the codecs on the training part, encode every part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from polytask.batch import Dataset, Inputs, Stored
from polytask.cells import ColumnKind
from polytask.columns import InputCodec, check_cells, kinds_of_first, names_images, names_rows
from polytask.encoder import Encoder
from polytask.errors import CellsError, PolytaskError, are, counted, did_you_mean, listed, rows_named
from polytask.fitted import FittedTask
from polytask.given import with_joint_labels
from polytask.images import ImageFeature
from polytask.input_sets import InputSet
from polytask.labeling import label_column_of, read_labels, stored_images, weights_of
from polytask.leaks import column_notes, find_leaks
from polytask.loading import Loaded, Read, load_source, read_images, row_names, stacked, told_kinds
from polytask.reading import check_reads
from polytask.recipe import Recipe
from polytask.splitting import FREE, TEST, TRAIN, VALIDATION, assign, assign_fold
from polytask.task import Codec, Task, numbers
from polytask.warm_start import Origin

PARTS = {TRAIN: "training", VALIDATION: "validation", TEST: "test"}
MAX_STRATA = 20


@dataclass(frozen=True)
class Prepared:
    """A recipe's data, ready to train on.

    Attributes:
        training: Rows to learn from; those without any label are left out.
        validation: Rows that choose.
        test: Rows that judge.
        inputs: The distinct sets of input columns.
        tasks: The tasks with their codecs, fitted on the training rows.
        notes: What the reader should know: labels that are missing in a part, columns left out.
        parts: Per source the sha256, in hexadecimal, of which of its rows is in which part.
        order: The names of the sources, as their rows stand one after the other.
        positions: Per part where each of its rows stands among all rows of all sources in that order.
        origin: The earlier run that the weights begin with, and what goes on of it; None where they begin anew.
    """

    training: Dataset
    validation: Dataset
    test: Dataset
    inputs: tuple[InputSet, ...]
    tasks: tuple[FittedTask, ...]
    notes: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    positions: Mapping[str, NDArray[np.intp]] = field(default_factory=dict)
    origin: Origin | None = None


def prepare(recipe: Recipe, fold: tuple[int, int] | None = None) -> Prepared:
    """Read, split and encode a recipe's data.

    Args:
        recipe: What to learn from what.
        fold: Which fold is the test part, from 0, and of how many; None for the split's own test part.

    Raises:
        PolytaskError: Whatever is wrong with the files, the columns, the labels or the split.
    """
    notes: list[str] = []
    origin = _origin(recipe, notes)
    maps = [task.label_column for task in recipe.tasks if task.spatial in ("codes", "numbers")]
    loaded = [load_source(source, recipe.kinds_of(source), maps) for source in recipe.sources]
    _attach_tasks(recipe, loaded)
    _choose_inputs(recipe, loaded, origin, notes)
    groups: dict[tuple[str, ...], list[Loaded]] = {}
    for item in loaded:
        groups.setdefault(item.inputs, []).append(item)
    images = {names: read_images(recipe, names, group, origin, notes) for names, group in groups.items()}
    read_labels(recipe, loaded, images, notes)
    for item in loaded:
        _split(recipe, item, fold)
    ordered = [item for group in groups.values() for item in group]
    parts = np.concatenate([item.parts for item in ordered])
    sets, inputs = zip(
        *(_input_set(recipe, names, group, origin, images[names], notes) for names, group in groups.items()), strict=True
    )
    labels = {task.name: label_column_of(task, ordered).filter(pa.array(parts == TRAIN)) for task in recipe.tasks}
    shown = {task.name: stored_images(task, sets, inputs) for task in recipe.tasks if task.spatial == "image"}
    known = {} if origin is None else origin.codecs(recipe.tasks, recipe.head, labels, notes)
    if origin is not None:
        origin = origin.going_on(labels, known, notes)
        check_reads([*recipe.tasks, *(record.task for record in origin.records())], recipe.sharing)
        sets = origin.with_carried(sets)
        inputs = (*inputs, *({} for _ in sets[len(inputs) :]))
    with rows_named(row_names(ordered)):
        tasks = tuple(
            _fitted(recipe, t, ordered, parts == TRAIN, labels[t.name], known.get(t.name), shown.get(t.name), notes)
            for t in recipe.tasks
        )
        targets: dict[str, torch.Tensor | Stored] = {}
        present, weights = {}, {}
        for fitted in tasks:
            name = fitted.task.name
            targets[name], present[name] = fitted.task.encode(label_column_of(fitted.task, ordered), fitted.codec)
            if name in shown:
                targets[name] = shown[name][1]
            if fitted.task.weight_column is not None:
                weights[name] = fitted.scaled_weights(weights_of(fitted.task, ordered))
    source_of = np.repeat(np.arange(len(ordered)), [len(item.parts) for item in ordered])
    sources = {item.source.label: torch.from_numpy(source_of == index) for index, item in enumerate(ordered)}
    everything = Dataset(tuple(inputs), targets, present, sources=sources, weights=weights)
    labeled, marks = torch.stack(list(present.values())).any(0), torch.from_numpy(parts)
    if not bool((labeled & (marks == TRAIN)).any()):
        mend = "Change the split, or name columns that have labels there."
        raise PolytaskError(
            "no training row has a label of any task", found=counted(int((parts == TRAIN).sum()), "row"), mend=mend
        )
    tasks = _with_joint_losses(tasks, everything.where(marks == TRAIN))
    for part in (VALIDATION, TEST):
        notes += [
            _without_labels(t.task.name, PARTS[part])
            for t in tasks
            if (parts == part).any() and not _any(present, t, parts == part)
        ]
    chosen = {name: (marks == part) & labeled for part, name in PARTS.items()}
    return Prepared(
        training=everything.where(chosen["training"]),
        validation=everything.where(chosen["validation"]),
        test=everything.where(chosen["test"]),
        inputs=tuple(sets),
        tasks=tasks,
        notes=tuple(notes),
        parts={item.source.label: hashlib.sha256(item.parts.tobytes()).hexdigest() for item in ordered},
        order=tuple(item.source.label for item in ordered),
        positions={name: np.flatnonzero(mask.numpy()) for name, mask in chosen.items()},
        origin=origin,
    )


def preparation_key(recipe: Recipe) -> str:
    """What ``prepare`` makes of a recipe's data is the same for recipes with the same key, but for weights and heads of tasks.

    Encoder, sharing and heads count where they choose how columns and labels are encoded: an encoder with a ``fit_inputs`` of
    its own, or a wish for a size of images, and a training that goes on from a run.
    """
    fields = recipe.to_dict()
    read = ["sources", "split", "columns", "images", "drop", "unlabeled", "seed", "warm_start"]
    if recipe.warm_start is not None:
        read += ["encoder", "sharing", "head"]
    elif type(recipe.encoder).fit_inputs is not Encoder.fit_inputs:
        read.append("encoder")
    size = recipe.encoder.image_size if recipe.images.size is None else None
    own = ("weight",) if recipe.warm_start is not None else ("weight", "head")
    tasks = [{name: value for name, value in task.items() if name not in own} for task in fields["tasks"]]
    return json.dumps([tasks, size, *(fields[name] for name in read)])


def with_tasks(prepared: Prepared, recipe: Recipe) -> Prepared:
    """The same data for a recipe with the same key: with the weights and heads that it gives its tasks."""
    tasks = {task.name: task for task in recipe.tasks}
    return replace(prepared, tasks=tuple(replace(fitted, task=tasks[fitted.task.name]) for fitted in prepared.tasks))


def _attach_tasks(recipe: Recipe, loaded: Sequence[Loaded]) -> None:
    """A task belongs to the source it names, else to every source that has its column."""
    for task in recipe.tasks:
        named = [item for item in loaded if task.source in (None, item.source.label)]
        having = [item for item in named if set(task.own_columns) <= set(item.table.column_names)]
        if not having:
            columns = sorted({name for item in named for name in item.table.column_names})
            where = f"task {task.name!r}"
            place = f" in {listed(item.source.label for item in named)}"
            lacking = next((name for name in task.own_columns if name not in columns), task.label_column)
            mend = did_you_mean(lacking, columns)
            raise PolytaskError(f"no column {lacking!r}{place}", where=where, mend=mend)
        for item in having:
            item.tasks.append(task)
    for item in loaded:
        if not item.tasks:
            mend = "Remove it, or give it a task: name=file:column."
            raise PolytaskError("this source labels no task", where=f"source {item.source.label!r}", mend=mend)


def _origin(recipe: Recipe, notes: list[str]) -> Origin | None:
    """The earlier run that the recipe goes on from."""
    if recipe.warm_start is None:
        return None
    notes.append(recipe.warm_start.told)
    return Origin.read(recipe.warm_start, recipe.encoder, recipe.sharing, [recipe.head, *(task.head for task in recipe.tasks)])


def _choose_inputs(recipe: Recipe, loaded: Sequence[Loaded], origin: Origin | None, notes: list[str]) -> None:
    every = sorted({name for item in loaded for name in item.table.column_names})
    for name, where in [*((n, "drop") for n in recipe.drop), *((n, "columns") for n in recipe.columns)]:
        if name not in every:
            raise PolytaskError(f"no column {name!r}", where=where, mend=did_you_mean(name, every))
    for item in loaded:
        barred, wanted = _barred(recipe, item), item.source.inputs or item.table.column_names
        if origin is None:
            item.inputs = tuple(name for name in wanted if name not in barred)
        else:
            item.inputs = origin.columns_of(item.source.label, item.table, barred, notes)
        for task in item.tasks:
            if not task.label_columns and task.name in item.inputs:
                what = f"a {task.kind} task has the name of a column, which it does not take for labels: it would be an input"
                mend = f"Set column: {task.name} on the task to score it by that column, or name the task otherwise."
                raise PolytaskError(what, where=f"task {task.name!r}, source {item.source.label!r}", mend=mend)
        if not item.inputs:
            mend = "Drop fewer columns."
            raise PolytaskError("no input columns are left", where=f"source {item.source.label!r}", mend=mend)


def _barred(recipe: Recipe, item: Loaded) -> dict[str, str]:
    """The columns of a source that are no inputs, and why."""
    labels = {column: task.name for task in item.tasks for column in task.barred_columns}
    there, wanted = item.table.column_names, item.source.inputs or ()
    for name in wanted:
        where = f"source {item.source.label!r}, inputs"
        if name not in there:
            raise PolytaskError(f"no column {name!r}", where=where, mend=did_you_mean(name, there))
        if name in labels:
            what = f"column {name!r} labels task {labels[name]!r} of the same source, so it cannot be an input"
            raise PolytaskError(what, where=where, mend="Take it out of the inputs.")
    reasons = {name: "is not among the inputs of its source" for name in there if wanted and name not in wanted}
    reasons |= dict.fromkeys(recipe.drop, "is dropped")
    if recipe.split.group is not None:
        reasons[recipe.split.group] = "says which rows belong together"
    return reasons | {column: f"labels task {task!r}" for column, task in labels.items()}


def _split(recipe: Recipe, item: Loaded, fold: tuple[int, int] | None) -> None:
    split, there = recipe.split, item.table.column_names
    for role, name in (("group", split.group), ("time", split.time)):
        if name is not None and name not in there:
            where = f"split.{role}, source {item.source.label!r}"
            raise PolytaskError(f"no column {name!r}", where=where, mend=did_you_mean(name, there))
    names = [task.name for task in recipe.tasks if task.spatial is None]
    chosen: Sequence[str] = split.stratify if isinstance(split.stratify, tuple) else names if split.stratify else ()
    for name in chosen:
        if name not in names:
            raise PolytaskError(f"no task {name!r}", where="split.stratify", mend=did_you_mean(name, names))
    with rows_named(row_names([item])):
        times = None if split.time is None else _times(item.table.column(split.time), split.time)
    strata = {name: _strata(column, item.parts == FREE) for name, column in item.labels.items() if name in chosen}
    groups = None if split.group is None else _groups(item.table.column(split.group), split.group)
    seed = recipe.seed if split.seed is None else split.seed
    if fold is not None:
        item.parts = assign_fold(split, len(item.table), *fold, labels=strata, groups=groups, seed=seed, fixed=item.parts)
        return
    item.parts = assign(
        split,
        len(item.table),
        labels={} if split.time is not None else strata,
        groups=groups,
        times=times,
        seed=seed,
        fixed=item.parts,
    )


def _input_set(
    recipe: Recipe, names: tuple[str, ...], group: Sequence[Loaded], origin: Origin | None, images: Read, notes: list[str]
) -> tuple[InputSet, Inputs]:
    table = stacked([item.table for item in group], names)
    rows = np.concatenate([item.parts for item in group]) == TRAIN
    marks = pa.array(rows)
    training = table.drop_columns(list(images)).filter(marks)
    given: Mapping[str, ColumnKind] = {name: kind for name, kind in told_kinds(recipe, group).items() if name in names}
    with rows_named(row_names(group)):
        if origin is not None:
            codec: InputCodec = origin.codec_of(names, given)
        else:
            kinds = {**kinds_of_first([piece for item in group for piece in item.pieces.values()], names), **given}
            check_cells(table, names, kinds)  # of all rows, before the training rows alone are read
            of_training = {name: (form, pictures.where(rows)) for name, (form, pictures) in images.items()}
            codec = recipe.encoder.fit_inputs(training, names, kinds, of_training)
            plain = [name for name in codec.names if name not in given and name not in images]
            doubtful = [name for name in plain if names_rows(training[name]) == "perhaps"]
            notes += column_notes(codec.constant, codec.identifiers, doubtful)
            notes += [
                f"{name!r} names image files: --image {name} reads them" for name in names_images(training, codec.identifiers)
            ]
        encoded = codec.encode(table, {name: pictures for name, (_, pictures) in images.items()})
    labels = {task.name for item in group for task in item.tasks}
    whole = [task for task in recipe.tasks if task.name in labels and task.spatial is None]
    known = {task.name: label_column_of(task, group).filter(marks) for task in whole}
    notes += map(str, find_leaks(training, [name for name in codec.names if name not in images], known))
    return InputSet(codec=codec, sources={i.source.label: tuple(t.name for t in i.tasks) for i in group}), encoded


def _fitted(
    recipe: Recipe,
    task: Task,
    loaded: Sequence[Loaded],
    rows: NDArray[np.bool_],
    training: pa.Array,
    codec: Codec | None,
    image: tuple[ImageFeature, Stored] | None,
    notes: list[str],
) -> FittedTask:
    """A task with what it learns from the labels of the training ``rows``; ``image`` is what it is about, of all rows."""
    if training.null_count == len(training):
        where = f"task {task.name!r}, column {listed(task.label_columns)!r}"
        if recipe.unlabeled == "error":
            mend = "Leave the task out, change the split, or set unlabeled: keep to keep its head untrained."
            raise PolytaskError("no training row has a label", where=where, found=f"{len(training)} rows", mend=mend)
        notes.append(f"task {task.name!r} has no label in the training rows: its head stays untrained")
    positions = np.flatnonzero(rows)
    with rows_named(lambda row: int(positions[row])):
        weights = None if task.weight_column is None else weights_of(task, loaded)[rows]
        seen = None if image is None else (image[0], replace(image[1], rows=image[1].rows[torch.from_numpy(rows)]))
        return FittedTask.fit(task, training, weights, codec, seen)


def _with_joint_losses(tasks: Sequence[FittedTask], training: Dataset) -> tuple[FittedTask, ...]:
    """The tasks, where one is given another with the loss of the best constant for both."""
    if all(fitted.task.seen_where is None for fitted in tasks):
        return tuple(tasks)
    joint = with_joint_labels(training, [fitted.task for fitted in tasks])
    found = []
    for fitted in tasks:
        name = fitted.task.name
        rows, weights = joint.present[name], joint.weights.get(name)
        given = fitted.task.seen_where is not None
        found.append(
            fitted.with_joint(joint.targets[name][rows], None if weights is None else weights[rows]) if given else fitted
        )
    return tuple(found)


def _strata(column: pa.Array, free: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Labels as a few codes, -1 where missing: the values themselves, or the deciles of a number with many."""
    codes = _codes(column)
    if codes.max(initial=-1) < MAX_STRATA or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return codes
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    known = np.isfinite(values)
    drawn = values[known & free]
    edges = np.unique(np.quantile(drawn, np.linspace(0.1, 0.9, 9))) if len(drawn) else np.zeros(0)
    return np.where(known, np.searchsorted(edges, values), -1).astype(np.int64)


def _codes(column: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
    """Distinct values as codes; -1 for null and NaN."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), None, array)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    codes: NDArray[np.int64] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _groups(column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    where, mend = f"split.group, column {name!r}", "Give a column that names what belongs together."
    if pa.types.is_nested(column.type):
        raise PolytaskError("a group is a single value", where=where, found=str(column.type), mend=mend)
    codes = _codes(column)
    if len(codes) and codes.max() < 0:
        raise PolytaskError("no row has a group", where=where, found=counted(len(codes), "row"), mend=mend)
    return codes


def _times(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    where = f"split.time, column {name!r}"
    if column.null_count:
        rows = np.flatnonzero(column.is_null().to_numpy())
        cells = dict.fromkeys(rows.tolist(), "")
        raise CellsError(f"{are(len(rows), 'time')} missing", cells=cells, where=where, mend="Fill them, or drop these rows.")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    return numbers(column.combine_chunks(), where, "time", "Give a column of dates or numbers.")


def _any(present: Mapping[str, torch.Tensor], fitted: FittedTask, rows: NDArray[np.bool_]) -> bool:
    return bool(present[fitted.task.name].numpy()[rows].any())


def _without_labels(task: str, part: str) -> str:
    return f"task {task!r} has no label in the {part} rows"

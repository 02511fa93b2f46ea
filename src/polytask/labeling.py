"""The labels of a recipe's rows: cells of columns, pixels of masks and depths, or the input images themselves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch

from polytask.batch import Inputs, Stored, n_rows
from polytask.errors import CellsError, PolytaskError, counted, listed, rows_named
from polytask.given import seen_labels
from polytask.images import ImageFeature
from polytask.input_sets import InputSet
from polytask.loading import Loaded, Read, joined, row_names
from polytask.maps import read_maps
from polytask.recipe import Recipe
from polytask.task import Task


def label_array(task: Task, table: pa.Table) -> pa.Array:
    """A task's labels of a table, in one chunk; null where the row does not count.

    Raises:
        PolytaskError: One of them cannot be read.
    """
    labels = task.labels_of(table)
    if task.weight_column is not None:
        counts = (task.weights_of(table) > 0).numpy()
        labels = labels.take(pa.array(np.arange(len(labels)), mask=~counts))
    task.check_labels(labels)
    return labels


def with_maps(task: Task, table: pa.Table, form: ImageFeature | None) -> tuple[pa.Table, dict[int, str]]:
    """A table with the labels of a task's pixels read, in the form of the input image, and why some cannot be used.

    Raises:
        PolytaskError: There is no input image, or labels cannot be read.
    """
    if task.spatial not in ("codes", "numbers"):
        return table, {}
    if form is None:
        what, mend = (
            f"a {task.kind} task labels the pixels of an image, and none is among the inputs",
            "Say which: --image photo.",
        )
        raise PolytaskError(what, where=task.place, mend=mend)
    _check_still(task, form)
    labels, unusable = read_maps(table[task.label_column], form, task.spatial, task.place)
    return table.set_column(table.column_names.index(task.label_column), task.label_column, labels), unusable


def _check_still(task: Task, form: ImageFeature) -> None:
    if form.frames > 1:
        what = f"a {task.kind} task has an answer at every pixel of a still image, and this is a clip"
        found, mend = f"{form.column!r} with {form.frames} frames", "Read one frame of each: images.frames: 1."
        raise PolytaskError(what, where=task.place, found=found, mend=mend)


def labels_of_rows(tasks: Sequence[Task], table: pa.Table, form: ImageFeature | None) -> dict[str, pa.Array]:
    """The labels of new rows, of each of these tasks; what cannot be used of them, and is to be skipped, is said.

    Raises:
        PolytaskError: One of them cannot be read.
    """
    labels = {}
    for task in tasks:
        read, unusable = with_maps(task, table, form)
        labels[task.name] = label_array(task, read)
        if unusable:
            told = CellsError("labels of pixels not used", cells=dict(sorted(unusable.items())), where=task.place)
            warnings.warn(str(told), stacklevel=2)
    return labels


def read_labels(recipe: Recipe, loaded: Sequence[Loaded], images: Mapping[tuple[str, ...], Read], notes: list[str]) -> None:
    """Read the labels of all tasks of every source, told by their rows.

    Raises:
        PolytaskError: One of them cannot be read.
    """
    for item in loaded:
        form = next((form for form, _ in images[item.inputs].values()), None)
        with rows_named(row_names([item])):
            for task in item.tasks:
                table, unusable = with_maps(task, item.table, form)
                item.labels[task.name] = label_array(task, table)
                if unusable:
                    told = [f"{row_names([item])(row)} ({why})" for row, why in sorted(unusable.items())]
                    notes.append(f"labels of {task.name!r} not used: {counted(len(told), 'row')}: {listed(told)}")
    if all(task.seen_where is None for task in recipe.tasks):
        return
    with rows_named(row_names(loaded)):
        labels, told = seen_labels({task.name: label_column_of(task, loaded) for task in recipe.tasks}, recipe.tasks)
    notes += told
    start = 0
    for item in loaded:
        given = [task.name for task in item.tasks if task.seen_where is not None]
        item.labels |= {name: labels[name].slice(start, len(item.table)) for name in given}
        start += len(item.table)


def stored_images(task: Task, sets: Sequence[InputSet], inputs: Sequence[Inputs]) -> tuple[ImageFeature, Stored]:
    """The input images that are a task's target, of all rows; in rows of sources without them any.

    Raises:
        PolytaskError: Its column is no image among the inputs, or is of several sizes.
    """
    name, starts = task.label_column, np.cumsum([0, *map(n_rows, inputs)])
    found = [(i, form) for i, part in enumerate(sets) for form in part.codec.image_features if form.column == name]
    if not found:
        every = [form.column for part in sets for form in part.codec.image_features]
        mend = f"Name one as the task's column: {listed(every)}." if every else "Say which column is one: --image photo."
        raise PolytaskError(f"column {name!r} is no image among the inputs", where=f"task {task.name!r}", mend=mend)
    _check_still(task, found[0][1])
    if len({form.shape for _, form in found}) > 1:
        sizes = listed(" x ".join(map(str, form.shape)) for _, form in found)
        mend = "Set images.size and images.color."
        raise PolytaskError(
            f"the images of column {name!r} differ in shape", where=f"task {task.name!r}", found=sizes, mend=mend
        )
    pixels = [inputs[i][form.key] for i, form in found]
    rows, begun = torch.zeros(int(starts[-1]), dtype=torch.int64), 0
    for (i, _), part in zip(found, pixels, strict=True):
        rows[starts[i] : starts[i + 1]] = torch.arange(begun, begun + len(part))
        begun += len(part)
    return found[0][1], Stored(pixels[0] if len(pixels) == 1 else torch.cat(pixels), rows)


def label_column_of(task: Task, loaded: Sequence[Loaded]) -> pa.Array:
    """A task's labels over all rows; null in the rows of other sources."""
    return joined([item.labels.get(task.name, pa.nulls(len(item.table))) for item in loaded])


def weights_of(task: Task, loaded: Sequence[Loaded]) -> torch.Tensor:
    """A task's weights over all rows; 0 in the rows of other sources."""
    return torch.cat([task.weights_of(i.table) if task in i.tasks else torch.zeros(len(i.table)).double() for i in loaded])

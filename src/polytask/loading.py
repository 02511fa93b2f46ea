"""The rows of a recipe's sources, read and put one after the other, with their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytask.cells import ColumnKind
from polytask.columns import image_columns
from polytask.errors import PolytaskError, counted, listed, rows_named
from polytask.images import ImageFeature, Images
from polytask.pictures import Pictures, form_of, located, read_pictures
from polytask.recipe import Recipe
from polytask.source import Source
from polytask.splitting import FREE, TEST, UNUSED, VALIDATION
from polytask.task import Task
from polytask.warm_start import Origin

Read = dict[str, tuple[ImageFeature, Pictures]]


@dataclass
class Loaded:
    """A source's rows, piece by piece and one after the other, with the part of each: FREE until the split.

    The labels of a task that is given another are there only where that says yes.
    """

    source: Source
    pieces: dict[str, pa.Table]
    table: pa.Table
    parts: NDArray[np.int8]
    tasks: list[Task] = field(default_factory=list)
    labels: dict[str, pa.Array] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()


def load_source(source: Source, kinds: Mapping[str, ColumnKind], maps: Sequence[str] = ()) -> Loaded:
    """A source's rows, read; the paths of images, and in the columns ``maps`` of their labels, are whole."""
    images = [name for name, kind in kinds.items() if kind == "image"] + list(maps)
    pieces = {part: located(table, images, source.folder_of(part)) for part, table in source.parts().items()}
    marks = {"main": FREE, "validation": VALIDATION, "test": TEST}
    tables = list(pieces.values())
    parts = np.concatenate([np.full(len(table), marks[name], np.int8) for name, table in pieces.items()])
    named = {source.label if name == "main" else f"{source.label} ({name})": table for name, table in pieces.items()}
    return Loaded(source, named, stacked(tables, tables[0].column_names), parts)


def row_names(loaded: Sequence[Loaded]) -> Callable[[int], str]:
    """Words for a row of several sources one after the other."""
    pieces = [(name, len(table)) for item in loaded for name, table in item.pieces.items()]
    ends = np.cumsum([n_rows for _, n_rows in pieces])

    def words(row: int) -> str:
        index = int(np.searchsorted(ends, row, side="right"))
        name, n_rows = pieces[index]
        return f"row {row - int(ends[index]) + n_rows + 1:,} of {name}"

    return words


def read_images(
    recipe: Recipe, names: tuple[str, ...], group: Sequence[Loaded], origin: Origin | None, notes: list[str]
) -> Read:
    """The images of a set of input columns; rows of which one cannot be used are left out, or refused."""
    table = stacked([item.table for item in group], names)
    columns, read = image_columns(table, names, told_kinds(recipe, group)), {}
    recipe.encoder.check_reads(columns, [name for name in names if name not in columns])
    unusable: dict[int, str] = {}
    for name in columns:
        with rows_named(row_names(group)):
            known = None if origin is None else origin.image_of(names, name)
            form = known or form_of(name, table[name], _settings(recipe))
            recipe.encoder.check_frames(form)
            pictures = read_pictures(table[name], form, recipe.images.cache)
        read[name], unusable = (form, pictures), {**pictures.unusable, **unusable}
        if form.frames > 1:
            short = f"; {counted(pictures.n_short, 'clip')} with fewer repeat their last" if pictures.n_short else ""
            notes.append(f"{name!r} holds clips of {form.frames} frames of {form.height} x {form.width} pixels{short}")
        if pictures.n_resized:
            how = {"stretch": "each side for itself", "crop": "cropped", "pad": "padded"}[form.resize]
            notes.append(
                f"{counted(pictures.n_resized, 'image')} of {name!r} of other sizes brought to {form.height} x {form.width} "
                f"pixels, {how} (images.size and images.resize say how)"
            )
    if unusable:
        words = row_names(group)
        told = [f"{words(row)} ({unusable[row]})" for row in sorted(unusable)]
        notes.append(f"left out, for their images cannot be used: {counted(len(told), 'row')}: {listed(told)}")
        left_out = np.zeros(len(table), np.bool_)
        left_out[list(unusable)] = True
        for item, rows in zip(group, np.split(left_out, np.cumsum([len(i.parts) for i in group])[:-1]), strict=True):
            item.parts[rows] = UNUSED
    return read


def _settings(recipe: Recipe) -> Images:
    """How images are read: where the recipe says no size, it is that which the encoder wishes, if it does."""
    wish = recipe.encoder.image_size if recipe.images.size is None else None
    return recipe.images if wish is None else recipe.images.model_copy(update={"size": wish})


def told_kinds(recipe: Recipe, group: Sequence[Loaded]) -> dict[str, ColumnKind]:
    """The kinds of columns that the sources of a group, or the recipe, tell."""
    return {name: kind for item in group for name, kind in recipe.kinds_of(item.source).items()}


def stacked(tables: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    """Tables one after the other; a column that one of them lacks is null there."""
    if len(tables) == 1:
        return tables[0].select(list(names))
    columns = {}
    for name in names:
        having = [
            table.column(name).combine_chunks() if name in table.column_names else pa.nulls(len(table)) for table in tables
        ]
        try:
            columns[name] = joined(having)
        except pa.ArrowException:
            found, mend = listed(dict.fromkeys(str(column.type) for column in having)), "Give it one type in all files."
            raise PolytaskError(f"column {name!r} has types that do not go together", found=found, mend=mend) from None
    return pa.table(columns)


def joined(columns: Sequence[pa.Array]) -> pa.Array:
    """Columns one after the other, as the narrowest type that holds them all: numbers as float64, else text."""
    types = {column.type for column in columns if column.null_count < len(column)}
    if not types:
        return pa.nulls(sum(map(len, columns)), pa.float64())
    if len(types) == 1:
        common = types.pop()
    elif all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in types):
        common = pa.float64()
    else:
        common = pa.string()
    arrays = [column.cast(common) if column.null_count < len(column) else pa.nulls(len(column), common) for column in columns]
    return pa.concat_arrays(arrays)

"""From words to a first recipe: kinds of tasks guessed from their columns, and the recipe as commented YAML."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polytask.arguments import TaskWords, Words, parse_column
from polytask.catalog import WIDTH, meanings, summaries, yaml_text
from polytask.columns import describe_column
from polytask.component import Component, Settings
from polytask.errors import PolytaskError, did_you_mean, listed
from polytask.recipe import Recipe, changed
from polytask.source import Source, open_source

MAX_CLASSES = 100
LEVELS = range(3, 13)
COMMENT_COLUMN = 36

@dataclass(frozen=True)
class Start:
    """A recipe made from words.

    Attributes:
        recipe: The recipe.
        tables: The rows of each source that were read to make it, by its label.
        guesses: Why each task whose kind was not given has its kind, by name.
    """

    recipe: Recipe
    tables: Mapping[str, pa.Table]
    guesses: Mapping[str, str]

    def told(self) -> list[str]:
        """The guesses, a line each."""
        kinds = {task.name: task.kind for task in self.recipe.tasks}
        return [f"task {name!r}: {kinds[name]}, for it has {why}" for name, why in self.guesses.items()]


def start(words: Words, read_all: bool = False) -> Start:
    """The recipe that the words ask for.

    Args:
        words: With data files, and a task at least.
        read_all: Read every source, not just those where a task's kind is to be guessed.

    Raises:
        PolytaskError: A file, column, kind or field does not exist, or a kind cannot be guessed.
    """
    asked = words.tasks()
    if not asked:
        raise PolytaskError("no task is named", mend="Say what to predict: --task COLUMN. `polytask init FILES` lists the columns.")
    sources = open_sources(words, asked)
    fields: dict[str, Any] = {
        "sources": [source.to_dict() for source in sources.values()],
        "tasks": [_task_fields(task, sources) for task in asked],
        **{name: Recipe.model_fields[name].get_default(call_default_factory=True).kind for name in ("encoder", "sharing", "head", "balancer")},
        "drop": list(words.drop),
        "columns": dict(map(parse_column, words.column)),
    }
    fields = changed(fields, words.changes())
    final = [Source.coerce(source) for source in fields["sources"]]
    unknown = [task for task in fields["tasks"] if "kind" not in task]
    tables = {source.label: source.read() for source in final if read_all or _is_read_for(source, unknown)}
    guesses: dict[str, str] = {}
    for task in unknown:
        task["kind"], guesses[task["name"]] = _guessed(task, tables)
    return Start(Recipe(**fields), tables, guesses)


def open_sources(words: Words, asked: Sequence[TaskWords]) -> dict[str, Source]:
    """A source per data file, by its absolute path: the files named first and those that the tasks name.

    Raises:
        PolytaskError: No file is named, or an option does not fit the files.
    """
    files = [*words.files, *(task.file for task in asked if task.file is not None)]
    paths = {_absolute(file): Path(file) for file in reversed(files)}
    paths = {_absolute(file): paths[_absolute(file)] for file in files}
    if not paths:
        raise PolytaskError("no data file is named", mend="Name one: polytask fit houses.csv --task price.")
    options = words.reading()
    for name in ("test", "validation"):
        if name in options and len(paths) > 1:
            mend = f"Write a recipe with polytask init, and set {name}: in its sources."
            raise PolytaskError(f"it is not clear which of the {len(paths)} files has this {name} part", where=f"--{name}", mend=mend)
    stems = [open_source(path).label for path in paths.values()]
    sources = {}
    for key, path in paths.items():
        bare = open_source(path)
        known = {name: value for name, value in options.items() if name in type(bare).model_fields}
        if stems.count(bare.label) > 1:  # two files of one name are told apart by their folders
            known["name"] = str(path.with_suffix(""))
        sources[key] = open_source(path, **known)
    for name in options:
        if not any(name in type(source).model_fields for source in sources.values()):
            kinds = listed(sorted({source.kind for source in sources.values()}))
            raise PolytaskError(f"--{name.replace('_', '-')} does not go with {kinds} files", mend="Leave it out.")
    return sources


def guess_task(column: pa.ChunkedArray) -> tuple[str, str]:
    """The kind of task a column most likely is, and what is in the column that says so. Never a count: that is for the user to know.

    Raises:
        PolytaskError: No kind fits: the column is constant, empty, or holds dates or free text.

    Example:
        >>> guess_task(pa.chunked_array([[0, 1, None, 1]]))
        ('binary', 'two values, 0 and 1')
        >>> guess_task(pa.chunked_array([["cat", "dog", "eel"]]))
        ('multiclass', 'text with 3 different values')
        >>> guess_task(pa.chunked_array([[1.5, 2.5, 7.0]]))
        ('regression', '3 different numbers from 1.5 to 7')
    """
    kind, present = column.type, column.drop_null()
    values = present.unique()
    if len(values) < 2:
        found = f"{values[0].as_py()!r} in every row" if len(values) else "no value in any row"
        raise PolytaskError("there is nothing to learn", found=found, mend="Choose another column.")
    if len(values) == 2:
        first, second = sorted(values.to_pylist(), key=str)
        return "binary", f"two values, {_shown(first)} and {_shown(second)}"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _guess_number(values)
    if not pa.types.is_string(kind):
        mend = "Turn it into a number first, such as the days since a start, or say its kind."
        raise PolytaskError(f"no kind of task can be guessed for a column of {kind}", mend=mend)
    if len(values) > MAX_CLASSES or len(values) > len(present) / 2 > MAX_CLASSES / 10:
        mend = "If these are classes say so, as in --task name:multiclass; free text cannot be predicted."
        raise PolytaskError(f"it holds text with {len(values):,} different values in {len(present):,} rows", mend=mend)
    return "multiclass", f"text with {len(values)} different values"


def _guess_number(values: pa.Array) -> tuple[str, str]:
    low, high = pc.min_max(values).as_py().values()
    whole = pc.all(pc.equal(values, pc.floor(values))).as_py()
    if whole and len(values) in LEVELS and high - low == len(values) - 1:
        why = f"{len(values)} levels, {low:g} to {high:g}; say multiclass if they have no order, regression if they are amounts"
        return "ordinal", why
    return "regression", f"{len(values):,} different {'whole ' if whole else ''}numbers from {_shown(low)} to {_shown(high)}"


def _task_fields(task: TaskWords, sources: Mapping[str, Source]) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": task.name}
    if task.file is not None:
        fields |= {"column": task.column, "source": sources[_absolute(task.file)].label}
    return fields if task.kind is None else {"kind": _known_kind(task), **fields}


def _known_kind(task: TaskWords) -> str:
    kinds = summaries("tasks")
    if task.kind not in kinds:
        whole = f"{task.name}:{task.kind}"
        mend = f"{did_you_mean(str(task.kind), kinds)} If a column is called {whole!r}, put it in quotes: --task '\"{whole}\"'."
        raise PolytaskError(f"no kind of task {task.kind!r}", where=f"task {task.name!r}", mend=mend)
    return task.kind


def _is_read_for(source: Source, unknown: Sequence[Mapping[str, Any]]) -> bool:
    return any(task.get("source") in (None, source.label) for task in unknown)


def _guessed(task: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> tuple[str, str]:
    """The kind of a task, from the first source that has its column."""
    name, column, source = task["name"], task.get("column") or task["name"], task.get("source")
    near = {label: table for label, table in tables.items() if source in (None, label)}
    table = next((table for table in near.values() if column in table.column_names), None)
    if table is None:
        columns = [name for table in near.values() for name in table.column_names]
        raise PolytaskError(f"no column {column!r} in {listed(near)}", where=f"task {name!r}", mend=did_you_mean(column, columns))
    try:
        return guess_task(table[column])
    except PolytaskError as error:
        raise error.inside(f"task {name!r}, column {column!r}") from None


def _described(column: pa.ChunkedArray) -> tuple[str, str]:
    try:
        return describe_column(column)
    except PolytaskError as error:  # a nested column: say so, and let `fit` refuse it
        return "-", f"{error.what}: drop it"


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _absolute(file: str) -> str:
    return os.path.abspath(Path(file).expanduser())

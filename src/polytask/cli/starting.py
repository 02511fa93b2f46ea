"""From the words of a command line to a recipe; kinds of tasks that were not given are guessed from their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from polytask.cli.arguments import TaskWords, Words, flag, parse_column, parse_lists
from polytask.cli.catalog import summaries
from polytask.errors import PolytaskError, did_you_mean, listed
from polytask.guessing import guess_task
from polytask.manifest import Manifest
from polytask.recipe import Recipe, changed
from polytask.run_folder import MODEL, finished
from polytask.source import Source, open_source


@dataclass(frozen=True)
class Start:
    """A recipe made from words.

    Attributes:
        recipe: The recipe.
        tables: The rows of each source that were read to make it, by its label.
        guesses: What in its column says why each task whose kind was not given has its kind, by the task's name.
    """

    recipe: Recipe
    tables: Mapping[str, pa.Table]
    guesses: Mapping[str, str]

    def told(self) -> list[str]:
        """The guesses, a line each."""
        return told({task.name: task.kind for task in self.recipe.tasks}, self.guesses)


def start(words: Words, read_all: bool = False) -> Start:
    """The recipe that the words ask for.

    Args:
        words: With data files and at least one task.
        read_all: Read every source, not just those where the kind of a task is to be guessed.

    Raises:
        PolytaskError: A file, column, kind or field does not exist, or a kind cannot be guessed.
    """
    fields, tables, guesses = start_fields(words, read_all)
    return Start(Recipe(**fields), tables, guesses)


def start_fields(words: Words, read_all: bool = False) -> tuple[dict[str, Any], dict[str, pa.Table], dict[str, str]]:
    """The recipe that the words ask for as plain values, some of which may be to be searched; tables and guesses as a Start's.

    Raises:
        PolytaskError: As ``start``, but a field that does not exist.
    """
    earlier = None if words.warm_start is None else Manifest.read(finished(words.warm_start) / MODEL)
    known = {} if earlier is None else {record.task.name: record.task.to_dict() for record in earlier.tasks}
    asked = words.tasks() or [TaskWords(name) for name in known]
    sources = open_sources(words, asked) if asked or words.files else {}
    asked = asked or [TaskWords(name) for name in dict.fromkeys(name for source in sources.values() for name in source.labels)]
    if not asked:
        mend = "Say what to predict: --task COLUMN. `polytask init FILES` lists the columns."
        raise PolytaskError("no task is named", mend=mend)
    fields: dict[str, Any] = {
        "sources": [source.to_dict() for source in sources.values()],
        "tasks": [_task_fields(task, sources, known) for task in asked],
        **_parts(earlier),
        "drop": parse_lists(words.drop),
        "columns": {**dict(map(parse_column, words.column)), **dict.fromkeys(parse_lists(words.image), "image")},
    }
    # Changes come first: they may say how a file is to be read.
    fields = changed(fields, words.changes())
    unknown = [task for task in _items(fields["tasks"]) if isinstance(task, dict) and "kind" not in task]
    tables = {
        source.label: source.read()
        for source in map(Source.coerce, _items(fields["sources"]))
        if read_all or any(task.get("source") in (None, source.label) for task in unknown)
    }
    guesses: dict[str, str] = {}
    for task in unknown:
        task["kind"], guesses[task["name"]] = _guessed(task, tables)
    return fields, tables, guesses


def told(kinds: Mapping[str, str], guesses: Mapping[str, str]) -> list[str]:
    """Why tasks have the kinds that were guessed for them, a line each."""
    return [f"task {name!r} is taken for {kinds[name]}: {why}" for name, why in guesses.items()]


def open_sources(words: Words, asked: Sequence[TaskWords]) -> dict[str, Source]:
    """A source per data file, by absolute path: the files that are named, then those that only tasks name.

    Raises:
        PolytaskError: No file is named, or an option does not fit the files.
    """
    files = [*words.files, *(task.file for task in asked if task.file is not None)]
    paths = {_absolute(file): Path(file) for file in reversed(files)}  # the first way to write a path stays
    bare = {key: open_source(paths[key]) for key in dict.fromkeys(map(_absolute, files))}
    if not bare:
        raise PolytaskError("no data file is named", mend="Name one, as in: polytask fit houses.csv --task price.")
    options = words.reading()
    _check_options(options, list(bare.values()))
    labels = [source.label for source in bare.values()]
    sources = {}
    for key, source in bare.items():
        known = {name: value for name, value in options.items() if name in type(source).model_fields}
        if labels.count(source.label) > 1:  # files of one name are told apart by their folders
            known["name"] = str(paths[key].with_suffix(""))
        sources[key] = open_source(source, **known)
    return sources


def _parts(earlier: Manifest | None) -> dict[str, Any]:
    """Encoder, sharing and head of the run that is gone on from; else a recipe has its defaults."""
    if earlier is None:
        return {}
    encoder = {name: value for name, value in earlier.encoder.to_dict().items() if name not in earlier.encoder.held_fields}
    return {"encoder": encoder, "sharing": earlier.sharing.to_dict(), "head": earlier.head.to_dict()}


def _guessed(task: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> tuple[str, str]:
    """The kind of a task, by the first source that has its column."""
    name, source = task["name"], task.get("source")
    column = task.get("column") or name
    near = {label: table for label, table in tables.items() if source in (None, label)}
    table = next((table for table in near.values() if column in table.column_names), None)
    if table is None:
        columns = dict.fromkeys(name for table in near.values() for name in table.column_names)
        mend = did_you_mean(column, columns)
        raise PolytaskError(f"no column {column!r} in {listed(near)}", where=f"task {name!r}", mend=mend)
    try:
        return guess_task(table[column])
    except PolytaskError as error:
        raise error.inside(f"task {name!r}, column {column!r}") from None


def _task_fields(task: TaskWords, sources: Mapping[str, Source], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the words say of a task; where they do not say its kind, it is what it was in the run that is gone on from."""
    before = known.get(task.name, {}) if task.kind is None else {}
    fields: dict[str, Any] = {**before, "name": task.name} | ({"source": None} if before else {})
    if task.file is not None:
        fields |= {"column": task.column, "source": sources[_absolute(task.file)].label}
    return fields if task.kind is None else {"kind": _known_kind(task.name, task.kind), **fields}


def _known_kind(name: str, kind: str) -> str:
    kinds = summaries("tasks")
    if kind not in kinds:
        mend = f"{did_you_mean(kind, kinds)} If a name holds a colon, quote it: --task '\"{name}:{kind}\"'."
        raise PolytaskError(f"no kind of task {kind!r}", where=f"task {name!r}", mend=mend)
    return kind


def _check_options(options: Mapping[str, Any], sources: Sequence[Source]) -> None:
    for name in ("validation", "test"):
        if name in options and len(sources) > 1:
            what = f"it is not clear which of the {len(sources)} files this part belongs to"
            mend = f"Write a recipe with `polytask init` and set {name}: in one of its sources."
            raise PolytaskError(what, where=flag(name), mend=mend)
    for name in options:
        if not any(name in type(source).model_fields for source in sources):
            kinds = listed(sorted({source.kind for source in sources}))
            raise PolytaskError(f"it does not go with {kinds} files", where=flag(name), mend="Leave it out.")


def _items(value: object) -> list[Any]:
    """The tasks or sources in plain values; none where ``--set`` made something else of them, which the recipe then refuses."""
    return value if isinstance(value, list) else []


def _absolute(file: str) -> str:
    return str(Path(file).expanduser().resolve())

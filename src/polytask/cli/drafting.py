"""What `init` prints: a recipe as commented YAML, or the columns there are to choose tasks from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import pyarrow as pa

from polytask.cli.catalog import WIDTH, meanings, summaries, yaml_text
from polytask.cli.starting import Start
from polytask.columns import describe_column
from polytask.component import Component, Settings
from polytask.errors import PolytaskError
from polytask.guessing import guess_task
from polytask.source import Source

COMMENT_COLUMN = 32
MAX_NAME = 30

ABOUT = """\
A recipe for `polytask fit`. A field that is left out has the default shown here. For one run a field can also be changed on the
command line: `polytask fit recipe.yaml --set trainer.epochs=5`. `polytask list` says what there is to choose from, and
`polytask describe balancer dwa` what it is.
"""
ADVICE = {
    "sources": "Where rows come from. More ways to read a file: polytask describe source csv.",
    "tasks": "What to predict. A task may also have a weight, metrics and a head: polytask describe task regression.",
    "encoder": "With few rows, try less width and more dropout.",
    "sharing": "Where tasks hurt one another leave the last stages to each of them, as in stages: 1.",
    "head": "For the tasks that have none of their own; mlp gives each a hidden layer.",
    "balancer": "Equal weights are hard to beat. Where a task stays behind try uncertainty, dwa or fixed weights of your own.",
    "trainer": "Early stopping ends the training before its last epoch. If a loss jumps, lower optimizer.lr.",
    "split": "Rows of one person or one house belong together: set group. To predict the future set time.",
    "mixing": "With several sources, how much of each an epoch holds.",
    "columns": "The kinds of input columns: number, category, boolean, date or image. Where a guess is wrong, change it and "
    "take away the '# ' before it and before columns:.",
    "images": "How images are read, where there are any.",
    "augmentation": "Random changes of training images: flip: 0.5, shift: 0.1, rotation: 10, ... What a task may not be shown "
    "changed it says itself, as in varies_with: [flip].",
    "drop": "Columns that are no inputs: those that name the rows, and those that would give a label away.",
    "primary": "The tasks whose validation losses choose the epochs, while the others only help them to learn; [] for all.",
    "unlabeled": "Where a task has no label in the training rows: stop with an error, or keep its untrained head.",
    "warm_start": "To go on from an earlier run, {run: its folder, freeze: nothing, shared or everything}.",
    "seed": "Of the split, the initial weights, dropout, augmentation and the order of rows.",
}


def draft(start: Start) -> str:
    """The recipe as YAML that reads back as the same recipe, with a comment on every field."""
    recipe = start.recipe
    values = recipe.to_dict()
    sources = [line for source in recipe.sources for line in _item(source, _size(start.tables[source.label]))]
    tasks = [line for task in recipe.tasks for line in _item(task, _reason(start, task))]
    blocks = {"sources": ["sources:", *sources], "tasks": ["tasks:", *tasks]}
    for name in ("encoder", "sharing", "head", "balancer", "trainer", "split", "mixing"):
        blocks[name] = [f"{name}:", *_fields(getattr(recipe, name), "  ")]
    blocks["columns"] = list(_columns(start))
    if any("image" in recipe.kinds_of(source).values() for source in recipe.sources):
        for name in ("images", "augmentation"):
            blocks[name] = [f"{name}:", *_fields(getattr(recipe, name), "  ")]
    for name in ("drop", "primary", "unlabeled", "warm_start", "seed"):
        blocks[name] = [f"{name}: {yaml_text(values[name])}"]
    texts = [_comment(ABOUT), *("\n".join([_comment(ADVICE[name]), *lines]) for name, lines in blocks.items())]
    return "\n\n".join(texts) + "\n"


def column_list(sources: Mapping[str, Source]) -> str:
    """Every column of the sources: its kind as an input, and as a task where one can be guessed."""
    lines = []
    for source in sources.values():
        table = source.read()
        width = min(max(map(len, table.column_names)), MAX_NAME)
        lines += [f"{source.label}: {_size(table)}", f"  {'column':<{width}}  {'as input':<8}  {'as task':<10}  values"]
        for name in table.column_names:
            kind, why = _described(table[name])
            row = f"  {name:<{width}}  {kind:<8}  {_task_kind(table[name]):<10}  {why}"
            lines.append(textwrap.fill(row, WIDTH, subsequent_indent=" " * (width + 26), replace_whitespace=False))
    return "\n".join(lines)


def _item(component: Component, comment: str) -> Iterator[str]:
    """A source or task in a list: its kind, and what is required or not the default."""
    values, fields = component.to_dict(), type(component).model_fields
    yield from _line(f"- kind: {values.pop('kind')}", comment)
    for name, value in values.items():
        default = fields[name].get_default(call_default_factory=True)
        if fields[name].is_required() or value != (list(default) if isinstance(default, tuple) else default):
            yield f"  {name}: {yaml_text(value)}"


def _fields(settings: Settings, blank: str) -> Iterator[str]:
    """A component or group of settings, every field with what its docstring says of it."""
    told = meanings(type(settings))
    if isinstance(settings, Component):
        yield from _line(f"{blank}kind: {settings.kind}", summaries(settings.family).get(settings.kind, ""))
    for name, plain in settings.model_dump(mode="json").items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _line(f"{blank}{name}:", told.get(name, ""))
            yield from _fields(value, f"{blank}  ")
        else:
            yield from _line(f"{blank}{name}: {yaml_text(plain)}", told.get(name, ""))


def _columns(start: Start) -> Iterator[str]:
    """The kinds that were given, and as comments those that will be guessed."""
    recipe, left = start.recipe, dict(start.recipe.columns)
    yield "columns:" if left else "# columns:"
    barred = {*recipe.drop, recipe.split.group}
    for source in recipe.sources:
        table = start.tables[source.label]
        labels = {c for task in recipe.tasks for c in task.own_columns if task.source in (None, source.label)}
        for name in source.inputs or table.column_names:
            if name in table.column_names and name not in barred | labels:
                barred.add(name)
                kind, why = ("image", "") if name in source.images else _described(table[name])
                given = left.pop(name, None)
                text = f"#   {yaml_text(name)}: {kind}" if given is None else f"  {yaml_text(name)}: {given}"
                yield f"{text:<{COMMENT_COLUMN}}  # {' '.join(why.split())}" if why else text
    yield from (f"  {yaml_text(name)}: {kind}" for name, kind in left.items())


def _line(text: str, comment: str) -> Iterator[str]:
    """A line of YAML with its comment: beside it where there is room, else above it."""
    beside = f"{text:<{COMMENT_COLUMN}}  # {comment}"
    if not comment:
        yield text
    elif len(beside) <= WIDTH:
        yield beside
    else:
        yield _comment(comment, text[: len(text) - len(text.lstrip())])
        yield text


def _comment(text: str, blank: str = "") -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, initial_indent=f"{blank}# ", subsequent_indent=f"{blank}# ")


def _size(table: pa.Table) -> str:
    return f"{table.num_rows:,} rows, {table.num_columns} columns"


def _reason(start: Start, task: Component) -> str:
    guess = start.guesses.get(task.to_dict()["name"])
    return f"guessed: {guess}" if guess else summaries("tasks")[task.kind]


def _described(column: pa.ChunkedArray) -> tuple[str, str]:
    try:
        return describe_column(column)
    except PolytaskError as error:
        return "-", f"{error.what}; drop it"


def _task_kind(column: pa.ChunkedArray) -> str:
    try:
        return guess_task(column)[0]
    except PolytaskError:  # it cannot be a task
        return "-"

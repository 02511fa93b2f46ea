"""What can be written on a command line: tasks, columns, lists, and the options that `fit` and `init` share."""

from __future__ import annotations

import csv
import functools
import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Annotated, Any, get_type_hints

from typer import Argument, Option

from polytask.errors import PolytaskError

QUOTED = r""""(?:[^"]|"")*"|'(?:[^']|'')*'"""
PART = re.compile(rf"\s*({QUOTED})\s*|[^:=]*")
NEEDS_QUOTES = re.compile(r"""[:="']|^\s|\s$|^$""")
FORMS = "Write name, name:kind or name=file:column:kind; a part that holds : or = goes in quotes, as in '\"a:b\":regression'."


@dataclass(frozen=True)
class TaskWords:
    """What ``--task`` says: a name, which is a column where no column is named, and what more was given."""

    name: str
    file: str | None = None
    column: str | None = None
    kind: str | None = None

    def __str__(self) -> str:
        text = _quoted(self.name)
        if self.file is not None and self.column is not None:
            text += f"={_quoted(self.file)}:{_quoted(self.column)}"
        return text if self.kind is None else f"{text}:{_quoted(self.kind)}"


def parse_task(text: str) -> TaskWords:
    r"""Read ``NAME[:KIND]`` or ``NAME=FILE:COLUMN[:KIND]``.

    A part in double or single quotes may hold colons, equals signs and blanks at its ends; a quote inside is doubled.

    Raises:
        PolytaskError: It has another form, an empty part, or a quote that never closes.

    Example:
        >>> parse_task("price:regression")
        TaskWords(name='price', file=None, column=None, kind='regression')
        >>> parse_task("maths=student-mat.csv:G3")
        TaskWords(name='maths', file='student-mat.csv', column='G3', kind=None)
        >>> parse_task('"a:b":binary').name, parse_task("x='C:\\a.csv':y").file
        ('a:b', 'C:\\a.csv')
        >>> str(TaskWords("a:b", kind="binary"))
        '"a:b":binary'
    """
    separators, parts = _split(text, f"--task {text}")
    if "".join(separators) not in ("", ":", "=:", "=::"):
        raise PolytaskError("not a task", where=f"--task {text}", mend=FORMS)
    if "=" not in separators:
        return TaskWords(parts[0], kind=parts[1] if len(parts) > 1 else None)
    return TaskWords(*parts)


def parse_column(text: str) -> tuple[str, str]:
    """Read ``NAME:KIND``, with quotes as in ``parse_task``.

    Raises:
        PolytaskError: It has another form.

    Example:
        >>> parse_column("zipcode:category")
        ('zipcode', 'category')
    """
    separators, parts = _split(text, f"--column {text}")
    if separators != [":"]:
        mend = "Write name:kind, as in zipcode:category; the kinds are number, category, boolean, date and image."
        raise PolytaskError("not a column and its kind", where=f"--column {text}", mend=mend)
    return parts[0], parts[1]


def parse_list(text: str) -> list[str]:
    """Read words parted by commas; one that holds a comma goes in double quotes, which are doubled inside.

    Example:
        >>> parse_list('age, "city, state"')
        ['age', 'city, state']
    """
    return next(csv.reader([text], skipinitialspace=True), [])


def parse_lists(texts: Sequence[str]) -> list[str]:
    """As ``parse_list``, for an option that may be given several times."""
    return [word for text in texts for word in parse_list(text)]


def flag(field: str) -> str:
    """The option that stands for a field of Words.

    Example:
        >>> flag("date_order")
        '--date-order'
    """
    return f"--{field.replace('_', '-')}"


def _split(text: str, where: str) -> tuple[list[str], list[str]]:
    """The separators (: and =) outside quotes, and the parts between them."""
    separators: list[str] = []
    parts: list[str] = []
    start = 0
    while True:
        found = PART.match(text, start)
        assert found is not None  # it matches the empty text
        quoted = found[1]
        part = quoted[1:-1].replace(quoted[0] * 2, quoted[0]) if quoted else found[0].strip()
        if not part:
            raise PolytaskError("a part of it is empty", where=where, mend=FORMS)
        if not quoted and part[0] in "\"'":
            raise PolytaskError(f"the quote {part[0]} is never closed", where=where, mend=FORMS)
        parts.append(part)
        if found.end() == len(text):
            return separators, parts
        if text[found.end()] not in ":=":
            raise PolytaskError(f"after a closing quote comes : or =, not {text[found.end()]!r}", where=where, mend=FORMS)
        separators.append(text[found.end()])
        start = found.end() + 1


def _quoted(part: str) -> str:
    if not NEEDS_QUOTES.search(part):
        return part
    return '"' + part.replace('"', '""') + '"'


def _option(flag: str, help: str, panel: str, metavar: str | None = None) -> Any:
    return Option(flag, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)


_what = functools.partial(_option, panel="What to learn")
_rows = functools.partial(_option, panel="Which rows")
_how = functools.partial(_option, panel="How to learn")
_read = functools.partial(_option, panel="How to read the files (CSV unless said)")


@dataclass(frozen=True)
class Words:
    """The arguments and options that `fit` and `init` share, as written."""

    files: Annotated[
        list[str],
        Argument(
            metavar="FILES",
            help="Data files (.csv, .parquet, .jsonl, .arff, .gz of these), or a folder of images per class.",
            show_default=False,
        ),
    ] = field(default_factory=list)

    task: Annotated[
        list[str],
        _what(
            "--task",
            "What to predict: COLUMN, COLUMN:kind or NAME=FILE:COLUMN:kind. Repeat it for every task. Without a kind it is "
            "guessed from the values. A name with : or = goes in quotes: '\"a:b\":regression'.",
            metavar="TASK",
        ),
    ] = field(default_factory=list)
    drop: Annotated[list[str], _what("--drop", "Columns that are no inputs. Repeatable.", metavar="A,B,...")] = field(
        default_factory=list
    )
    inputs: Annotated[
        str | None,
        _what("--inputs", "The only columns to use as inputs, instead of all but tasks and drops.", metavar="A,B,..."),
    ] = None
    column: Annotated[
        list[str],
        _what("--column", "The kind of an input: number, category, boolean, date or image. Repeatable.", metavar="COLUMN:KIND"),
    ] = field(default_factory=list)
    image: Annotated[
        list[str],
        _what("--image", "Inputs that hold images, or paths of image files. Repeatable.", metavar="A,B,..."),
    ] = field(default_factory=list)
    primary: Annotated[
        list[str],
        _what("--primary", "Tasks whose validation losses choose the epochs; by default all. Repeatable.", metavar="A,B,..."),
    ] = field(default_factory=list)

    test: Annotated[str | None, _rows("--test", "A file with the test rows, instead of a share.", metavar="FILE")] = None
    validation: Annotated[
        str | None, _rows("--validation", "A file with the validation rows, instead of a share.", metavar="FILE")
    ] = None
    group: Annotated[
        str | None, _rows("--group", "Rows alike in this column (a person, a house) stay in one part.", metavar="COLUMN")
    ] = None
    time: Annotated[
        str | None, _rows("--time", "Train on the earliest rows by this column, test on the latest.", metavar="COLUMN")
    ] = None

    seed: Annotated[
        int | None, _how("--seed", "Seed of the split, the initial weights and the order of rows.", metavar="N")
    ] = None
    epochs: Annotated[int | None, _how("--epochs", "At most so many passes over the training rows.", metavar="N")] = None
    encoder: Annotated[str | None, _how("--encoder", "See: polytask list encoders.", metavar="KIND")] = None
    sharing: Annotated[str | None, _how("--sharing", "See: polytask list sharings.", metavar="KIND")] = None
    balancer: Annotated[str | None, _how("--balancer", "See: polytask list balancers.", metavar="KIND")] = None
    warm_start: Annotated[
        str | None,
        _how(
            "--warm-start",
            "Begin with the weights of an earlier run, its encoder, sharing and head; without --task its tasks too.",
            metavar="RUN",
        ),
    ] = None
    freeze: Annotated[
        str | None,
        _how(
            "--freeze",
            "What stays as it was there: nothing; shared, all before the heads; or everything, so that only what is new is "
            "trained. With the last two its other tasks are taken along.",
            metavar="WHAT",
        ),
    ] = None
    set: Annotated[
        list[str],
        _how(
            "--set", "Any field of the recipe: trainer.batch_size=64, tasks.price.weight=2. Repeatable.", metavar="FIELD=VALUE"
        ),
    ] = field(default_factory=list)

    delimiter: Annotated[
        str | None, _read("--delimiter", "What stands between cells; found out by default.", metavar="CHARACTER")
    ] = None
    names: Annotated[str | None, _read("--names", "The columns' names, for a file without a header.", metavar="A,B,...")] = None
    header: Annotated[
        bool | None,
        _read("--header/--no-header", "Whether the first line holds the names; it does unless --names are given."),
    ] = None
    encoding: Annotated[str | None, _read("--encoding", "The text's encoding; utf-8 by default.", metavar="NAME")] = None
    comment: Annotated[str | None, _read("--comment", "Skip lines that begin with this.", metavar="TEXT")] = None
    missing: Annotated[
        str | None, _read("--missing", "What means a missing cell, instead of NA, NaN, null, ...", metavar="A,B,...")
    ] = None
    strip: Annotated[
        str | None, _read("--strip", "Characters to remove from both ends of cells of text.", metavar="CHARACTERS")
    ] = None
    decimal: Annotated[str | None, _read("--decimal", "The decimal mark: . or ,", metavar="MARK")] = None
    date_order: Annotated[
        str | None, _read("--date-order", "ymd, mdy or dmy, where the dates do not tell.", metavar="ORDER")
    ] = None

    @property
    def recipes(self) -> list[str]:
        """The files that are recipes."""
        return [file for file in self.files if file.lower().endswith((".yaml", ".yml"))]

    def tasks(self) -> list[TaskWords]:
        """What each ``--task`` says."""
        return [parse_task(text) for text in self.task]

    def reading(self) -> dict[str, Any]:
        """The options that say how a file is read, as fields of a source; those not given are left out."""
        lists = {name: getattr(self, name) for name in ("names", "inputs", "missing")}
        texts = {name: getattr(self, name) for name in ("delimiter", "encoding", "comment", "strip", "decimal", "date_order")}
        held_out = {name: getattr(self, name) for name in ("validation", "test")}
        given = {name: parse_list(value) for name, value in lists.items() if value is not None}
        given |= {name: value for name, value in (texts | held_out).items() if value is not None}
        header = self.header if self.header is not None or self.names is None else False
        return given | ({} if header is None else {"header": header})

    def changes(self) -> list[str]:
        """The options that stand for one field of any recipe, as texts for ``--set``, and then what ``--set`` says itself."""
        short = {
            "seed": self.seed,
            "trainer.epochs": self.epochs,
            "encoder": self.encoder,
            "sharing": self.sharing,
            "balancer": self.balancer,
            "warm_start.run": self.warm_start,
            "warm_start.freeze": self.freeze,
            "split.group": self.group,
            "split.time": self.time,
            "primary": parse_lists(self.primary) or None,
        }
        return [*(f"{path}={json.dumps(value)}" for path, value in short.items() if value is not None), *self.set]

    def only_with_data(self) -> list[str]:
        """The options given that describe data files and tasks, which a recipe has already."""
        given = {"task": self.task, "drop": self.drop, "column": self.column, "image": self.image, **self.reading()}
        return [flag(name) for name, value in given.items() if value not in ([], None)]


def with_words(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for every field of Words in place of its first one."""
    hints, word_hints = get_type_hints(command, include_extras=True), get_type_hints(Words, include_extras=True)
    _, *others = inspect.signature(command).parameters.values()
    words = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=_default(item), annotation=word_hints[item.name])
        for item in fields(Words)
    ]
    own = [other.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[other.name]) for other in others]

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        command(Words(**{word.name: given.pop(word.name) for word in words}), **given)

    parameters = [*words, *own]
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()

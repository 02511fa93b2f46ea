"""PolytaskError: what is wrong, where, what was found, and how to mend it."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_LISTED = 12
MAX_CELLS = 5
MAX_SHOWN = 80
# What pydantic calls a type, in the words of a recipe.
WORDS = {
    "tuple_type": "should be a list",
    "model_type": "should be a mapping of its fields",
    "dict_type": "should be a mapping",
    "mapping_type": "should be a mapping",
    "path_type": "should be a path",
    "string_type": "should be text",
    "string_too_short": "should not be empty",
    "too_short": "should not be empty",
}


class PolytaskError(Exception):
    """A mistake in the data, the recipe or the use of a run, told so that its reader can mend it.

    Args:
        what: What is wrong, without a full stop.
        where: The place: a task, column, file or field of the recipe.
        found: What was found there instead.
        mend: One sentence that says what to do.

    Example:
        >>> print(PolytaskError("no column 'pirce'", where="task 'price'", mend="Did you mean 'price'?"))
        task 'price': no column 'pirce'. Did you mean 'price'?
    """

    def __init__(self, what: str, *, where: str = "", found: str = "", mend: str = "") -> None:
        self.what, self.where, self.found, self.mend = what, where, found, mend
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.found:
            text = f"{text}. Found: {self.found}"
        return f"{text}. {self.mend}" if self.mend else f"{text}."

    def inside(self, where: str) -> PolytaskError:
        """The same error, seen from one level further out (``where`` is put before its own place)."""
        joined = f"{where}.{self.where}" if self.where else where
        return PolytaskError(self.what, where=joined, found=self.found, mend=self.mend)


class CellsError(PolytaskError):
    """Cells that do not fit, told by their rows.

    Who reads some rows of a larger table knows only their positions; who took them from there renames them (``rows_named``).

    Args:
        what: What is wrong, with how many cells.
        cells: The rows, the first being 0 (or words for a row), with the cell of each; the first few are told.
        n_cells: How many cells they are the first of; None for these alone.
        where: The task or column.
        mend: What to do.

    Example:
        >>> print(CellsError("2 labels are infinite", cells={3: "inf", 6: "-inf"}, where="task 'price'"))
        task 'price': 2 labels are infinite. Found: 'inf' in row 4, '-inf' in row 7.
    """

    def __init__(
        self,
        what: str,
        *,
        cells: Mapping[int, object] | Mapping[int | str, object],
        n_cells: int | None = None,
        where: str = "",
        mend: str = "",
    ) -> None:
        self.cells, self.n_cells = dict(islice(cells.items(), MAX_CELLS)), len(cells) if n_cells is None else n_cells
        told = ", ".join(f"{shown(cell)} in {_row(row)}" for row, cell in self.cells.items())
        more = self.n_cells - len(self.cells)
        super().__init__(what, where=where, found=f"{told} and {more:,} more" if more else told, mend=mend)

    def renamed(self, name: Callable[[int], int | str]) -> CellsError:
        """The same error, with the row of another table, or words, for each row."""
        cells = {name(row) if isinstance(row, int) else row: cell for row, cell in self.cells.items()}
        return CellsError(self.what, cells=cells, n_cells=self.n_cells, where=self.where, mend=self.mend)


@contextmanager
def rows_named(name: Callable[[int], int | str]) -> Iterator[None]:
    """Within, wrong cells are told by the row that ``name`` gives for theirs, or by its words for it.

    Example:
        >>> with rows_named(lambda row: f"row {row + 1} of houses.csv"):
        ...     raise CellsError("1 label is infinite", cells={3: "inf"})
        Traceback (most recent call last):
        polytask.errors.CellsError: 1 label is infinite. Found: 'inf' in row 4 of houses.csv.
    """
    try:
        yield
    except CellsError as error:
        raise error.renamed(name) from None


def counted(n: int, thing: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "row"), counted(1200, "row")
        ('1 row', '1,200 rows')
    """
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def are(n: int, thing: str) -> str:
    """A number with its noun and verb.

    Example:
        >>> are(1, "label"), are(2, "label")
        ('1 label is', '2 labels are')
    """
    return f"{counted(n, thing)} {'is' if n == 1 else 'are'}"


def one_line(message: object) -> str:
    """Another library's message on one line, without a full stop."""
    return " ".join(str(message).split()).rstrip(".")


def shown(value: object) -> str:
    """A value on one line, cut where it is long.

    Example:
        >>> shown("x" * 100)
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    text = f"{value:g}" if isinstance(value, float) else " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def listed(words: Iterable[object], limit: int = MAX_LISTED) -> str:
    """Words joined by commas, cut after ``limit``.

    Example:
        >>> listed(range(5), limit=3)
        '0, 1, 2 and 2 more'
    """
    all_words = [str(word) for word in words]
    if len(all_words) <= limit:
        return ", ".join(all_words)
    return f"{', '.join(all_words[:limit])} and {len(all_words) - limit} more"


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A sentence that names the option nearest to ``word``, or lists what there is; where both look alike, its characters.

    Example:
        >>> did_you_mean("sqft_livin", ["price", "sqft_living"])
        "Did you mean 'sqft_living'?"
        >>> did_you_mean("xyz", ["price", "grade"])
        'There is: price, grade.'
    """
    known = list(options)
    folded = {option.casefold(): option for option in known}
    near = difflib.get_close_matches(word.casefold(), folded, n=1)
    if near:
        found = folded[near[0]]
        return f"Did you mean {found!r}{f' (which is {found!a})' if _look_alike(word, found) else ''}?"
    return f"There is: {listed(known)}." if known else "There is none."


def no_such_file(path: Path) -> PolytaskError:
    """The error for a file that is not there: it names the folder, and the file in it that is nearest by name."""
    folder = path.parent
    if not folder.is_dir():
        return PolytaskError(f"no folder {str(folder)!r}", where=str(path), mend="Paths are relative to the working directory.")
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    return PolytaskError(
        f"no file {path.name!r} in {str(folder.resolve())!r}", where=str(path), mend=did_you_mean(path.name, files)
    )


def explain_validation(error: ValidationError, owner: str, fields: Sequence[str], given: Mapping[str, Any]) -> PolytaskError:
    """Turn pydantic's first complaint about ``owner`` (a class made of ``given`` values) into a PolytaskError."""
    # A name that does not exist first: what is missing then is often what was meant by it.
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    first = details[0]
    places = [_place(detail["loc"], given) for detail in details]
    place, n_more = places[0], len(set(places)) - 1
    more = f" (and {counted(n_more, 'more mistake')})" if n_more else ""
    if first["type"] == "extra_forbidden":
        name = place.rpartition(".")[2]
        return PolytaskError(f"{owner} has no field {name!r}{more}", where=place, mend=did_you_mean(name, fields))
    if first["type"] == "missing":
        name = str(first["loc"][-1])
        return PolytaskError(f"{owner} needs {name!r}{more}", mend=f"Give {name!r}.")
    # A field that may be of several types has a complaint from each of them.
    words = dict.fromkeys(_words(detail) for detail, other in zip(details, places, strict=True) if other == place)
    return PolytaskError(f"{owner}: {' or '.join(words)}{more}", where=place, found=shown(first["input"]))


def _words(detail: Mapping[str, Any]) -> str:
    message: str = detail["msg"]
    said = message.removeprefix("Value error, ").removeprefix("Input ")
    return WORDS.get(detail["type"]) or said.partition(", unable to ")[0]


def _place(loc: Iterable[int | str], given: Any) -> str:
    """The path to a value, without the names that pydantic has for the types a field may be of."""
    path: list[str] = []
    for part in loc:
        inside = given if isinstance(given, Mapping) else dict(enumerate(given)) if isinstance(given, list | tuple) else {}
        if part in inside or not path:
            path.append(str(part))
            given = inside.get(part)
    return ".".join(path)


def _look_alike(word: str, option: str) -> bool:
    """Whether two different texts look the same, or one hides characters that cannot be typed."""
    return word.isascii() != option.isascii() or unicodedata.normalize("NFKC", word) == unicodedata.normalize("NFKC", option)


def _row(row: int | str) -> str:
    return row if isinstance(row, str) else f"row {row + 1:,}"

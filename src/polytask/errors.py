"""PolytaskError: what is wrong, where, what was found, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_LISTED = 12


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
        return type(self)(self.what, where=joined, found=self.found, mend=self.mend)


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
    """A sentence that names the option nearest to ``word``, or lists what there is.

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
        return f"Did you mean {folded[near[0]]!r}?"
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


def explain_validation(error: ValidationError, owner: str, fields: Sequence[str]) -> PolytaskError:
    """Turn pydantic's first complaint about ``owner`` (a class) into a PolytaskError."""
    details = error.errors(include_url=False)
    first = details[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(details) - 1} more mistakes)" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        mend = did_you_mean(name, fields) if len(first["loc"]) == 1 else "Remove it."
        return PolytaskError(f"{owner} has no field {name!r}{more}", where=place, mend=mend)
    if first["type"] == "missing":
        return PolytaskError(f"{owner} needs {place!r}{more}", mend=f"Give {place!r}.")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return PolytaskError(f"{owner}: {message}{more}", where=place, found=repr(first["input"]))

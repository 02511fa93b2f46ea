"""What kind of task a column most likely is."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from polytask.columns import IMAGE_NAME
from polytask.errors import PolytaskError

MAX_CLASSES = 100
FEW_ROWS = 20
LEVELS = range(3, 13)
MAX_SHOWN = 40
PIXELS_NAME = rf"{IMAGE_NAME}|(?i)\.npy$"


def guess_task(column: pa.ChunkedArray) -> tuple[str, str]:
    """The kind of task a column most likely is, and what is in it that says so. Never a count: only its user can know that.

    Raises:
        PolytaskError: No kind fits: the column is constant or empty, or holds dates, free text or nested values.

    Example:
        >>> guess_task(pa.chunked_array([[0, 1, None, 1]]))
        ('binary', 'two values, 0 and 1')
        >>> guess_task(pa.chunked_array([["cat", "dog", "eel"]]))
        ('multiclass', 'text with 3 different values')
        >>> guess_task(pa.chunked_array([[1.5, 2.5, 7.0]]))
        ('regression', '3 different numbers from 1.5 to 7')
    """
    kind, types = column.type, pa.types
    _refuse_pixels(column)
    is_number = types.is_integer(kind) or types.is_floating(kind)
    if not (is_number or types.is_boolean(kind) or types.is_string(kind) or types.is_null(kind)):
        mend = "Turn it into a number first, such as the days since a start."
        raise PolytaskError(f"a column of {kind} is no task", mend=mend)
    present = column.drop_null()
    values = present.unique()
    if len(values) < 2:
        found = f"{_shown(values[0].as_py())} in every row" if len(values) else "no value in any row"
        raise PolytaskError("there is nothing to learn", found=found, mend="Choose another column.")
    if len(values) == 2:
        return "binary", "two values, {} and {}".format(*map(_shown, sorted(values.to_pylist())))
    if is_number:
        return _guess_number(values)
    if len(values) > MAX_CLASSES or len(values) > max(len(present) / 2, FEW_ROWS):
        mend = "If these are classes say so, as in --task name:multiclass; free text cannot be predicted."
        found = f"text with {len(values):,} different values in {len(present):,} rows"
        raise PolytaskError("no kind of task can be guessed", found=found, mend=mend)
    return "multiclass", f"text with {len(values)} different values"


def _refuse_pixels(column: pa.ChunkedArray) -> None:
    """Names of files and arrays may be labels of pixels, but of what sort only their user knows."""
    found = ""
    if pa.types.is_string(column.type) and column.null_count < len(column):
        text = column.drop_null()
        if bool(pc.all(pc.match_substring_regex(text, PIXELS_NAME)).as_py()):
            found = f"names of {len(text):,} files, such as {_shown(text[0].as_py())}"
    elif isinstance(column.type, pa.FixedShapeTensorType):
        found = f"arrays of {' x '.join(map(str, column.type.shape))}"
    if found:
        mend = (
            "If these label every pixel of an image say so: name:segmentation for classes, name:dense_regression for numbers."
        )
        raise PolytaskError("no kind of task can be guessed", found=found, mend=mend)


def _guess_number(values: pa.Array) -> tuple[str, str]:
    low, high = pc.min_max(values).as_py().values()
    whole = bool(pc.all(pc.equal(values, pc.floor(values))).as_py())
    if whole and len(values) in LEVELS and high - low == len(values) - 1:
        why = f"{len(values)} levels from {low:g} to {high:g}"
        return "ordinal", f"{why}; say multiclass if they have no order, regression if they are amounts"
    hint = "; say count if it counts something" if whole and low in (0, 1) else ""
    numbers = "whole numbers" if whole else "numbers"
    return "regression", f"{len(values):,} different {numbers} from {_shown(low)} to {_shown(high)}{hint}"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100_000 else f"{value:.6g}"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."

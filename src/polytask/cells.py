"""The cells of one input column, read as its kind: what features are fitted on and computed from."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytask.component import Settings
from polytask.errors import CellsError, PolytaskError, counted, listed

ColumnKind = Literal["number", "category", "boolean", "date", "image"]
Floats = NDArray[np.float64]

# Wide enough that no ordinary value meets it, narrow enough that one outlier cannot explode the first layer.
CLIP = 10.0
# Bin edges nearer than this cannot be told apart in float32 once divided by their distance.
EDGE_DECIMALS = 5
MOSTLY, MANY_NUMBERS, FEW_TEXTS = 0.9, 20, 5
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
ISO_DATE = r"^\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?$"


class NumberFeature(Settings):
    """One number of a row: (value - mean) / deviation, clipped to [-10, 10], and 0 where the cell is missing.

    Attributes:
        name: What it is called, such as "area", "sold: hour" or "area is missing".
        column: The table's column it comes from.
        part: The cell's value, its hour of the day, or 1 where the cell is missing and 0 elsewhere.
        mean: The mean over the training cells; 0 for booleans and for "missing".
        deviation: Their standard deviation; 1 for booleans and for "missing".
        edges: Increasing bin edges on the standardized scale, two at least.
    """

    name: str
    column: str
    part: Literal["value", "hour", "missing"] = "value"
    mean: float = 0.0
    deviation: float = 1.0
    edges: tuple[float, ...] = (0.0, 1.0)


class CategoryFeature(Settings):
    """One category of a row: a code in 1 ... K, and 0 for a value that training had not.

    Attributes:
        name: What it is called, such as "suburb" or "sold: month".
        column: The table's column it comes from.
        part: The cell's value, the month (1 to 12) or the weekday (1 is Monday) of its date.
        values: The text of the values with the codes 1, 2, ..., most frequent first.
        missing: Whether a missing cell has a code of its own, the last one.
    """

    name: str
    column: str
    part: Literal["value", "month", "weekday"] = "value"
    values: tuple[str, ...]
    missing: bool = False

    @property
    def cardinality(self) -> int:
        """The number of codes, 0 included."""
        return len(self.values) + self.missing + 1


class Cells:
    """A column read as its kind, from which features are fitted and computed."""

    def __init__(self, name: str, kind: ColumnKind, column: pa.ChunkedArray) -> None:
        self.name, self.kind, column = name, kind, decoded(column)
        self.missing: NDArray[np.bool_]
        if kind == "category":
            self.column, self.text = column, _as_text(name, column)
            self.missing = pc.is_null(self.text).to_numpy()
            return
        self.dates = _as_dates(name, column) if kind == "date" else None
        if self.dates is not None:
            ticks = self.dates.cast(pa.int64()).cast(pa.float64(), safe=False)
            self.values: Floats = ticks.to_numpy() / 1e6
        else:
            self.values = _as_booleans(name, column) if kind == "boolean" else _as_numbers(name, column)
        self.missing = np.isnan(self.values)

    def number_features(self, n_bins: int) -> list[NumberFeature]:
        """The numbers that vary over these training cells."""
        if self.kind == "category":
            return []
        if self.kind == "boolean":
            varies = len(np.unique(self.values[~self.missing])) > 1
            found = [NumberFeature(name=self.name, column=self.name)] if varies else []
        else:
            found = self._scaled("value", self.name, n_bins)
        if self.kind == "date":
            found += self._scaled("hour", f"{self.name}: hour", n_bins)
        if self.missing.any() and not self.missing.all():
            found.append(NumberFeature(name=f"{self.name} is missing", column=self.name, part="missing"))
        return found

    def category_features(self, max_categories: int) -> list[CategoryFeature]:
        """The categories that vary over these training cells."""
        parts: tuple[Literal["value", "month", "weekday"], ...] = ("value",)
        if self.kind != "category":
            parts = ("month", "weekday") if self.kind == "date" else ()
        found = []
        for part in parts:
            values, missing = _by_frequency(self._text(part)), bool(self.missing.any())
            if values and len(values) + missing > 1:
                name, coded = self.name if part == "value" else f"{self.name}: {part}", values[:max_categories]
                found.append(CategoryFeature(name=name, column=self.name, part=part, values=coded, missing=missing))
        return found

    def standardized(self, feature: NumberFeature) -> NDArray[np.floating[Any]]:
        """The feature's number for every row, in [-10, 10], 0 where the cell is missing."""
        if feature.part == "missing":
            return self.missing.astype(np.float32)
        with np.errstate(over="ignore"):
            scaled: Floats = (self._number(feature.part) - feature.mean) / feature.deviation
        np.clip(scaled, -CLIP, CLIP, out=scaled)
        scaled[self.missing] = 0.0
        return scaled

    def codes(self, feature: CategoryFeature) -> NDArray[np.int64]:
        """The feature's code for every row."""
        known = pa.array(feature.values, pa.string())
        codes = pc.index_in(self._text(feature.part), known)
        if feature.part == "value":
            codes = self._matched_by_meaning(codes, feature)
        found: NDArray[np.int64] = pc.add(pc.fill_null(codes, -1).cast(pa.int64()), 1).to_numpy().copy()
        found[self.missing] = len(feature.values) + 1 if feature.missing else 0
        return found

    def _matched_by_meaning(self, codes: pa.ChunkedArray, feature: CategoryFeature) -> pa.ChunkedArray:
        """Codes of cells whose type another file read differently: 1.5 for "1.50", true for "TRUE"."""
        kind = self.column.type
        alike = False  # whether a value of training might be of this type
        if pa.types.is_boolean(kind):
            lowered = [value.lower() for value in feature.values]
            alike = not {"true", "false"}.isdisjoint(lowered)
            codes = pc.coalesce(codes, pc.index_in(self.text, pa.array(lowered)))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            numbers = pa.array([_number_or_none(value) for value in feature.values], pa.float64())
            alike = numbers.null_count < len(numbers)
            codes = pc.coalesce(codes, pc.index_in(self.column.cast(pa.float64(), safe=False), numbers, skip_nulls=True))
        if is_text(kind) or alike or codes.null_count < len(codes) or self.missing.all():
            return codes
        row = int(np.flatnonzero(~self.missing)[0])
        had, mend = listed(map(repr, feature.values), limit=3), "Give the column as it was then."
        what = f"column {self.name!r} held other values in training: {had}"
        raise CellsError(what, cells={row: self.text[row].as_py()}, mend=mend)

    def _scaled(self, part: Literal["value", "hour"], name: str, n_bins: int) -> list[NumberFeature]:
        """The feature with its mean, deviation and edges; none where the value is constant."""
        present = self._number(part)[~self.missing]
        if not len(present) or present.min() == present.max():
            return []
        # Divided by the largest first, for the square of 1e200 is no float64.
        mean = float((present / len(present)).sum())
        centered = present - mean
        largest = float(np.abs(centered).max())
        deviation = largest * float(np.sqrt(np.mean((centered / largest) ** 2)))
        if not deviation:  # it is less than the smallest float64
            return []
        edges = _edges(np.clip(centered / deviation, -CLIP, CLIP), n_bins)
        return [NumberFeature(name=name, column=self.name, part=part, mean=mean, deviation=deviation, edges=edges)]

    def _number(self, part: str) -> Floats:
        if part == "hour":
            return np.asarray((self.values / 3600.0) % 24.0)
        return self.values

    def _text(self, part: str) -> pa.ChunkedArray:
        if part == "value":
            return self.text
        number = pc.month(self.dates) if part == "month" else pc.day_of_week(self.dates, count_from_zero=False)
        return number.cast(pa.string())


def _edges(values: Floats, n_bins: int) -> tuple[float, ...]:
    """At most n_bins + 1 edges: every value of more than 1/n_bins of the cells, and quantiles of the other cells."""
    levels, counts = np.unique(values, return_counts=True)
    atoms = counts > len(values) / n_bins
    n_quantiles = max(n_bins + 1 - int(atoms.sum()), 2)
    edges = levels[atoms]
    if not atoms.all():
        reached = np.cumsum(counts[~atoms])
        ranks = np.linspace(0, reached[-1] - 1, n_quantiles)
        edges = np.concatenate([edges, levels[~atoms][np.searchsorted(reached, ranks, side="right")]])
    return tuple(np.unique(np.round(edges, EDGE_DECIMALS)).tolist())


def _by_frequency(text: pa.ChunkedArray) -> tuple[str, ...]:
    """The values in order of descending frequency, then of their text."""
    counted = pc.value_counts(text.drop_null())
    pairs = zip(counted.field(1).to_pylist(), counted.field(0).to_pylist(), strict=True)
    return tuple(value for _, value in sorted(pairs, key=lambda pair: (-pair[0], pair[1])))


def _as_numbers(name: str, column: pa.ChunkedArray) -> Floats:
    """The cells as float64, NaN where missing."""
    kind = column.type
    if is_text(kind):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        wrong = pc.invert(pc.match_substring_regex(text, NUMBER))
        if pc.any(wrong).as_py():
            raise _misfits(name, "a column of numbers", text, wrong, "Say category for it, or name what means missing.")
        column = text
    elif pa.types.is_temporal(kind) or pa.types.is_nested(kind):
        raise PolytaskError(f"column {name!r} is a column of numbers", found=f"cells of type {kind}", mend="Give numbers.")
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    infinite = np.isinf(values)
    if infinite.any():
        wrong = pa.chunked_array([pa.array(infinite)])
        raise _misfits(name, "finite numbers only", column.cast(pa.string()), wrong, "Mend them, or leave them empty.")
    return values


def _as_booleans(name: str, column: pa.ChunkedArray) -> Floats:
    """The cells as 0.0 and 1.0, NaN where missing."""
    if is_text(column.type):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
        wrong = pc.invert(pc.is_in(text, pa.array(["true", "false", "0", "1", None])))
        if pc.any(wrong).as_py():
            raise _misfits(name, "true or false", text, wrong, "Say category for it, or write true and false.")
        column = text.cast(pa.bool_())
    values: Floats = _as_numbers(name, column)
    other = ~(np.isnan(values) | (values == 0.0) | (values == 1.0))
    if other.any():
        wrong = pa.chunked_array([pa.array(other)])
        raise _misfits(name, "true or false, 1 or 0", column.cast(pa.string()), wrong, "Say number or category for it.")
    return values


def _as_dates(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The cells as timestamp[us]."""
    kind = column.type
    if is_text(kind):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        wrong = pc.invert(pc.match_substring_regex(text, ISO_DATE))
        if pc.any(wrong).as_py():
            raise _misfits(name, "a column of dates", text, wrong, "Write dates as 2014-10-13 or 2014-10-13 08:30.")
        try:
            return text.cast(pa.timestamp("us"))
        except pa.ArrowInvalid as error:
            raise PolytaskError(
                f"column {name!r} holds an impossible date", found=str(error), mend="Mend that cell."
            ) from error
    if pa.types.is_null(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us"), safe=False)
    raise PolytaskError(
        f"column {name!r} is a column of dates", found=f"cells of type {kind}", mend="Give dates as 2014-10-13."
    )


def _as_text(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The cells as text."""
    if pa.types.is_nested(column.type):
        mend = "Drop it, or turn it into numbers or text first."
        raise PolytaskError(f"column {name!r} cannot be an input", found=f"cells of type {column.type}", mend=mend)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column.cast(pa.string())


def refuse_stray_text(name: str, column: pa.ChunkedArray) -> None:
    """Refuse to take for categories what is a column of many different numbers, but for a few cells.

    Few are at most a tenth of the cells with at most five different texts: more are codes of some kind.

    Raises:
        PolytaskError: There are such cells, told by their rows.
    """
    if not is_text(column.type):
        return
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    number = pc.match_substring_regex(text, NUMBER)
    n_numbers, n_cells = pc.sum(number).as_py() or 0, len(text) - text.null_count
    if n_numbers == n_cells or n_numbers < MOSTLY * n_cells or pc.count_distinct(text.filter(number)).as_py() < MANY_NUMBERS:
        return
    wrong = pc.invert(number)
    if pc.count_distinct(text.filter(wrong)).as_py() <= FEW_TEXTS:
        mend = "Mend them, name what means missing, or say category if these are codes."
        raise _misfits(name, "a column of numbers", text, wrong, mend)


def _misfits(name: str, expected: str, text: pa.ChunkedArray, wrong: pa.ChunkedArray, mend: str) -> CellsError:
    """The error for cells that do not fit their column, told by the first of them."""
    rows = pa.array(np.flatnonzero(pc.fill_null(wrong, False).to_numpy()))
    cells = dict(zip(rows.to_pylist(), text.take(rows).to_pylist(), strict=True))
    what = f"{counted(len(rows), 'cell')} {'does' if len(rows) == 1 else 'do'} not fit {expected}"
    return CellsError(what, cells=cells, where=f"column {name!r}", mend=mend)


def _number_or_none(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with its values in place of a dictionary's codes."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    """Whether cells of this type are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))

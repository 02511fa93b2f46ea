"""Scores by slice: of the rows with each category, and of those in each quarter of a number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytask.cells import ColumnKind

Floats = NDArray[np.float64]

MAX_CATEGORIES = 6
N_QUANTILES = 4
MIN_ROWS = 10
Z = 1.96


@dataclass(frozen=True)
class Slice:
    """The mean error of some rows.

    Attributes:
        column: The column that they are cut by.
        name: Which of its cells they have.
        n_rows: How many they are.
        value: The mean.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    column: str
    name: str
    n_rows: int
    value: float
    low: float
    high: float


def mean_interval(values: Floats, weights: Floats | None = None, share: bool = False) -> tuple[float, float, float]:
    """A mean and its 95 % interval: Wilson's for shares of right answers, else of the normal distribution.

    Wilson 1927, doi:10.1080/01621459.1927.10502953. Rows with weights count as many as their weights are worth,
    ``sum(w)**2 / sum(w**2)``.

    Example:
        >>> mean_interval(np.array([1.0, 1.0, 1.0, 0.0]), share=True)
        (0.75, 0.301, 0.954)
        >>> mean_interval(np.array([2.0, 4.0]))
        (3.0, 1.04, 4.96)
    """
    each = np.ones(len(values)) if weights is None else weights
    total = float(each.sum())
    if total <= 0:
        return math.nan, math.nan, math.nan
    n = total**2 / float((each**2).sum())
    mean = float((each * values).sum() / total)
    if share:
        center = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
        return mean, center - half, center + half
    if n < 2:
        return mean, math.nan, math.nan
    variance = float((each * (values - mean) ** 2).sum() / total) * n / (n - 1)
    half = Z * math.sqrt(variance / n)
    return mean, mean - half, mean + half


def slices_of(
    column: str, kind: ColumnKind, cells: pa.Array, errors: Floats, weights: Floats | None, *, share: bool = False
) -> list[Slice]:
    """The slices of a column that have ten rows or more.

    Args:
        column: Its name.
        kind: How it is read.
        cells: Its cells, of the same rows as ``errors``.
        errors: What is averaged.
        weights: How much each row counts.
        share: Whether the errors are shares.
    """
    found = []
    for name, rows in _groups(cells, kind):
        if rows.sum() >= MIN_ROWS:
            value, low, high = mean_interval(errors[rows], None if weights is None else weights[rows], share)
            found.append(Slice(column, name, int(rows.sum()), value, low, high))
    return found


def _groups(cells: pa.Array, kind: ColumnKind) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    missing = cells.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    numeric = pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_timestamp(cells.type)
    if kind in ("number", "date") and numeric and pc.count_distinct(cells).as_py() > MAX_CATEGORIES:
        yield from _quantiles(cells, missing)
    else:
        yield from _categories(cells)
    if missing.any():
        yield "missing", missing


def _quantiles(cells: pa.Array, missing: NDArray[np.bool_]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    dates = pa.types.is_timestamp(cells.type)
    plain = cells.cast(pa.timestamp("us")).cast(pa.int64()) if dates else cells
    values = plain.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    known = values[~missing]
    inner = np.unique(np.quantile(known, np.linspace(0, 1, N_QUANTILES + 1)[1:-1], method="inverted_cdf"))
    codes = np.searchsorted(inner, values)  # a value that is an edge belongs below it
    for code in range(len(inner) + 1):
        rows = ~missing & (codes == code)
        if rows.any():
            low, high = values[rows].min(), values[rows].max()
            texts = [_span(low, high, dates, digits) for digits in (4, 6, 9)]
            yield next((text for text in texts if " to " in text), texts[0]), rows


def _categories(cells: pa.Array) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    text = cells.cast(pa.string())
    encoded = text.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    counts = np.bincount(codes[codes >= 0], minlength=len(encoded.dictionary))
    order = np.argsort(-counts, kind="stable")
    shown = order if len(order) <= MAX_CATEGORIES + 1 else order[:MAX_CATEGORIES]
    if pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type):
        shown = np.array(sorted(shown, key=lambda code: float(encoded.dictionary[int(code)].as_py())))
    for code in shown:
        yield str(encoded.dictionary[int(code)].as_py()), codes == code
    if len(shown) < len(order):
        yield f"{len(order) - len(shown)} others", (codes >= 0) & ~np.isin(codes, shown)


def _span(low: Any, high: Any, dates: bool, digits: int) -> str:
    ends = dict.fromkeys((_text(low, dates, digits), _text(high, dates, digits)))
    return " to ".join(ends)


def _text(value: Any, date: bool, digits: int) -> str:
    if date:
        return str(np.datetime64(int(value), "us").astype("datetime64[D]"))
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10_000 else f"{value:.{digits}g}"

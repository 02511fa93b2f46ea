"""The drawings of a report: each from plain arrays to an SVG; what there is much of is binned or thinned before it is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from scipy.stats import poisson
from sklearn.metrics import precision_recall_curve, roc_curve

from polytask.report.drawing import INK, MUTED, SERIES, along, color_of, drawn, series_ends, thinned, tick

Floats = NDArray[np.float64]

MAX_DOTS = 400  # more rows than this are counted in cells
N_CELLS = 32
N_SHADES = 5
MAX_COUNTS = 20_000  # rows of which a rootogram's expected counts are computed
N_COUNT_BARS = 24
N_BINS = 10


def lines(
    series: Sequence[tuple[Sequence[float], Sequence[float], int]],
    x: str,
    y: str,
    *,
    marks: Sequence[tuple[float, float, int]] = (),
    level: float | None = None,
    whole: bool = True,
    log: bool = False,
) -> str:
    """Lines over a common axis.

    Args:
        series: Of each its points on both axes, and the number of its color (-1: what stands back).
        x: What the horizontal axis is.
        y: What the vertical axis is.
        marks: Points that stand out, with their colors.
        level: Where a line stands across.
        whole: Whether the horizontal axis has whole numbers only.
        log: Whether the vertical axis is logarithmic.
    """

    def draw(axes: Axes) -> None:
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(tick))
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for xs, ys, color in series:
            far = color < 0
            short_x, short_y = thinned(xs, ys)
            single: dict[str, Any] = {"marker": "o", "markersize": 4} if len(short_x) == 1 else {}
            axes.plot(
                short_x, short_y, color=color_of(color), alpha=0.25 if far else 1, linewidth=0.8 if far else 1.7, **single
            )
        for mark_x, mark_y, color in marks:
            axes.plot([mark_x], [mark_y], "o", color=color_of(color), markersize=6)
        if whole:
            _whole(axes, [x for xs, _, _ in series for x in (xs[0], xs[-1])])

    return drawn(draw, x, y)


def learning_curve(epochs: Sequence[int], training: Sequence[float], validation: Sequence[float], best: int | None) -> str:
    """Normalized losses over the epochs; a dot where the weights were kept. A loss that is not known is nan."""

    def draw(axes: Axes) -> None:
        xs, told, judged = thinned(epochs, training, validation)
        alone: dict[str, Any] = {"marker": "o", "markersize": 4} if len(xs) == 1 else {}
        axes.plot(xs, told, color=SERIES[5], linewidth=1.2, **alone)
        axes.plot(xs, judged, color=SERIES[0], **alone)
        if best is not None and best in epochs:
            at = list(epochs).index(best)
            here = validation[at] if math.isfinite(validation[at]) else training[at]
            axes.axvline(best, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.plot([best], [here], "o", color=SERIES[0], markersize=6)
        axes.set_ylim(*_loss_ends(np.array([*told, *judged])))
        _whole(axes, epochs)

    return drawn(draw, "epoch", "normalized loss")


def _loss_ends(losses: Floats) -> tuple[float, float]:
    """Without what an early epoch was far above the rest."""
    known = losses[np.isfinite(losses)]
    if not len(known):
        return 0.0, 1.0
    top = min(known.max(), max(1.05, 3 * float(np.median(known)))) if len(known) > 4 else known.max()
    return series_ends([float(known.min()), float(top)])


def predicted_against_true(predicted: Floats, true: Floats) -> str:
    """Points, or cells shaded by how many rows are in them, beside the line where both are the same."""
    low, high = series_ends(np.quantile(np.concatenate([predicted, true]), [0.002, 0.998]).tolist())

    def draw(axes: Axes) -> None:
        if len(true) <= MAX_DOTS:
            axes.plot(predicted, true, "o", color=SERIES[0], markersize=3.2, alpha=0.55, markeredgewidth=0)
        else:
            _cells(axes, predicted, true, (low, high))
        axes.plot([low, high], [low, high], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)

    return drawn(draw, "predicted", "true", square=True)


def _cells(axes: Axes, x: Floats, y: Floats, ends: tuple[float, float]) -> None:
    counts, edges, _ = np.histogram2d(x, y, bins=N_CELLS, range=[ends, ends])
    step = edges[1] - edges[0]
    # Shades by the logarithm: most rows are in few cells.
    shades = np.ceil(np.log1p(counts) / math.log1p(counts.max() or 1.0) * N_SHADES).astype(int)
    for shade in range(1, N_SHADES + 1):
        corners = [(edges[i], edges[j]) for i, j in np.argwhere(shades == shade)]
        if corners:
            path = Path.make_compound_path(*(_square(left, bottom, step) for left, bottom in corners))
            axes.add_patch(PathPatch(path, facecolor=SERIES[0], edgecolor="none", alpha=0.15 + 0.8 * shade / N_SHADES))


def _square(left: float, bottom: float, side: float) -> Path:
    points = [(left, bottom), (left + side, bottom), (left + side, bottom + side), (left, bottom + side), (left, bottom)]
    return Path(points, closed=True)


def residual_deciles(predicted: Floats, true: Floats, thing: str = "row") -> str:
    """For each tenth of the rows, by the prediction, the median of true minus predicted and where most of it lies."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(true[order] - predicted[order], N_BINS) if len(part)]
    levels = np.array([np.quantile(part, [0.05, 0.25, 0.5, 0.75, 0.95]) for part in parts])
    xs = np.arange(1, len(parts) + 1)

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.vlines(xs, levels[:, 0], levels[:, 4], color=SERIES[0], linewidth=1.1)
        axes.vlines(xs, levels[:, 1], levels[:, 3], color=SERIES[0], linewidth=6)
        axes.plot(xs, levels[:, 2], "o", color=SERIES[1], markersize=4.5)
        axes.set_xticks(xs)
        axes.grid(visible=False, axis="x")

    return drawn(draw, f"tenth of the {thing}s, in order of the prediction", "true minus predicted")


def roc(curves: Sequence[tuple[NDArray[np.bool_], Floats, Floats | None]]) -> str:
    """Of each class: which rows are of it, how probable it was said to be, and the rows' weights."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for number, (truth, probability, weights) in enumerate(curves, 1):
            wrong, right, _ = roc_curve(truth, probability, sample_weight=weights)
            axes.plot(*along(wrong, right), color=color_of(number))
        _unit(axes)

    return drawn(draw, "share of the others that are called so", "share of the class that is found", square=True)


def precision_recall(curves: Sequence[tuple[NDArray[np.bool_], Floats, Floats | None]]) -> str:
    """As ``roc``."""

    def draw(axes: Axes) -> None:
        for number, (truth, probability, weights) in enumerate(curves, 1):
            right, found, _ = precision_recall_curve(truth, probability, sample_weight=weights)
            axes.axhline(
                float(np.average(truth, weights=weights)), color=color_of(number), linewidth=0.8, linestyle=(0, (4, 3))
            )
            axes.plot(*along(found[::-1], right[::-1]), color=color_of(number))
        _unit(axes)

    return drawn(draw, "share of the class that is found", "share of those called so that are right", square=True)


def calibration(bins: Sequence[Mapping[str, float]]) -> str:
    """Of each bin of rows what was said ("said"), what came true ("true") and the ends of its interval ("low", "high")."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        said = [each["said"] for each in bins]
        axes.vlines(said, [each["low"] for each in bins], [each["high"] for each in bins], color=SERIES[0], linewidth=1.2)
        axes.plot(said, [each["true"] for each in bins], "o-", color=SERIES[0], markersize=4.5, linewidth=1)
        _unit(axes)

    return drawn(draw, "probability said", "share that came true", square=True)


def coverage(levels: Sequence[float], shares: Sequence[float]) -> str:
    """Of each level of a quantile task the share of rows below its quantile."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot(levels, shares, "o-", color=SERIES[0], markersize=5, linewidth=1)
        _unit(axes)

    return drawn(draw, "level of the quantile", "share of the rows below it", square=True)


def rootogram(rates: Floats, counts: Floats) -> str:
    """Bars of the root of how often each count came hang from the root of how often the predicted rates expect it.

    Kleiber and Zeileis 2016, doi:10.1080/00031305.2016.1173590, hanging rootogram of a Poisson regression.
    """
    step = max(1, math.ceil((float(np.quantile(counts, 0.995)) + 1) / N_COUNT_BARS))
    edges = np.arange(N_COUNT_BARS + 1) * step
    edges = edges[: int(np.searchsorted(edges, counts.max(), side="right")) + 1]
    observed = np.histogram(np.minimum(counts, edges[-1]), bins=edges)[0].astype(float)
    used = rates if len(rates) <= MAX_COUNTS else rates[:: math.ceil(len(rates) / MAX_COUNTS)]
    below = np.array([poisson.cdf(edge - 1, used).mean() for edge in edges])
    expected = np.diff(below) * len(counts)
    xs = edges[:-1] + (step - 1) / 2

    def draw(axes: Axes) -> None:
        roots = np.sqrt(expected)
        axes.bar(xs, np.sqrt(observed), bottom=roots - np.sqrt(observed), width=0.82 * step, color=SERIES[0], alpha=0.55)
        axes.plot(xs, roots, "o-", color=SERIES[1], markersize=3, linewidth=1.3)
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.grid(visible=False, axis="x")

    return drawn(draw, "count" if step == 1 else f"count, {step} to a bar", "root of the number of rows")


def _whole(axes: Axes, xs: Sequence[float]) -> None:
    """Whole numbers on the horizontal axis, though there be one only."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if xs and min(xs) == max(xs):
        axes.set_xlim(xs[0] - 1, xs[0] + 1)


def _unit(axes: Any) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)

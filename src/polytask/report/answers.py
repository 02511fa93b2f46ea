"""Answers against the truth, drawn: numbers, classes, probabilities, quantiles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.report import charts
from polytask.report.blocks import Block, Cell, Chart, Heat, Listing, Missing
from polytask.report.evidence import Floats, Judged
from polytask.report.slices import mean_interval
from polytask.report.words import percent
from polytask.tasks._classes import class_texts

MAX_CLASSES = 12  # of a confusion matrix, the rest together
MAX_CURVES = 5  # classes with curves of their own
N_BINS = 10
DIAGONAL = "The dashed line is where both are the same"


def answers(judged: Judged) -> Iterator[Block]:
    """By what the task answers, not by its kind: a plug-in's kind is shown as well as ours."""
    views, truth = judged.views, judged.truth
    if "value" in views:
        yield from numbers(judged, views["value"].astype(float), truth.astype(float))
    if "quantiles" in views and hasattr(judged.fitted.task, "quantiles"):
        levels = judged.fitted.task.quantiles
        below = [float((truth <= views["quantiles"][:, index]).mean()) for index in range(len(levels))]
        caption = f"{DIAGONAL}: there a quantile is what it says it is."
        yield Chart("Coverage of the quantiles", charts.coverage(levels, below), caption)
    if "label" in views and truth.ndim == 1:
        yield _confusion(judged)
    if "group" in views:
        yield _sizes(views["group"], judged.fitted.codec.width)
    if "probability" in views and "label" in views:
        yield from _probabilities(judged)


def _sizes(group: NDArray[Any], n_groups: int) -> Block:
    sizes = np.bincount(group, minlength=n_groups)
    rows = [(str(index), f"{size:,}", percent(size / max(len(group), 1))) for index, size in enumerate(sizes.tolist())]
    caption = "Rows in each group. A group without rows stands for nothing: there may be fewer than were asked for."
    return Listing("Sizes of the groups", ("group", "rows", "share"), rows, caption, numbers=(1, 2))


def numbers(judged: Judged, value: NDArray[Any], truth: NDArray[Any], thing: str = "row") -> Iterator[Block]:
    """Numbers that were answered against what is true of as many things, such as rows."""
    finite = np.isfinite(value)
    value, truth = value[finite], truth[finite]
    if not len(value):
        yield Missing("Predicted against true", "No answer is a finite number.")
        return
    many = len(truth) > charts.MAX_DOTS
    how = f"{len(truth):,} {thing}s in cells; the darker, the more (logarithmic)" if many else f"A dot per {thing}"
    caption = f"{how}. {DIAGONAL}; above it the truth is higher than predicted."
    yield Chart("Predicted against true", charts.predicted_against_true(value, truth), caption)
    if judged.fitted.task.kind == "count":
        caption = (
            "Bars hang from what the predicted rates expect (line). A bar that ends above zero: such counts came less often "
            "than expected; below zero: more often."
        )
        yield Chart("Hanging rootogram", charts.rootogram(value, truth), caption)
    if len(truth) >= N_BINS:
        caption = (
            f"Dot: the median; bar: the middle half of the {thing}s; line: nine in ten. Dots off zero are answers that lean "
            "one way; bars that grow are answers that are less sure there."
        )
        yield Chart("Residuals by tenths", charts.residual_deciles(value, truth, thing), caption)


def _confusion(judged: Judged) -> Block:
    names = class_texts(judged.fitted.codec)
    counts = np.zeros((len(names), len(names)))
    truth, label = judged.truth.astype(int), judged.views["label"].astype(int)
    np.add.at(counts, (truth, label), 1 if judged.weights is None else judged.weights)
    return confusion("Confusion", names, counts)


def confusion(title: str, names: Sequence[str], counts: Floats) -> Block:
    """How much of each true class (rows) was answered as each (columns); of many classes the commonest, the rest together."""
    order = np.argsort(-counts.sum(1), kind="stable")
    shown = np.sort(order) if len(names) <= MAX_CLASSES else np.sort(order[: MAX_CLASSES - 1])
    where = np.full(len(names), len(shown))
    where[shown] = np.arange(len(shown))
    labels = [names[index] for index in shown] + ([f"{len(names) - len(shown)} others"] if len(shown) < len(names) else [])
    table = np.zeros((len(labels), len(labels)))
    np.add.at(table, (where[:, None], where[None]), counts)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1e-12)
    cells = [[Cell(f"{share:.0%}".rstrip("%"), share) for share in row] for row in shares.tolist()]
    caption = "Rows are true classes, columns what was answered; in percent of the true class. The diagonal is what is right."
    return Heat(title, labels, labels, cells, caption, "true \\ answered")


def _probabilities(judged: Judged) -> Iterator[Block]:
    probability, truth, weights = judged.views["probability"], judged.truth, judged.weights
    curves, legend = [], []
    for number, (name, is_so, said, each) in enumerate(_classes(judged), 1):
        curves.append((is_so, said, each))
        legend.append((number, name))
    if curves:
        several = f"The {len(curves)} classes with most rows. " if len(curves) > 1 else ""
        caption = f"{several}The nearer to the upper left corner, the better; the dashed line is chance."
        yield Chart("ROC", charts.roc(curves), caption, legend)
        caption = f"{several}The nearer to the upper right corner, the better; a dashed line is how often the class comes."
        yield Chart("Precision and recall", charts.precision_recall(curves), caption, legend)
    else:
        yield Missing("ROC, precision and recall", "All judged rows are of one class.")
    if probability.ndim == 1:
        said, came = probability, truth == 1
    elif truth.ndim == 1:
        said, came = probability.max(1), judged.views["label"] == truth
    else:
        known = truth >= 0
        said, came = probability[known], truth[known] == 1
        weights = None if weights is None else np.broadcast_to(weights[:, None], known.shape)[known]
    bins = calibration_bins(said.astype(float), came, weights)
    off = sum(each["share"] * abs(each["said"] - each["true"]) for each in bins)
    what = (
        "the answered class"
        if probability.ndim == 2 and truth.ndim == 1
        else "a label"
        if truth.ndim == 2
        else "the second class"
    )
    caption = (
        f"How probable {what} was said to be, and how often it came true, with 95 % intervals. {DIAGONAL}; on average the two "
        f"are {percent(off, 1)} apart."
    )
    yield Chart("Calibration", charts.calibration(bins), caption)


def _classes(judged: Judged) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[Any], NDArray[Any] | None]]:
    """The classes with most rows, each against the rest: name, which rows are of it, its probability, weights."""
    probability, truth, weights, codec = judged.views["probability"], judged.truth, judged.weights, judged.fitted.codec
    if truth.ndim == 2:
        known = truth >= 0
        order = np.argsort(-((truth == 1) & known).sum(0), kind="stable")[:MAX_CURVES]
        parts = [(codec.labels[i], truth[known[:, i], i] == 1, probability[known[:, i], i], known[:, i]) for i in order]
    else:
        names, every = class_texts(codec), np.ones(len(truth), bool)
        if probability.ndim == 1:
            parts = [(names[1], truth == 1, probability, every)]
        else:
            order = np.argsort(-np.bincount(truth, minlength=len(names)), kind="stable")[:MAX_CURVES]
            parts = [(names[i], truth == i, probability[:, i], every) for i in sorted(order)]
    for name, is_so, said, rows in parts:
        if is_so.any() and not is_so.all():
            yield name, is_so, said, None if weights is None else weights[rows]


def calibration_bins(
    said: NDArray[np.float64], came: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> list[Mapping[str, float]]:
    """Ten bins of equal width: the mean probability, the share that came true with its interval, the share of rows.

    Example:
        >>> bins = calibration_bins(np.array([0.1, 0.9] * 50), np.array([False, True] * 50))
        >>> [(each["said"], each["true"]) for each in bins]
        [(0.1, 0.0), (0.9, 1.0)]
    """
    each = np.ones(len(said)) if weights is None else weights
    codes = np.minimum((said * N_BINS).astype(int), N_BINS - 1)
    found: list[Mapping[str, float]] = []
    for code in np.unique(codes):
        rows = codes == code
        true, low, high = mean_interval(came[rows].astype(float), each[rows], share=True)
        if math.isfinite(true):
            mean = float(np.average(said[rows], weights=each[rows]))
            found.append({"said": mean, "true": true, "low": low, "high": high, "share": float(each[rows].sum() / each.sum())})
    return found

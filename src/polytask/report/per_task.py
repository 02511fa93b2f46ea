"""The second section: every task for itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.fitted import FittedTask
from polytask.report import charts
from polytask.report.blocks import Block, Cell, Chart, Group, Heat, Listing, Mark, Missing, Section, Strips
from polytask.report.evidence import Evidence, Judged
from polytask.report.importance import Importance
from polytask.report.slices import Slice, mean_interval, slices_of
from polytask.report.words import cell_text, percent, score_texts, told
from polytask.tasks._classes import class_texts

MAX_CLASSES = 12  # of a confusion matrix, the rest together
MAX_CURVES = 5  # classes with curves of their own
N_WORST = 8
N_COLUMNS = 4  # columns that rows are cut by, and that are shown of the worst rows
N_BINS = 10
DIAGONAL = "The dashed line is where both are the same"


def per_task(evidence: Evidence, importance: Importance | None) -> Section:
    """Learning curves, answers against the truth, slices and worst rows of each task."""
    looked = len(evidence.chosen) if evidence.prepared is not None else 0
    lead = f"What is shown of answers is shown on the {evidence.n_judged:,} {evidence.part} rows"
    if evidence.prepared is None:
        lead = f"Answers cannot be shown row by row: {evidence.why_not}. Curves and scores are those that the run keeps"
    elif looked < evidence.n_judged:
        lead += f", of which {looked:,} were drawn for the pictures; scores are of all of them"
    groups = [_group(evidence, fitted, index, importance) for index, fitted in enumerate(evidence.tasks, 1)]
    return Section("tasks", "Task by task", f"{lead}.", groups)


def _group(evidence: Evidence, fitted: FittedTask, number: int, importance: Importance | None) -> Group:
    name = fitted.task.name
    columns = ", ".join(fitted.task.label_columns)
    what = fitted.task.kind if columns in ("", name) else f"{fitted.task.kind} of {columns}"
    subtitle = f"{what} · {fitted.codec.n_labels:,} training labels"
    blocks: list[Block] = [*_scores(evidence, name), *_curve(evidence, name)]
    judged = evidence.judged.get(name)
    if judged is None:
        why = evidence.why_not or f"no {evidence.part} row has a label of it"
        blocks.append(Missing("Answers against the truth, slices, and worst rows", f"Not shown: {why}."))
    else:
        blocks += _answers(judged)
        blocks += _sliced(evidence, judged, importance)
        blocks += _worst(evidence, judged, importance)
    return Group(name, blocks, subtitle, f"task-{number}")


def _scores(evidence: Evidence, name: str) -> Iterator[Block]:
    scores = evidence.run.scores()
    if name not in scores:
        yield Missing("Scores", f"No {evidence.part} row has a label of this task.")
        return
    rows = [(metric, *score_texts(score)) for metric, score in scores[name].scores.items()]
    caption = (
        f"On {scores[name].n_rows:,} labeled {evidence.part} rows. Constant: the best answer that is the same for every row."
    )
    yield Listing("Scores", ("metric", "score", "95 % interval", "constant"), rows, caption, numbers=(1, 2, 3))


def _curve(evidence: Evidence, name: str) -> Iterator[Block]:
    history = evidence.run.history
    epochs = [int(epoch["epoch"]) for epoch in history]
    training = [float(epoch["training"].get(name, math.nan)) for epoch in history]
    validation = [float(epoch["validation"].get(name, math.nan)) for epoch in history]
    if not any(map(math.isfinite, training + validation)):
        yield Missing("Learning curve", "The task did not learn in this training: it was kept from an earlier run.")
        return
    best = evidence.run.record.get("best_epochs", {}).get(name)
    kept = "" if best is None else f" The weights of epoch {best} were kept for this task (dot)."
    caption = f"1 is the loss of the best constant.{kept} A gap that widens means that rows are learned by heart."
    legend = [(6, "training"), (1, "validation")]
    yield Chart("Learning curve", charts.learning_curve(epochs, training, validation, best), caption, legend)


def _answers(judged: Judged) -> Iterator[Block]:
    """By what the task answers, not by its kind: a plug-in's kind is shown as well as ours."""
    views, truth = judged.views, judged.truth
    if "value" in views:
        yield from _numbers(judged, views["value"].astype(float), truth.astype(float))
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


def _numbers(judged: Judged, value: NDArray[Any], truth: NDArray[Any]) -> Iterator[Block]:
    finite = np.isfinite(value)
    value, truth = value[finite], truth[finite]
    if not len(value):
        yield Missing("Predicted against true", "No answer is a finite number.")
        return
    many = len(truth) > charts.MAX_DOTS
    how = f"{len(truth):,} rows in cells; the darker, the more (logarithmic)" if many else "A dot per row"
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
            "Dot: the median; bar: the middle half of the rows; line: nine in ten. Dots off zero are answers that lean one "
            "way; bars that grow are answers that are less sure there."
        )
        yield Chart("Residuals by tenths", charts.residual_deciles(value, truth), caption)


def _sizes(group: NDArray[Any], n_groups: int) -> Block:
    sizes = np.bincount(group, minlength=n_groups)
    rows = [(str(index), f"{size:,}", percent(size / max(len(group), 1))) for index, size in enumerate(sizes.tolist())]
    caption = "Rows in each group. A group without rows stands for nothing: there may be fewer than were asked for."
    return Listing("Sizes of the groups", ("group", "rows", "share"), rows, caption, numbers=(1, 2))


def _confusion(judged: Judged) -> Block:
    names = class_texts(judged.fitted.codec)
    truth, label = judged.truth.astype(int), judged.views["label"].astype(int)
    counts = np.bincount(truth, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    shown = np.sort(order) if len(names) <= MAX_CLASSES else np.sort(order[: MAX_CLASSES - 1])
    where = np.full(len(names), len(shown))
    where[shown] = np.arange(len(shown))
    labels = [names[index] for index in shown] + ([f"{len(names) - len(shown)} others"] if len(shown) < len(names) else [])
    table = np.zeros((len(labels), len(labels)))
    np.add.at(table, (where[truth], where[label]), 1 if judged.weights is None else judged.weights)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1e-12)
    cells = [
        [Cell(f"{shares[i, j]:.0%}".rstrip("%"), float(shares[i, j])) for j in range(len(labels))] for i in range(len(labels))
    ]
    caption = "Rows are true classes, columns what was answered; in percent of the true class. The diagonal is what is right."
    return Heat("Confusion", labels, labels, cells, caption, "true \\ answered")


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


def _chosen_columns(evidence: Evidence, name: str, importance: Importance | None) -> list[str]:
    """The columns that matter most to a task, else the first ones."""
    if importance is not None and name in importance.tasks:
        at = importance.tasks.index(name)
        known = [i for i in importance.order(name) if not math.isnan(importance.rise[i, at])]
        return [importance.columns[i] for i in known[:N_COLUMNS]]
    sets = [part for part in evidence.run.bundle.manifest.inputs if name in part.tasks]
    return list(dict.fromkeys(column for part in sets for column in part.codec.names))[:N_COLUMNS]


def _sliced(evidence: Evidence, judged: Judged, importance: Importance | None) -> Iterator[Block]:
    kinds = {name: kind for part in evidence.run.bundle.manifest.inputs for name, kind in part.codec.kinds.items()}
    what, errors = judged.error()
    share, better = what.startswith("share"), judged.higher_is_better
    found: list[Slice] = []
    for column in _chosen_columns(evidence, judged.name, importance):
        if column in kinds:
            cells = evidence.column(column).take(judged.index)
            found += slices_of(column, kinds[column], cells, errors, judged.weights, share=share)
    if not found:
        yield Missing("Scores by slice", "No input column cuts the labeled rows into parts of ten rows or more.")
        return
    overall, *_ = mean_interval(errors, judged.weights, share)
    marks = [_mark(each, previous, overall, better) for each, previous in zip(found, [None, *found[:-1]], strict=True)]
    ends = [v for each in found for v in (each.low, each.high, each.value) if math.isfinite(v)] + [overall]
    room = 0.03 * (max(ends) - min(ends)) or 1.0
    worse = sum(mark.color == 2 for mark in marks)
    caption = (
        f"Of the columns that matter most to this task. The line is the mean over all rows, {told(overall)}; "
        f"{worse or 'no'} of {len(found)} slices {'is' if worse == 1 else 'are'} worse than it beyond their 95 % interval "
        f"(orange). Chance alone makes about {max(1, round(0.025 * len(found)))} of so many look so."
    )
    start, end = min(ends) - room, max(ends) + room
    if share:
        start, end = max(0.0, start), min(1.0, end)
    yield Strips("Scores by slice", ("slice", "rows", what), marks, start, end, caption, overall)


def _mark(each: Slice, previous: Slice | None, overall: float, higher_is_better: bool) -> Mark:
    above, below = each.low > overall, each.high < overall
    worse, fine = (below, above) if higher_is_better else (above, below)
    first = previous is None or previous.column != each.column
    name = f"{each.column}: {cell_text(each.name)}"
    texts = (f"{each.n_rows:,}", told(each.value, each.high - each.low))
    return Mark(name, texts, each.value, each.low, each.high, color=2 if worse else 3 if fine else 1, head=first)


def _worst(evidence: Evidence, judged: Judged, importance: Importance | None) -> Iterator[Block]:
    losses = np.nan_to_num(judged.losses, nan=np.inf)
    rows = np.argsort(-losses, kind="stable")[:N_WORST]
    columns = _chosen_columns(evidence, judged.name, importance)
    taken = judged.index[rows]
    cells = {column: evidence.column(column).take(taken).to_pylist() for column in columns}
    listed: list[Sequence[str]] = []
    for place, row in enumerate(rows):
        texts = (evidence.row_name(int(taken[place])), *_texts(judged, int(row)), f"{losses[row]:.3g}")
        listed.append((*texts, *(cell_text(cells[column][place]) for column in columns)))
    caption = "The largest losses, in units of the best constant's. Look there for wrong labels and for what no column tells."
    head = ("row", "true", "answered", "loss", *columns)
    yield Listing(f"The {len(listed)} worst rows", head, listed, caption, numbers=(3,), folded=True)


def _texts(judged: Judged, row: int) -> tuple[str, str]:
    """What is true in a row, and what was answered."""
    views, truth, codec = judged.views, judged.truth[row], judged.fitted.codec
    if "value" in views:
        return cell_text(float(truth)), cell_text(float(views["value"][row]))
    if "group" in views or "vector" in views:  # the codes of their labels have no names
        return "-", f"{views['group'][row]}" if "group" in views else "-"
    if "label" not in views:
        return cell_text(truth), "-"
    if judged.truth.ndim == 2:
        names = np.array(codec.labels, dtype=object)
        return tuple(cell_text(", ".join(names[mask]) or "none") for mask in (truth == 1, views["label"][row] == 1))  # type: ignore[return-value]
    names_of = class_texts(codec)
    answered = int(views["label"][row])
    said = ""
    if "probability" in views:
        shares = views["probability"][row]
        share = float(shares[answered]) if np.ndim(shares) else float(shares if answered == 1 else 1 - shares)
        said = f" ({percent(share)})"
    return cell_text(names_of[int(truth)]), f"{cell_text(names_of[answered])}{said}"

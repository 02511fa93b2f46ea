"""The second section: every task for itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from polytask.cells import is_text
from polytask.fitted import FittedTask
from polytask.report import charts
from polytask.report.answers import answers
from polytask.report.blocks import Block, Chart, Group, Listing, Mark, Missing, Section, Strips
from polytask.report.dense import of_pixels
from polytask.report.evidence import Evidence, Judged, short_path
from polytask.report.gallery import gallery
from polytask.report.importance import Importance
from polytask.report.rows import Rows
from polytask.report.slices import Slice, mean_interval, slices_of
from polytask.report.words import cell_text, percent, score_texts, told
from polytask.tasks._classes import class_texts

N_WORST = 8
N_COLUMNS = 4  # columns that rows are cut by, and that are shown of the worst rows


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
        blocks += answers(judged) if fitted.task.spatial is None else of_pixels(judged)
        blocks += gallery(evidence, judged, lambda row: _said(judged, row))
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
        if column in kinds and column not in evidence.images:
            cells = evidence.column(column).take(judged.index)
            found += slices_of(column, kinds[column], cells, errors, judged.weights, share=share)
    if not found and not kinds.keys() - evidence.images:
        return
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
    taken = judged.index[rows]
    cells = {
        name: cells for name in _chosen_columns(evidence, judged.name, importance) if (cells := _cells(evidence, name, taken))
    }
    listed: list[Sequence[str]] = []
    for place, row in enumerate(rows):
        told_of = (*_texts(judged, int(row)).values(), f"{losses[row]:.3g}")
        listed.append((evidence.row_name(int(taken[place])), *told_of, *(texts[place] for texts in cells.values())))
    caption = "The largest losses, in units of the best constant's. Look there for wrong labels and for what no column tells."
    names = list(_texts(judged, int(rows[0])))
    yield Listing(
        f"The {len(listed)} worst rows",
        ("row", *names, "loss", *cells),
        listed,
        caption,
        numbers=(len(names) + 1,),
        folded=True,
    )


def _cells(evidence: Evidence, name: str, rows: Rows) -> list[str]:
    """The cells of a column in some rows, as text; none where these are pixels."""
    cells, is_image = evidence.column(name).take(rows), name in evidence.images
    if not is_image:
        return [cell_text(cell) for cell in cells.to_pylist()]
    return [cell_text(path and short_path(path)) for path in cells.to_pylist()] if is_text(cells.type) else []


def _said(judged: Judged, row: int) -> list[str]:
    """What to say of a row under its pictures."""
    known = {what: text for what, text in _texts(judged, row).items() if text != "-"}
    return [*(f"{what} {text}" for what, text in known.items()), f"loss {judged.losses[row]:.3g}"]


def _texts(judged: Judged, row: int) -> dict[str, str]:
    """What is true in a row, and what was answered; of answers at every pixel the row's own scores."""
    if "statistics" in judged.views:
        scores = {scorer.name: judged.scores_of(scorer, np.array([row])) for scorer in judged.scorers}
        return {name: told(float(score[0])) for name, score in scores.items()}
    true, answered = _true_and_answered(judged, row)
    return {"true": true, "answered": answered}


def _true_and_answered(judged: Judged, row: int) -> tuple[str, str]:
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

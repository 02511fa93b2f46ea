"""The third section: what the tasks have to do with one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from polytask.batch import Dataset
from polytask.errors import counted
from polytask.evaluation.conflict import agreement_of, pairs_over_time, weights_over_time
from polytask.fitted import FittedTask
from polytask.model import MultiTaskModel, Snapshots
from polytask.report import charts
from polytask.report.blocks import Block, Cell, Chart, Group, Heat, Listing, Mark, Missing, Section, Strips, Words
from polytask.report.comparison import against_alone
from polytask.report.drawing import compact
from polytask.report.evidence import Evidence, names_of, sampled
from polytask.report.words import fixed, joined, percent, short, told
from polytask.sharing import SharedTrunk

MAX_ROWS = 20_000  # rows of which labels are correlated
MAX_INDICATORS = 20  # classes of a task that have a column of their own there
N_COLORED, MAX_LINES = 5, 40
MAX_COLUMNS = 24  # of a diagnostic that is shown cell by cell
MAX_DIAGNOSTICS = 12
PARTS = ("training", "validation", "test")


def between(evidence: Evidence) -> Section:
    """Labels, gradients, weights, what the sharing scheme learned, and whether sharing helped."""
    names = names_of(evidence.tasks)
    if len(names) < 2:
        group = Group("", [Missing("Between tasks", "There is one task only, so nothing is shared.")])
        return Section("between", "Between tasks", "", [group])
    groups = [
        Group("Did sharing help?", list(against_alone(evidence))),
        Group("Labels", list(_labels(evidence))),
        Group("Gradients", list(_gradients(evidence))),
        Group("Weights", list(_weights(evidence))),
        Group("What the sharing scheme learned", list(_diagnostics(evidence)), joined(_schemes(evidence))),
    ]
    return Section(
        "between", "Between tasks", "Whether the tasks have something to say to one another, and what came of it.", groups
    )


def _labels(evidence: Evidence) -> Iterator[Block]:
    names = names_of(evidence.tasks)
    if evidence.prepared is None:
        yield Missing("Share of labels present, correlation of labels", f"Not shown: {evidence.why_not}.")
        return
    known = [name for name in names if name in evidence.prepared.training.present]
    parts = [part for part in PARTS if getattr(evidence.prepared, part).n_rows]
    rows = []
    for name in known:
        shares = [float(getattr(evidence.prepared, part).present[name].float().mean()) for part in parts]
        rows.append([Cell(percent(share), share) for share in shares])
    counts = joined(f"{getattr(evidence.prepared, part).n_rows:,} {part} rows" for part in parts)
    caption = f"How many of the {counts} have a label of the task. A row without one counts for the other tasks."
    yield Heat("Share of labels present", known, parts, rows, caption)
    tasks = [fitted for fitted in evidence.tasks if fitted.task.name in known and fitted.task.spatial is None]
    if len(tasks) > 1:
        left = " Tasks with labels of pixels are left out." if len(tasks) < len(known) else ""
        yield _correlations(tasks, evidence.prepared.training, left)


def _correlations(tasks: Sequence[FittedTask], data: Dataset, left: str) -> Block:
    chosen = torch.from_numpy(sampled(data.n_rows, MAX_ROWS))
    columns, present, ordered = [], [], []
    for fitted in tasks:
        name = fitted.task.name
        present.append(data.present[name][chosen].numpy())
        matrix, in_order = label_columns(fitted, data.targets[name][chosen].numpy(), present[-1])
        columns.append(matrix)
        ordered.append(in_order)
    T = len(tasks)
    cells = [[Cell("") for _ in range(T)] for _ in range(T)]
    for i, j in combinations(range(T), 2):
        both = present[i] & present[j]
        found = canonical_correlation(columns[i][both], columns[j][both])
        if not math.isfinite(found):
            cells[i][j] = cells[j][i] = Cell("-")
            continue
        found = found if ordered[i] and ordered[j] else abs(found)
        cells[i][j] = cells[j][i] = Cell(fixed(found), found)
    names = [fitted.task.name for fitted in tasks]
    some = f"{len(chosen):,} of the " if len(chosen) < data.n_rows else ""
    caption = (
        f"Over the labels that two tasks both have among {some}{data.n_rows:,} training rows: the correlation of ranks, and "
        "where a task has classes without an order (or several labels) the first canonical correlation with them, which has no "
        f"sign. Near 0: little to share but the inputs.{left}"
    )
    return Heat("Correlation of labels", names, names, cells, caption)


def label_columns(fitted: FittedTask, target: NDArray[Any], present: NDArray[np.bool_]) -> tuple[NDArray[np.float64], bool]:
    """Labels as columns of numbers ``[N, k]``, and whether they are in an order: ranks, or a column per class or label."""
    if target.ndim == 2:
        return np.where(present[:, None], target, 0)[:, :MAX_INDICATORS].astype(float), False
    if fitted.task.kind == "multiclass" and len(fitted.codec.classes) > 2:
        commonest = np.argsort(-np.bincount(target[present], minlength=len(fitted.codec.classes)), kind="stable")
        return (target[:, None] == commonest[:MAX_INDICATORS]).astype(float), False
    ranks = np.zeros(len(target))
    ranks[present] = rankdata(target[present])
    return ranks[:, None], True


def canonical_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The largest correlation of a weighted sum of the columns of one with one of the other; of two columns their own, signed.

    Hotelling 1936, by QR: Björck and Golub 1973, doi:10.2307/2005662.

    Example:
        >>> a = np.array([[1.0], [2.0], [3.0], [4.0]])
        >>> canonical_correlation(a, -a), canonical_correlation(a, np.array([[1.0, 0], [0, 1], [0, 0], [0, 0]]))
        (-1.0, 0.949)
    """
    if len(one) < 3:
        return math.nan
    bases = []
    for columns in (one, other):
        centered = columns - columns.mean(0)
        left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
        bases.append((centered, left[:, sizes > 1e-9 * max(1.0, sizes.max(initial=0.0))]))
    if any(basis.shape[1] == 0 for _, basis in bases):
        return math.nan
    strength = float(np.linalg.norm(bases[0][1].T @ bases[1][1], 2))
    single = one.shape[1] == other.shape[1] == 1
    sign = np.sign(float((bases[0][0] * bases[1][0]).sum())) if single else 1.0
    return float(sign * min(1.0, strength))


def _gradients(evidence: Evidence) -> Iterator[Block]:
    seen = agreement_of(evidence.run.history)
    if not seen.pairs:
        alone = all(one.sharing is not None and one.sharing.independent for one in evidence.run.bundle.manifest.networks)
        why = (
            "the tasks share no parameter"
            if alone
            else "no shared parameter had gradients of two tasks when the training looked"
        )
        yield Missing("Cosines and norm ratios of the tasks' gradients", f"There are none: {why}.")
        return
    names = list(seen.tasks)
    pairs = {(a, b): (pair.cosine, pair.ratio) for a, others in seen.pairs.items() for b, pair in others.items()}
    pairs |= {(b, a): (cosine, 1 / ratio) for (a, b), (cosine, ratio) in pairs.items()}
    cosines = [[_cosine_cell(pairs.get((a, b))) for b in names] for a in names]
    caption = (
        f"Mean cosine of two tasks' gradients of the shared parameters, over {counted(seen.looks, 'look')}. Below 0 (orange) "
        f"what helps one task harms the other; the mean cosine with the mean gradient is {seen.cosine:.2f}, and unrelated "
        f"gradients have {seen.unrelated:.2f}."
    )
    yield Heat("Cosine of gradients", names, names, cosines, caption)
    ratios = [[_ratio_cell(pairs.get((a, b))) for b in names] for a in names]
    caption = "The norm of the row's gradient by that of the column's. Where it is far from 1 the smaller is lost in the sum."
    yield Heat("Norm ratio of gradients", names, names, ratios, caption)
    yield from _over_time(evidence.run.history)


def _cosine_cell(pair: tuple[float, float] | None) -> Cell:
    return Cell("") if pair is None else Cell(fixed(pair[0]), pair[0])


def _ratio_cell(pair: tuple[float, float] | None) -> Cell:
    return Cell("") if pair is None else Cell(compact(float(f"{pair[1]:.2g}")), max(-1.0, min(1.0, math.log10(pair[1]))))


def _over_time(history: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    table = pairs_over_time(history)
    for key, title, y, log in (
        ("cosine", "Cosines over time", "cosine", False),
        ("norm_ratio", "Norm ratios over time", "norm ratio (logarithmic)", True),
    ):
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for row in table:
            found.setdefault((row["task"], row["other"]), []).append((row["epoch"], row[key]))
        means = {pair: float(np.mean([_size(y, log) for _, y in points])) for pair, points in found.items()}
        order = sorted(found, key=lambda pair: means[pair])
        colored = order[:N_COLORED]
        behind = order[N_COLORED : N_COLORED + MAX_LINES]
        series = [(*_points(found[pair]), -1) for pair in behind]
        series += [(*_points(found[pair]), number) for number, pair in reversed(list(enumerate(colored, 1)))]
        legend = [(number, f"{short(a)} and {short(b)}") for number, (a, b) in enumerate(colored, 1)]
        which = "" if len(order) <= N_COLORED else f" In color the {len(colored)} pairs of {len(order)} that {_extreme(log)}."
        if len(order) > N_COLORED + MAX_LINES:
            which += f" {len(order) - N_COLORED - MAX_LINES} pairs are left out."
        said = "The first task's norm by the second's." if log else "The mean over the looks of an epoch."
        yield Chart(title, charts.lines(series, "epoch", y, level=1.0 if log else 0.0, log=log), f"{said}{which}", legend)


def _size(value: float, log: bool) -> float:
    return -abs(math.log(value)) if log else value


def _extreme(log: bool) -> str:
    return "differ most" if log else "conflict most"


def _points(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    xs, ys = zip(*points, strict=True)
    return list(xs), list(ys)


def _weights(evidence: Evidence) -> Iterator[Block]:
    kind = evidence.run.recipe.balancer.kind
    rows = [row for row in weights_over_time(evidence.run.history) if row["weight"] is not None]
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        found.setdefault(row["task"], []).append((row["epoch"], row["weight"]))
    by_epoch: dict[int, set[float]] = {}
    for row in rows:
        by_epoch.setdefault(row["epoch"], set()).add(round(row["weight"], 6))
    if not found:
        yield Missing("Weights over time", f"The balancer ({kind}) gave no weights that could be kept.")
    elif all(len(weights) == 1 for weights in by_epoch.values()):
        yield Words(
            "Weights over time", [("All equal.", f"The balancer ({kind}) gave every task the same weight in every epoch.")]
        )
    else:
        order = sorted(found, key=lambda task: -found[task][-1][1])
        series = [(*_points(found[task]), -1) for task in order[N_COLORED:]]
        series += [(*_points(found[task]), number) for number, task in reversed(list(enumerate(order[:N_COLORED], 1)))]
        legend = [
            (number, f"{task}, {told(found[task][-1][1])} at the end") for number, task in enumerate(order[:N_COLORED], 1)
        ]
        caption = f"What the balancer ({kind}) gave each task in the last step of an epoch. Losses are normalized before."
        yield Chart("Weights over time", charts.lines(series, "epoch", "weight"), caption, legend)


def _schemes(evidence: Evidence) -> list[str]:
    """The kinds of sharing of the run's networks."""
    return list(dict.fromkeys(one.sharing.kind for one in evidence.run.bundle.manifest.networks if one.sharing is not None))


def _diagnostics(evidence: Evidence) -> Iterator[Block]:
    bundle = evidence.run.bundle
    every = list(bundle.tasks)
    networks: list[MultiTaskModel] = list(bundle.model.networks) if isinstance(bundle.model, Snapshots) else [bundle.model]  # type: ignore[arg-type]
    blocks: list[Block] = []
    scalars: list[tuple[str, str]] = []
    for network, made in zip(networks, bundle.manifest.networks, strict=True):
        mine, joint = list(network.tasks), made.sharing is not None and made.sharing.joint
        where = f", in the network of {joined(mine, 3)}" if len(networks) > 1 else ""
        for name, value in network.trunk.diagnostics().items():
            if value.ndim == 0:
                scalars.append((f"{name}{where}", f"{float(value):.3g}"))
            elif value.ndim < 3:
                blocks.append(_diagnostic(network.trunk, name, value.detach().cpu(), every if joint else mine, where))
    if scalars:
        yield Listing("Numbers", ("what", "value"), scalars, numbers=(1,))
    yield from blocks[:MAX_DIAGNOSTICS]
    if len(blocks) > MAX_DIAGNOSTICS:
        yield Words("", [("", f"{len(blocks) - MAX_DIAGNOSTICS} more of the kind are left out.")])
    if not blocks and not scalars:
        kinds = joined(_schemes(evidence))
        yield Words("", [("Nothing of its own.", f"The scheme ({kinds}) has no gates, stitches or trees that are learned.")])


def _diagnostic(trunk: SharedTrunk, name: str, value: Tensor, tasks: Sequence[str], where: str) -> Block:
    axes = next((axes for start, axes in trunk.axes.items() if name.startswith(start)), ("",) * value.ndim)
    if value.ndim == 1:
        value, axes = (value[:, None], (*axes, "")) if axes[0] == "task" else (value[None], ("", *axes))
    rows, columns = (axis_labels(axis, size, tasks) for axis, size in zip(axes, value.shape, strict=True))
    title = f"{name[:1].upper()}{name[1:]}"
    if value.shape[1] > MAX_COLUMNS:
        return _spread(title, rows, value.float().numpy(), axes[1], where)
    corner = " \\ ".join(axis for axis in axes if axis)
    caption = f"A row per {axes[0]}, a column per {axes[1]}" if axes[0] and axes[1] else f"By {corner or 'number'}"
    if not value.is_floating_point() and value.dtype != torch.bool:
        cells = [[Cell(str(v + 1), v) for v in row] for row in value.tolist()]  # parts are counted from 1 as their names are
        return Heat(title, rows, columns, cells, f"{caption}{where}. The same number is the same part.", corner, nominal=True)
    top = float(value.float().abs().max()) or 1.0
    cells = [[Cell(fixed(v), v / top) for v in row] for row in value.float().tolist()]
    return Heat(title, rows, columns, cells, f"{caption}{where}.", corner)


def axis_labels(axis: str, size: int, tasks: Sequence[str]) -> list[str]:
    """The names of the rows or columns of a diagnostic.

    Example:
        >>> axis_labels("task", 2, ["a", "b"]), axis_labels("expert", 2, ["a", "b"]), axis_labels("task", 4, ["a", "b"])
        (['a', 'b'], ['expert 1', 'expert 2'], ['a, part 1', 'a, part 2', 'b, part 1', 'b, part 2'])
    """
    each, left = divmod(size, len(tasks))
    if axis == "task" and each and not left:
        return list(tasks) if each == 1 else [f"{task}, part {part}" for task in tasks for part in range(1, each + 1)]
    return [f"{axis} {number}".strip() if axis or size > 1 else "" for number in range(1, size + 1)]


def _spread(title: str, rows: Sequence[str], value: NDArray[np.float64], axis: str, where: str) -> Block:
    """Of many columns, where most of them lie."""
    ends = np.quantile(value, [0.05, 0.5, 0.95], axis=1).T
    marks = [
        Mark(name or "all", (told(middle),), middle, low, high)
        for name, (low, middle, high) in zip(rows, ends.tolist(), strict=True)
    ]
    start, end = float(ends.min()), float(ends.max())
    room = 0.05 * (end - start) or 0.5
    caption = f"The median over {value.shape[1]} {axis or 'column'}s{where}, and where nine in ten of them lie."
    return Strips(title, ("", "median"), marks, start - room, end + room, caption)

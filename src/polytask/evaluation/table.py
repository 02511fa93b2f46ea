"""A comparison as text: verdicts, metrics and costs, at most 100 columns wide."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from polytask.errors import listed

if TYPE_CHECKING:
    from polytask.evaluation.comparison import Comparison, Result
    from polytask.evaluation.verdict import TaskComparison

WIDTH, NAME_WIDTH, GAP = 100, 24, "  "
OF_WORDS = {"task", "metric", ""}  # columns that stand at the left
OF_TREES = {"helped": "better", "hurt": "worse"}
# How often by simulation an interval of so many seeds misses the truth, at most: see paired_interval. Of one it is not known.
MISSES = {1: 0.05, 2: 0.13, 3: 0.08, 5: 0.06}

Cell = Sequence[str]  # its lines
Column = Sequence[Cell]  # its header, and then a cell per row


def table(found: Comparison) -> str:
    """All that is to be read of a comparison."""
    parts = [_verdicts(found), _gains(found), _metrics(found), _costs(found)]
    return "\n\n".join([*("\n".join(lines) for lines in parts if lines), *_said(found)])


def _verdicts(found: Comparison) -> list[str]:
    """Per task the loss alone, and per candidate the verdict and the change with its interval."""
    tasks, counts = found.tasks, set(found.n_rows.values())
    names: Column = [["task"], *([_cut(task)] for task in tasks)]
    rows: Column = [["rows"], *([f"{found.n_rows[task]:,}"] for task in tasks)]
    alone: Column = [["alone"], *([f"{found.alone.losses[task]:.4f}"] for task in tasks)]
    left = [names, *([rows] if len(counts) > 1 else []), alone]
    others = found.results[1:]
    wide = [_verdict_column(result, tasks, lines=1) for result in others]
    narrow = [_verdict_column(result, tasks, lines=2) for result in others]
    fits = sum(map(_width, [*left, *wide])) + len(GAP) * (len(left) + len(wide) - 1) <= WIDTH
    each = f"the {counts.pop():,} {found.judged_on} rows" if len(counts) == 1 else f"the {found.judged_on} rows"
    seeds = f"mean over the seeds {listed(found.seeds)}" if len(found.seeds) > 1 else f"seed {found.seeds[0]}"
    head = (
        f"Loss on {each}, in units of the best constant's (1 knows nothing), {seeds}: of each task alone, and by how many "
        "percent of that it changes, with the 95 % interval. Below 0 is better."
    )
    return [*_folded(head), "", *_blocks(left, wide if fits else narrow)]


def _verdict_column(result: Result, tasks: Sequence[str], lines: int) -> Column:
    verdicts = {verdict.task: verdict for verdict in result.verdicts}
    cells = [_verdict(verdicts.get(task), result.costs is None) for task in tasks]
    return [[_cut(result.name)], *(cell if lines > 1 else [" ".join(cell)] for cell in cells)]


def _verdict(verdict: TaskComparison | None, of_trees: bool) -> list[str]:
    if verdict is None:
        return ["-"]
    word = OF_TREES.get(verdict.verdict, verdict.verdict) if of_trees else verdict.verdict
    mark = "*" if verdict.holds else ""
    interval = [f"({_percent(verdict.change_low)} to {_percent(verdict.change_high)})"]
    return [f"{word}{mark} {_percent(verdict.change)} %", *(interval if math.isfinite(verdict.change_low) else [])]


def _gains(found: Comparison) -> list[str]:
    """Per candidate how many tasks it helped, and Delta-m."""
    header = ("", "helped", "can't tell", "hurt", "Delta-m over metrics", "Delta-m over tasks")
    rows = []
    for result in found.results[1:]:
        told = [verdict.verdict for verdict in result.verdicts]
        counts = [str(told.count(word)) for word in ("helped", "can't tell", "hurt")]
        gains = ["-", "-"]
        if result.delta_m is not None:
            both = (result.delta_m.by_metric, result.delta_m.by_task)
            gains = [_gain(value, [seed[i] for seed in result.delta_m_of_seeds]) for i, value in enumerate(both)]
        rows.append([_cut(result.name), *counts, *gains])
    return _blocks(*_columns([header, *rows]))


def _gain(value: float, of_seeds: Sequence[float]) -> str:
    """A Delta-m, with the standard deviation over seeds."""
    spread = f" ± {np.std(of_seeds, ddof=1):.2f}" if len(of_seeds) > 1 and all(map(math.isfinite, of_seeds)) else ""
    return f"{value:+.2f} %{spread}" if math.isfinite(value) else "-"


def _metrics(found: Comparison) -> list[str]:
    """Per task and metric its mean for each candidate."""
    lines = [(task, metric) for task, metrics in found.alone.metrics.items() for metric in metrics]
    firsts = {task: next(iter(metrics)) for task, metrics in found.alone.metrics.items() if metrics}
    left: list[Column] = [
        [["task"], *([_cut(task) if firsts[task] == metric else ""] for task, metric in lines)],
        [["metric"], *([metric] for _, metric in lines)],
    ]
    columns = [
        [[_cut(result.name)], *([_number(result.metrics.get(task, {}).get(metric, math.nan))] for task, metric in lines)]
        for result in found.results
    ]
    return _blocks(left, columns)


def _costs(found: Comparison) -> list[str]:
    """Per candidate what its network costs, and how often it was trained."""
    header = ("", "parameters", "kept", "FLOPs a row", "kept", "memory of a step", "seconds", "trainings")
    rows = []
    for result in found.results:
        costs = result.costs
        cells = ["-"] * 5
        if costs is not None:
            cells = [_short(costs.parameters), _short(costs.kept_parameters), _short(costs.flops), _short(costs.kept_flops)]
            cells.append(f"{_short(costs.memory)}B")
        rows.append([_cut(result.name), *cells, f"{result.seconds:.1f}", str(result.n_trainings)])
    return _blocks(*_columns([header, *rows]))


def _said(found: Comparison) -> list[str]:
    """What the tables mean, and what is to be known of them."""
    parts = ", ".join(f"{part} {fields['kind']}" for part, fields in found.recipe.items())
    n_verdicts = sum(len(result.verdicts) for result in found.results)
    rate = MISSES[max(n for n in MISSES if n <= len(found.seeds))]
    bound = "up to" if len(found.seeds) > 1 else "at least"
    lines = [
        f"alone: a network for each task, trained by the run's recipe at the same budget. The run: {parts}; a candidate "
        "differs from it in what its name says.",
        "helped, hurt: the interval lies on one side of 0. It speaks of other seeds and other rows to judge on, not of other "
        f"training rows or another split. If nothing differed from alone, {bound} {n_verdicts * rate:.1f} of "
        f"these {n_verdicts} verdicts would be wrong by chance ({bound} {rate:.0%} each, with so many seeds). * holds also "
        "where all are judged at once (Holm).",
        *_of_trees(found),
        "Delta-m: the mean gain over alone in percent of each metric, above 0 is better, ± its deviation over seeds. r2 and "
        "kappa are not counted, for a change in percent of them means nothing." + _not_counted(found),
        "kept: what answers after the training. With trainer.best: task that is a network for each epoch that is best for a "
        "task. FLOPs: of products and convolutions in a forward pass for all tasks. Memory: the most bytes of tensors alive at "
        "once in a training step; alone trains all its networks at once.",
        *(f"{what} is left out: {why}" for what, why in found.left_out.items()),
        *found.notes,
    ]
    return ["\n".join(line for text in lines for line in _folded(text))]


def _of_trees(found: Comparison) -> Iterator[str]:
    if found.trees is not None:
        yield (
            f"{found.trees.name}: gradient boosting (scikit-learn) for each target on the same rows and inputs, the better of "
            "two settings by validation. Nothing in them depends on a seed, so they are fitted once."
        )


def _not_counted(found: Comparison) -> str:
    left = dict.fromkeys(name for result in found.candidates if result.delta_m for name in result.delta_m.left_out)
    return f" Not counted, for what alone scored: {listed(left)}." if left else ""


def _columns(rows: Sequence[Sequence[str]]) -> tuple[list[Column], list[Column]]:
    """Rows of words as columns: the first stays at the left where there is not room for all."""
    columns: list[Column] = [[[row[i]] for row in rows] for i in range(len(rows[0]))]
    return columns[:1], columns[1:]


def _blocks(left: Sequence[Column], columns: Sequence[Column]) -> list[str]:
    """Columns side by side; where they are too wide for a line they go on below, beside the first ones again."""
    lines: list[str] = []
    waiting = list(columns)
    while waiting:
        taken = [*left, waiting.pop(0)]
        while waiting and sum(map(_width, [*taken, waiting[0]])) + len(GAP) * len(taken) <= WIDTH:
            taken.append(waiting.pop(0))
        lines += [*([""] if lines else []), *_side_by_side(taken)]
    return lines


def _side_by_side(columns: Sequence[Column]) -> list[str]:
    widths = [_width(column) for column in columns]
    sides = ["<" if column[0][0] in OF_WORDS else ">" for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        for index in range(max(map(len, row))):
            words = [cell[index] if index < len(cell) else "" for cell in row]
            cells = [f"{word:{side}{width}}" for word, side, width in zip(words, sides, widths, strict=True)]
            lines.append(GAP.join(cells).rstrip())
    return lines


def _width(column: Column) -> int:
    return max(len(line) for cell in column for line in cell)


def _cut(name: str) -> str:
    """A name without its middle, where it is long: names of many tasks often differ at their ends."""
    half = NAME_WIDTH // 2
    return name if len(name) <= NAME_WIDTH else f"{name[: half - 1]}…{name[-half:]}"


def _percent(value: float) -> str:
    """A change in percent to a tenth, or to whole ones where it is large."""
    return f"{value:+.1f}" if abs(value) < 100 else f"{value:+,.0f}"


def _number(value: float) -> str:
    """Five digits, as far as they lie before the point or the first four places behind it."""
    if math.isnan(value):
        return "-"
    whole = len(f"{abs(value):.0f}") if abs(value) >= 1 else 1
    return f"{value:,.{max(0, 5 - whole)}f}"


def _short(value: int) -> str:
    """A large number to three digits.

    Example:
        >>> _short(950), _short(12_345), _short(7_654_321)
        ('950', '12.3k', '7.65M')
    """
    size = float(value)
    for unit in ("", "k", "M", "G"):
        if size < 999.5:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.3g}T"


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)

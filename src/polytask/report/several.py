"""Several runs side by side: scores, differences between their recipes, learning curves over one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from polytask.evaluation.verdict import TaskComparison, compare_losses
from polytask.report import charts
from polytask.report.blocks import Block, Chart, Group, Listing, Mark, Missing, Section, Strips, Words
from polytask.report.drawing import series_ends
from polytask.report.evidence import Evidence
from polytask.report.words import cell_text, headline, joined, score_texts, seconds_text, short, signed
from polytask.scores import Score

COLORS = {"helped": 3, "hurt": 2, "can't tell": 1}
BETTER = {"helped": "better", "hurt": "worse", "can't tell": "can't tell"}


def side_by_side(runs: Sequence[Evidence]) -> list[Section]:
    """The sections of a page that compares runs, the first of which the others are held against."""
    tasks = list(dict.fromkeys(name for evidence in runs for name in evidence.run.scores()))
    return [
        Section("verdict", "The verdict", _lead(runs), [Group("", list(_paired(runs)))]),
        Section("tasks", "Task by task", "", [_task(runs, name, number) for number, name in enumerate(tasks, 1)]),
        Section("recipes", "What differs", "", [Group("", list(_differences(runs)))]),
        Section("record", "The record", "", [Group("", [_record(runs)])]),
    ]


def _lead(runs: Sequence[Evidence]) -> str:
    names = [evidence.name for evidence in runs]
    told = f"{len(runs)} runs are compared: {joined(names, 12)}."
    return (
        told
        if same_rows(runs)
        else (f"{told} Beware: they were not judged on the same rows, so a difference of scores may be one of rows.")
    )


def same_rows(runs: Sequence[Evidence]) -> bool:
    """Whether all runs were judged on the same rows of the same data."""
    first = runs[0].run.record
    keys = ("data", "parts", "scored_on")
    return all(evidence.run.record.get(key) == first.get(key) for evidence in runs[1:] for key in keys)


def _paired(runs: Sequence[Evidence]) -> Iterator[Block]:
    """The change of each task's loss against the first run, on the same rows."""
    if not same_rows(runs):
        yield Missing("Loss against the first run", "The runs were not judged on the same rows, so nothing can be paired.")
        return
    gone = next((evidence for evidence in runs if evidence.prepared is None), None)
    if gone is not None:
        yield Missing("Loss against the first run", f"Not shown, for it needs the rows: {gone.why_not}.")
        return
    first, found = runs[0], [(evidence.name, _against(runs[0], evidence)) for evidence in runs[1:]]
    marks = [_mark(f"{short(name)}: {each.task}", each) for name, told in found for each in told]
    if not marks:
        yield Missing("Loss against the first run", "The runs have no task in common.")
        return
    yield Words("In words", [(f"{short(name)}", _in_words(told, first.name)) for name, told in found if told])
    ends = [v for mark in marks for v in (mark.value, mark.low, mark.high) if v is not None and math.isfinite(v)]
    start, end = series_ends([*ends, 0.0])
    caption = (
        f"How much less loss than {first.name} on the same {len(first.chosen):,} rows, in percent, with the 95 % interval over "
        "rows: right of the line is better. Each run is one training: another seed would differ more than the intervals say."
    )
    yield Strips(f"Gain against {first.name}", ("run and task", "gain", "verdict"), marks, start, end, caption, 0.0)


def _against(first: Evidence, other: Evidence) -> list[TaskComparison]:
    """The loss of each task that both answer on the same rows."""
    pairs = [(first.judged[name], judged) for name, judged in other.judged.items() if name in first.judged]
    return [
        compare_losses(one.name, one.losses[None], two.losses[None])
        for one, two in pairs
        if np.array_equal(one.index, two.index)
    ]


def _in_words(told: Sequence[TaskComparison], first: str) -> str:
    """Which tasks are better and which worse."""
    words = {"helped": f"is better than {short(first)} at", "hurt": "is worse at", "can't tell": "cannot be told apart at"}
    by_verdict = {verdict: [each.task for each in told if each.verdict == verdict] for verdict in words}
    return "; ".join(f"{words[verdict]} {joined(tasks)}" for verdict, tasks in by_verdict.items() if tasks) + "."


def _mark(name: str, told: TaskComparison) -> Mark:
    texts = (f"{signed(-told.change)} %", BETTER[told.verdict])
    return Mark(name, texts, -told.change, -told.change_high, -told.change_low, color=COLORS[told.verdict])


def _task(runs: Sequence[Evidence], name: str, number: int) -> Group:
    return Group(name, [*_scores(runs, name), *_curves(runs, name)], "", f"task-{number}")


def _scores(runs: Sequence[Evidence], name: str) -> Iterator[Block]:
    having = [
        (index, evidence, evidence.run.scores()[name])
        for index, evidence in enumerate(runs, 1)
        if name in evidence.run.scores()
    ]
    metric, _ = headline(having[0][2])
    found: list[tuple[int, Evidence, Score]] = [
        (i, e, scores.scores[metric]) for i, e, scores in having if metric in scores.scores
    ]
    start, end = series_ends([v for _, _, score in found for v in (score.low, score.high, score.value)])
    marks = [
        Mark(evidence.name, score_texts(score)[:2], score.value, score.low, score.high, color=index)
        for index, evidence, score in found
    ]
    better = "right" if found[0][2].higher_is_better else "left"
    yield Strips(metric, ("run", metric, "95 % interval"), marks, start, end, f"The further {better}, the better.")
    metrics = list(dict.fromkeys(m for _, _, scores in having for m in scores.scores))
    rows = []
    for _, evidence, scores in having:
        rows.append((evidence.name, *(score_texts(scores.scores[m])[0] if m in scores.scores else "-" for m in metrics)))
    numbers = tuple(range(1, len(metrics) + 1))
    yield Listing("All metrics", ("run", *metrics), rows, numbers=numbers, wide=len(metrics) > 4)


def _curves(runs: Sequence[Evidence], name: str) -> Iterator[Block]:
    series, marks, legend = [], [], []
    for index, evidence in enumerate(runs, 1):
        points = [(epoch["epoch"], epoch["validation"][name]) for epoch in evidence.run.history if name in epoch["validation"]]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        series.append((xs, ys, index))
        legend.append((index, evidence.name))
        best = evidence.run.record.get("best_epochs", {}).get(name)
        marks += [(best, dict(points)[best], index)] if best in dict(points) else []
    if series:
        svg = charts.lines(series, "epoch", "normalized validation loss", marks=marks)
        yield Chart("Learning curves", svg, "1 is the loss of the best constant; a dot where the weights were kept.", legend)


def _differences(runs: Sequence[Evidence]) -> Iterator[Block]:
    flat = [dict(_flat(evidence.run.recipe.to_dict())) for evidence in runs]
    fields = list(dict.fromkeys(field for recipe in flat for field in recipe))
    differing = [field for field in fields if len({recipe.get(field, "-") for recipe in flat}) > 1]
    if not differing:
        yield Words("", [("Nothing.", "The recipes are the same in every field.")])
        return
    rows = [(field, *(cell_text(recipe.get(field, "-")) for recipe in flat)) for field in differing]
    yield Listing("Fields of the recipe that differ", ("field", *(evidence.name for evidence in runs)), rows)


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The fields of a recipe by their dotted names; tasks and sources by their own."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{place}.{item.get('name') or index}")
    else:
        yield place, str(value)


def _record(runs: Sequence[Evidence]) -> Block:
    records = [_facts(evidence.run.record) for evidence in runs]
    rows = [(name, *(facts[name] for facts in records)) for name in records[0]]
    return Listing("Facts", ("what", *(evidence.name for evidence in runs)), rows)


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    return {
        "polytask": str(record["polytask"]),
        "rows": ", ".join(f"{count:,} {part}" for part, count in record["rows"].items()),
        "parameters": f"{record['parameters']:,}",
        "time": seconds_text(record["seconds"]),
        "data": ", ".join(f"{label} {digest[:12]}" for label, digest in record["data"].items()),
    }

"""What ``polytask compare`` found, for the verdict and in one picture: the gain of every candidate over each task alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from polytask.evaluation.picking import PICKED
from polytask.report.blocks import Block, Mark, Missing, Strips, Words
from polytask.report.evidence import Evidence
from polytask.report.words import joined, signed

COLORS = {"helped": 3, "hurt": 2, "can't tell": 1}
AGAINST_TREES = {"helped": "better", "hurt": "worse"}
SHARING = {"helped": "sharing helped", "hurt": "sharing hurt", "can't tell": "can't tell"}


def beaten_by_trees(evidence: Evidence) -> list[str]:
    """The tasks at which boosted trees are better than a network of the task's own."""
    trees = evidence.compared.get("trees") or {}
    return [told["task"] for told in trees.get("verdicts", ()) if told["verdict"] == "helped"]


def verdicts(evidence: Evidence, candidate: str = "run") -> dict[str, Mapping[str, Any]]:
    """What the comparison says of each task of a candidate; empty where it was not made."""
    for result in evidence.compared.get("candidates", ()):
        if result["name"] == candidate:
            return {told["task"]: told for told in result["verdicts"]}
    return {}


def against_alone(evidence: Evidence) -> Iterator[Block]:
    """The gain in the loss of each task, and Delta-m, for every candidate."""
    compared = evidence.compared
    if not compared:
        yield Missing("Each task alone against all together", _why_not(evidence))
        return
    marks = [mark for result in compared["candidates"] for mark in _marks(result)]
    marks += _marks(compared["trees"], AGAINST_TREES) if compared.get("trees") else []
    ends = [value for mark in marks for value in (mark.value, mark.low, mark.high) if value is not None] + [0.0]
    low, high = max(min(ends), -100.0), min(max(ends), 100.0)
    room = 0.04 * (high - low) or 1.0
    seeds = compared["seeds"]
    caption = (
        f"How much less loss than when trained alone at the same budget, in percent, with 95 % intervals over rows and "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)}, on the {compared['judged_on']} rows: right of the line together is "
        "better. Delta-m is the mean gain of the metrics, with the span of the seeds."
    )
    if len(seeds) == 1:
        caption += " One seed only: the intervals do not know how much another training would differ."
    head = ("", "gain", "verdict")
    yield Strips("Each task alone against all together", head, marks, low - room, high + room, caption, 0.0)
    told = [("", note) for note in compared.get("notes", ())]
    told += [(f"{what}:", str(why)) for what, why in compared.get("left_out", {}).items()]
    if picks := compared.get("picks"):
        told.insert(0, ("By the validation rows alone one would take:", f"{_chosen(picks)}."))
    if told:
        yield Words("", told)


def _why_not(evidence: Evidence) -> str:
    if evidence.run.recipe.warm_start is not None:
        return "It cannot be told for a run that began with the weights of another."
    if picked := evidence.run.record.get(PICKED):
        return f"Each task is learned as a comparison found best for it by the validation rows: {_chosen(picked)}."
    return "It has not been tried: `polytask compare RUN` trains each task alone at the same budget, and says so here."


def can_be_compared(evidence: Evidence) -> bool:
    """Whether a comparison can be made of this run and its tasks."""
    several = len(evidence.tasks) > 1
    return several and evidence.run.recipe.warm_start is None and PICKED not in evidence.run.record


def _chosen(picks: Mapping[str, str]) -> str:
    """Which way was chosen for which tasks."""
    by_name: dict[str, list[str]] = {}
    for task, name in picks.items():
        by_name.setdefault(name, []).append(task)
    return "; ".join(f"{_name(name)} for {joined(tasks)}" for name, tasks in by_name.items())


def _name(name: str) -> str:
    return {"run": "this run's recipe", "alone": "each alone"}.get(name, name)


def _marks(result: Mapping[str, Any], words: Mapping[str, str] | None = None) -> Iterator[Mark]:
    """Delta-m and the gain of each task; its verdict in other words where it is not about sharing."""
    delta = result.get("delta_m")
    title = _name(result["name"])
    if delta:
        seeds = [by_task for _, by_task in result.get("delta_m_of_seeds", ()) if by_task is not None]
        value = _number(delta["by_task"])
        low, high = (min(seeds), max(seeds)) if len(seeds) > 1 else (None, None)
        yield Mark(f"{title}: Delta-m", (_percent(value), "mean over tasks"), value, low, high, color=4, head=True)
    for number, told in enumerate(result["verdicts"]):
        gain, low, high = (_negated(told[key]) for key in ("change", "change_high", "change_low"))
        name = f"{title}: {told['task']}" if not delta and number == 0 else told["task"]
        yield Mark(
            name,
            (_percent(gain), (words or {}).get(told["verdict"], told["verdict"])),
            gain,
            low,
            high,
            color=COLORS.get(told["verdict"], 1),
            head=not delta and number == 0,
        )


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _negated(value: float | None) -> float | None:
    known = _number(value)
    return None if known is None else -known


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{signed(value)} %"

"""The fourth section: which columns matter for which task, and which are under suspicion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polytask.leaks import is_about_inputs
from polytask.report.blocks import Block, Cell, Group, Heat, Missing, Section, Words
from polytask.report.evidence import Evidence
from polytask.report.importance import Importance, permutation_importance
from polytask.report.words import percent

MAX_SHOWN = 30
ALL_BUT = 0.9  # of what is known of a task: a column that tells as much is worth a second look


def importance_of(evidence: Evidence) -> Importance | None:
    """The importance of the columns on the validation rows; None where these are not to be had."""
    if evidence.prepared is None or not evidence.prepared.validation.n_rows:
        return None
    found = permutation_importance(evidence.run.bundle, evidence.prepared.validation, evidence.run.recipe.seed)
    return found if found.tasks and found.columns else None


def inputs(evidence: Evidence, importance: Importance | None) -> Section:
    """Permutation importance of all tasks side by side, and what was noticed of the columns."""
    lead = "Which columns the answers rest on, and which of them to look at twice."
    groups = [
        Group("What matters for what", list(_importance(evidence, importance))),
        Group("Under suspicion", [Words("", suspicions(evidence, importance))]),
    ]
    return Section("inputs", "Inputs", lead, groups)


def _importance(evidence: Evidence, importance: Importance | None) -> Iterator[Block]:
    if importance is None:
        why = f"{evidence.why_not}" if evidence.prepared is None else "the split has no validation rows with labels"
        yield Missing("Permutation importance", f"Not shown: {why}.")
        return
    order = importance.order()[:MAX_SHOWN]
    top = float(np.nanmax(importance.rise, initial=1e-9)) or 1e-9
    cells = [[_cell(importance, row, column, top) for column in range(len(importance.tasks))] for row in order]
    left = len(importance.columns) - len(order)
    more = f" {left} columns that matter less are left out." if left else ""
    caption = (
        f"How much the loss rises when a column is shuffled among {importance.n_rows:,} validation rows; 1 is the loss of the "
        "best constant. Pale: no more than chance. Columns that say the same stand in for one another, and each looks small."
        f"{more}"
    )
    names = [importance.columns[row] for row in order]
    yield Heat("Permutation importance", names, importance.tasks, cells, caption, "column \\ task")


def _cell(importance: Importance, row: int, column: int, top: float) -> Cell:
    rise = float(importance.rise[row, column])
    if np.isnan(rise):
        return Cell("-")
    if not importance.matters(row, column):
        return Cell("·", 0.0)
    # The root: a column that matters a hundredth of the first is to be seen still.
    return Cell(f"{rise:.2f}" if rise >= 0.005 else "<.01", float(np.sqrt(max(rise, 0.0) / top)))


def suspicions(evidence: Evidence, importance: Importance | None) -> list[tuple[str, str]]:
    """What was noticed of columns while the data were read, and columns that all but one task's answer rests on."""
    found = [("", f"{_sentence(note)}.") for note in evidence.run.record["notes"] if is_about_inputs(note)]
    if importance is not None:
        for index, task in enumerate(importance.tasks):
            rises = np.maximum(np.nan_to_num(importance.rise[:, index]), 0)
            total, most = float(rises.sum()), int(rises.argmax())
            if len(rises) > 2 and total > 0.2 and rises[most] > ALL_BUT * total:
                share = percent(float(rises[most] / total))
                found.append(
                    (
                        f"{importance.columns[most]} for {task}:",
                        f"{share} of what the columns tell comes from this one. Is it known when you predict?",
                    )
                )
        dead = [
            name
            for row, name in enumerate(importance.columns)
            if not any(importance.matters(row, column) for column in range(len(importance.tasks)))
        ]
        if dead and len(dead) < len(importance.columns):
            shown = ", ".join(dead[:12]) + (f" and {len(dead) - 12} more" if len(dead) > 12 else "")
            found.append(("No task seems to need:", f"{shown}. Another column may say the same; try without."))
    return found or [("Nothing.", "No column gives a target away, only names the rows, or tells all that is known by itself.")]


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}"

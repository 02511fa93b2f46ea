"""Labels of a task that is seen only where another says yes: on which rows, and those of both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.batch import Dataset
from polytask.errors import CellsError, PolytaskError, are, counted
from polytask.reading import in_order, reads_of
from polytask.task import Codec, Task

Flags = NDArray[np.bool_]


def seen_labels(
    labels: Mapping[str, pa.Array], tasks: Sequence[Task], codecs: Mapping[str, Codec] | None = None
) -> tuple[dict[str, pa.Array], list[str]]:
    """Labels with null where a task is not seen: where the task that it is given says no, or nothing.

    Args:
        labels: One column of the same rows per task.
        tasks: These.
        codecs: Theirs, where they are known; else the classes are those of all these rows.

    Returns:
        The labels, and notes on those that were left out though they say something.

    Raises:
        PolytaskError: A task says yes where the one that it is given says no, told by the rows; or no row labels both.
    """
    known, found, notes = {task.name: task for task in tasks}, dict(labels), list[str]()
    both: dict[str, tuple[Flags, Flags]] = {}  # where a task and all that it is given say yes, and where that is known
    for name in in_order(reads_of(tasks)):
        task = known.get(name)
        if task is None or task.seen_where is None:
            continue
        given = known[task.seen_where]
        if found[name].null_count == len(found[name]):
            continue
        if codecs is None and not pc.any(pc.and_(found[given.name].is_valid(), found[name].is_valid())).as_py():
            what, mend = f"no row has labels of both it and {given.name!r}", "Give the columns of both in one source."
            raise PolytaskError(what, where=task.place, mend=mend)
        yes, there = both.get(given.name) or _said(given, found[given.name], codecs)
        own_yes, own_there = _said(task, found[name], codecs)
        both[name] = yes & own_yes, there & (~yes | own_there)
        _refuse_without(task, given, found[name], own_yes & there & ~yes)
        if n_lost := int((own_there & ~there).sum()):
            notes.append(
                f"{counted(n_lost, 'label')} of {name!r} {'is' if n_lost == 1 else 'are'} not used: "
                f"there is no label of {given.name!r}, which it is given, in the same row"
            )
        found[name] = pc.if_else(pa.array(yes & there), found[name], None)
    return found, notes


def with_joint_labels(data: Dataset, tasks: Sequence[Task]) -> Dataset:
    """The same rows; the label of a task that is given another now says whether both are so.

    It is there in every row where that is known: with a label no of the other, or with labels of both.
    """
    targets, present = dict(data.targets), dict(data.present)
    given = {task.name: task.seen_where for task in tasks if task.name in targets}
    for name in in_order(reads_of(tasks)):
        other = given.get(name)
        if other is not None:
            own, there = targets[name], present[name]
            assert isinstance(own, Tensor)  # a task of pixels is given no other
            known = present[other] & ((targets[other] == 0) | there)
            targets[name] = torch.where(there, own, torch.zeros_like(own))
            present[name] = known & (data.weights[name] > 0) if name in data.weights else known
    return Dataset(data.inputs, targets, present, sources=data.sources, weights=data.weights)


def with_joint_views(views: Mapping[str, Mapping[str, Tensor]], tasks: Sequence[Task]) -> dict[str, dict[str, Tensor]]:
    """Views with the probability that a task and those it is given all say yes, under "joint", where there are such."""
    found = {name: dict(own) for name, own in views.items()}
    given = {task.name: task.seen_where for task in tasks}
    for name in in_order(reads_of(tasks)):
        other = given.get(name)
        if other is not None and name in found:
            found[name]["joint"] = found[name]["probability"] * found[other].get("joint", found[other]["probability"])
    return found


def _said(task: Task, labels: pa.Array, codecs: Mapping[str, Codec] | None) -> tuple[Flags, Flags]:
    """Where a task's labels say yes, and where they say anything."""
    codec = task.fit_target(labels.drop_null()) if codecs is None else codecs[task.name]
    target, present = task.encode(labels, codec)
    return (target == 1).numpy() & present.numpy(), present.numpy()


def _refuse_without(task: Task, given: Task, labels: pa.Array, wrong: Flags) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        cells = {int(row): labels[int(row)].as_py() for row in rows[:100]}
        what = f"{are(len(rows), 'label')} yes where the label of {given.name!r} is no, without which it cannot be"
        mend = f"Mend the labels, or leave out given: {given.name}."
        raise CellsError(what, cells=cells, n_cells=len(rows), where=task.place, mend=mend)

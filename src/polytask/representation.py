"""The shared representation of rows: what an encoder and the sharing make of them, before any head."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.bundle import Bundle, unusable_rows, without_rows
from polytask.errors import PolytaskError, listed
from polytask.input_sets import input_set_of
from polytask.model import vectors_on


def embedded(
    bundle: Bundle, table: pa.Table, task: str | None = None, *, stage: int = -1, source: str | None = None
) -> NDArray[np.float32]:
    """The features of every row as one vector, ``[N, D]``; NaN where its image cannot be used.

    Args:
        bundle: The network.
        table: Has at least the input columns.
        task: Whose features; None where all tasks have the same.
        stage: After which part of the network: 0 the stem, then the stages; negative counts from the end.
        source: The name of the training source that the rows are like, where sources had different input columns.

    Raises:
        PolytaskError: As for ``predict``; there is no such stage, or no task is named and their features differ.
    """
    index = input_set_of(bundle.manifest.inputs, table, source)
    n_parts = len(bundle.networks[0].trunk.specs)
    if not -n_parts <= stage < n_parts:
        mend = f"Give 0 for the stem, 1 to {n_parts - 1} for the stages, or -1 for the last."
        raise PolytaskError(f"no stage {stage}", where="embed", mend=mend)
    if task is None:
        task = _any_task(bundle, index, stage)
    bundle.check_tasks([task])
    network = next(network for network in bundle.networks if task in network.tasks)
    pictures = bundle.manifest.inputs[index].codec.pictures(table)
    vectors: NDArray[np.float32] = vectors_on(network, bundle.asked(table, index, pictures), task, stage).numpy()
    unusable = unusable_rows(pictures)
    without_rows(table, unusable)  # which says so
    vectors[list(unusable)] = np.nan
    return vectors


def _any_task(bundle: Bundle, index: int, stage: int) -> str:
    """One of the tasks that are answered for rows of an input set, where all of them have the same features.

    Raises:
        PolytaskError: They have not.
    """
    inputs = [part.codec.made_up(1) if place == index else {} for place, part in enumerate(bundle.manifest.inputs)]
    groups: list[tuple[Tensor, list[str]]] = []
    for network in bundle.networks:
        wanted = [task for task in network.tasks if task in bundle.manifest.inputs[index].tasks]
        with torch.inference_mode():
            features = network.eval().trunk(inputs, wanted) if wanted else {}
        for task, outputs in features.items():
            same = next((tasks for tensor, tasks in groups if tensor is outputs[stage].tensor), None)
            if same is None:
                groups.append((outputs[stage].tensor, same := []))
            same.append(task)
    if len(groups) > 1:
        several = len(bundle.networks) > 1
        why = "their weights are those of several epochs or networks" if several else "the sharing gives each its own"
        mend = f"Name a task, such as {groups[0][1][0]!r}{', or fit with trainer.best: mean' if several else ''}."
        found = " | ".join(listed(tasks) for _, tasks in groups)
        raise PolytaskError(f"the tasks do not have one representation: {why}", where="embed", found=found, mend=mend)
    return groups[0][1][0]

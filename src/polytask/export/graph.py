"""The graph of operations from a network's inputs to all that its tasks say of the rows, in the columns' own units."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from polytask.bundle import Bundle, asked_for, views_of
from polytask.errors import PolytaskError, listed, one_line
from polytask.export.metadata import Graph
from polytask.model import Snapshots

N_TRACED = 5  # neither 0 nor 1, of which a traced program would think that they are constants


class Answers(nn.Module):
    """Inputs of one set of columns to the views that the tasks' answers are made of.

    Args:
        bundle: The network; it stays as it is.
        index: Which set of input columns.
        graph: The names of what goes in and comes out.
        tasks: The tasks to answer.
    """

    def __init__(self, bundle: Bundle, index: int, graph: Graph, tasks: Sequence[str]) -> None:
        super().__init__()
        self.network = copy.deepcopy(bundle.model).eval().requires_grad_(False)
        for network in self.network.networks if isinstance(self.network, Snapshots) else [self.network]:
            network.trunk.settle()  # type: ignore[operator, union-attr]
        made = bundle.manifest.inputs[index].codec.made_up(1)
        self.empty = {name: tensor.dtype for name, tensor in made.items() if name not in graph.inputs}
        self.index, self.n_sets = index, len(bundle.manifest.inputs)
        self.graph, self.tasks = graph, list(tasks)
        self.outputs = [name.rpartition(":")[::2] for name in graph.outputs]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of their names, of the inputs in that of theirs."""
        given = dict(zip(self.graph.inputs, tensors, strict=True))
        given |= {name: tensors[0].new_zeros((tensors[0].shape[0], 0), dtype=dtype) for name, dtype in self.empty.items()}
        inputs = [given if i == self.index else {} for i in range(self.n_sets)]
        tasks = self.network.tasks
        views = views_of(tasks, self.network(inputs, asked_for(tasks, self.tasks)))
        return tuple(views[task][view] for task, view in self.outputs)


def traced(bundle: Bundle, index: int, graph: Graph, tasks: Sequence[str]) -> ExportedProgram:
    """The network as a program of torch.export, for any number of rows.

    Raises:
        PolytaskError: An operation cannot be traced.
    """
    made = bundle.manifest.inputs[index].codec.made_up(N_TRACED)
    inputs = tuple(made[name] for name in graph.inputs)
    rows = torch.export.Dim("rows", min=1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = Answers(bundle, index, graph, tasks)
            return torch.export.export(answers, inputs, dynamic_shapes=(tuple({0: rows} for _ in inputs),))
    except Exception as error:  # whatever a plug-in's code does that cannot be traced
        raise refusal(bundle, "torch.export", error) from error


def refusal(bundle: Bundle, by: str, error: Exception) -> PolytaskError:
    """The error for a network that a library could not take."""
    networks = bundle.manifest.networks
    parts: dict[str, list[Any]] = {
        "encoder": [network.encoder for network in networks],
        "sharing": [network.sharing for network in networks],
        "head": [fitted.task.head_among(bundle.manifest.head) for fitted in bundle.tasks.values()],
    }
    kinds = ", ".join(f"{name} {listed(dict.fromkeys(part.kind for part in each))}" for name, each in parts.items())
    found = f"{type(error).__name__}: {one_line(error)[:300]}"
    mend = "Leave tasks out with --tasks, or fit with another encoder, sharing or head."
    return PolytaskError(f"{by} cannot take this network", where=kinds, found=found, mend=mend)

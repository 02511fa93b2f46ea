"""What lies between the tasks' losses and the parameters, as autograd recorded it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from polytask.gradients.reach import Reached

LINEAR = {"AddmmBackward0": ("_saved_mat1", 1), "MmBackward0": ("_saved_self", 0)}  # where the input is, as tensor and as edge


@dataclass(frozen=True)
class LinearLayer:
    """A layer ``x W' + b`` whose weight and bias are used nowhere else.

    Attributes:
        edge: Its output, as a place where gradients are taken.
        inputs: ``[N, D_in]``, its N rows of inputs.
        weight: The key of ``[D_out, D_in]``.
        bias: The key of ``[D_out]``, None where there is none.
        shape: D_out and D_in.
    """

    edge: GradientEdge
    inputs: Tensor
    weight: int
    bias: int | None
    shape: tuple[int, int]


class Graph:
    """The nodes below the losses of some tasks, and which tasks' losses each is below; sets of tasks are bits of an integer.

    Args:
        losses: A scalar per task.
        parameters: Those of interest; a parameter's key is its place among them.

    Attributes:
        reached: ``[T, n]``, which task reaches which parameter.
    """

    def __init__(self, losses: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> None:
        self.roots = {task: get_gradient_edge(loss).node for task, loss in losses.items() if loss.requires_grad}
        self.tasks = tuple(losses)
        self._keys = {id(parameter): key for key, parameter in enumerate(parameters)}
        self._children: dict[Node, tuple[tuple[Node, int], ...]] = {}
        self._order = self._sorted()
        self._below = dict.fromkeys(self._order, 0)
        self._uses = dict.fromkeys(self._order, 0)
        for bit, task in enumerate(self.tasks):
            if task in self.roots:
                self._below[self.roots[task]] |= 1 << bit
        for node in self._order:
            for child, _ in self._children[node]:
                self._below[child] |= self._below[node]
                self._uses[child] += 1
        self._leaves = {node: key for node in self._order if (key := self._key(node)) is not None}
        self.reached: Reached = np.zeros((len(self.tasks), len(self._keys)), bool)
        for node, key in self._leaves.items():
            self.reached[_bits(self._below[node]), key] = True

    def from_losses(self) -> list[int]:
        """The keys of the parameters in the graph, those that are used nearest to the losses first."""
        found: dict[int, None] = {}
        for node in self._order:
            children = [child for child, _ in self._children[node]]
            for leaf in [*children, *(inner for child in children for inner, _ in self._children[child])]:
                if leaf in self._leaves:
                    found[self._leaves[leaf]] = None
        return list(found)

    def linear_layers(self) -> list[LinearLayer]:
        """The layers of which the gradient of the weight is the product of two matrices that are known, no hook in between."""
        found = []
        for node in self._order:
            saved, place = LINEAR.get(type(node).__name__, ("", 0))
            if saved and (layer := self._linear(node, saved, place)) is not None:
                found.append(layer)
        return found

    def cut(self, shared: Collection[int]) -> tuple[list[GradientEdge], list[int], list[int]]:
        """The shared representation: where what one task has alone meets what most tasks share.

        A node is below the cut where no other node that any of its tasks reaches is shared by more; so the cut of a tree is
        at the trunk of its root. With a single task it is below if all parameters under it are ``shared``.

        Args:
            shared: The keys of the parameters that are known to be shared.

        Returns:
            The edges of the cut, the tasks that reach each, and the keys of the parameters below.
        """
        deep = self._shared_by_most() if len(self.roots) > 1 else self._over_shared_alone(shared)
        tasks: dict[tuple[Node, int], int] = {}
        for task, root in self.roots.items():
            if root in deep:
                tasks[root, 0] = tasks.get((root, 0), 0) | 1 << self.tasks.index(task)
        for node in self._order:
            if node not in deep:
                for child, slot in self._children[node]:
                    if child in deep:
                        tasks[child, slot] = tasks.get((child, slot), 0) | self._below[node]
        below = [key for node, key in self._leaves.items() if node in deep]
        return [GradientEdge(*edge) for edge in tasks], list(tasks.values()), below

    def _sorted(self) -> list[Node]:
        """Every node before those that it leads to."""
        done: list[Node] = []
        stack: list[tuple[Node, bool]] = [(root, False) for root in self.roots.values()]
        while stack:
            node, left = stack.pop()
            if left:
                done.append(node)
            elif node not in self._children:
                self._children[node] = tuple((child, slot) for child, slot in node.next_functions if child is not None)
                stack.append((node, True))
                stack += [(child, False) for child, _ in self._children[node] if child not in self._children]
        return done[::-1]

    def _key(self, node: Node) -> int | None:
        variable = getattr(node, "variable", None)
        return None if variable is None else self._keys.get(id(variable))

    def _linear(self, node: Any, saved: str, place: int) -> LinearLayer | None:
        edges = [child for child, _ in node.next_functions]
        bias_node, transposed = (edges[0], edges[2]) if place else (None, edges[1])
        if place and (node._saved_alpha != 1 or node._saved_beta != 1):
            return None
        if type(transposed).__name__ != "TBackward0":
            return None
        owned = [transposed.next_functions[0][0], *([bias_node] if place else [])]
        keys = [self._leaves[owner] for owner in owned if owner in self._leaves]
        if len(keys) < len(owned) or any(self._uses[owner] != 1 for owner in owned):
            return None
        weight, *bias = [owner.variable for owner in owned]
        plain = weight.ndim == 2 and all(b.shape == weight.shape[:1] for b in bias)
        if not plain or self._uses[transposed] != 1 or any(p._backward_hooks for p in (weight, *bias)):
            return None
        inputs = getattr(node, saved)
        if inputs.dtype != weight.dtype:
            return None
        shape = (weight.shape[0], weight.shape[1])
        return LinearLayer(GradientEdge(node, 0), inputs.detach(), keys[0], keys[1] if place else None, shape)

    def _shared_by_most(self) -> set[Node]:
        leading = self._leading()
        most = [0] * len(self.tasks)
        for node in leading:
            mask = self._below[node]
            for bit in _bits(mask):
                most[bit] = max(most[bit], mask.bit_count())
        # Nodes have few distinct sets of tasks between them.
        deep = {
            mask: mask.bit_count() > 1 and any(most[bit] == mask.bit_count() for bit in _bits(mask))
            for mask in set(self._below.values())
        }
        return {node for node in leading if deep[self._below[node]]}

    def _over_shared_alone(self, known: Collection[int]) -> set[Node]:
        shared: dict[Node, bool] = {}
        for node in reversed(self._order):
            if node in self._leaves:
                shared[node] = self._leaves[node] in known
            elif found := [shared[child] for child, _ in self._children[node] if child in shared]:
                shared[node] = all(found)
        return {node for node, yes in shared.items() if yes}

    def _leading(self) -> list[Node]:
        """The nodes that lead to a parameter."""
        leading: dict[Node, None] = {}
        for node in reversed(self._order):
            if node in self._leaves or any(child in leading for child, _ in self._children[node]):
                leading[node] = None
        return list(leading)


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


@contextmanager
def stopped(edges: Sequence[GradientEdge]) -> Iterator[None]:
    """Inside, no backward pass goes below these edges: what arrives at one is what comes from above, not through another."""
    handles = [node.register_prehook(_nothing) for node in {edge.node for edge in edges}] if len(edges) > 1 else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nothing(gradients: tuple[Tensor | None, ...]) -> tuple[None, ...]:
    return (None,) * len(gradients)


def gradients_where_trained(output: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient by each of some parameters, None where they are not reached or, for now, frozen; the graph is kept."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(torch.autograd.grad(output, trained, retain_graph=True, allow_unused=True) if trained else ())
    return tuple(next(found) if parameter.requires_grad else None for parameter in parameters)


def gradients_of(
    output: Tensor | list[GradientEdge],
    inputs: list[Any],
    at: list[Tensor] | None = None,
    *,
    retain: bool,
) -> tuple[Tensor, ...]:
    """``torch.autograd.grad``, and nothing where nothing is asked for."""
    if not inputs:
        return ()
    outputs: Any = output
    return torch.autograd.grad(outputs, inputs, at, retain_graph=retain)

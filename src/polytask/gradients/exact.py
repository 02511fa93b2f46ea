"""Exact per-task gradients by one backward pass per task, and their Gramian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class TaskGradients:
    """The gradients of T losses, and which parameters the tasks share.

    Attributes:
        parameters: All P_all parameters that need a gradient.
        rows: Per task one gradient per parameter, None where the task does not reach it.
        shared: Per parameter whether two or more tasks reach it.
    """

    parameters: tuple[nn.Parameter, ...]
    rows: tuple[Gradients, ...]
    shared: tuple[bool, ...]

    def gramian(self) -> Float[Tensor, "T T"]:
        """Inner products of the task gradients over the shared parameters, summed parameter by parameter."""
        n = len(self.rows)
        total = self.parameters[0].new_zeros(n, n)
        for column in self._shared_columns():
            stacked = torch.stack([g.flatten() for g in column])
            total += stacked @ stacked.T
        return total

    def jacobian(self) -> Float[Tensor, "T P"]:
        """The task gradients of the shared parameters, one task a row."""
        rows = [[g.flatten() for g in column] for column in self._shared_columns()]
        if not rows:
            return self.parameters[0].new_zeros(len(self.rows), 0)
        return torch.cat([torch.stack(column) for column in rows], 1)

    def write(self, weights: Float[Tensor, " T"]) -> None:
        """Add to ``.grad`` the weighted sum for shared parameters, and for others their one task's own gradient."""
        for i, parameter in enumerate(self.parameters):
            reached = [(weights[t], row[i]) for t, row in enumerate(self.rows) if row[i] is not None]
            parts = [g if not self.shared[i] else w * g for w, g in reached if g is not None]
            if parts:
                _accumulate(parameter, torch.stack(parts).sum(0) if len(parts) > 1 else parts[0])

    def write_update(self, update: Float[Tensor, " P"]) -> None:
        """Add to ``.grad`` a given update of the shared parameters, and for others their one task's own gradient."""
        self.write(torch.zeros(len(self.rows), dtype=update.dtype, device=update.device))
        start = 0
        for parameter, shared in zip(self.parameters, self.shared, strict=True):
            if shared:
                _accumulate(parameter, update[start : start + parameter.numel()].view_as(parameter))
                start += parameter.numel()

    def _shared_columns(self) -> list[list[Tensor]]:
        return [
            [torch.zeros_like(p) if (g := row[i]) is None else g for row in self.rows]
            for i, p in enumerate(self.parameters)
            if self.shared[i]
        ]


def task_gradients(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> TaskGradients:
    """One backward pass per loss, each over the parameters it reaches.

    Args:
        losses: T scalars, each with a graph of its own above the shared part.
        parameters: The parameters to differentiate by.

    Example:
        >>> w = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> task_gradients([w.sum(), w[0] * 3], [w]).gramian()
        tensor([[2., 3.],
                [3., 9.]])
    """
    wanted = tuple(p for p in parameters if p.requires_grad)
    rows = []
    for i, loss in enumerate(losses):
        rows.append(torch.autograd.grad(loss, wanted, retain_graph=i < len(losses) - 1, allow_unused=True))
    shared = tuple(sum(row[i] is not None for row in rows) >= 2 for i in range(len(wanted)))
    return TaskGradients(wanted, tuple(rows), shared)


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient

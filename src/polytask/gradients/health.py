"""How large each task's gradient is at each layer of a network, looked at now and then while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MAX_TASKS = 16  # at one look: a backward pass each


class GradientNorms:
    """The norms of the task gradients at each layer of a network; the mean over all looks since the last ``taken``.

    Where there are many tasks a look is at some of them, in turn.

    Args:
        layers: The parameters of each layer, by its name.

    Example:
        >>> one, two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(one.weight, 2.0), nn.init.constant_(two.weight, 3.0)
        >>> norms = GradientNorms({"stem": [one.weight], "head": [two.weight]})
        >>> norms.look({"price": two(one(torch.ones(1, 1))).sum()})
        >>> norms.taken()
        {'price': {'stem': 3.0, 'head': 2.0}}
    """

    def __init__(self, layers: Mapping[str, Sequence[nn.Parameter]]) -> None:
        owned = {name: [p for p in parameters if p.requires_grad] for name, parameters in layers.items()}
        self.names = [name for name, parameters in owned.items() for _ in parameters]
        self.parameters = [p for parameters in owned.values() for p in parameters]
        self.found: dict[str, dict[str, list[float]]] = {}
        self.turn = 0

    def look(self, losses: Mapping[str, Tensor]) -> None:
        """Take in the gradients of these losses, whose graphs are kept; norms that are not finite are left out."""
        tasks = list(losses)
        chosen = [tasks[(self.turn + i) % len(tasks)] for i in range(min(len(tasks), MAX_TASKS))]
        self.turn += len(chosen)
        for task in chosen:
            if not self.parameters or not losses[task].requires_grad:
                continue
            gradients = torch.autograd.grad(losses[task], self.parameters, retain_graph=True, allow_unused=True)
            squares: dict[str, float] = {}
            for name, gradient in zip(self.names, gradients, strict=True):
                if gradient is not None:
                    squares[name] = squares.get(name, 0.0) + float(gradient.detach().float().square().sum())
            for name, square in squares.items():
                if math.isfinite(square):
                    self.found.setdefault(task, {}).setdefault(name, []).append(math.sqrt(square))

    def taken(self) -> dict[str, dict[str, float]]:
        """The mean norms by task and layer, which are then forgotten; empty where nothing was looked at."""
        found, self.found = self.found, {}
        return {task: {name: sum(n) / len(n) for name, n in layers.items()} for task, layers in found.items()}

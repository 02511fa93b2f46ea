"""Gradients of whole sums, kept apart from ``.grad`` until they are wanted there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from polytask.gradients.graph import gradients_where_trained
from polytask.gradients.processes import Processes, accumulate


class Collected:
    """The sum of the gradients of scalars.

    Args:
        parameters: All that are trained.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.found: dict[int, Tensor] = {}

    def add(self, total: Tensor | None) -> None:
        """Take in the gradient of a scalar, whose graph is kept; nothing where it has none."""
        if total is None or not total.requires_grad:
            return
        for key, gradient in enumerate(gradients_where_trained(total, self.parameters)):
            if gradient is not None:
                self.found[key] = self.found[key] + gradient if key in self.found else gradient

    def write(self, processes: Processes | None = None) -> None:
        """Add it to ``.grad``, summed over processes, if there are such."""
        reached = np.zeros((1, len(self.parameters)), bool)
        reached[0, list(self.found)] = True
        if processes is not None:
            reached = processes.any(reached, self.parameters[0].device)
        accumulate(self.parameters, self.found, reached, processes)

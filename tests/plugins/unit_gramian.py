"""A balancer that reads the Gramian."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from polytask.balancer import GramianBalancer, Signals, State


class UnitGramian(GramianBalancer):
    """Weighs each task by the inverse norm of its gradient; a task without a gradient gets nothing."""

    paper: ClassVar[str] = "Chen 2018, arXiv:1711.02257, with equal norms at every step"
    weights_sum_to: ClassVar[str] = "1; T where no task has a gradient of shared parameters"

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        assert signals.gramian is not None
        norms = signals.gramian.diagonal().clamp(min=0).sqrt()
        inverse = torch.where(norms > 0, 1 / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0)
        largest = inverse.max()
        if not bool(largest > 0):
            return torch.ones_like(norms), state
        scaled = inverse / largest
        return scaled / scaled.sum(), state

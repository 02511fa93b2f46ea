"""Homoscedastic uncertainty: each task has a learned noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from polytask.balancer import LossBalancer, Signals, State


class Uncertainty(LossBalancer):
    """Weighs task t by exp(-s_t), where s_t = log sigma_t^2 is learned by minimizing sum_t exp(-s_t) L_t + s_t.

    The paper has exp(-s)/2 and s/2 for a squared error (its equation 7) and exp(-s) and s/2 for a cross-entropy (equation
    10), and trains s with the network's optimizer. We use one form for every task, because the losses are normalized, and
    train s by an Adam of its own, so that the weights do not depend on the network's learning rate or weight decay. At rest
    exp(-s_t) = 1 / L_t.

    Args:
        learning_rate: Of s.
    """

    paper: ClassVar[str] = "Kendall, Gal and Cipolla 2018, arXiv:1705.07115, equations 7 and 10"
    weights_sum_to: ClassVar[str] = "sum_t 1 / L_t at rest; T at the start"
    learning_rate: float = Field(default=0.01, gt=0)

    def start(self, tasks: Sequence[str]) -> State:
        zeros = torch.zeros(len(tasks))
        return State({"log_variance": zeros, "mean": zeros, "square": zeros, "count": zeros})

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        s = state.per_task["log_variance"].to(signals.losses)
        weights = torch.exp(-s)
        gradient = 1 - weights * signals.losses
        count = state.per_task["count"].to(s) + 1
        mean = 0.9 * state.per_task["mean"].to(s) + 0.1 * gradient
        square = 0.999 * state.per_task["square"].to(s) + 0.001 * gradient**2
        step = (mean / (1 - 0.9**count)) / ((square / (1 - 0.999**count)).sqrt() + 1e-8)
        return weights, State({"log_variance": s - self.learning_rate * step, "mean": mean, "square": square, "count": count})

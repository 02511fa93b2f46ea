"""A balancer that looks at the losses again after the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from polytask.balancer import LossBalancer, Signals, State


class FamoLike(LossBalancer):
    """Weighs by the softmax of logits, which fall for a task whose log loss fell more than the others' in the step.

    FAMO divides these weights by the losses and normalizes again, which this does not.

    Args:
        learning_rate: Of the logits.
    """

    paper: ClassVar[str] = "Liu 2023, arXiv:2306.03792, algorithm 1"
    weights_sum_to: ClassVar[str] = "1"
    cost: ClassVar[str] = "one backward and one more forward pass"
    observes: ClassVar[bool] = True
    learning_rate: float = Field(default=0.1, gt=0)

    def start(self, tasks: Sequence[str]) -> State:
        return State({"logits": torch.zeros(len(tasks)), "before": torch.ones(len(tasks))})

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        logits = state.per_task["logits"].to(signals.losses)
        return torch.softmax(logits, 0), State({"logits": logits, "before": signals.losses})

    def observe(self, state: State, losses_after: Float[Tensor, " T"]) -> State:
        weights = torch.softmax(state.per_task["logits"], 0)
        fall = torch.log(state.per_task["before"] + 1e-8) - torch.log(losses_after + 1e-8)
        slope = weights * (fall - torch.dot(weights, fall))  # the softmax's Jacobian times fall
        return State({"logits": state.per_task["logits"] - self.learning_rate * slope, "before": state.per_task["before"]})

"""Weights that somebody chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from polytask.balancer import LossBalancer, Signals, State
from polytask.errors import PolytaskError, did_you_mean


class Fixed(LossBalancer):
    """Weighs the tasks by given numbers, divided by their sum over the tasks present in the batch.

    Args:
        weights: A number above zero per task; a task that is not named has 1.

    Raises:
        PolytaskError: A name is not that of a task.

    Example:
        >>> fixed = Fixed(weights={"a": 3.0})
        >>> fixed.step(fixed.start(["a", "b"]), Signals(("a", "b"), torch.ones(2)))[0]
        tensor([0.7500, 0.2500])
    """

    paper: ClassVar[str] = "Xin 2022, arXiv:2209.11379; Gama and Grassi 2025, arXiv:2505.10347"
    weights_sum_to: ClassVar[str] = "1"
    weights: Mapping[str, Annotated[float, Field(gt=0)]]

    def start(self, tasks: Sequence[str]) -> State:
        for name in self.weights:
            if name not in tasks:
                raise PolytaskError(f"no task {name!r}", where="balancer fixed, weights", mend=did_you_mean(name, tasks))
        return State({"weights": torch.tensor([self.weights.get(task, 1.0) for task in tasks])})

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        weights = state.per_task["weights"].to(signals.losses)
        return weights / weights.sum(), state

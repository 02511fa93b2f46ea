"""The mean of the losses."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from polytask.balancer import LossBalancer, Signals, State, uniform


class Equal(LossBalancer):
    """Weighs each task present in the batch by 1/T: the mean of the losses, which with ordinary regularization is hard to beat.

    Example:
        >>> import torch
        >>> Equal().step(State(), Signals(("a", "b"), torch.tensor([3.0, 1.0])))[0]
        tensor([0.5000, 0.5000])
    """

    paper: ClassVar[str] = "Kurin 2022, arXiv:2201.04122; Xin 2022, arXiv:2209.11379"
    weights_sum_to: ClassVar[str] = "1"

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        return uniform(signals), state

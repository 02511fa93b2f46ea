"""A balancer that reads the Jacobian."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from polytask.balancer import JacobianBalancer, Signals, State


class ToyJacobian(JacobianBalancer):
    """The mean gradient where no two tasks disagree on its sign, nothing elsewhere; a task that does not reach a parameter has
    no say."""

    paper: ClassVar[str] = "Chen 2020 (GradDrop), arXiv:2010.06808, algorithm 1, dropping all where the sign is not pure"
    weights_sum_to: ClassVar[str] = "no weights: it gives an update no longer than the mean gradient"

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        assert signals.jacobian is not None
        disputed = (signals.jacobian > 0).any(0) & (signals.jacobian < 0).any(0)
        return signals.jacobian.mean(0) * ~disputed, state

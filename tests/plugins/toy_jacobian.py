"""A balancer that reads the Jacobian."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from polytask.balancer import JacobianBalancer, Signals, State


class ToyJacobian(JacobianBalancer):
    """The mean gradient where all tasks agree on its sign, nothing elsewhere."""

    paper: ClassVar[str] = "Parascandolo 2021 (AND-mask), arXiv:2009.00329, section 3.1, with every task agreeing"
    weights_sum_to: ClassVar[str] = "no weights: it gives an update no longer than the mean gradient"

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        assert signals.jacobian is not None
        signs = signals.jacobian.sign()
        agreed = (signs == signs[:1]).all(0)
        return signals.jacobian.mean(0) * agreed, state

"""Dynamic weight average: tasks whose loss falls slowly weigh more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from polytask.balancer import LossBalancer, Signals, State


class DWA(LossBalancer):
    """Weighs task t by T softmax(r_t / temperature) with r_t = L_t(e-1) / L_t(e-2), its mean losses in the last two epochs.

    In the first two epochs, and for a task that was not seen in both of the last two, r_t = 1 as in the authors' code.

    Args:
        temperature: High values make the weights more alike; 2 in the paper.

    Example:
        >>> dwa = DWA()
        >>> state = dwa.start(["a", "b"])
        >>> for epoch, losses in enumerate([[4.0, 4.0], [4.0, 2.0], [1.0, 1.0]]):
        ...     weights, state = dwa.step(state, Signals(("a", "b"), torch.tensor(losses), epoch=epoch))
        >>> weights  # the loss of "a" stood still, that of "b" halved
        tensor([1.1244, 0.8756])
    """

    paper: ClassVar[str] = "Liu, Johns and Davison 2019, arXiv:1803.10704, equation 7"
    weights_sum_to: ClassVar[str] = "T"
    temperature: float = Field(default=2.0, gt=0)

    def start(self, tasks: Sequence[str]) -> State:
        zeros, nan = torch.zeros(len(tasks)), torch.full((len(tasks),), torch.nan)
        epoch = torch.zeros(len(tasks), dtype=torch.int64)
        return State({"sum": zeros, "count": zeros, "last": nan, "before_last": nan, "epoch": epoch})

    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        old = {key: value.to(signals.losses.device) for key, value in state.per_task.items()}
        turned = old["epoch"] < signals.epoch  # the first step of an epoch closes the one before
        seen = old["epoch"] == signals.epoch - 1  # in the epoch before; a mean from longer ago is no rate of this one
        last = torch.where(turned, torch.where(seen, old["sum"] / old["count"], torch.nan), old["last"])
        before_last = torch.where(turned, torch.where(seen, old["last"], torch.nan), old["before_last"])
        ratio = torch.nan_to_num(last / before_last, nan=1.0, posinf=1.0)
        weights = len(signals.tasks) * torch.softmax(ratio / self.temperature, 0)
        kept = (~turned).to(signals.losses)
        new = {
            "sum": old["sum"] * kept + signals.losses,
            "count": old["count"] * kept + 1,
            "last": last,
            "before_last": before_last,
            "epoch": torch.full_like(old["epoch"], signals.epoch),
        }
        return weights.to(signals.losses), State(new)

"""The optimizer by its name in torch.optim, and the learning rate over time."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import nn

from polytask.component import Settings
from polytask.errors import PolytaskError, did_you_mean, listed


class Optimizer(Settings):
    """An optimizer of ``torch.optim``: its name, learning rate, and whatever other options it takes.

    Args:
        name: As in torch.optim.
        lr: Learning rate; the schedule multiplies it.
        weight_decay: Of matrices only (biases, norms and other vectors are not decayed).

    Raises:
        PolytaskError: torch.optim has none of that name, or it does not take an option.

    Example:
        >>> sgd = Optimizer(name="SGD", lr=0.1, momentum=0.9)
        >>> sgd.build(nn.Linear(2, 1).parameters(), torch.device("cpu")).defaults["momentum"]
        0.9
    """

    model_config = ConfigDict(extra="allow")

    name: str = "AdamW"
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)

    def build(self, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
        """The optimizer over these parameters, in its fused form where there is one."""
        kind, options = self._kind(), dict(self.model_extra or {})
        known = inspect.signature(kind).parameters
        for option in options:
            if option not in known:
                raise PolytaskError(
                    f"{self.name} has no option {option!r}", where="trainer.optimizer", mend=did_you_mean(option, known)
                )
        # Fused SGD with momentum fails on a parameter whose first gradient comes later than others', as that of a head does
        # whose task has no label in the first batch.
        if "fused" in known and device.type in ("cpu", "cuda") and self.name != "SGD":
            options.setdefault("fused", True)
        kept = [p for p in parameters if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in kept if p.ndim > 1]},
            {"params": [p for p in kept if p.ndim <= 1]},
        ]
        if "weight_decay" in known:
            groups[0]["weight_decay"], groups[1]["weight_decay"] = self.weight_decay, 0.0
        try:
            return kind([group for group in groups if group["params"]], lr=self.lr, **options)
        except (TypeError, ValueError) as error:
            raise PolytaskError(f"{self.name} refused its options: {error}", where="trainer.optimizer") from None

    def _kind(self) -> Callable[..., torch.optim.Optimizer]:
        names = {
            name: value
            for name, value in vars(torch.optim).items()
            if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
        }
        closures = {"LBFGS", "SparseAdam"}  # LBFGS evaluates the loss by itself, SparseAdam needs sparse gradients
        usable = sorted(set(names) - closures)
        if self.name not in usable:
            mend = f"{did_you_mean(self.name, usable)} Usable are: {listed(usable, 20)}."
            raise PolytaskError(f"no optimizer {self.name!r}", where="trainer.optimizer", mend=mend)
        return names[self.name]


Schedule = Literal["constant", "cosine", "plateau"]


def rate_at(step: int, n_steps: int, schedule: Schedule, warmup: float) -> float:
    """What multiplies the learning rate at ``step`` (from 0) of ``n_steps``.

    A linear warm-up over a share ``warmup`` of all steps, then 1, or half a cosine down to 0. What a plateau takes off is not a
    function of the step; the trainer does that.

    Example:
        >>> [round(rate_at(s, 10, "cosine", 0.2), 2) for s in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    n_warm = warmup * n_steps
    if step < n_warm:
        return min(1.0, (step + 1) / n_warm)
    if schedule != "cosine":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - n_warm) / max(n_steps - n_warm, 1)))

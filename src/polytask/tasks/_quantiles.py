"""Quantiles of weighted rows."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_quantile(values: Tensor, level: float, weights: Tensor) -> Tensor:
    """The least of the values ``[N]`` that has ``level`` of the weight at or below it: it minimizes the weighted pinball loss.

    Example:
        >>> weighted_quantile(torch.tensor([3.0, 1.0, 2.0]), 0.5, torch.tensor([2.0, 1.0, 1.0]))
        tensor(2.)
    """
    ordered, order = values.sort()
    reached = weights[order].double().cumsum(0)
    return ordered[torch.searchsorted(reached, level * reached[-1]).clamp(max=len(values) - 1)]

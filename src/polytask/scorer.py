"""Scorer: one metric of one task, as a task offers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

View = Literal["value", "label", "probability"]


@dataclass(frozen=True)
class Scorer:
    """One metric of one task.

    Attributes:
        name: What it is called.
        compute: ``(prediction, target) -> number``.
        higher_is_better: Whether more is better.
        reads: Which view of the prediction it compares with the target.
    """

    name: str
    compute: Callable[[Tensor, Tensor], Tensor | float]
    higher_is_better: bool
    reads: View

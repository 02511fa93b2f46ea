"""Layers that encoders and heads share."""

from __future__ import annotations

import math

from torch import nn

GROUPS = 8


def group_norm(width: int) -> nn.GroupNorm:
    """Normalization of each image by itself, in groups of channels.

    A row's features then depend on no other row: pieces of a step, several processes and per-task gradients give what one
    batch gives, where batch normalization would not.
    """
    return nn.GroupNorm(math.gcd(width, GROUPS), width)

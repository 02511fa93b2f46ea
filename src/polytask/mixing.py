"""The order in which rows are seen: a pure function of (seed, epoch)."""

from __future__ import annotations

import torch
from torch import Tensor

from polytask.seeding import derived_seed


def epoch_batches(n_rows: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """All rows once, in random order, ``batch_size`` at a time.

    The rows of several sources are shuffled together, so each has a share of a batch in proportion to its rows. A last batch
    of a single row, over which no batch statistics exist, is joined to the one before.

    Example:
        >>> [len(rows) for rows in epoch_batches(9, 4, seed=0, epoch=0)]
        [4, 5]
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    batches = list(torch.randperm(n_rows, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat([batches[-1], last])
    return batches

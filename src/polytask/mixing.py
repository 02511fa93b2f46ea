"""The order in which rows are seen: a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from polytask.component import Settings
from polytask.errors import PolytaskError, did_you_mean
from polytask.seeding import derived_seed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Stickland & Murray 2019, arXiv:1902.02671, section 3.1: the exponent falls from 1 to 0.2.
ANNEALED_BY = 0.8


class Mixing(Settings):
    """How much of each source an epoch holds, where there are several.

    An epoch has as many rows as the sources together, whatever the shares. A source with a larger share than rows is seen more
    than once, one with a smaller share goes on in the next epoch where it stopped: every row of a source is seen equally often.

    Attributes:
        kind: A source with n rows has a share of the epoch in proportion to its rows (proportional); equal to the others'
            (round_robin); as ``weights`` say (weighted); in proportion to n^(1 / temperature) (temperature); in proportion to
            n^a, where a falls from 1 in the first epoch to 0.2 in the last (annealed).
        weights: For weighted, the share of each source by its name, up to a factor.
        temperature: For temperature: 1 is proportional, and the higher the nearer to equal shares.
        joint: Whether a batch holds rows of all sources; else of one source alone, and so of its tasks only.

    Raises:
        PolytaskError: Weights are given to another kind than weighted, or none to it.

    References:
        Stickland & Murray 2019, arXiv:1902.02671 (annealed). Raffel 2020, arXiv:1910.10683, section 3.5.2 (temperature).

    Example:
        >>> sizes = {"large": 9000, "small": 1000}
        >>> Mixing(kind="temperature", temperature=2.0).shares(sizes)
        {'large': 0.75, 'small': 0.25}
        >>> Mixing(kind="weighted", weights={"large": 3, "small": 2}).shares(sizes)
        {'large': 0.6, 'small': 0.4}
    """

    kind: Literal["proportional", "round_robin", "weighted", "temperature", "annealed"] = "proportional"
    weights: dict[str, float] = Field(default_factory=dict)
    temperature: float = Field(default=2.0, ge=1)
    joint: bool = True

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if (self.kind == "weighted") != bool(self.weights):
            mend = "Set kind: weighted, and weights: {name of a source: its share, ...}."
            raise PolytaskError("weights belong to the kind weighted, and it to them", where="mixing", mend=mend)
        if self.weights and (min(self.weights.values()) < 0 or max(self.weights.values()) == 0):
            raise PolytaskError("a weight is negative, or all are 0", where="mixing.weights", found=str(self.weights))
        return self

    def check_sources(self, names: Sequence[str]) -> None:
        """Raise a PolytaskError where the weights are not those of these sources."""
        for name in self.weights:
            if name not in names:
                raise PolytaskError(f"no source {name!r}", where="mixing.weights", mend=did_you_mean(name, names))
        lacking = [name for name in names if self.weights and name not in self.weights]
        if lacking:
            raise PolytaskError(f"source {lacking[0]!r} has no weight", where="mixing.weights", mend="Give it one; 0 for none.")

    def shares(self, sizes: Mapping[str, int], epoch: int = 0, n_epochs: int = 1) -> dict[str, float]:
        """The share of each source in epoch ``epoch`` (from 0) of ``n_epochs``, given its number of rows.

        Example:
            >>> {e: round(Mixing(kind="annealed").shares({"a": 9000, "b": 1000}, e, 11)["a"], 3) for e in (0, 5, 10)}
            {0: 0.9, 5: 0.789, 10: 0.608}
        """
        rows = np.array(list(sizes.values()), np.float64)
        if self.kind == "weighted":
            wanted = np.array([self.weights[name] for name in sizes]) * (rows > 0)
        elif self.kind == "proportional":
            wanted = rows
        else:
            wanted = rows ** self._exponent(epoch, n_epochs) * (rows > 0)
        if not wanted.sum():
            wanted = rows
        return dict(zip(sizes, (wanted / wanted.sum()).tolist(), strict=True))

    def _exponent(self, epoch: int, n_epochs: int) -> float:
        if self.kind == "annealed":
            return 1 - ANNEALED_BY * epoch / max(n_epochs - 1, 1)
        return 1 / self.temperature if self.kind == "temperature" else 0.0


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


def mixed_batches(
    mixing: Mixing, sources: Mapping[str, Tensor], n_rows: int, batch_size: int, seed: int, epoch: int, n_epochs: int
) -> list[Tensor]:
    """An epoch's batches of row numbers, as many and as large as those of ``epoch_batches``.

    Args:
        mixing: The shares.
        sources: Per source the numbers of its rows, int64.
        n_rows: How many rows there are.
        batch_size: Rows a batch.
        seed: Of the order.
        epoch: From 0.
        n_epochs: How many there will be at most.

    Example:
        >>> sources = {"a": torch.arange(12), "b": torch.arange(12, 16)}
        >>> equal = Mixing(kind="round_robin")
        >>> [int((rows < 12).sum()) for rows in mixed_batches(equal, sources, 16, 4, seed=0, epoch=0, n_epochs=1)]
        [2, 2, 2, 2]
        >>> alone = Mixing(kind="round_robin", joint=False)
        >>> [int((rows < 12).sum()) for rows in mixed_batches(alone, sources, 16, 4, seed=0, epoch=0, n_epochs=1)]
        [4, 0, 4, 0]
    """
    plain = epoch_batches(n_rows, batch_size, seed, epoch)
    present = {name: rows for name, rows in sources.items() if len(rows)}
    if len(present) < 2 or (mixing.kind == "proportional" and mixing.joint):
        return plain
    lengths = np.array([len(rows) for rows in plain])
    plan = _Plan(mixing, {name: len(rows) for name, rows in present.items()}, lengths, seed, n_epochs)
    owners = plan.owners(epoch)
    seen = sum((plan.n_rows(before) for before in range(epoch)), np.zeros(len(present), np.int64))
    order = torch.empty(len(owners), dtype=torch.int64)
    for index, (name, rows) in enumerate(present.items()):
        places = torch.from_numpy(np.flatnonzero(owners == index))
        order[places] = rows.cpu()[_passes(len(rows), int(seen[index]), len(places), derived_seed(seed, "order", name))]
    return list(order.split(lengths.tolist()))


class _Plan:
    """Which source each row of an epoch comes from."""

    def __init__(self, mixing: Mixing, sizes: Mapping[str, int], lengths: Ints, seed: int, n_epochs: int) -> None:
        self.mixing, self.sizes, self.lengths, self.seed, self.n_epochs = mixing, sizes, lengths, seed, n_epochs

    def owners(self, epoch: int) -> Ints:
        """The source of every row, in the order they are seen."""
        if self.mixing.joint:
            return _spread(self._counts(epoch, int(self.lengths.sum())))
        return np.repeat(_spread(self._counts(epoch, len(self.lengths))), self.lengths)

    def n_rows(self, epoch: int) -> Ints:
        """How many rows of each source an epoch holds."""
        if self.mixing.joint:
            return self._counts(epoch, int(self.lengths.sum()))
        return np.bincount(self.owners(epoch), minlength=len(self.sizes))

    def _counts(self, epoch: int, n_places: int) -> Ints:
        """Each source's share of the places; a fraction of a place falls to it in that share of the epochs."""
        shares = list(self.mixing.shares(self.sizes, epoch, self.n_epochs).values())
        start = derived_seed(self.seed, "mixing", epoch) / 2**63
        # Without the small number, a third of three places might be none.
        bounds = np.floor(np.concatenate([[0.0], np.cumsum(shares)[:-1], [1.0]]) * n_places + start + 1e-9)
        return np.diff(bounds).astype(np.int64)


def _spread(counts: Ints) -> Ints:
    """Each source so many times, evenly spread."""
    positions = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(positions, kind="stable")]


def _passes(n_rows: int, start: int, count: int, seed: int) -> Tensor:
    """The places ``start`` to ``start + count`` in an endless row of shuffled passes over the rows."""
    first, last = start // n_rows, (start + max(count, 1) - 1) // n_rows
    passes = [
        torch.randperm(n_rows, generator=torch.Generator().manual_seed(derived_seed(seed, turn)))
        for turn in range(first, last + 1)
    ]
    return torch.cat(passes)[start - first * n_rows :][:count]

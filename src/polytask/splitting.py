"""Which rows train, which choose and which judge: one split of a row, shared by all tasks that label it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from polytask.component import Settings
from polytask.errors import PolytaskError

TRAIN, VALIDATION, TEST = 0, 1, 2
FREE = -1
PART_NAMES = ("training", "validation", "test")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Split(Settings):
    """How rows are split into a training, a validation and a test part.

    Attributes:
        validation: The share of rows that chooses: stops the training, compares settings. 0 for none.
        test: The share of rows that judges, looked at once. 0 for none.
        stratify: Give every part the same shares of each task's classes (of the quantile bins of its numbers): all tasks', those
            of the tasks named, or none's.
        group: A column; rows that are alike in it go to the same part.
        time: A column; the earliest rows train, later ones validate, the latest test, and rows of one time stay together.
        seed: The seed of the draw, where it is not to follow the recipe's.

    Raises:
        PolytaskError: The shares leave no training rows, or ``time`` is combined with ``group`` or with named tasks to stratify.

    Example:
        >>> Split(validation=0.2).test
        0.15
        >>> Split(validation=0.6, test=0.4)
        Traceback (most recent call last):
        polytask.errors.PolytaskError: split: validation and test leave no rows to train on. Found: 0.6 + 0.4. Let them sum ...
    """

    validation: float = Field(default=0.15, ge=0, lt=1)
    test: float = Field(default=0.15, ge=0, lt=1)
    stratify: bool | tuple[str, ...] = True
    group: str | None = None
    time: str | None = None
    seed: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.validation + self.test >= 1 - 1e-9:
            found = f"{self.validation} + {self.test}"
            mend = "Let them sum to less than 1."
            raise PolytaskError("validation and test leave no rows to train on", where="split", found=found, mend=mend)
        if self.time is not None and (self.group is not None or isinstance(self.stratify, tuple)):
            other = "group" if self.group is not None else "stratify"
            mend = f"Give either time or {other}."
            raise PolytaskError(f"a split by time has no room for {other}", where="split", mend=mend)
        return self


def assign(
    split: Split,
    n_rows: int,
    *,
    labels: Mapping[str, Ints] | None = None,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    seed: int,
    fixed: NDArray[np.int8] | None = None,
) -> NDArray[np.int8]:
    """The part of every row: TRAIN, VALIDATION or TEST. A pure function of its arguments.

    Rows are stratified over all tasks at once by iterative stratification: the rarest label is dealt first, each part getting
    what it still lacks of it. Rows of one label are dealt in the order of their other labels, so that pairs of labels are
    balanced too. Where a label allows, at least one of its rows trains. Part sizes are exact, but for groups and equal times.

    Args:
        split: The shares. Where ``fixed`` has validation or test rows, no further ones are drawn; the shares are of free rows.
        n_rows: N, the number of rows.
        labels: Per task the class code of every row, -1 where it is missing.
        groups: A group per row; a negative integer means a group of its own.
        times: A time per row, of any type that sorts.
        seed: The seed of the draw, unless the split has its own.
        fixed: The part of rows that have one already, FREE (-1) elsewhere.

    Raises:
        PolytaskError: A part would be empty, or a group lies in a fixed part and outside it.

    References:
        Sechidis 2011, On the stratification of multi-label data, algorithm 1. Szymanski & Kajdanowicz 2017, arXiv:1704.08756,
        balance pairs of labels by making each pair a label; here only the order of dealing does.

    Example:
        >>> flags = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        >>> parts = assign(Split(validation=0.25, test=0.25), 20, labels={"flag": flags}, seed=0)
        >>> np.bincount(parts).tolist(), np.bincount(parts[flags == 1]).tolist()
        ([10, 5, 5], [7, 3, 3])
    """
    parts = np.full(n_rows, FREE, np.int8) if fixed is None else fixed.astype(np.int8)
    rows = np.flatnonzero(parts == FREE)
    sizes = _sizes(split, len(rows), parts)
    if times is not None:
        parts[rows] = _by_time(times[rows], sizes)
        return parts
    if groups is not None and fixed is not None:
        _refuse_straddling(groups, parts)
    chosen = {
        task: codes[rows]
        for task, codes in (labels or {}).items()
        if split.stratify is True or (isinstance(split.stratify, tuple) and task in split.stratify)
    }
    dealer = _Dealer(len(rows), chosen, sizes, np.random.default_rng(seed if split.seed is None else split.seed))
    if groups is not None:
        dealer.deal_groups(groups[rows])
    dealer.deal_rows()
    parts[rows] = dealer.parts
    return parts


def _sizes(split: Split, n_rows: int, parts: NDArray[np.int8]) -> Ints:
    """How many free rows each part gets: the rounded shares, one at least of each part that is wanted."""
    wanted = [
        max(1, round(share * n_rows)) if share > 0 and not (parts == part).any() else 0
        for part, share in ((VALIDATION, split.validation), (TEST, split.test))
    ]
    sizes = np.array([n_rows - sum(wanted), *wanted])
    if sizes[TRAIN] < 1 and not (parts == TRAIN).any():
        mend = "Give more rows, or set the share of a part to 0."
        raise PolytaskError("too few rows to split", where="split", found=f"{n_rows} rows for {1 + sum(map(bool, wanted))} parts", mend=mend)
    return sizes


class _Dealer:
    """Deals rows to parts, knowing what each part still lacks of every label.

    A label is a (task, class) pair; the last one, which every row has, stands for the sizes of the parts.
    """

    def __init__(self, n_rows: int, tasks: Mapping[str, Ints], sizes: Ints, generator: np.random.Generator) -> None:
        self.generator = generator
        self.parts = np.full(n_rows, FREE, np.int8)
        self.codes, self.n_labels = _label_codes(n_rows, tasks)
        self.left = np.bincount(self.codes[self.codes >= 0], minlength=self.n_labels)
        self.shares: Floats = sizes / max(n_rows, 1)
        self.wanted: Floats = np.outer(self.left, self.shares)
        self.lacking = self.wanted.copy()
        self.open = np.flatnonzero(sizes > 0)

    def give(self, rows: Ints, parts: NDArray[np.int8] | int) -> None:
        """Put rows into parts."""
        self.parts[rows] = parts
        codes = self.codes[:, rows]
        keys = (codes * len(PART_NAMES) + parts)[codes >= 0]
        given = np.bincount(keys, minlength=self.lacking.size).reshape(self.lacking.shape)
        self.lacking -= given
        self.left -= given.sum(1)

    def deal_rows(self) -> None:
        """Deal every row that has no part yet, the rarest label first."""
        by_label = _rows_by_label(self.codes, self.n_labels)
        while self.left.any():
            label = int(np.where(self.left > 0, self.left, np.iinfo(np.int64).max).argmin())
            rows = by_label[label]
            rows = rows[self.parts[rows] == FREE]
            shuffled = np.lexsort([self.generator.random(len(rows)), *self.codes[:-1, rows]])
            self.give(rows[shuffled], self._interleaved(self._counts(label, len(rows))))

    def deal_groups(self, groups: NDArray[Any]) -> None:
        """Deal the groups of several rows, the largest first, each to the part that comes nearest to what it lacks.

        Nearest in the sum over labels of (given - wanted)^2 / wanted, as in a chi-squared test. Rows alone in their group are
        left to ``deal_rows``.
        """
        members = _members(groups)
        if len(members) < len(self.open):
            found, mend = f"{len(members)} groups", "Give more groups, or set the share of a part to 0."
            raise PolytaskError(f"too few groups for {len(self.open)} parts", where="split", found=found, mend=mend)
        order = self.generator.permutation(len(members))
        order = order[np.argsort([-len(members[group]) for group in order], kind="stable")]
        for position, group in enumerate(order):
            rows = members[group]
            empty = [part for part in self.open if not (self.parts == part).any()] if len(order) - position <= len(self.open) else []
            must_fill = len(order) - position <= len(empty)
            if len(rows) == 1 and not empty:
                return
            self.give(rows, self._nearest_part(rows, empty if must_fill else self.open))

    def _nearest_part(self, rows: Ints, parts: Any) -> int:
        codes = self.codes[:, rows]
        labels, counts = np.unique(codes[codes >= 0], return_counts=True)
        gains = (2 * self.lacking[labels] - counts[:, None]) * counts[:, None] / (self.wanted[labels] + 1)
        return int(max(parts, key=gains.sum(0).__getitem__))

    def _counts(self, label: int, n_rows: int) -> Ints:
        """How many of a label's rows each part gets: what it lacks, rounded so that the sizes of the parts stay on course."""
        room = np.maximum(np.round(self.lacking[-1]).astype(np.int64), 0)
        wish = np.maximum(self.lacking[label], 0.0)
        wish = wish * (n_rows / wish.sum()) if wish.sum() else self.shares * n_rows
        behind = self.lacking[-1] - self.shares * self.left[-1]
        counts = np.minimum(np.floor(wish).astype(np.int64), room)
        while (short := n_rows - int(counts.sum())) > 0:
            part = int(np.where(counts < room, wish + behind - counts, -np.inf).argmax())
            others = np.count_nonzero(counts < room)
            counts[part] += min(max(short // (2 * others), 1), room[part] - counts[part])
        untrained = self.lacking[label, TRAIN] == self.wanted[label, TRAIN]
        if untrained and not counts[TRAIN] and room[TRAIN]:
            counts[counts.argmax()] -= 1
            counts[TRAIN] += 1
        return counts

    def _interleaved(self, counts: Ints) -> NDArray[np.int8]:
        """Parts in a sequence that spreads each of them evenly, from a random start."""
        positions = [(np.arange(count) + self.generator.random()) / max(count, 1) for count in counts]
        parts = np.repeat(np.arange(len(counts), dtype=np.int8), counts)
        return parts[np.argsort(np.concatenate(positions), kind="stable")]

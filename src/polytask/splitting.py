"""Which rows train, which choose and which judge: one split of a row, shared by all tasks that label it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from polytask.component import Settings
from polytask.errors import PolytaskError, counted

TRAIN, VALIDATION, TEST = 0, 1, 2
FREE = -1
UNUSED = 3
PART_NAMES = ("training", "validation", "test")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Split(Settings):
    """How rows are split into a training, a validation and a test part.

    Attributes:
        validation: The share of rows that chooses: stops the training, compares settings. 0 for none.
        test: The share of rows that judges, looked at once. 0 for none.
        stratify: Give every part the same shares of each task's classes (of the quantile bins of its numbers): true for all
            tasks, or the names of some.
        group: A column; rows that are alike in it go to the same part.
        time: A column; the earliest rows train, later ones validate, the latest test, and rows of one time stay together.
        seed: The seed of the draw, where it is not to follow the recipe's.

    Raises:
        PolytaskError: The shares leave no training rows, or ``time`` is given with ``group`` or with named tasks to stratify.

    Example:
        >>> Split(validation=0.2).test
        0.15
        >>> Split(validation=0.6, test=0.4)
        Traceback (most recent call last):
        polytask.errors.PolytaskError: validation and test leave no rows to train on. Found: 0.6 + 0.4. Let them sum ...
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
            raise PolytaskError("validation and test leave no rows to train on", found=found, mend=mend)
        if self.time is not None and (self.group is not None or isinstance(self.stratify, tuple)):
            other = "group" if self.group is not None else "stratify"
            mend = f"Give either time or {other}."
            raise PolytaskError(f"a split by time has no room for {other}", mend=mend)
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
    balanced too. The training part gets a row of every label, as far as can be. Part sizes are exact, but for groups and equal
    times.

    Args:
        split: The shares. Where ``fixed`` has validation or test rows, no further ones are drawn; the shares are of free rows.
        n_rows: N, the number of rows.
        labels: Per task the class code of every row, -1 where it is missing.
        groups: A group per row; a negative integer means a group of its own.
        times: A time per row, of any type that sorts.
        seed: The seed of the draw, unless the split has its own.
        fixed: The part of rows that have one already, FREE (-1) elsewhere.

    Raises:
        PolytaskError: A part would be empty, a task to stratify by name has a class of fewer rows than there are parts, or a
            group lies in a fixed part and outside it.

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
    if isinstance(split.stratify, tuple):
        _refuse_rare(chosen, int((sizes > 0).sum()))
    dealer = _Dealer(len(rows), chosen, sizes, np.random.default_rng(seed if split.seed is None else split.seed))
    if groups is not None:
        dealer.deal_groups(groups[rows])
    dealer.deal_rows()
    parts[rows] = dealer.parts
    return parts


def assign_fold(
    split: Split,
    n_rows: int,
    fold: int,
    n_folds: int,
    *,
    labels: Mapping[str, Ints] | None = None,
    groups: NDArray[Any] | None = None,
    seed: int,
    fixed: NDArray[np.int8] | None = None,
) -> NDArray[np.int8]:
    """The part of every row when fold ``fold`` (from 0) of ``n_folds`` judges: every free row does so in one of them.

    The folds are dealt as the parts of ``assign`` are, stratified and grouped; of the other rows ``split.validation`` choose.
    Rows that are fixed as TEST belong to no part, UNUSED: they are not looked at.

    Args:
        split: As for ``assign``; its share for test is not read.
        n_rows: N, the number of rows.
        fold: Which fold judges.
        n_folds: How many there are, 2 at least.
        labels: As for ``assign``.
        groups: As for ``assign``.
        seed: As for ``assign``; the folds of one seed are those of one partition.
        fixed: As for ``assign``.

    Raises:
        PolytaskError: There are fewer rows or groups than folds, or the split is by time.

    Example:
        >>> np.stack([assign_fold(Split(validation=0.25), 6, fold, 3, seed=0) == TEST for fold in range(3)]).sum(0).tolist()
        [1, 1, 1, 1, 1, 1]
    """
    if split.time is not None:
        mend = "Leave out split.time, or fit once: its test part is the last in time."
        raise PolytaskError("rows in the order of time have no folds", where="split.time", mend=mend)
    parts = np.full(n_rows, FREE, np.int8) if fixed is None else fixed.astype(np.int8)
    parts[parts == TEST] = UNUSED
    free = np.flatnonzero(parts == FREE)
    if len(free) < n_folds:
        raise _too_few("row", len(free), n_folds, folds=True)
    sizes = np.bincount(np.arange(len(free)) % n_folds, minlength=n_folds)
    chosen = {task: codes[free] for task, codes in (labels or {}).items()}
    generator = np.random.default_rng(seed if split.seed is None else split.seed)
    dealer = _Dealer(len(free), chosen, sizes, generator, folds=True)
    if groups is not None:
        dealer.deal_groups(groups[free])
    dealer.deal_rows()
    parts[free[dealer.parts == fold]] = TEST
    return assign(split, n_rows, labels=labels, groups=groups, seed=seed, fixed=parts)


def _sizes(split: Split, n_rows: int, parts: NDArray[np.int8]) -> Ints:
    """How many free rows each part gets: the rounded shares, one at least of each part that is wanted."""
    wanted = [
        max(1, round(share * n_rows)) if share > 0 and not (parts == part).any() else 0
        for part, share in ((VALIDATION, split.validation), (TEST, split.test))
    ]
    sizes = np.array([n_rows - sum(wanted), *wanted])
    if sizes[TRAIN] < (0 if (parts == TRAIN).any() else 1):
        raise _too_few("row", n_rows, 1 + sum(map(bool, wanted)))
    return sizes


class _Dealer:
    """Deals rows to parts, knowing what each part still lacks of every label.

    A label is a (task, class) pair; the last one, which every row has, stands for the sizes of the parts. Folds are alike; else
    the first part is for training, and gets a row of every label.
    """

    def __init__(
        self, n_rows: int, tasks: Mapping[str, Ints], sizes: Ints, generator: np.random.Generator, folds: bool = False
    ) -> None:
        self.generator, self.folds = generator, folds
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
        known = codes >= 0
        np.subtract.at(self.lacking, (codes[known], np.broadcast_to(parts, codes.shape)[known]), 1)
        np.subtract.at(self.left, codes[known], 1)

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
            raise _too_few("group", len(members), len(self.open), "split.group", folds=self.folds)
        shuffled = [members[group] for group in self.generator.permutation(len(members))]
        for position, rows in enumerate(sorted(shuffled, key=len, reverse=True)):
            # Where no part is overfull, dealing the rest row by row fills each of them.
            if len(rows) == 1 and (self.lacking[-1] >= 0).all():
                return
            self.give(rows, self._nearest_part(rows, n_groups=len(members) - position))

    def _nearest_part(self, rows: Ints, n_groups: int) -> int:
        """The part for a group; an empty one where the groups that are left would else not fill the parts."""
        parts = self.open
        if n_groups <= len(parts):
            empty = parts[~np.isin(parts, self.parts)]
            parts = empty if n_groups <= len(empty) else parts
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
        counts: Ints = np.minimum(np.floor(wish).astype(np.int64), room)
        while (short := n_rows - int(counts.sum())) > 0:
            part = int(np.where(counts < room, wish + behind - counts, -np.inf).argmax())
            others = np.count_nonzero(counts < room)
            counts[part] += min(max(short // (2 * others), 1), room[part] - counts[part])
        untrained = not self.folds and self.lacking[label, TRAIN] == self.wanted[label, TRAIN]
        if untrained and not counts[TRAIN] and room[TRAIN]:
            counts[counts.argmax()] -= 1
            counts[TRAIN] += 1
        return counts

    def _interleaved(self, counts: Ints) -> NDArray[np.int8]:
        """Parts in a sequence that spreads each of them evenly, from a random start."""
        positions = [(np.arange(count) + self.generator.random()) / max(count, 1) for count in counts]
        parts = np.repeat(np.arange(len(counts), dtype=np.int8), counts)
        return parts[np.argsort(np.concatenate(positions), kind="stable")]


def _label_codes(n_rows: int, tasks: Mapping[str, Ints]) -> tuple[Ints, int]:
    """Per task, and for the label of all rows, the label of every row, numbered through; -1 where it is missing."""
    labels, n_labels = [], 0
    for codes in tasks.values():
        known = codes >= 0
        classes, numbered = np.unique(codes[known], return_inverse=True)
        row = np.full(n_rows, -1, np.int64)
        row[known] = numbered + n_labels
        labels.append(row)
        n_labels += len(classes)
    return np.stack([*labels, np.full(n_rows, n_labels)]), n_labels + 1


def _rows_by_label(codes: Ints, n_labels: int) -> list[Ints]:
    """The rows that have each label."""
    tasks, rows = np.nonzero(codes >= 0)
    labels = codes[tasks, rows]
    return np.split(rows[np.argsort(labels, kind="stable")], np.cumsum(np.bincount(labels, minlength=n_labels))[:-1])


def _members(groups: NDArray[Any]) -> list[Ints]:
    """The rows of each group."""
    _, numbered, sizes = np.unique(_without_missing(groups), return_inverse=True, return_counts=True)
    return np.split(np.argsort(numbered, kind="stable"), np.cumsum(sizes)[:-1])


def _without_missing(groups: NDArray[Any]) -> NDArray[Any]:
    """The groups, with one of its own for each row whose group is missing (a negative integer)."""
    if not np.issubdtype(groups.dtype, np.signedinteger):
        return groups
    return np.where(groups < 0, -1 - np.arange(len(groups)), groups)


def _refuse_rare(tasks: Mapping[str, Ints], n_parts: int) -> None:
    """Refuse to stratify tasks that were asked for by name where a class has not a row for each part."""
    for task, codes in tasks.items():
        _, counts = np.unique(codes[codes >= 0], return_counts=True)
        rare = counts[counts < n_parts]
        if len(rare):
            found = f"a class with {counted(int(rare.min()), 'row')}, and {counted(n_parts, 'part')}"
            mend = "Take the task out of stratify, or merge or drop its rare classes."
            raise PolytaskError("it cannot be stratified", where=f"split.stratify, task {task!r}", found=found, mend=mend)


def _refuse_straddling(groups: NDArray[Any], parts: NDArray[np.int8]) -> None:
    _, numbered = np.unique(_without_missing(groups), return_inverse=True)
    pairs = np.unique(np.stack([numbered, parts]), axis=1)
    n_straddling = int((np.bincount(pairs[0]) > 1).sum())
    if n_straddling:
        what = f"{n_straddling} groups have rows in a held-out file and outside it"
        raise PolytaskError(what, where="split.group", mend="Take them out of one of the files, or split without group.")


def _by_time(times: NDArray[Any], sizes: Ints) -> NDArray[np.int8]:
    """The earliest rows in the first part; parts meet at the change of time that is nearest to the size asked for."""
    order = np.argsort(times, kind="stable")
    changes = np.flatnonzero(times[order][1:] != times[order][:-1]) + 1
    parts = np.flatnonzero(sizes > 0)
    if len(changes) < len(parts) - 1:
        raise _too_few("different time", len(changes) + 1, len(parts), "split.time")
    targets = np.cumsum(sizes[parts])[:-1]
    nearest = [int(np.abs(changes - target).argmin()) for target in targets]
    if len(nearest) == 2 and nearest[0] == nearest[1]:
        pairs = [(first, first + 1) for first in (nearest[0] - 1, nearest[0]) if 0 <= first < len(changes) - 1]
        nearest = list(min(pairs, key=lambda pair: int(np.abs(changes[list(pair)] - targets).sum())))
    bounds = [0, *changes[nearest], len(times)]
    answer = np.empty(len(times), np.int8)
    answer[order] = np.repeat(parts, np.diff(bounds))
    return answer


def _too_few(thing: str, n_things: int, n_parts: int, where: str = "split", folds: bool = False) -> PolytaskError:
    part, less = ("fold", "ask for fewer folds") if folds else ("part", "set the share of a part to 0")
    what, found = f"too few {thing}s for {counted(n_parts, part)}", counted(n_things, thing)
    return PolytaskError(what, where=where, found=found, mend=f"Give more {thing}s, or {less}.")

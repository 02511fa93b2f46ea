"""Inputs that give a target away: copies, values that follow one to one, exact sums and differences.

Every finding holds in all training rows that have the label, so it is a fact of the data; whether it is a mistake only its
owner can know. Candidates are found on a few rows and then checked on all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from polytask.errors import listed

Floats = NDArray[np.float64]

SAMPLE_ROWS = 2048
# What holds in fewer rows, or but for a few rows only says that a constant is a constant, may be chance.
MIN_ROWS = 20
MIN_UNUSUAL = 10
ROWS_PER_VALUE = 5
TOLERANCE = 1e-6
MAX_PAIRS = 4_000_000
MAX_CHECKED = 100


@dataclass(frozen=True)
class Leak:
    """A relation that gives a task's label away.

    Attributes:
        task: The task.
        inputs: The input columns that take part.
        relation: What the label column is, such as "'sqft_above' + 'sqft_basement'".
    """

    task: str
    inputs: tuple[str, ...]
    relation: str

    def __str__(self) -> str:
        drop = f"drop {self.inputs[0]!r}" if len(self.inputs) == 1 else f"drop {' or '.join(map(repr, self.inputs))}"
        return (
            f"the inputs give task {self.task!r} away: in every training row with a label it is {self.relation}; "
            f"{drop} unless known when you predict"
        )


def find_leaks(table: pa.Table, inputs: Sequence[str], labels: Mapping[str, pa.Array]) -> list[Leak]:
    """The inputs that give a target away, alone or in sums and differences of up to three columns.

    Other tasks' labels take part in sums, beside at least one input: where ``total`` is an input, and ``casual`` and
    ``registered`` are targets that add up to it, it gives away more of each than a model should know.

    Args:
        table: The training rows.
        inputs: The input columns.
        labels: The label column of each task in the same rows; null where missing.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> a, b = draw.random(50), draw.random(50)
        >>> table = pa.table({"up": a, "down": b, "other": draw.random(50)})
        >>> for leak in find_leaks(table, table.column_names, {"area": pa.array(a + b), "twice": pa.array(2 * a + 1)}):
        ...     print(leak.task, "is", leak.relation)
        twice is 2 * 'up' + 1
        area is 'up' + 'down'
    """
    plain = {task: column for task, column in labels.items() if not pa.types.is_nested(column.type)}
    columns = {name: _array(table.column(name)) for name in inputs}
    columns = {name: column for name, column in columns.items() if not pa.types.is_nested(column.type)}
    known = {task: _known(column) for task, column in plain.items()}
    rows = {task: _sample(mask) for task, mask in known.items() if _tells_enough(plain[task], mask)}
    leaks = [leak for task in rows for leak in _single(task, plain[task], columns, rows[task], known[task])]
    alone = {leak.task for leak in leaks}
    sums: dict[frozenset[str], Leak] = {}
    for group in _alike({task: known[task] for task in rows}):
        for leak, members in _sums(group, [t for t in group if t not in alone], plain, columns, rows, known):
            sums.setdefault(members, leak)
    return leaks + list(sums.values())


def _single(
    task: str, label: pa.Array, columns: Mapping[str, pa.Array], rows: NDArray[np.intp], known: NDArray[np.bool_]
) -> Iterator[Leak]:
    """The inputs that give a label away alone."""
    everywhere = np.flatnonzero(known)
    for name, column in columns.items():
        if _relation(name, column, label, rows):
            found = _relation(name, column, label, everywhere)
            if found:
                yield Leak(task, (name,), found)


def _relation(name: str, column: pa.Array, label: pa.Array, rows: NDArray[np.intp]) -> str:
    """What the label is, given the input, in these rows; empty where it is nothing so simple."""
    x, y = column.take(pa.array(rows)), label.take(pa.array(rows))
    if x.null_count == len(x):
        return ""
    if _is_number(x) and _is_number(y):
        both = pc.is_valid(x).to_numpy(zero_copy_only=False)
        if both.sum() >= MIN_ROWS and both.mean() > 0.5 and _tells_enough(y, both):
            return _of_numbers(name, _floats(x)[both], _floats(y)[both]) or _one_to_one(name, x, y)
        return ""
    return _one_to_one(name, x, y)


def _of_numbers(name: str, x: Floats, y: Floats) -> str:
    """A copy, an affine copy, or any other function that only rises or only falls."""
    if x.min() == x.max():
        return ""
    if _equal(x, y, y):
        return f"a copy of {name!r}"
    low, high = int(x.argmin()), int(x.argmax())
    slope = (y[high] - y[low]) / (x[high] - x[low])
    start = y[low] - slope * x[low]
    if slope and _equal(slope * x + start, y, y):
        return f"{_factor(slope)}{name!r}{_added(start, y)}"
    order = np.argsort(x, kind="stable")
    dx, dy = np.diff(x[order]), np.diff(y[order])
    follows = ((dx == 0) == (dy == 0)).all() and ((dy >= 0).all() or (dy <= 0).all())
    if follows and np.count_nonzero(dx) >= MIN_ROWS:
        return f"told by {name!r}: the higher the one, the {'higher' if (dy >= 0).all() else 'lower'} the other"
    return ""


def _one_to_one(name: str, x: pa.Array, y: pa.Array) -> str:
    """A few values, each of which belongs to one label, and each label to one value."""
    codes, answers = _codes(x), _codes(y)
    n_values, n_labels = int(codes.max(initial=-1)) + 1, int(answers.max(initial=-1)) + 1
    if n_values != n_labels or n_labels < 2 or len(x) < ROWS_PER_VALUE * n_labels or (codes < 0).any():
        return ""
    pairs = np.unique(codes * n_labels + answers)
    return f"told by {name!r}: each of its {n_values} values has one label" if len(pairs) == n_values else ""


def _sums(
    group: Sequence[str],
    wanted: Sequence[str],
    labels: Mapping[str, pa.Array],
    columns: Mapping[str, pa.Array],
    rows: Mapping[str, NDArray[np.intp]],
    known: Mapping[str, NDArray[np.bool_]],
) -> Iterator[tuple[Leak, frozenset[str]]]:
    """The labels of a group (all known in the same rows) that are sums or differences of two or three other columns.

    A column is projected on one random direction, so that a sum of columns is a sum of two or three numbers to look up.
    """
    if not wanted:
        return
    sampled, mask = rows[group[0]], known[group[0]]
    names = {("task", t): labels[t] for t in group} | {("input", n): c for n, c in columns.items()}
    pool: dict[tuple[str, str], Floats] = {}
    for key, column in names.items():
        if _is_number(column) and not column.take(pa.array(sampled)).null_count:
            values = _floats(column.take(pa.array(sampled)))
            if values.min() != values.max():
                pool[key] = values
    keys = list(pool)
    if len(keys) < 3 or len(keys) ** 2 > MAX_PAIRS:
        return
    direction = np.random.default_rng(0).standard_normal(len(sampled))
    shadows = np.array([values @ direction for values in pool.values()])
    finder = _SumFinder(shadows)
    everywhere = pa.array(np.flatnonzero(mask))
    for task in wanted:
        if ("task", task) not in pool:
            continue
        target = keys.index(("task", task))
        near = TOLERANCE * float(pool[keys[target]].std()) * float(np.linalg.norm(direction))
        y = _floats(labels[task].take(everywhere))
        for terms in finder.find(target, near):
            inputs = tuple(keys[index][1] for index, _ in terms if keys[index][0] == "input")
            if inputs and _holds(terms, keys, names, everywhere, y):
                yield Leak(task, inputs, _spelled(terms, keys)), frozenset({task, *(keys[index][1] for index, _ in terms)})
                break


Terms = tuple[tuple[int, int], ...]  # (column, sign)


class _SumFinder:
    """Looks up which two or three of some numbers, with signs, add up to another of them."""

    def __init__(self, shadows: Floats) -> None:
        first, second = np.array(list(combinations(range(len(shadows)), 2))).T
        self.shadows = shadows
        # y = a + b, -a - b, a - b or b - a: the sum and the difference of each pair, in either sign.
        sums = np.concatenate([shadows[first] + shadows[second], shadows[first] - shadows[second]])
        self.values = np.concatenate([sums, -sums])
        self.order = np.argsort(self.values, kind="stable")
        self.sorted = self.values[self.order]
        self.first, self.second, self.n_pairs = first, second, len(first)

    def find(self, target: int, near: float) -> Iterator[Terms]:
        """Pairs, then triples, whose sum is within ``near`` of the target; at most MAX_CHECKED of each."""
        wanted = self.shadows[target]
        yield from self._matches(np.array([wanted]), [()], target, near)
        others = [index for index in range(len(self.shadows)) if index != target]
        thirds: list[Terms] = [((index, sign),) for sign in (1, -1) for index in others]
        left = np.concatenate([wanted - self.shadows[others], wanted + self.shadows[others]])
        yield from self._matches(left, thirds, target, near)

    def _matches(self, wanted: Floats, thirds: Sequence[Terms], target: int, near: float) -> Iterator[Terms]:
        low = np.searchsorted(self.sorted, wanted - near)
        high = np.searchsorted(self.sorted, wanted + near, side="right")
        n_checked = 0
        for position in np.flatnonzero(high > low):
            third = thirds[int(position)]
            taken = {target, *(index for index, _ in third)}
            for place in self.order[low[position] : high[position]]:
                terms = self._pair(int(place))
                # A triple is met three times, by each of its columns as the third; the last one is enough.
                if taken & {index for index, _ in terms} or (third and third[0][0] < max(index for index, _ in terms)):
                    continue
                yield terms + third
                n_checked += 1
                if n_checked >= MAX_CHECKED:
                    return

    def _pair(self, place: int) -> Terms:
        flipped, inner = divmod(place, 2 * self.n_pairs)
        is_difference, pair = divmod(inner, self.n_pairs)
        sign = -1 if flipped else 1
        return (int(self.first[pair]), sign), (int(self.second[pair]), -sign if is_difference else sign)


def _holds(
    terms: Terms, keys: Sequence[tuple[str, str]], names: Mapping[tuple[str, str], pa.Array], rows: pa.Array, y: Floats
) -> bool:
    """Whether the sum is the label in all rows."""
    total = np.zeros_like(y)
    for index, sign in terms:
        column = names[keys[index]].take(rows)
        if column.null_count:
            return False
        total += sign * _floats(column)
    return _equal(total, y, y)


def _spelled(terms: Terms, keys: Sequence[tuple[str, str]]) -> str:
    ordered = sorted(terms, key=lambda term: -term[1])
    text = " ".join(f"{'+' if sign > 0 else '-'} {keys[index][1]!r}" for index, sign in ordered)
    return text.removeprefix("+ ")


def _alike(known: Mapping[str, NDArray[np.bool_]]) -> list[list[str]]:
    """The tasks grouped by the rows that have their label."""
    groups: dict[bytes, list[str]] = {}
    for task, mask in known.items():
        groups.setdefault(np.packbits(mask).tobytes(), []).append(task)
    return list(groups.values())


def _sample(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Some rows, spread over all of them."""
    rows = np.flatnonzero(mask)
    return rows if len(rows) <= SAMPLE_ROWS else rows[np.linspace(0, len(rows) - 1, SAMPLE_ROWS).astype(np.intp)]


def _tells_enough(label: pa.Array, mask: NDArray[np.bool_]) -> bool:
    """Whether enough labels differ from the most frequent one for an exact relation to be no accident."""
    known = label.filter(pa.array(mask))
    if len(known) < MIN_ROWS:
        return False
    counts = pc.value_counts(known).field(1).to_numpy()
    return len(known) - int(counts.max()) >= MIN_UNUSUAL


def _equal(x: Floats, y: Floats, unit: Floats) -> bool:
    return bool(np.abs(x - y).max() <= TOLERANCE * unit.std())


def _factor(slope: float) -> str:
    return {1.0: "", -1.0: "-"}.get(round(slope, 9), f"{slope:.6g} * ")


def _added(start: float, y: Floats) -> str:
    if abs(start) <= TOLERANCE * y.std():
        return ""
    return f" {'+' if start > 0 else '-'} {abs(start):.6g}"


def _array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def _is_number(column: pa.Array) -> bool:
    kind = column.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _known(column: pa.Array) -> NDArray[np.bool_]:
    valid = pc.is_valid(column)
    if pa.types.is_floating(column.type):
        valid = pc.and_(valid, pc.fill_null(pc.is_finite(column), False))
    mask: NDArray[np.bool_] = valid.to_numpy(zero_copy_only=False)
    return mask


def _floats(column: pa.Array) -> Floats:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def _codes(column: pa.Array) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = column.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)


def column_notes(constant: Sequence[str], identifiers: Sequence[str], doubtful: Sequence[str]) -> list[str]:
    """What is said of inputs that tell nothing, and of those that may only name the rows.

    Example:
        >>> column_notes(["country"], [], ["customer"])[0]
        "input left out, for it is the same in every training row: 'country'"
    """
    notes = []
    if constant:
        notes.append(f"{_inputs(constant)} left out, for {_it(constant)} the same in every training row: {_quoted(constant)}")
    if identifiers:
        notes.append(
            f"{_inputs(identifiers)} left out, for {_it(identifiers)} another in every row and so only a name of it: "
            f"{_quoted(identifiers)}; name its kind in columns to keep it"
        )
    notes += [f"input {name!r} is kept, but no two rows are alike in it: drop it if it names the rows" for name in doubtful]
    return notes


def _inputs(names: Sequence[str]) -> str:
    return "input" if len(names) == 1 else f"{len(names)} inputs"


def _it(names: Sequence[str]) -> str:
    return "it is" if len(names) == 1 else "they are"


def _quoted(names: Sequence[str]) -> str:
    return listed(map(repr, names))


def is_about_inputs(note: str) -> bool:
    """Whether a note of a run is one of ``find_leaks`` or ``column_notes``.

    Example:
        >>> notes = column_notes(["country"], ["customer", "order"], ["account"])
        >>> [is_about_inputs(note) for note in [*notes, str(Leak("price", ("paid",), "a copy of 'paid'")), "task 'a' is new"]]
        [True, True, True, True, False]
    """
    return bool(re.match(r"the inputs give task |input |\d+ inputs left out", note))

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from polytask.errors import PolytaskError
from polytask.splitting import FREE, TEST, TRAIN, VALIDATION, Split, assign

Ints = NDArray[np.int64]
SHARES = np.array([0.7, 0.15, 0.15])


def sizes(parts: NDArray[np.int8]) -> list[int]:
    return np.bincount(parts, minlength=3).tolist()


def classes(n_rows: int, n_tasks: int, n_classes: int, seed: int = 0) -> dict[str, Ints]:
    """Class codes of correlated tasks, one in ten missing."""
    draw = np.random.default_rng(seed)
    common = draw.normal(size=n_rows)
    tasks = {}
    for task in range(n_tasks):
        levels = (common + draw.normal(size=n_rows)) * n_classes / 6 + n_classes / 2
        codes = np.clip(levels, 0, n_classes - 1).astype(np.int64)
        tasks[f"task{task}"] = np.where(draw.random(n_rows) < 0.1, -1, codes)
    return tasks


def imbalance(parts: NDArray[np.int8], labels: dict[str, Ints]) -> float:
    """The mean over labels of sum((given - wanted)^2 / wanted)."""
    found = []
    for codes in labels.values():
        for label in np.unique(codes[codes >= 0]):
            rows = codes == label
            wanted = rows.sum() * SHARES
            found.append((((sizes(parts[rows]) - wanted) ** 2) / wanted).sum())
    return float(np.mean(found))


tasks_of_few_classes = st.integers(6, 150).flatmap(
    lambda n: st.lists(
        st.tuples(st.integers(1, 12), st.integers(0, 2**32 - 1)).map(
            lambda pair: np.random.default_rng(pair[1]).integers(-1, pair[0], n)
        ),
        min_size=1,
        max_size=4,
    )
)


@given(tasks_of_few_classes, st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.15, 0.3]), st.sampled_from([0.0, 0.15, 0.4]))
def test_every_row_is_in_one_part_and_the_sizes_are_exact(tasks: list[Ints], seed: int, validation: float, test: float) -> None:
    n_rows = len(tasks[0])
    labels = {f"task{i}": codes for i, codes in enumerate(tasks)}
    split = Split(validation=validation, test=test)
    parts = assign(split, n_rows, labels=labels, seed=seed)
    expected = [max(1, round(share * n_rows)) if share else 0 for share in (validation, test)]
    assert sizes(parts) == [n_rows - sum(expected), *expected]
    assert (parts == assign(split, n_rows, labels=labels, seed=seed)).all()


@given(tasks_of_few_classes, st.integers(0, 1000))
def test_every_class_of_a_task_trains_as_far_as_there_is_room(tasks: list[Ints], seed: int) -> None:
    codes = tasks[0]
    training = assign(Split(), len(codes), labels={"task": codes}, seed=seed) == TRAIN
    n_classes = len(np.unique(codes[codes >= 0]))
    assert len(np.unique(codes[training & (codes >= 0)])) == min(n_classes, training.sum())


@given(st.integers(40, 400), st.integers(2, 10), st.integers(0, 1000))
def test_class_shares_of_one_task_are_exact_but_for_rounding(n_rows: int, n_classes: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, n_classes, n_rows)
    parts = assign(Split(), n_rows, labels={"task": codes}, seed=seed)
    for label in range(n_classes):
        wanted = (codes == label).sum() * SHARES
        assert np.abs(sizes(parts[codes == label]) - wanted).max() <= 2


@pytest.mark.parametrize("n_rows", [300, 3000])
def test_many_tasks_are_balanced_at_once(n_rows: int) -> None:
    labels = classes(n_rows, n_tasks=5, n_classes=8)
    split = [imbalance(assign(Split(), n_rows, labels=labels, seed=seed), labels) for seed in range(5)]
    drawn = [imbalance(assign(Split(stratify=False), n_rows, labels=labels, seed=seed), labels) for seed in range(5)]
    assert np.mean(split) < 0.5 * np.mean(drawn)


def test_pairs_of_classes_are_balanced_too() -> None:
    labels = classes(3000, n_tasks=2, n_classes=6)
    pairs = {"pair": np.where((labels["task0"] < 0) | (labels["task1"] < 0), -1, labels["task0"] * 6 + labels["task1"])}
    assert imbalance(assign(Split(), 3000, labels=labels, seed=0), pairs) < 0.4
    assert imbalance(assign(Split(stratify=False), 3000, labels=labels, seed=0), pairs) > 1.2


def test_only_the_tasks_named_are_stratified() -> None:
    labels = classes(2000, n_tasks=2, n_classes=10)
    parts = assign(Split(stratify=("task1",)), 2000, labels=labels, seed=0)
    assert imbalance(parts, {"task1": labels["task1"]}) < 0.05
    assert imbalance(parts, {"task0": labels["task0"]}) > 0.2
    assert (parts == assign(Split(), 2000, labels={"task1": labels["task1"]}, seed=0)).all()


def test_rare_classes() -> None:
    rare = np.zeros(100, np.int64)
    rare[[3, 50]], rare[70] = 1, 2
    parts = assign(Split(), 100, labels={"task": rare}, seed=0)
    assert parts[70] == TRAIN
    assert TRAIN in parts[[3, 50]]
    assert sizes(assign(Split(), 100, labels={"task": np.arange(100)}, seed=0)) == [70, 15, 15]
    pairs = np.repeat(np.arange(50), 2)
    of_pairs = assign(Split(), 100, labels={"task": pairs}, seed=0)
    assert sizes(of_pairs) == [70, 15, 15]
    assert len(np.unique(pairs[of_pairs == TRAIN])) == 50


def test_the_seed_draws() -> None:
    one, two = (assign(Split(), 100, seed=seed) for seed in (1, 2))
    assert (one != two).any()
    assert (assign(Split(seed=1), 100, seed=2) == one).all()


@given(st.lists(st.integers(0, 12), min_size=30, max_size=120), st.integers(0, 1000), st.booleans())
def test_groups_never_straddle_and_no_part_is_empty(groups: list[int], seed: int, stratify: bool) -> None:
    members = np.array(groups)
    labels = classes(len(groups), 2, 4, seed) if stratify else {}
    if len(set(groups)) < 3:
        with pytest.raises(PolytaskError, match="too few groups for 3 parts"):
            assign(Split(), len(groups), groups=members, labels=labels, seed=seed)
        return
    parts = assign(Split(), len(groups), groups=members, labels=labels, seed=seed)
    assert set(parts) == {TRAIN, VALIDATION, TEST}
    assert all(len(set(parts[members == group])) == 1 for group in set(groups))


def test_one_group_of_nearly_all_rows_leaves_no_part_empty() -> None:
    groups = np.concatenate([np.zeros(990, np.int64), np.arange(1, 11)])
    for seed in range(20):
        parts = assign(Split(validation=0.29, test=0.01), 1000, groups=groups, seed=seed)
        assert len(set(parts[:990])) == 1
        assert set(parts) == {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize("stratify", [False, True])
def test_group_sizes_come_near(stratify: bool) -> None:
    groups = np.random.default_rng(0).integers(0, 200, 4000)
    labels = classes(4000, n_tasks=3, n_classes=5)
    parts = assign(Split(stratify=stratify), 4000, groups=groups, labels=labels, seed=0)
    assert np.abs(sizes(parts) - 4000 * SHARES).max() <= (60 if stratify else 20)
    assert imbalance(parts, labels) < (0.6 if stratify else np.inf)


def test_a_missing_group_is_a_group_of_its_own() -> None:
    parts = assign(Split(), 100, groups=np.full(100, -1), seed=0)
    assert sizes(parts) == [70, 15, 15]


def test_groups_may_be_names() -> None:
    groups = np.array(["a", "b", "c", "d"]).repeat(25)
    parts = assign(Split(), 100, groups=groups, seed=0)
    assert len({(group, part) for group, part in zip(groups, parts, strict=True)}) == 4


@given(st.lists(st.integers(0, 30), min_size=10, max_size=100))
def test_time_runs_from_training_to_test(times: list[int]) -> None:
    when = np.array(times)
    n_times = len(set(times))
    if n_times < 3:
        with pytest.raises(PolytaskError, match="too few different times for 3 parts"):
            assign(Split(time="t"), len(times), times=when, seed=0)
        return
    parts = assign(Split(time="t"), len(times), times=when, seed=0)
    assert when[parts == TRAIN].max() < when[parts == VALIDATION].min()
    assert when[parts == VALIDATION].max() < when[parts == TEST].min()


def test_times_that_differ_are_cut_exactly() -> None:
    order = np.random.default_rng(0).permutation(100)
    times = np.datetime64("2014-01-01") + order.astype("timedelta64[D]")
    parts = assign(Split(time="t", validation=0.2, test=0.1), 100, times=times, seed=0)
    assert parts[np.argsort(order)].tolist() == [TRAIN] * 70 + [VALIDATION] * 20 + [TEST] * 10
    ties = np.repeat(np.arange(4), 25)
    assert sizes(assign(Split(time="t", validation=0.01, test=0.01), 100, times=ties, seed=0)) == [50, 25, 25]


def test_given_parts_are_kept_and_not_drawn_again() -> None:
    fixed = np.array([FREE] * 100 + [TEST] * 40, np.int8)
    parts = assign(Split(validation=0.2), 140, labels={"task": np.arange(140) % 3}, seed=0, fixed=fixed)
    assert sizes(parts) == [80, 20, 40]
    assert (parts[100:] == TEST).all()
    assert (fixed[:100] == FREE).all()
    both = np.array([FREE] * 10 + [VALIDATION] * 4 + [TEST] * 4, np.int8)
    assert (assign(Split(), 18, seed=0, fixed=both)[:10] == TRAIN).all()
    by_time = assign(Split(time="t", validation=0.2), 140, times=np.arange(140), seed=0, fixed=fixed)
    assert by_time.tolist() == [TRAIN] * 80 + [VALIDATION] * 20 + [TEST] * 40


def test_a_group_in_a_held_out_file_and_outside_it_is_refused() -> None:
    fixed = np.array([FREE] * 10 + [TEST] * 2, np.int8)
    with pytest.raises(PolytaskError, match="1 groups have rows in a held-out file and outside it"):
        assign(Split(), 12, groups=np.array([*range(10), 3, 99]), seed=0, fixed=fixed)
    apart = assign(Split(), 12, groups=np.array([*range(10), -1, -1]), seed=0, fixed=fixed)
    assert (apart[10:] == TEST).all()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"validation": 0.5, "test": 0.5}, "validation and test leave no rows to train on. Found: 0.5 + 0.5."),
        ({"validation": 1.0}, "less than 1"),
        ({"test": -0.1}, "greater than or equal to 0"),
        ({"time": "date", "group": "id"}, "a split by time has no room for group"),
        ({"time": "date", "stratify": ["price"]}, "a split by time has no room for stratify"),
        ({"valdation": 0.1}, "Split has no field 'valdation'. Did you mean 'validation'?"),
    ],
)
def test_splits_that_make_no_sense(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        Split(**fields)
    assert told in str(caught.value)


@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_too_few_rows(n_rows: int) -> None:
    with pytest.raises(PolytaskError, match=f"too few rows for 3 parts. Found: {n_rows} row"):
        assign(Split(), n_rows, seed=0)
    assert sizes(assign(Split(), 3, seed=0)) == [1, 1, 1]


def test_a_class_with_fewer_rows_than_parts_cannot_be_stratified_by_name() -> None:
    labels = {"rare": np.array([0] * 18 + [1] * 2)}
    with pytest.raises(PolytaskError) as caught:
        assign(Split(stratify=("rare",)), 20, labels=labels, seed=0)
    assert str(caught.value) == (
        "split.stratify, task 'rare': it cannot be stratified. Found: a class with 2 rows, and 3 parts. "
        "Take the task out of stratify, or merge or drop its rare classes."
    )
    assert sizes(assign(Split(), 20, labels=labels, seed=0)) == [14, 3, 3], "as far as can be"


def test_fifty_thousand_rows_of_eight_tasks_are_split_in_a_moment() -> None:
    labels = classes(50_000, n_tasks=8, n_classes=10)
    start = time.process_time()
    assign(Split(), 50_000, labels=labels, seed=0)
    assert time.process_time() - start < 2.0

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from polytask.errors import PolytaskError
from polytask.intervals import Interval, PairedInterval, bootstrap_interval, paired_interval

Score = Callable[[NDArray[np.intp]], float]


def mean_of(values: NDArray[np.float64]) -> Score:
    return lambda rows: float(values[rows].mean())


def share_holding(truth: float, intervals: list[Interval] | list[PairedInterval]) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def crossed(
    draw: np.random.Generator, n_seeds: int, n_rows: int, of_seed: float, of_row: float, rest: float
) -> NDArray[np.float64]:
    """Differences with a true mean of 0, an effect of each seed, of each row, and of each pair of them."""
    seeds, rows = draw.normal(0, of_seed, (n_seeds, 1)), draw.normal(0, of_row, (1, n_rows))
    return seeds + rows + draw.normal(0, rest, (n_seeds, n_rows))


class TestBootstrap:
    def test_of_a_mean_is_as_wide_as_its_standard_error(self) -> None:
        values = np.random.default_rng(0).exponential(size=400)
        found = bootstrap_interval(mean_of(values), 400, n_resamples=4000)
        assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
        assert found.low < values.mean() < found.high

    def test_agrees_with_scipy(self) -> None:
        values = np.random.default_rng(1).lognormal(size=80)
        theirs = stats.bootstrap((values,), np.median, method="percentile", n_resamples=4000, rng=2).confidence_interval
        ours = bootstrap_interval(lambda rows: float(np.median(values[rows])), 80, n_resamples=4000)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)

    def test_covers_the_truth(self) -> None:
        draw = np.random.default_rng(3)
        found = [bootstrap_interval(mean_of(draw.normal(size=100)), 100, n_resamples=200, seed=i) for i in range(400)]
        assert 0.91 <= share_holding(0.0, found) <= 0.98

    def test_covers_the_truth_of_grouped_rows_only_when_groups_are_drawn(self) -> None:
        draw, groups = np.random.default_rng(4), np.repeat(np.arange(40), 5)
        samples = [np.repeat(draw.normal(size=40), 5) + draw.normal(0, 0.5, 200) for _ in range(300)]
        grouped = [bootstrap_interval(mean_of(values), 200, n_resamples=200, groups=groups) for values in samples]
        alone = [bootstrap_interval(mean_of(values), 200, n_resamples=200) for values in samples]
        assert share_holding(0.0, grouped) >= 0.9
        assert share_holding(0.0, alone) <= 0.75

    def test_a_group_is_drawn_whole(self) -> None:
        groups, seen = ["a", "b", "a", "c"], []
        bootstrap_interval(
            lambda rows: float(seen.append(np.bincount(rows, minlength=4)) or 0), 4, n_resamples=50, groups=groups
        )
        assert all(counts[0] == counts[2] and counts[[0, 1, 3]].sum() == 3 for counts in seen)

    def test_every_score_meets_the_same_resamples(self) -> None:
        values = np.random.default_rng(5).normal(size=30)
        one = bootstrap_interval(mean_of(values), 30, seed=7)
        assert bootstrap_interval(mean_of(values + 2), 30, seed=7).low == pytest.approx(one.low + 2)
        assert bootstrap_interval(mean_of(values), 30, seed=8) != one

    def test_of_many_rows_draws_fewer_and_is_as_wide(self) -> None:
        values, sizes = np.random.default_rng(6).exponential(size=8000), set()

        def score(rows: NDArray[np.intp]) -> float:
            sizes.add(len(rows))
            return float(values[rows].std())

        part, whole = (bootstrap_interval(score, 8000, n_resamples=1500, max_drawn=n) for n in (1000, 8000))
        assert sizes == {1000, 8000}
        assert part.high - part.low == pytest.approx(whole.high - whole.low, rel=0.1)
        assert (part.low, part.high) == pytest.approx((whole.low, whole.high), abs=0.1 * (whole.high - whole.low))

    def test_of_many_rows_draws_fewer_groups(self) -> None:
        values, groups = np.random.default_rng(7).normal(size=900), np.repeat(np.arange(300), 3)
        part, whole = (
            bootstrap_interval(mean_of(values), 900, n_resamples=1500, max_drawn=n, groups=groups) for n in (300, 900)
        )
        assert part.high - part.low == pytest.approx(whole.high - whole.low, rel=0.1)

    def test_resamples_without_a_score_are_left_out_and_counted(self) -> None:
        labels = np.array([1.0, 1.0, 0.0, 0.0])
        found = bootstrap_interval(
            lambda rows: labels[rows].mean() if 0 < labels[rows].mean() < 1 else math.nan, 4, n_resamples=2000
        )
        assert found.n_undefined == pytest.approx(2000 * 2 / 16, rel=0.2)
        assert (found.low, found.high) == (0.25, 0.75)

    def test_is_nan_where_most_resamples_have_no_score(self) -> None:
        labels = np.zeros(50)
        labels[0] = 1
        found = bootstrap_interval(lambda rows: 1.0 if labels[rows].sum() > 1 else math.nan, 50)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert 250 < found.n_undefined < 500

    @pytest.mark.parametrize(("n_rows", "groups"), [(0, None), (1, None), (3, ["a", "a", "a"])])
    def test_one_row_or_group_tells_nothing(self, n_rows: int, groups: list[str] | None) -> None:
        assert math.isnan(bootstrap_interval(lambda rows: 0.5, n_rows, groups=groups).low)

    def test_no_resamples_give_no_interval(self) -> None:
        assert math.isnan(bootstrap_interval(lambda rows: 0.5, 10, n_resamples=0).low)

    def test_wants_a_group_for_each_row(self) -> None:
        with pytest.raises(PolytaskError, match="2 groups for 3 rows"):
            bootstrap_interval(lambda rows: 0.5, 3, groups=["a", "b"])


class TestPaired:
    def test_of_one_seed_is_the_paired_t_test(self) -> None:
        differences = np.random.default_rng(0).normal(0.1, 1, (1, 60))
        theirs = stats.ttest_1samp(differences[0], 0).confidence_interval(0.95)
        ours = paired_interval(differences)
        assert (ours.low, ours.high, ours.dof) == pytest.approx((theirs.low, theirs.high, 59))
        assert ours.rows_only
        assert not paired_interval(np.vstack([differences, differences])).rows_only

    def test_is_the_formula(self) -> None:
        differences = np.random.default_rng(1).normal(size=(4, 25))
        of_rows, of_seeds = differences.mean(0).var(ddof=1) / 25, differences.mean(1).var(ddof=1) / 4
        dof = (of_rows + of_seeds) ** 2 / (of_rows**2 / 24 + of_seeds**2 / 3)
        half = stats.t.ppf(0.975, dof) * math.sqrt(of_rows + of_seeds)
        found, mean = paired_interval(differences), differences.mean()
        assert (found.mean, found.low, found.high, found.dof) == pytest.approx((mean, mean - half, mean + half, dof))

    @pytest.mark.parametrize("n_seeds", [3, 5])
    @pytest.mark.parametrize(("of_seed", "of_row", "rest"), [(0.15, 1, 0.5), (0.05, 1, 0.5), (0.5, 1, 1), (0, 0, 1), (0, 1, 0)])
    def test_covers_the_truth(self, n_seeds: int, of_seed: float, of_row: float, rest: float) -> None:
        draw = np.random.default_rng(2)
        found = [paired_interval(crossed(draw, n_seeds, 100, of_seed, of_row, rest)) for _ in range(400)]
        assert 0.92 <= share_holding(0.0, found) <= 0.998

    @pytest.mark.parametrize(("n_seeds", "at_least"), [(2, 0.85), (3, 0.9), (5, 0.92)])
    def test_covers_less_the_fewer_seeds_there_are_where_they_dominate(self, n_seeds: int, at_least: float) -> None:
        draw = np.random.default_rng(4)
        found = [paired_interval(crossed(draw, n_seeds, 100, 0.1 * math.sqrt(10 * n_seeds), 1, 0)) for _ in range(1000)]
        assert at_least <= share_holding(0.0, found) <= at_least + 0.05

    def test_ignoring_the_seeds_or_the_rows_covers_too_little(self) -> None:
        draw = np.random.default_rng(3)
        samples = [crossed(draw, 5, 100, 0.15, 1.0, 0.5) for _ in range(400)]
        both = [paired_interval(sample) for sample in samples]
        rows_only = [paired_interval(sample.mean(0, keepdims=True)) for sample in samples]
        seeds_only = [paired_interval(sample.mean(1)[np.newaxis]) for sample in samples]
        first_seed = [paired_interval(sample[:1]) for sample in samples]
        assert share_holding(0.0, both) >= 0.93
        assert share_holding(0.0, rows_only) <= 0.91
        assert share_holding(0.0, seeds_only) <= 0.9
        assert share_holding(0.0, first_seed) <= 0.85

    def test_equal_models_differ_by_nothing(self) -> None:
        assert paired_interval(np.zeros((3, 10))) == PairedInterval(0.0, 0.0, 0.0, dof=9.0, n_seeds=3, error=0.0)
        assert paired_interval(np.zeros((3, 10))).p_value == 1

    def test_a_p_value_is_below_a_twentieth_where_the_interval_has_not_zero(self) -> None:
        draw = np.random.default_rng(0)
        found = [paired_interval(draw.normal(mean, 1, (3, 20))) for mean in np.linspace(0, 1, 40)]
        assert [not one.low < 0 < one.high for one in found] == [one.p_value < 0.05 for one in found]
        assert 0 < sum(one.p_value < 0.05 for one in found) < 40

    @pytest.mark.parametrize("differences", [np.array([[0.5], [0.4]]), np.array([[0.5, np.inf]]), np.array([[0.5, np.nan]])])
    def test_tells_nothing_of_one_row_or_of_what_is_not_finite(self, differences: NDArray[np.float64]) -> None:
        found = paired_interval(differences)
        assert math.isnan(found.low)
        assert math.isnan(found.high)

    @pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 0), (2, 3, 4)])
    def test_wants_seeds_and_rows(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(PolytaskError, match=r"\[seeds, rows\]"):
            paired_interval(np.zeros(shape))

from __future__ import annotations

import math

import numpy as np
import pytest

from polytask.errors import PolytaskError
from polytask.evaluation.verdict import compare_losses, verdict
from polytask.intervals import Interval, PairedInterval, paired_interval


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-2, -1, "helped"),
        (1, 2, "hurt"),
        (-1, 1, "can't tell"),
        (-1, 0, "can't tell"),
        (0, 1, "can't tell"),
        (math.nan, math.nan, "can't tell"),
    ],
)
def test_verdict_is_where_the_whole_interval_lies(low: float, high: float, says: str) -> None:
    assert verdict(Interval(low, high)) == says
    assert verdict(PairedInterval((low + high) / 2, low, high, 5, 3)) == says


def test_comparison_is_the_paired_interval_in_percent_of_alone() -> None:
    draw = np.random.default_rng(0)
    alone = draw.exponential(0.5, (3, 400))
    together = alone + draw.normal(0.05, 0.1, (3, 400))
    found, interval = compare_losses("price", alone, together), paired_interval(together - alone)
    assert (found.task, found.verdict, found.n_seeds) == ("price", "hurt", 3)
    assert (found.alone, found.together) == pytest.approx((alone.mean(), together.mean()))
    assert found.change == pytest.approx(100 * (together.mean() / alone.mean() - 1))
    assert np.array([found.change_low, found.change_high]) * alone.mean() / 100 == pytest.approx([interval.low, interval.high])


def test_a_better_network_is_found_to_help_and_equal_ones_not_to_differ() -> None:
    alone = np.random.default_rng(1).exponential(1.0, (3, 200))
    assert compare_losses("t", alone, 0.9 * alone).verdict == "helped"
    assert compare_losses("t", alone, alone).verdict == "can't tell"


def test_verdicts_on_equal_networks_are_rarely_wrong() -> None:
    draw = np.random.default_rng(2)
    rows = [draw.exponential(1.0, (1, 150)) for _ in range(300)]
    runs = [[row + draw.normal(0, 0.05, (3, 1)) + draw.normal(0, 0.3, (3, 150)) for _ in range(2)] for row in rows]
    said = [compare_losses("t", alone, together).verdict for alone, together in runs]
    assert said.count("can't tell") >= 0.92 * len(said)


def test_a_perfect_loss_alone_has_no_percentage_but_a_verdict() -> None:
    found = compare_losses("t", np.zeros((2, 50)), np.random.default_rng(3).uniform(0.9, 1.1, (2, 50)))
    assert math.isnan(found.change)
    assert found.verdict == "hurt"


def test_only_the_same_rows_can_be_compared() -> None:
    with pytest.raises(PolytaskError, match=r"task 'price': .*\(2, 5\) alone and \(2, 6\) together"):
        compare_losses("price", np.zeros((2, 5)), np.zeros((2, 6)))

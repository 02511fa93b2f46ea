from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import pytest

from polytask import Run
from polytask.component import Component
from polytask.evaluation.conflict import agreement_of
from polytask.recipe import FAMILIES
from polytask.report.between import axis_labels, canonical_correlation
from polytask.report.bibliography import cited, entries, uncited
from polytask.report.charts import calibration, lines, predicted_against_true
from polytask.report.evidence import Evidence
from polytask.report.importance import permutation_importance
from polytask.report.record import flops
from polytask.report.slices import mean_interval, slices_of
from polytask.sharing import Sharing
from tests.contracts.examples import example
from tests.report.runs import EMOJI, HEBREW, SCRIPT
from tests.sharings.trunks import plan_of, vectors


@pytest.mark.parametrize("family", FAMILIES)
def test_every_paper_has_an_entry(family: str) -> None:
    root: type[Component] = FAMILIES[family]
    kinds = [root.find(kind) for kind in root.kinds()]
    ours = [found.paper for found in kinds if found.paper and found.__module__.startswith("polytask.")]
    assert {paper: uncited(paper) for paper in ours if uncited(paper)} == {}


def test_entries_are_whole() -> None:
    for key, entry in entries().items():
        assert entry.count("{") == entry.count("}"), key
        assert all(f"  {field} = {{" in entry for field in ("author", "title", "year")), key
    assert cited(["Nobody 1999, arXiv:0000.00000"]) == []
    assert uncited("Nobody 1999, arXiv:0000.00000") == {"0000.00000"}


def test_importance_finds_the_columns_that_matter(run: Run) -> None:
    found = permutation_importance(run.bundle, run.prepared().test)
    assert set(found.columns) == {EMOJI, "noise", HEBREW}
    area, noise, task = found.columns.index(EMOJI), found.columns.index("noise"), found.tasks.index(SCRIPT)
    assert found.order()[0] == area
    assert found.matters(area, task)
    assert abs(found.rise[noise, task]) < 0.1 * found.rise[area, task]
    again = permutation_importance(run.bundle, run.prepared().test)
    np.testing.assert_array_equal(found.rise, again.rise)


def test_answers_are_of_the_rows_they_are_shown_with(run: Run) -> None:
    evidence = Evidence.of(run, "run")
    judged = evidence.judged[SCRIPT]
    assert np.allclose(evidence.column(SCRIPT).take(judged.index).to_numpy(), judged.truth, rtol=1e-4, atol=0.1)
    assert evidence.row_name(4) == "row 5 of houses (test)"
    scores = run.scores()[SCRIPT].scores
    assert float(np.abs(judged.views["value"] - judged.truth).mean()) == pytest.approx(scores["mae"].value, rel=1e-4)


def test_slices_cut_numbers_texts_and_holes() -> None:
    errors = np.arange(120.0)
    numbers = slices_of("x", "number", pa.array([None, *range(119)]), errors, None)
    assert [part.n_rows for part in numbers] == [30, 30, 30, 29]  # one missing cell is too few
    texts = slices_of("x", "category", pa.array(["a"] * 80 + ["b"] * 30 + [None] * 10), errors, None)
    assert [(part.name, part.n_rows) for part in texts] == [("a", 80), ("b", 30), ("missing", 10)]
    assert all(part.low < part.value < part.high for part in texts)
    many = slices_of("x", "category", pa.array([f"c{row % 12}" for row in range(120)]), errors, None)
    assert [part.name for part in many][-1] == "6 others"


def test_wilson_intervals_hold_the_share() -> None:
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        _, low, high = mean_interval((draw.random(60) < 0.9).astype(float), share=True)
        held += low <= 0.9 <= high
    assert held / 400 > 0.92
    assert mean_interval(np.array([1.0, 0.0]), np.array([0.0, 0.0]))[0] != 0


def test_canonical_correlation_knows_pearsons_and_classes() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 500, 1))
    assert canonical_correlation(x, x + y) == pytest.approx(np.corrcoef(x[:, 0], (x + y)[:, 0])[0, 1])
    codes = draw.integers(0, 3, 500)
    assert canonical_correlation(np.eye(3)[codes], np.eye(3)[(codes + 1) % 3]) == pytest.approx(1.0)
    assert math.isnan(canonical_correlation(np.ones((5, 1)), np.arange(5.0)[:, None]))


@pytest.mark.parametrize("kind", Sharing.kinds())
def test_diagnostics_say_what_their_axes_are(kind: str) -> None:
    sharing = example(Sharing, kind)
    tasks = ["price", "late", "in no. of $"]
    trunk = sharing.build(plan_of("table"), tasks)
    vectors(trunk, tasks)
    for name, value in trunk.diagnostics().items():
        axes = next((axes for start, axes in trunk.axes.items() if name.startswith(start)), None)
        if value.ndim and not type(sharing).__module__.startswith("tests."):
            assert axes is not None, name
            assert len(axes) == value.ndim, name
            for axis, size in zip(axes, value.shape, strict=True):
                assert axis != "task" or size % len(tasks) == 0, name
                assert len(axis_labels(axis, size, tasks)) == size


def test_many_rows_make_no_larger_drawings() -> None:
    draw = np.random.default_rng(0)
    sizes = []
    for n_rows in (2_000, 100_000):
        x = draw.normal(size=n_rows)
        sizes.append(len(predicted_against_true(x, x + draw.normal(size=n_rows))))
    assert max(sizes) < 60_000
    assert len(calibration([{"said": 0.5, "true": 0.4, "low": 0.3, "high": 0.6}])) < 10_000


def test_ticks_say_what_they_are() -> None:
    told = re.findall(r">([\d.]+)</text>", lines([([1, 2, 3], [0.0101, 0.0102, 0.0103], 1)], "epoch", "loss"))
    heights = [float(text) for text in told if text.startswith("0.01")]
    assert len(heights) == len(set(heights)) >= 3
    assert 0.0101 in heights


def test_flops_are_those_of_the_layers(run: Run) -> None:
    matrices = sum(p.numel() for p in run.bundle.model.parameters() if p.ndim > 1)
    assert 2 * 0.2 * matrices < flops(run.bundle) < 2 * 64 * matrices
    assert agreement_of(run.history).pairs

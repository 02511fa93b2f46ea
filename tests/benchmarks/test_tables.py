from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tables import METHODS, Results, main, measure, ratio_interval, show, summarize, telling
from polytask.preparation import prepare
from polytask.recipe import Recipe
from polytask.sources import Frame
from polytask.tasks import Binary, Count, Multiclass, Regression
from polytask.training import Trainer
from tests.houses import houses


@pytest.fixture(scope="module")
def measured() -> Results:
    frame = houses(300).rename(columns={"age": "years"})
    frame["sqft_living"] = frame["sqft_living"].where(np.arange(300) % 3 > 0)
    tasks = [Regression("sqft_living"), Multiclass("condition"), Binary("waterfront"), Count("rooms")]
    recipe = Recipe(sources=[Frame(frame)], tasks=tasks, encoder={"kind": "table", "width": 16}, trainer=Trainer(epochs=3))
    return measure("houses", recipe, prepare(recipe), 2)


def test_every_method_is_judged_on_the_same_rows(measured: Results) -> None:
    for part in ("validation", "test"):
        for task, found in measured.losses[part].items():
            assert tuple(found) == METHODS
            assert {losses.shape for losses in found.values()} == {(2, 45)}
            missing = np.isnan(found["constant"])
            assert all(np.array_equal(np.isnan(losses), missing) for losses in found.values())
            assert bool(missing.any()) == (task == "sqft_living")


def test_the_constant_has_a_loss_of_about_one_and_what_learns_a_lower_one(measured: Results) -> None:
    for found in measured.losses["validation"].values():
        means = {method: float(np.nanmean(losses)) for method, losses in found.items()}
        assert means["constant"] == pytest.approx(1, abs=0.4)
        assert means["linear"] < 0.8 * means["constant"]
        assert means["boosting"] < 0.8 * means["constant"]


def test_networks_differ_by_seed_and_baselines_do_not(measured: Results) -> None:
    found = measured.losses["test"]["condition"]
    same = {method for method, losses in found.items() if np.array_equal(losses[0], losses[1])}
    assert same == {"constant", "linear", "boosting", "boosting+"}


def test_the_ratio_is_the_geometric_mean_over_tasks_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 1.5, (2, 200))
    halved = {"constant": base, "alone": base, "together": base / 2}
    doubled = {"constant": base, "alone": base, "together": base * 2 * rng.uniform(0.9, 1.1, base.shape)}
    ratio, low, high = ratio_interval([[halved], [doubled]], "alone")
    assert low < ratio < high
    assert ratio == pytest.approx(1, abs=0.02)
    assert ratio_interval([[halved]], "alone") == pytest.approx((0.5, 0.5, 0.5))


def test_tasks_with_nothing_to_predict_are_left_out_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    some, none = ({method: np.full((1, 9), value) for method in METHODS} for value in (0.9, 0.01))
    result = Results("none", {}, {"test": {"some": some, "none": none}}, dict.fromkeys(METHODS, 0.0))
    assert telling([result], "test") == [[some]]
    summarize([result], ["test"])
    assert "1 tasks left out" in capsys.readouterr().out


def test_a_method_that_is_skipped_is_neither_fitted_nor_shown(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(sources=[Frame(houses(100))], tasks=[Regression("price")], trainer=Trainer(epochs=1))
    prepared = prepare(recipe)
    result = measure("houses", recipe, prepared, 1, ["alone", "boosting", "boosting+"])
    assert list(result.losses["test"]["price"]) == ["constant", "linear", "together"]
    show(result, ["validation"])
    summarize([result], ["validation"])
    out = capsys.readouterr().out
    assert "to linear" in out
    assert "alone" not in out


def test_what_was_kept_is_shown_again(
    measured: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "kept.npz", **measured.to_arrays())
    show(measured, ["validation", "test"])
    summarize([measured], ["validation", "test"])
    expected = capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["tables.py", "--saved", str(tmp_path / "kept.npz")])
    main()
    assert capsys.readouterr().out == expected


def test_the_better_boosting_is_chosen_on_validation(measured: Results) -> None:
    for found in measured.losses["validation"].values():
        assert float(np.nanmean(found["boosting+"])) <= float(np.nanmean(found["boosting"]))

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch import Tensor

from polytask.errors import PolytaskError
from polytask.intervals import bootstrap_interval
from polytask.scorer import Scorer, user_scorer
from polytask.scores import Score, Scores, TaskScores, score_task
from polytask.tasks._metrics import binary_scorers, multiclass_scorers, ordinal_scorers, regression_scorers

NAN = math.nan


def rows(n: int = 400, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Predictions and truths of a yes-or-no task."""
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(n, generator=generator, dtype=torch.float64)
    target = (torch.rand(n, generator=generator) < probability).long()
    return {"probability": probability, "label": (probability > 0.5).long()}, target


def constant(n: int = 400) -> dict[str, Tensor]:
    return {"probability": torch.full((n,), 0.5, dtype=torch.float64), "label": torch.zeros(n, dtype=torch.long)}


def scored(metrics: Mapping[str, Scorer] | None = None, **options: Any) -> TaskScores:
    views, target = rows()
    return score_task("spam", "binary", metrics or binary_scorers(), views, constant(), target, **options)


def houses() -> Scores:
    price = {
        "r2": Score(0.87312, 0.8612, 0.8841, -0.00012, True),
        "rmse": Score(131234.5, 125012.0, 138220.0, 366991.0, False),
        "mae": Score(71234.0, 69512.0, 73123.0, 233456.0, False),
    }
    waterfront = {"accuracy": Score(0.9952, 0.9931, 0.9972, 0.9921, True), "roc_auc": Score(NAN, NAN, NAN, NAN, True)}
    return Scores(
        {
            "price": TaskScores("price", "regression", 4323, price),
            "waterfront": TaskScores("waterfront", "binary", 87, waterfront),
        }
    )


class TestScoring:
    def test_every_metric_has_a_value_an_interval_around_it_and_the_constant_s_score(self) -> None:
        found = scored()
        assert (found.task, found.kind, found.n_rows, list(found.scores)) == ("spam", "binary", 400, list(binary_scorers()))
        for score in found.scores.values():
            assert score.low < score.value < score.high
        assert found.scores["roc_auc"].constant == 0.5
        assert found.scores["log_loss"].constant == pytest.approx(math.log(2))
        assert not found.scores["log_loss"].higher_is_better

    def test_an_interval_is_the_bootstrap_of_scikit_learn_s_metric(self) -> None:
        views, target = rows()
        order = views["probability"].argsort().numpy()
        probability, truth = views["probability"].numpy()[order], target.numpy()[order]
        theirs = bootstrap_interval(
            lambda rows: float(roc_auc_score(truth[rows], probability[rows])), 400, n_resamples=100, seed=3
        )
        ours = scored(n_resamples=100, seed=3).scores["roc_auc"]
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)

    def test_a_seed_gives_the_same_interval_again(self) -> None:
        assert scored(seed=1, n_resamples=50) == scored(seed=1, n_resamples=50)
        assert scored(seed=1, n_resamples=50) != scored(seed=2, n_resamples=50)

    def test_labels_of_a_rare_class_do_not_warn_and_leave_out_what_is_undefined(self) -> None:
        views, target = rows(60)
        target = torch.zeros_like(target)
        target[:3] = 1
        found = score_task("rare", "binary", binary_scorers(), views, constant(60), target)
        assert math.isfinite(found.scores["roc_auc"].low)
        nothing = score_task("none", "binary", binary_scorers(), views, constant(60), torch.zeros_like(target))
        auc = nothing.scores["roc_auc"]
        assert all(map(math.isnan, (auc.value, auc.low, auc.high, auc.constant)))
        assert nothing.scores["accuracy"].low < nothing.scores["accuracy"].high

    @pytest.mark.parametrize("scorers", [multiclass_scorers("abcd"), ordinal_scorers("abcd")])
    def test_classes(self, scorers: dict[str, Scorer]) -> None:
        generator = torch.Generator().manual_seed(0)
        target = torch.randint(4, (300,), generator=generator)
        probability = (torch.randn(300, 4, generator=generator) + 2 * torch.eye(4)[target]).softmax(1).double()
        views = {"probability": probability, "label": probability.argmax(1)}
        for score in score_task("t", "multiclass", scorers, views, {}, target, n_resamples=100).scores.values():
            assert score.low < score.value < score.high
            assert math.isnan(score.constant)

    def test_one_row_has_values_without_intervals(self) -> None:
        value = torch.tensor([1.5])
        found = score_task(
            "t", "regression", regression_scorers(), {"value": value}, {"value": value}, torch.tensor([1.0])
        ).scores
        assert found["mae"].value == 0.5
        assert math.isnan(found["mae"].low)
        assert math.isnan(found["r2"].value)

    def test_a_prediction_that_is_nan_has_no_score(self) -> None:
        views, target = rows()
        views["probability"][7] = NAN
        found = score_task("t", "binary", binary_scorers(), views, constant(), target, n_resamples=10).scores
        assert math.isnan(found["roc_auc"].value)
        assert math.isfinite(found["roc_auc"].constant)

    def test_a_user_s_metric_warns_once_not_once_a_resample(self) -> None:
        def noisy(y_true: Any, y_pred: Any) -> float:
            warnings.warn("mind the gap", UserWarning, stacklevel=1)
            return float((y_true == y_pred).mean())

        with pytest.warns(UserWarning, match="mind the gap") as heard:
            found = scored({"noisy": user_scorer(noisy, binary_scorers())}, n_resamples=50)
        assert len(heard) == 2  # on the prediction and on the constant
        assert found.scores["noisy"].value == pytest.approx(scored(n_resamples=0).scores["accuracy"].value)

    def test_a_user_s_metric_may_be_undefined_on_a_resample(self) -> None:
        def picky(y_true: Any, y_pred: Any) -> float:
            if len(np.unique(y_true)) < 2:
                raise ValueError("one class only")
            return float((y_true == y_pred).mean())

        labels = torch.tensor([0, 1, 1, 1, 1])
        scorers = {"picky": user_scorer(picky, binary_scorers())}
        found = score_task("t", "binary", scorers, {"label": labels}, {}, torch.tensor([0, 1, 1, 1, 0])).scores["picky"]
        assert found.low < found.value < found.high

    def test_a_user_s_metric_that_fails_is_named(self) -> None:
        def broken(y_true: Any, y_pred: Any) -> float:
            raise TypeError("no such thing")

        with pytest.raises(PolytaskError, match="task 'spam': the metric 'broken' failed: TypeError: no such thing"):
            scored({"broken": user_scorer(broken, binary_scorers())})

    def test_a_view_that_a_task_does_not_have_is_named(self) -> None:
        with pytest.raises(
            PolytaskError, match="task 'spam': the metric 'r2' reads the 'value' of a prediction, which a binary task"
        ):
            scored(regression_scorers())


class TestScores:
    def test_is_a_mapping_of_tasks(self) -> None:
        scores = houses()
        assert list(scores) == ["price", "waterfront"]
        assert len(scores) == 2
        assert scores["price"].scores["r2"].value == 0.87312
        assert "pric" not in scores
        with pytest.raises(KeyError, match="Did you mean 'price'"):
            scores["pric"]

    def test_survives_json_with_what_is_undefined(self) -> None:
        text = json.dumps(houses().to_dict(), allow_nan=False)
        again = Scores.from_dict(json.loads(text))
        assert again.to_dict() == houses().to_dict()
        assert again["price"] == houses()["price"]
        assert math.isnan(again["waterfront"].scores["roc_auc"].value)
        assert str(again) == str(houses())

    @pytest.mark.parametrize(
        "values", [{"price": 3}, {"price": {"kind": "regression"}}, [], {"t": {"kind": "x", "n_rows": 1, "scores": {"r2": {}}}}]
    )
    def test_what_is_no_scores_is_refused(self, values: Any) -> None:
        with pytest.raises(PolytaskError, match="not the scores of a run"):
            Scores.from_dict(values)

    def test_prints_a_table_with_the_digits_that_its_intervals_bear(self) -> None:
        assert str(houses()).splitlines() == [
            "task        metric      score       95 % interval  constant   rows",
            "price       r2          0.873      0.861 to 0.884     0.000  4,323",
            "            rmse      131,000  125,000 to 138,000   367,000",
            "            mae        71,200    69,500 to 73,100   233,500",
            "waterfront  accuracy   0.9952    0.9931 to 0.9972    0.9921     87",
            "            roc_auc         -                   -         -",
            "constant: the best prediction that is the same for every row.",
        ]

    def test_folds_long_names_and_no_number(self) -> None:
        score = Score(-123456789.5, -133456789.5, -113456789.5, 1e300, True)
        scores = Scores({"t" * 80: TaskScores("t" * 80, "regression", 10**9, {"m" * 80: score})})
        lines = str(scores).splitlines()
        assert max(map(len, lines)) <= 100
        assert lines[1].split()[2:] == ["-123,000,000", "-133,000,000", "to", "-113,000,000", "1e+300", "1,000,000,000"]
        assert "".join(line.split()[0] for line in lines[1:-1]) == "t" * 80

    @pytest.mark.parametrize(
        ("value", "low", "high", "shown"),
        [
            (0.0, NAN, NAN, "0.000"),
            (12.3456, NAN, NAN, "12.3"),
            (0.5, 0.5, 0.5, "0.500"),
            (1.23e-9, 1.1e-9, 1.4e-9, "1.23e-09"),
            (3e15, 2e15, 4e15, "3e+15"),
            (0.87, -0.3, 0.9, "0.87"),
            (math.inf, NAN, NAN, "inf"),
            (1234567.0, 1234566.0, 1234568.2, "1,234,567.0"),
        ],
    )
    def test_digits(self, value: float, low: float, high: float, shown: str) -> None:
        scores = Scores({"t": TaskScores("t", "regression", 5, {"m": Score(value, low, high, NAN, True)})})
        assert str(scores).splitlines()[1].split()[2] == shown

    def test_html_escapes_names(self) -> None:
        scores = Scores({"<b>": TaskScores("<b>", "regression", 5, {"r2": Score(0.5, 0.4, 0.6, 0.0, True)})})
        made = scores._repr_html_()
        assert "&lt;b&gt;" in made
        assert "<b>" not in made
        assert made.count("<tr>") == 2

    def test_rich_takes_names_for_names(self) -> None:
        scores = Scores({"[red]x": TaskScores("[red]x", "regression", 5, {"r2": Score(0.5, 0.4, 0.6, 0.0, True)})})
        page = StringIO()
        Console(file=page, width=100).print(scores)
        assert "[red]x" in page.getvalue()

    def test_no_tasks(self) -> None:
        assert str(Scores({})).splitlines()[0].split() == ["task", "metric", "score", "95", "%", "interval", "constant", "rows"]

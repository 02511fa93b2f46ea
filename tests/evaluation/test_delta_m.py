"""Delta-m against the numbers that papers print.

The metrics of NYUv2 are those of the tables that CAGrad, Nash-MTL, FAMO, FairGrad, SDMGrad and NTKMTL share, with the one
single-task run that all of them have copied since CAGrad; those of Cityscapes are in sdmgrad's ``experiments/mean_rank.py``.
"""

from __future__ import annotations

import math

import pytest

from polytask.errors import PolytaskError
from polytask.evaluation.delta_m import delta_m

Metrics = dict[str, dict[str, float]]

NYUV2 = {
    "segmentation": {"miou": True, "pixel_accuracy": True},
    "depth": {"abs_error": False, "rel_error": False},
    "normals": {"mean": False, "median": False, "within_11": True, "within_22": True, "within_30": True},
}
NYUV2_ALONE = (38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15)
CITYSCAPES = {"segmentation": NYUV2["segmentation"], "depth": NYUV2["depth"]}
CITYSCAPES_ALONE = (74.01, 93.16, 0.0125, 27.77)

# method, metrics, Delta-m as printed (lower is better, mean over metrics), recomputed mean over metrics, and mean over tasks
NYUV2_ROWS = [
    ("LS", (39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08), 5.59, 5.59, -0.88),
    ("SI", (38.45, 64.27, 0.5354, 0.2201, 27.60, 23.37, 22.53, 48.57, 62.32), 4.39, 4.39, -1.64),
    ("RLW", (37.17, 63.77, 0.5759, 0.2410, 28.27, 24.18, 22.26, 47.05, 60.62), 7.78, 7.78, 2.16),
    ("DWA", (39.11, 65.31, 0.5510, 0.2285, 27.61, 23.18, 24.17, 50.18, 62.39), 3.57, 3.57, -1.93),
    ("UW", (36.87, 63.17, 0.5446, 0.2260, 27.04, 22.61, 23.54, 49.05, 63.65), 4.05, 4.06, -0.91),
    ("MGDA", (30.47, 59.90, 0.6070, 0.2555, 24.88, 19.45, 29.18, 56.88, 69.36), 1.38, 1.38, 1.66),
    ("PCGrad", (38.06, 64.64, 0.5550, 0.2325, 27.41, 22.80, 23.86, 49.83, 63.14), 3.97, 3.97, -1.11),
    ("GradDrop", (39.39, 65.12, 0.5455, 0.2279, 27.48, 22.96, 23.38, 49.44, 62.87), 3.58, 3.58, -2.07),
    ("CAGrad", (39.79, 65.49, 0.5486, 0.2250, 26.31, 21.58, 25.61, 52.36, 65.58), 0.20, 0.19, -4.33),
    # printed as -0.76 wherever it stands, which these metrics do not give
    ("IMTL-G", (39.35, 65.60, 0.5426, 0.2256, 26.02, 21.19, 26.20, 53.13, 66.24), None, -0.60, -4.77),
    ("Nash-MTL", (40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15), -4.04, -4.05, -7.65),
    ("FAMO", (38.88, 64.90, 0.5474, 0.2194, 25.06, 19.57, 29.21, 56.61, 68.98), -4.10, -4.10, -6.79),
    ("FairGrad", (39.74, 66.01, 0.5377, 0.2236, 24.84, 19.60, 29.26, 56.58, 69.16), -4.66, -4.66, -7.52),
    ("SDMGrad", (40.47, 65.90, 0.5225, 0.2084, 25.07, 19.99, 28.54, 55.74, 68.53), -4.84, -4.85, -8.58),
]
CITYSCAPES_ROWS = [
    ("LS", (75.18, 93.49, 0.0155, 46.77), 22.60, 22.62),
    ("SI", (70.95, 91.73, 0.0161, 33.83), 14.11, 14.07),
    ("RLW", (74.57, 93.41, 0.0158, 47.79), 24.38, 24.37),
    ("DWA", (75.24, 93.52, 0.0160, 44.37), 21.45, 21.43),
    ("UW", (72.02, 92.85, 0.0140, 30.13), 5.89, 5.88),
    ("MGDA", (68.84, 91.54, 0.0309, 33.50), 44.14, 44.14),
    ("IMTL-G", (75.33, 93.49, 0.0135, 38.41), 11.10, 11.04),
    ("Nash-MTL", (75.41, 93.66, 0.0129, 35.02), 6.82, 6.72),
    ("FAMO", (74.54, 93.29, 0.0145, 32.59), 8.13, 8.13),
]


def by_task(better: dict[str, dict[str, bool]], numbers: tuple[float, ...]) -> Metrics:
    values = iter(numbers)
    named = {task: {name: next(values) for name in names} for task, names in better.items()}
    assert next(values, None) is None
    return named


@pytest.mark.parametrize(
    ("method", "numbers", "printed", "over_metrics", "over_tasks"), NYUV2_ROWS, ids=[row[0] for row in NYUV2_ROWS]
)
def test_nyuv2(method: str, numbers: tuple[float, ...], printed: float | None, over_metrics: float, over_tasks: float) -> None:
    found = delta_m(by_task(NYUV2, numbers), by_task(NYUV2, NYUV2_ALONE), NYUV2)
    assert -found.by_metric == pytest.approx(over_metrics, abs=0.0051)
    assert -found.by_task == pytest.approx(over_tasks, abs=0.0051)
    assert printed is None or -found.by_metric == pytest.approx(printed, abs=0.015)


@pytest.mark.parametrize(
    ("method", "numbers", "printed", "recomputed"), CITYSCAPES_ROWS, ids=[row[0] for row in CITYSCAPES_ROWS]
)
def test_cityscapes(method: str, numbers: tuple[float, ...], printed: float, recomputed: float) -> None:
    found = delta_m(by_task(CITYSCAPES, numbers), by_task(CITYSCAPES, CITYSCAPES_ALONE), CITYSCAPES)
    assert -found.by_metric == pytest.approx(recomputed, abs=0.0051)
    assert -found.by_metric == pytest.approx(printed, abs=0.11)  # they are printed from metrics of more digits
    assert found.by_metric == pytest.approx(found.by_task)  # both tasks have two metrics


def test_the_conventions_disagree_on_whether_equal_weights_beat_single_task_training() -> None:
    equal = {row[0]: row[1] for row in NYUV2_ROWS}["LS"]
    found = delta_m(by_task(NYUV2, equal), by_task(NYUV2, NYUV2_ALONE), NYUV2)
    assert found.by_metric < 0 < found.by_task
    assert found.per_task["normals"] < 0 < found.per_task["segmentation"] < found.per_task["depth"]


def test_equal_networks_gain_nothing() -> None:
    alone = by_task(NYUV2, NYUV2_ALONE)
    found = delta_m(alone, alone, NYUV2)
    assert (found.by_metric, found.by_task, set(found.per_task.values())) == (0, 0, {0.0})


def test_better_is_positive_whichever_way_a_metric_points_and_whatever_its_sign() -> None:
    better = {"t": {"up": True, "down": False, "r2": True}}
    found = delta_m({"t": {"up": 2.2, "down": 0.9, "r2": -0.09}}, {"t": {"up": 2.0, "down": 1.0, "r2": -0.1}}, better)
    assert found.by_metric == pytest.approx(10)


def test_a_baseline_of_zero_and_an_undefined_metric_are_left_out_and_named() -> None:
    better = {"stars": {"kappa": True, "mae": False}, "rare": {"roc_auc": True}}
    alone = {"stars": {"kappa": 0.0, "mae": 2.0}, "rare": {"roc_auc": math.nan}}
    found = delta_m({"stars": {"kappa": 0.1, "mae": 1.0}, "rare": {"roc_auc": 0.5}}, alone, better)
    assert found.left_out == ("stars: kappa", "rare: roc_auc")
    assert (found.by_metric, found.by_task, found.per_task["stars"]) == (50, 50, 50)
    assert math.isnan(found.per_task["rare"])


def test_nothing_left_is_nan() -> None:
    found = delta_m({"t": {"f1": 0.5}}, {"t": {"f1": 0.0}}, {"t": {"f1": True}})
    assert math.isnan(found.by_metric)
    assert math.isnan(found.by_task)


def test_only_networks_scored_alike_are_compared() -> None:
    with pytest.raises(PolytaskError, match="on one side only: price: mae, price: rmse"):
        delta_m({"price": {"mae": 1.0}}, {"price": {"rmse": 1.0}}, {"price": {"mae": False, "rmse": False}})
    with pytest.raises(PolytaskError, match="no metric"):
        delta_m({}, {}, {})

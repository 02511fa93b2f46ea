"""Short trainings on real data: the scores make sense to a reader who knows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from polytask import ARFF, CSV, Binary, Count, Multiclass, Ordinal, Recipe, Regression, Run, Split, Trainer, fit

Shared = Callable[[str], Path]
ADULT = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
]


def fitted(epochs: int, **fields: Any) -> Run:
    return fit(Recipe(trainer=Trainer(epochs=epochs, device="cpu"), **fields))


def score(run: Run, task: str, metric: str) -> float:
    return run.scores()[task].scores[metric].value


def test_kc_house(shared_data: Shared) -> None:
    run = fitted(
        4,
        sources=[CSV(shared_data("kc_house") / "kc_house_data.csv")],
        tasks=[Regression("price"), Regression("sqft_living"), Ordinal("condition"), Binary("waterfront")],
        drop=["sqft_above", "sqft_basement"],
        split=Split(group="id"),
    )
    assert score(run, "price", "r2") > 0.8
    assert score(run, "sqft_living", "r2") > 0.8
    assert score(run, "condition", "accuracy") > 0.66
    assert score(run, "waterfront", "roc_auc") > 0.97
    assert run.bundle.tasks["waterfront"].codec.classes == (0, 1)


def test_student_as_two_sources(shared_data: Shared) -> None:
    folder = shared_data("student")
    tasks = [
        Regression("maths", column="G3", source="student-mat"),
        Regression("portuguese", column="G3", source="student-por"),
    ]
    run = fitted(8, sources=[CSV(folder / "student-mat.csv"), CSV(folder / "student-por.csv")], tasks=tasks)
    assert score(run, "maths", "r2") > 0.6
    assert score(run, "portuguese", "r2") > 0.6
    assert list(run.evaluate(folder / "student-mat.csv")) == ["maths"]


def test_bike_sharing_by_time(shared_data: Shared) -> None:
    source = CSV(shared_data("bike_sharing") / "hour.csv")
    run = fitted(
        6, sources=[source], tasks=[Count("casual"), Count("registered")], drop=["cnt", "instant"], split=Split(time="dteday")
    )
    assert score(run, "casual", "r2") > 0.6
    assert score(run, "registered", "r2") > 0.7


def test_adult_with_its_own_test_file(shared_data: Shared) -> None:
    folder = shared_data("adult")
    options: dict[str, Any] = {"header": False, "names": ADULT, "missing": ["?"], "strip": "."}
    run = fitted(
        2,
        sources=[CSV(folder / "adult.data", test=folder / "adult.test", **options)],
        tasks=[Binary("income"), Multiclass("marital_status"), Regression("hours_per_week")],
        drop=["fnlwgt"],
    )
    assert run.scores()["income"].n_rows > 16_000
    assert run.bundle.tasks["income"].codec.classes == ("<=50K", ">50K")
    assert score(run, "income", "roc_auc") > 0.88
    assert score(run, "marital_status", "accuracy") > 0.75


def test_enb_from_arff(shared_data: Shared) -> None:
    run = fitted(30, sources=[ARFF(shared_data("mulan_mtr") / "enb.arff")], tasks=[Regression("Y1"), Regression("Y2")])
    assert score(run, "Y1", "r2") > 0.98
    assert score(run, "Y2", "r2") > 0.95

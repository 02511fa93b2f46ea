"""Columns may be called anything: blanks, colons, quotes, Chinese characters, from the file to the answers and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polytask import CSV, Binary, Multiclass, Recipe, Regression, Trainer, fit, load
from tests.houses import houses

PRICE, TOWN, LAKE = "价格: 万元", "所在 区域", 'at the "lake", yes: 1'
NAMES = {"sqft_living": "面积 (平方米)", "suburb": TOWN, "price": PRICE, "waterfront": LAKE, "age": "house age: years"}
TOWNS = {"north": "海淀区", "south": "朝阳区", "lake": "湖: 边"}
TASKS = [Regression(PRICE), Multiclass(TOWN), Binary(LAKE)]


def named_houses() -> pd.DataFrame:
    return houses(200)[list(NAMES)].rename(columns=NAMES).replace({TOWN: TOWNS})


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "gb18030", "utf-16", "utf-8-sig"])
def test_odd_names_from_file_to_answers(tmp_path: Path, encoding: str) -> None:
    frame = named_houses()
    frame.to_csv(tmp_path / "房 价.csv", index=False, encoding=encoding)
    source = CSV(tmp_path / "房 价.csv", encoding=encoding)
    recipe = Recipe(sources=[source], tasks=TASKS, trainer=Trainer(epochs=3), columns={"house age: years": "number"})
    fit(recipe, tmp_path / "run")
    run = load(tmp_path / "run")
    assert list(run.scores()) == [PRICE, TOWN, LAKE]
    assert PRICE in str(run.scores())

    new = frame.drop(columns=[PRICE, TOWN, LAKE])
    new.to_csv(tmp_path / "new.csv", index=False, encoding=encoding)
    answers = run.predict(tmp_path / "new.csv", probabilities=True)
    assert answers.column_names[:2] == [PRICE, TOWN]
    assert {f"{TOWN}:{town}" for town in TOWNS.values()} < set(answers.column_names)
    assert set(answers[TOWN].to_pylist()) <= set(TOWNS.values())
    np.testing.assert_allclose(run.predict(new)[PRICE], answers[PRICE].to_numpy(), rtol=1e-6)
    assert run.evaluate(tmp_path / "房 价.csv")[LAKE].n_rows == 200


def test_a_recipe_keeps_odd_names() -> None:
    recipe = Recipe(sources=[CSV("房 价.csv", encoding="gbk")], tasks=TASKS, drop=["编号"], primary=[PRICE])
    assert Recipe.from_yaml_text(recipe.to_yaml()) == recipe
    assert "价格: 万元" in recipe.to_yaml()

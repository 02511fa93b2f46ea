"""From a recipe to tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from polytask import CSV, Binary, Frame, Multiclass, Ordinal, PolytaskError, Recipe, Regression, Split
from polytask.preparation import prepare
from tests.houses import houses


def recipe(**fields: Any) -> Recipe:
    tasks = fields.pop("tasks", [Regression("price"), Ordinal("condition")])
    return Recipe(sources=fields.pop("sources", [Frame(houses())]), tasks=tasks, **fields)


def test_rows_are_split_and_labels_are_no_inputs() -> None:
    prepared = prepare(recipe(drop=["id"]))
    assert [part.n_rows for part in (prepared.training, prepared.validation, prepared.test)] == [280, 60, 60]
    assert not {"id", "price", "condition"} & set(prepared.inputs[0].codec.names)


def test_a_column_is_barred_only_where_it_labels_a_task_of_the_same_source() -> None:
    first, second = houses(100, 1), houses(150, 2)
    sources = [Frame(first.drop(columns="sqft_living"), name="prices"), Frame(second.drop(columns="lot"), name="areas")]
    tasks = [Regression("price", source="prices"), Regression("sqft_living", source="areas")]
    prepared = prepare(recipe(sources=sources, tasks=tasks))
    assert "price" in prepared.inputs[1].codec.names
    assert "price" not in prepared.inputs[0].codec.names
    assert [part.sources for part in prepared.inputs] == [{"prices": ("price",)}, {"areas": ("sqft_living",)}]
    data = prepared.training
    assert bool((data.present["price"] ^ data.present["sqft_living"]).all())


def test_two_files_with_a_column_of_the_same_name_have_one_input_set() -> None:
    sources = [Frame(houses(100, 1), name="maths"), Frame(houses(150, 2), name="portuguese")]
    tasks = [Regression("m", column="price", source="maths"), Regression("p", column="price", source="portuguese")]
    prepared = prepare(recipe(sources=sources, tasks=tasks))
    assert len(prepared.inputs) == 1
    assert prepared.training.n_rows == round(0.7 * 100) + 150 - 2 * round(0.15 * 150)


def test_a_source_brings_its_own_test_rows() -> None:
    prepared = prepare(recipe(sources=[Frame(houses(200), test=houses(50, 9))]))
    assert prepared.test.n_rows == 50
    assert prepared.validation.n_rows == 30


def test_groups_do_not_straddle_and_are_no_input() -> None:
    frame = houses(300)
    frame["id"] = frame["id"] // 3
    prepared = prepare(recipe(sources=[Frame(frame)], split=Split(group="id")))
    assert "id" not in prepared.inputs[0].codec.names


def test_rows_without_any_label_are_left_out_and_missing_labels_are_marked() -> None:
    frame = houses(200)
    frame.loc[:79, "price"] = np.nan
    frame["condition"] = frame["condition"].astype("Int64")
    frame.loc[:39, "condition"] = pd.NA
    prepared = prepare(recipe(sources=[Frame(frame)]))
    parts = (prepared.training, prepared.validation, prepared.test)
    assert sum(part.n_rows for part in parts) == 160
    assert sum(int(part.present["price"].sum()) for part in parts) == 120
    assert all(bool(torch.isfinite(part.targets["price"]).all()) for part in parts)


def test_codecs_see_training_rows_only() -> None:
    frame = houses(200)
    changed = frame.copy()
    held_out = Frame(frame.iloc[:100], test=frame.iloc[100:])
    changed.loc[100:, ["price", "lot"]] *= 7
    changed_held_out = Frame(changed.iloc[:100], test=changed.iloc[100:])
    one, two = prepare(recipe(sources=[held_out])), prepare(recipe(sources=[changed_held_out]))
    assert one.inputs == two.inputs
    assert [fitted.codec for fitted in one.tasks] == [fitted.codec for fitted in two.tasks]


def test_a_split_does_not_depend_on_the_order_of_files_read(tmp_path: Path) -> None:
    houses(120).to_csv(tmp_path / "h.csv", index=False)
    one, two = (prepare(recipe(sources=[CSV(tmp_path / "h.csv")])) for _ in range(2))
    assert torch.equal(one.test.targets["price"], two.test.targets["price"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": [Regression("prise")]}, "task 'prise': no column 'prise' in frame. Did you mean 'price'?"),
        ({"drop": ["idd"]}, "drop: no column 'idd'. Did you mean 'id'?"),
        ({"columns": {"agee": "number"}}, "columns: no column 'agee'. Did you mean 'age'?"),
        ({"split": {"group": "idd"}}, "split.group, source 'frame': no column 'idd'"),
        ({"split": {"stratify": ["prize"]}}, "split.stratify: no task 'prize'"),
        ({"tasks": [Binary("condition")]}, "a binary task has two classes. Found: 4 values in 280 rows: 2, 3, 4, 5."),
        (
            {"tasks": [Regression("suburb")]},
            "task 'suburb', column 'suburb': 400 labels are not numbers. Found: 'south' in row 1 of frame, ",
        ),
        ({"sources": [Frame(houses(), inputs=["price", "age"])]}, "column 'price' labels task 'price' of the same source"),
        ({"sources": [Frame(houses(), inputs=["agee"])]}, "no column 'agee'. Did you mean 'age'?"),
        (
            {"sources": [Frame(houses(), name="a"), Frame(houses()[["age", "lot"]], name="b")]},
            "source 'b': this source labels no task",
        ),
    ],
)
def test_mistakes_name_their_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        prepare(recipe(**fields))
    assert message in str(caught.value)


def test_a_task_without_training_labels_is_refused_or_kept_as_asked() -> None:
    frame = houses(100)
    sources = [Frame(frame.assign(price=np.nan), test=frame.iloc[:20], validation=frame.iloc[20:40])]
    with pytest.raises(PolytaskError, match="task 'price', column 'price': no training row has a label"):
        prepare(recipe(sources=sources))
    prepared = prepare(recipe(sources=sources, unlabeled="keep", drop=["id"]))
    assert prepared.notes == ("task 'price' has no label in the training rows: its head stays untrained",)


def test_a_part_without_labels_is_said() -> None:
    frame = houses(100)
    held_out = frame.iloc[:20].assign(suburb=None)
    prepared = prepare(
        recipe(sources=[Frame(frame.iloc[20:], test=held_out)], tasks=[Regression("price"), Multiclass("suburb")])
    )
    assert prepared.notes == ("task 'suburb' has no label in the test rows",)

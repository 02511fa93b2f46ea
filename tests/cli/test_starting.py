"""Kinds of tasks are guessed as a reader of the column would, and `init` writes the recipe that `fit` makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from polytask.cli.arguments import Words
from polytask.cli.catalog import FAMILIES
from polytask.cli.drafting import ADVICE, draft
from polytask.cli.starting import start
from polytask.errors import PolytaskError
from polytask.guessing import guess_task
from polytask.maps import tensors
from polytask.recipe import FAMILIES as FAMILY_ROOTS
from polytask.recipe import Recipe
from tests.cli.command import write_houses


def column(*values: Any, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        ([True, False, True], "binary", "two values, False and True"),
        ([0, 1, 1, None], "binary", "two values, 0 and 1"),
        ([1.0, 2.0], "binary", "two values, 1 and 2"),
        (["yes", "no", "no"], "binary", "two values, 'no' and 'yes'"),
        (["a", "b", "c", "a"], "multiclass", "text with 3 different values"),
        ([1, 2, 3, 4, 5], "ordinal", "5 levels from 1 to 5"),
        ([1.0, 2.0, 3.0, None], "ordinal", "3 levels from 1 to 3"),
        ([-1, 0, 1], "ordinal", "3 levels from -1 to 1"),
        (list(range(12)), "ordinal", "12 levels from 0 to 11"),
        (list(range(13)), "regression", "13 different whole numbers from 0 to 12; say count if"),
        ([1, 2, 4], "regression", "3 different whole numbers from 1 to 4"),
        ([10, 20, 30], "regression", "3 different whole numbers from 10 to 30"),
        ([1.5, 2.5, 3.5], "regression", "3 different numbers from 1.5 to 3.5"),
        ([75000.5, 7700000.25, 3.0], "regression", "3 different numbers from 3 to 7700000"),
    ],
)
def test_guesses(values: list[Any], kind: str, why: str) -> None:
    guessed, reason = guess_task(column(*values))
    assert guessed == kind
    assert reason.startswith(why)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (column(), "there is nothing to learn. Found: no value in any row"),
        (column(None, None), "there is nothing to learn. Found: no value in any row"),
        (column(7, 7, None), "there is nothing to learn. Found: 7 in every row"),
        (column(*map(str, range(40))), "Found: text with 40 different values in 40 rows. If these are classes say so"),
        (column(*map(str, range(101)), *map(str, range(101))), "text with 101 different values"),
        (column(1, 2, 3, kind=pa.timestamp("us")), "a column of timestamp[us] is no task"),
        (column([1], [2]), "a column of list<item: int64> is no task"),
        (
            column("a/1.png", None, "a/2.PNG"),
            "names of 2 files, such as 'a/1.png'. If these label every pixel of an image say so",
        ),
        (column("a.npy", "b.npy"), "name:dense_regression for numbers"),
        (pa.chunked_array([tensors(np.zeros((2, 3, 4)))]), "Found: arrays of 3 x 4. If these label every pixel"),
    ],
)
def test_columns_that_are_no_task(values: pa.ChunkedArray, message: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        guess_task(values)
    assert message in str(caught.value)


@given(st.lists(st.integers(-(2**40), 2**40) | st.none()) | st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_a_column_of_numbers_is_a_task_or_says_why_not_and_never_a_count(values: list[Any]) -> None:
    try:
        kind, reason = guess_task(column(*values, kind=None if any(value is not None for value in values) else pa.float64()))
    except PolytaskError as error:
        assert "nothing to learn" in str(error)  # noqa: PT017
        assert len(set(values) - {None}) < 2
    else:
        assert kind in ("binary", "ordinal", "regression")
        assert reason


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "drops": {"drop": ["id", "lot"], "column": ["rooms:category", "age:number"]},
    "inputs": {"inputs": "age,rooms,suburb"},
    "split": {"group": "suburb", "seed": 7},
    "time": {"time": "sold"},
    "parts": {"balancer": "dwa", "epochs": 3, "primary": ["price"]},
    "set": {
        "set": ["encoder.width=32", "tasks.price.weight=2.5", "head={kind: mlp, hidden: [8, 4]}", "trainer.optimizer.lr=1e-5"]
    },
    "options of the optimizer": {"set": ["trainer.optimizer={name: SGD, momentum: 0.9}", "trainer.patience=never"]},
    "classes": {
        "set": [
            "tasks.condition.classes=[1, 2, 3, 4, 5]",
            "tasks.price.metrics=[mae]",
            "balancer=fixed",
            "balancer.weights.price=3",
        ]
    },
    "reading": {"delimiter": ",", "missing": "?,-", "strip": ".", "encoding": "latin-1"},
    "files": {"test": "houses.csv", "validation": "houses.csv"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_init_writes_the_recipe_that_fit_makes(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_houses(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = Words(files=["houses.csv"], task=["price", "condition:ordinal", "waterfront"], **options)
    text = draft(start(words, read_all=True))
    assert Recipe.from_yaml_text(text) == start(words).recipe


def test_two_files_in_one_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("mat", "por"):
        Path(folder).mkdir()
        pd.DataFrame({"age": range(40), "G3": range(40)}).to_csv(f"{folder}/student.csv", index=False)
    words = Words(
        task=["maths=mat/student.csv:G3", "portuguese=./por/../por/student.csv:G3:count", "again=mat/student.csv:age"]
    )
    started = start(words, read_all=True)
    assert [(task.name, task.kind, task.column, task.source) for task in started.recipe.tasks] == [
        ("maths", "regression", "G3", "mat/student"),
        ("portuguese", "count", "G3", "por/../por/student"),
        ("again", "regression", "age", "mat/student"),
    ]
    assert list(started.guesses) == ["maths", "again"]
    assert Recipe.from_yaml_text(draft(started)) == started.recipe


def test_names_that_yaml_would_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    strange = {"a: b": range(30), "yes": range(30), "# no": range(30), "1.0": range(30), "- x": range(30), "größe": range(30)}
    pd.DataFrame({**strange, "y": range(30)}).to_csv("t.csv", index=False)
    words = Words(files=["t.csv"], task=["y"], column=['"a: b":category', "yes:number"], drop=["# no"])
    text = draft(start(words, read_all=True))
    assert Recipe.from_yaml_text(text) == start(words).recipe
    # The guesses are comments, and taking the marks away leaves YAML that says the same.
    uncommented = "\n".join(line.removeprefix("# ") if line.startswith("#   ") else line for line in text.splitlines())
    kinds = yaml.safe_load(uncommented)["columns"]
    assert kinds == {"a: b": "category", "yes": "number", "1.0": "number", "- x": "number", "größe": "number"}


def test_a_change_of_how_a_file_is_read_comes_before_the_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("x;y\n" + "".join(f"{i};{i},5\n" for i in range(30)), encoding="utf-8")
    words = {"files": ["t.csv"], "task": ["y"]}
    with pytest.raises(PolytaskError, match="text with 30 different values"):
        start(Words(**words))
    for more in ({"set": ["sources.0.decimal=','"]}, {"decimal": ","}):
        assert start(Words(**words, **more)).recipe.tasks[0].kind == "regression"
    assert start(Words(**words, set=["tasks.y.kind=multiclass"])).guesses == {}


def test_a_file_is_read_only_where_a_kind_is_to_be_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert start(Words(files=["not-there.csv"], task=["y:regression"])).tables == {}


def test_every_field_of_a_recipe_has_advice() -> None:
    assert set(ADVICE) == set(Recipe.model_fields)
    assert set(FAMILIES) == set(FAMILY_ROOTS)


def test_real_tables(shared_data: Callable[[str], Path]) -> None:
    file = str(shared_data("kc_house") / "kc_house_data.csv")
    tasks = ["price", "condition", "grade", "waterfront", "view", "bedrooms"]
    kinds = {task.name: task.kind for task in start(Words(files=[file], task=tasks)).recipe.tasks}
    assert kinds == {
        "price": "regression",
        "condition": "ordinal",
        "grade": "regression",  # nobody has a 2
        "waterfront": "binary",
        "view": "ordinal",
        "bedrooms": "regression",
    }

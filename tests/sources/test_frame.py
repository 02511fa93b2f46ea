from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from polytask.errors import PolytaskError
from polytask.source import Source
from polytask.sources import Frame

COLUMNS = {"area": [80, 120, 95], "kind": ["flat", None, "house"], "price": [1.5, float("nan"), 2.5]}
EXPECTED = {"area": [80, 120, 95], "kind": ["flat", None, "house"], "price": [1.5, None, 2.5]}
FRAMES = {
    "pandas": pd.DataFrame(COLUMNS, index=[7, 8, 9]),
    "pandas categories": pd.DataFrame(COLUMNS).astype({"kind": "category"}),
    "polars": pl.DataFrame(COLUMNS),
    "polars categories": pl.DataFrame(COLUMNS).with_columns(pl.col("kind").cast(pl.Categorical)),
    "lazy": pl.DataFrame(COLUMNS).lazy(),
    "pyarrow": pa.table(COLUMNS),
    "mapping": {name: np.array(values) for name, values in COLUMNS.items()},
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_every_kind_of_frame_gives_the_same_table(frame: Any) -> None:
    table = Frame(frame).read()
    assert table.to_pydict() == EXPECTED
    assert [str(field.type) for field in table.schema] == ["int64", "string", "double"]


def test_every_kind_of_frame_has_the_same_fingerprint() -> None:
    assert len({Frame(frame).fingerprint() for frame in FRAMES.values()}) == 1
    other = {**COLUMNS, "kind": ["flat", None, "hut"]}
    assert Frame(other).fingerprint() != Frame(COLUMNS).fingerprint()
    assert Frame({"a": ["xy", "z"]}).fingerprint() != Frame({"a": ["x", "yz"]}).fingerprint()
    assert Frame({"a": [0, 1]}).fingerprint() != Frame({"a": [None, 1]}).fingerprint()
    assert Frame({"a": [1]}, test={"a": [2]}).fingerprint() != Frame({"a": [1]}).fingerprint()


def test_a_recipe_holds_no_rows_and_reading_says_so() -> None:
    source = Frame(COLUMNS, name="houses", inputs=("area",), test=COLUMNS)
    written = source.to_dict()
    assert written == {"kind": "frame", "name": "houses", "inputs": ["area"]}
    rebuilt = Source.coerce(written)
    assert rebuilt.label == "houses"
    with pytest.raises(
        PolytaskError, match=r"houses: the rows .* in memory.* Pass the data again: Frame\(data, name='houses'\)"
    ):
        rebuilt.read()
    with pytest.raises(PolytaskError, match="Pass the data again"):
        rebuilt.fingerprint()


def test_rows_are_not_in_the_schema_nor_in_the_repr() -> None:
    assert set(Frame.model_json_schema()["properties"]) == {"name", "inputs"}
    assert "80" not in repr(Frame(COLUMNS))


def test_later_changes_to_the_frame_do_not_reach_the_source() -> None:
    frame, array = pd.DataFrame({"a": [1, 2], "b": [1.0, 2.0]}), np.array([1, 2])
    sources = Frame(frame), Frame({"a": array})
    frame.loc[0] = 99
    array[0] = 99
    assert sources[0].read().to_pydict() == {"a": [1, 2], "b": [1.0, 2.0]}
    assert sources[1].read().to_pydict() == {"a": [1, 2]}


def test_a_frame_equals_itself() -> None:
    assert Frame(pa.table(COLUMNS), name="a") == Frame(pa.table(COLUMNS), name="a")
    assert Frame({"a": [1]}) != Frame({"a": [2]})


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (3, "not a data frame. Found: int."),
        ({"a": [1, 2], "b": [1]}, "columns of different lengths. Found: 'a' has 2 rows, 'b' has 1 rows."),
        ({"a": np.zeros((2, 2))}, "column 'a' is not one-dimensional. Found: shape (2, 2)."),
        ({"a": np.array([1, "x"], dtype=object)}, "column 'a': "),
        (pd.DataFrame({"a": [1, "x"]}, dtype=object), "the data frame cannot become a table: "),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), "'a' 2 times"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a' 2 times"),
    ],
)
def test_what_is_no_frame(data: Any, told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        Frame(data)
    assert told in str(caught.value)


def test_a_frame_with_booleans_has_a_fingerprint() -> None:
    first, second = (Frame(pa.table({"flag": [True, None, last]})).fingerprint() for last in (True, False))
    assert first != second

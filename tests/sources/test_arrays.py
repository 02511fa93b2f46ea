from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polytask.errors import PolytaskError
from polytask.source import Source
from polytask.sources import Arrays

X = np.array([[80.0, np.nan], [120.0, 4.0]])
PRICE = {"price": np.array([1, 2])}


def test_inputs_and_targets_side_by_side() -> None:
    assert Arrays(X, PRICE, names=["area", "rooms"]).read().to_pydict() == {
        "area": [80.0, 120.0],
        "rooms": [None, 4.0],
        "price": [1, 2],
    }
    assert Arrays(X).read().column_names == ["x0", "x1"]


def test_held_out_pairs() -> None:
    parts = Arrays(X, PRICE, validation=(X[:1], {"price": np.array([3])})).parts()
    assert list(parts) == ["main", "validation"]
    assert parts["validation"].to_pydict() == {"x0": [80.0], "x1": [None], "price": [3]}


def test_a_recipe_holds_the_names_only() -> None:
    written = Arrays(X, PRICE, names=["area", "rooms"], name="houses").to_dict()
    assert written == {"kind": "arrays", "name": "houses", "inputs": None, "names": ["area", "rooms"]}
    with pytest.raises(PolytaskError, match=r"Pass the data again: Arrays\(data, name='houses'\)"):
        Source.coerce(written).read()
    assert set(Arrays.model_json_schema()["properties"]) == {"name", "inputs", "names"}


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        ((X[0],), {}, "x is not an array of shape [N, D]. Found: shape (2,) in data."),
        ((X, PRICE), {"names": ["area"]}, "names do not fit x. Found: 1 names for 2 columns in data."),
        ((X, PRICE), {"names": ["area", "price"]}, "names occur more than once: price"),
        ((X, {"price": np.array([1])}), {}, "columns of different lengths"),
        ((X, PRICE), {"test": (X, {"cost": np.array([1, 2])})}, "the test part lacks 1 of the main part's 3 columns: price"),
    ],
)
def test_mistakes(arguments: tuple[Any, ...], options: dict[str, Any], told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        Arrays(*arguments, **options).parts()
    assert told in str(caught.value)

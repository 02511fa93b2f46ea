from __future__ import annotations

import datetime
import json
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polytask.cells import CLIP, ColumnKind
from polytask.columns import InputCodec, check_cells, describe_column
from polytask.errors import PolytaskError

TABLE = pa.table(
    {
        "area": [80.0, 100.0, None, 120.0],
        "rooms": [2, 3, 4, 5],
        "suburb": ["north", "south", "north", None],
        "garden": [True, False, True, None],
        "sold": [datetime.datetime(2014, month, 1, hour) for month, hour in ((1, 0), (2, 6), (2, 12), (7, 18))],
        "country": ["CH"] * 4,
    }
)


def numbers(codec: InputCodec, table: pa.Table, name: str) -> list[float]:
    """The number feature ``name`` for the rows of a table."""
    return codec.encode(table)["numbers"][:, codec.numbers.index(name)].tolist()


def codes(column: list[Any], new: list[Any], **options: Any) -> list[int]:
    """Codes of new values of a category learned from a column (beside a number that varies)."""
    codec = InputCodec.fit(table_of(column), ["x", "row"], {"x": "category"}, **options)
    return codec.encode(table_of(new))["categories"][:, 0].tolist()


def table_of(column: Any) -> pa.Table:
    return pa.table({"x": column, "row": list(range(len(column)))})


def refusal(codec: InputCodec, table: pa.Table) -> str:
    with pytest.raises(PolytaskError) as caught:
        codec.encode(table)
    return str(caught.value)


def test_names_kinds_and_shapes() -> None:
    codec = InputCodec.fit(TABLE, TABLE.column_names)
    assert list(codec.kinds.values()) == ["number", "number", "category", "boolean", "date", "category"]
    assert codec.numbers == ("area", "area is missing", "rooms", "garden", "garden is missing", "sold", "sold: hour")
    assert [feature.name for feature in codec.category_features] == ["suburb", "sold: month", "sold: weekday"]
    assert codec.cardinalities == (4, 4, 4)
    assert codec.constant == ("country",)
    assert codec.names == ("area", "rooms", "suburb", "garden", "sold")
    encoded = codec.encode(TABLE)
    assert (encoded["numbers"].dtype, encoded["numbers"].shape) == (torch.float32, (4, 7))
    assert (encoded["categories"].dtype, encoded["categories"].shape) == (torch.int64, (4, 3))
    nothing = codec.encode(TABLE.slice(0, 0))
    assert (nothing["numbers"].shape, nothing["categories"].shape) == ((0, 7), (0, 3))


def test_numbers_are_standardized_and_missing_ones_marked() -> None:
    codec = InputCodec.fit(TABLE, ["area"])
    spread = np.std([80.0, 100.0, 120.0])
    assert numbers(codec, TABLE, "area") == pytest.approx([-20 / spread, 0, 0, 20 / spread])
    assert numbers(codec, TABLE, "area is missing") == [0, 0, 1, 0]
    assert numbers(codec, pa.table({"area": [1e30, -1e308, None]}), "area") == [CLIP, -CLIP, 0]


def test_a_cell_that_is_missing_only_later_is_the_mean() -> None:
    codec = InputCodec.fit(TABLE, ["rooms"])
    assert codec.numbers == ("rooms",)
    assert numbers(codec, pa.table({"rooms": pa.nulls(2)}), "rooms") == [0, 0]


def test_a_deviation_below_the_smallest_float_is_none() -> None:
    table = pa.table({"x": [5e-324, *[0.0] * 9], "row": list(range(10))})
    assert InputCodec.fit(table, ["x", "row"]).constant == ("x",)


def test_a_column_whose_missing_cells_are_all_that_varies() -> None:
    codec = InputCodec.fit(pa.table({"x": [7, None, 7]}), ["x"])
    assert (codec.numbers, codec.constant) == (("x is missing",), ())


def test_booleans_are_zero_and_one() -> None:
    codec = InputCodec.fit(TABLE, ["garden"])
    assert numbers(codec, TABLE, "garden") == [1, 0, 1, 0]
    assert numbers(codec, pa.table({"garden": ["TRUE", "0", " false", None]}), "garden") == [1, 0, 0, 0]
    assert numbers(codec, pa.table({"garden": [1, 0]}), "garden") == [1, 0]
    told = refusal(codec, pa.table({"garden": ["yes", "true", "no"]}))
    assert "column 'garden': 2 cells do not fit true or false. Found: 'yes' in row 1, 'no' in row 3." in told
    assert "'2' in row 2" in refusal(codec, pa.table({"garden": [1, 2]}))


def test_dates_become_seconds_hour_month_and_weekday() -> None:
    codec = InputCodec.fit(TABLE, ["sold"])
    encoded = codec.encode(TABLE)
    assert numbers(codec, TABLE, "sold")[0] < numbers(codec, TABLE, "sold")[3]
    assert numbers(codec, TABLE, "sold: hour") == pytest.approx((np.array([0, 6, 12, 18]) - 9) / np.std([0, 6, 12, 18]))
    assert encoded["categories"][:, 0].tolist() == [2, 1, 1, 3]
    later = pa.table({"sold": ["2014-07-01 18:00", "2015-12-31", None]})
    assert codec.encode(later)["categories"].tolist() == [[3, 2], [0, 0], [0, 0]]
    days = pa.table({"sold": [datetime.date(2014, 1, day) for day in (1, 2, 3)]})
    assert InputCodec.fit(days, ["sold"]).numbers == ("sold",)


def test_categories_by_descending_frequency() -> None:
    assert codes(["b", "a", "b", "c"], ["a", "b", "c", "d", None]) == [2, 1, 3, 0, 0]
    assert codes(["b", None, "b", "c"], ["b", "c", None, "d"]) == [1, 2, 3, 0]
    assert codes(["b", "a", "b", "c", "c", "c"], ["a", "b", "c"], max_categories=2) == [0, 2, 1]


@pytest.mark.parametrize(
    ("column", "new"),
    [
        (["1", "2", "x"], pa.array([1, 2, 7])),
        (["1", "2", "x"], pa.array([1.0, 2.0, 7.0])),
        (["1.50", "1e3", "x"], pa.array([1.5, 1000.0, 7.0])),
        (pa.array([1, 2, 3]), pa.array(["1", "2", "7"])),
        (pa.array([1, 2, 3]), pa.array([1.0, 2.0, None])),
        (["TRUE", "false", "x"], pa.array([True, False, None])),
        (["u", "v", "w"], pa.array(["u", "v", "z"]).dictionary_encode()),
        (["u", "v", "w"], pa.array(["u", "v", "z"], pa.large_string())),
    ],
)
def test_a_category_is_known_again_in_another_type(column: Any, new: pa.Array) -> None:
    assert codes(column, new) == [1, 2, 0]


def test_dates_where_training_had_text_are_not_taken_for_unseen_values() -> None:
    codec = InputCodec.fit(table_of(["1/2/11", "soon"]), ["x"])
    told = refusal(codec, table_of([datetime.datetime(2011, 1, 2)]))
    assert "column 'x' held other values in training: '1/2/11', 'soon'. Found: '2011-01-02 00:00:00.000000' in row 1." in told


def test_numbers_where_training_had_words_are_not_taken_for_unseen_values() -> None:
    codec = InputCodec.fit(table_of(["north", "south"]), ["x"])
    told = refusal(codec, table_of([None, 5, 6]))
    assert "column 'x' held other values in training: 'north', 'south'. Found: '5' in row 2." in told
    assert codec.encode(table_of(["west"]))["categories"].tolist() == [[0]], "a new word is an unseen value"


@pytest.mark.parametrize("strays", [["?"], ["old", "new", "?"]])
def test_a_few_texts_among_numbers_are_no_categories(strays: list[str]) -> None:
    table = table_of([*strays, *map(str, range(60))])
    with pytest.raises(PolytaskError) as caught:
        check_cells(table, ["x"], {})
    assert f"not fit a column of numbers. Found: {strays[0]!r} in row 1" in str(caught.value)
    check_cells(table, ["x"], {"x": "category"})


@pytest.mark.parametrize(
    "cells", [["K", *"23456789"], [f"V{n}" for n in range(6)] + [str(n) for n in range(99)], ["007", *"0123"]]
)
def test_codes_are_categories(cells: list[str]) -> None:
    check_cells(table_of(cells), ["x"], {})


def test_numbers_that_come_as_text_are_read() -> None:
    codec = InputCodec.fit(TABLE, ["rooms"])
    assert numbers(codec, pa.table({"rooms": ["2", " 5 ", None]}), "rooms") == numbers(
        codec, pa.table({"rooms": [2.0, 5.0, None]}), "rooms"
    )
    told = refusal(codec, pa.table({"rooms": ["2", "many", "3", "a few"]}))
    assert "column 'rooms': 2 cells do not fit a column of numbers. Found: 'many' in row 2, 'a few' in row 4." in told
    assert "1 cell does not fit" in refusal(codec, pa.table({"rooms": ["2", "0x10"]}))
    assert "cells of type timestamp[us]" in refusal(codec, pa.table({"rooms": TABLE["sold"]}))


def test_infinite_values_are_told_by_row() -> None:
    with pytest.raises(
        PolytaskError, match=r"column 'x': 2 cells do not fit finite numbers only.*'inf' in row 2, '-inf' in row 4"
    ):
        InputCodec.fit(pa.table({"x": [1.0, np.inf, 2.0, -np.inf]}), ["x"])
    with pytest.raises(PolytaskError, match="and 995 more"):
        InputCodec.fit(pa.table({"x": np.full(1000, np.inf)}), ["x"])


def test_dates_that_are_none() -> None:
    codec = InputCodec.fit(TABLE, ["sold"])
    assert "1 cell does not fit a column of dates. Found: '1/2/14' in row 2." in refusal(
        codec, pa.table({"sold": ["2014-01-01", "1/2/14"]})
    )
    assert "an impossible date" in refusal(codec, pa.table({"sold": ["2014-02-30"]}))
    assert "cells of type int64" in refusal(codec, pa.table({"sold": [20140101]}))


def test_lacking_columns() -> None:
    codec = InputCodec.fit(TABLE, TABLE.column_names)
    told = refusal(codec, TABLE.rename_columns(["areas", "rooms", "suburb", "garden", "date", "country"]))
    assert "the table lacks 2 input columns: 'area', 'sold'. Did you mean 'areas'?" in told
    assert codec.encode(TABLE.drop_columns(["country"]))["numbers"].equal(codec.encode(TABLE)["numbers"])


@pytest.mark.parametrize(
    ("table", "names", "kinds", "told"),
    [
        (TABLE, ["aera"], {}, "the table lacks 1 input column: 'aera'. Did you mean 'area'?"),
        (TABLE, ["area"], {"aera": "category"}, "a kind is given for columns that are no inputs: aera. Did you mean 'area'?"),
        (TABLE, ["country"], {}, "no input column varies"),
        (TABLE, [], {}, "no input column varies"),
        (TABLE.slice(0, 0), ["area"], {}, "no input column varies"),
        (TABLE, ["suburb"], {"suburb": "number"}, "column 'suburb': 3 cells do not fit a column of numbers"),
        (TABLE, ["rooms"], {"rooms": "boolean"}, "'2' in row 1"),
        (pa.table({"x": [[1], [2]]}), ["x"], {}, "column 'x': a column of list<"),
        (pa.table({"x": [[1], [2]]}), ["x"], {"x": "category"}, "column 'x' cannot be an input"),
    ],
)
def test_what_cannot_be_learned(table: pa.Table, names: list[str], kinds: dict[str, ColumnKind], told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        InputCodec.fit(table, names, kinds)
    assert told in str(caught.value)


def test_kinds_can_be_said() -> None:
    table = pa.table({"zip": [98001, 98002, 98001], "flag": [0, 1, 1], "day": ["2014-01-01", "2014-02-01", "2014-03-01"]})
    codec = InputCodec.fit(table, table.column_names, {"zip": "category", "flag": "boolean", "day": "date"})
    assert codec.category_features[0].values == ("98001", "98002")
    assert numbers(codec, table, "flag") == [0, 1, 1]
    assert codec.category_features[1].name == "day: month"


def test_a_codec_survives_json() -> None:
    codec = InputCodec.fit(TABLE, TABLE.column_names, {"rooms": "category"})
    again = InputCodec(**json.loads(json.dumps(codec.model_dump(mode="json"))))
    assert again == codec
    assert again.encode(TABLE)["numbers"].equal(codec.encode(TABLE)["numbers"])


def test_a_value_of_many_rows_gets_an_edge_of_its_own() -> None:
    """Capital gain: nine rows in ten are 0, where plain quantiles would leave the others next to no edges."""
    gains = np.concatenate([np.zeros(9000), np.arange(1, 1001)])
    codec = InputCodec.fit(pa.table({"gain": gains}), ["gain"], n_bins=10)
    (edges,) = codec.bins
    standardized = (np.array([0.0, 1.0, 1000.0]) - gains.mean()) / gains.std()
    assert len(edges) == 11
    assert edges[:2] == pytest.approx(standardized[:2], abs=1e-5)
    assert edges[-1] == pytest.approx(standardized[2], abs=1e-5)
    assert np.diff(edges)[1:] == pytest.approx((standardized[2] - standardized[1]) / 9, abs=1e-3)


@given(
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-1e300, 1e300) | st.sampled_from([0.0, 1.0, float("nan")])),
    st.integers(1, 12),
)
def test_edges_increase_and_numbers_stay_finite_and_small(values: np.ndarray[Any, Any], n_bins: int) -> None:
    table = pa.table({"x": pa.array(values, from_pandas=True), "row": np.arange(len(values))})
    codec = InputCodec.fit(table, ["x", "row"], n_bins=n_bins)
    encoded = codec.encode(table)["numbers"]
    assert encoded.isfinite().all()
    assert encoded.abs().max() <= CLIP
    for edges in codec.bins:
        assert 2 <= len(edges) <= max(n_bins + 1, 2)
        assert (torch.tensor(edges).diff() > 0).all()


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "", None]), min_size=1, max_size=40), st.integers(1, 6))
def test_categories_are_decoded_by_their_values(column: list[str | None], max_categories: int) -> None:
    table = table_of(pa.array(column, pa.string()))
    codec = InputCodec.fit(table, ["x", "row"], max_categories=max_categories) if len(column) > 1 else None
    if codec is None or "x" in codec.constant:
        assert len(set(column)) == 1
        return
    (feature,) = codec.category_features
    values = [None, *feature.values, *([None] if feature.missing else [])]
    for cell, code in zip(column, codec.encode(table)["categories"][:, 0].tolist(), strict=True):
        assert code < feature.cardinality
        assert values[code] == cell or (code == 0 and cell not in feature.values)


@pytest.mark.parametrize(
    ("column", "kind", "reason"),
    [
        (pa.array([None, None], pa.string()), "number", "every cell is missing, so it is left out"),
        (pa.array([True, False]), "boolean", "true or false"),
        (pa.array([0, 86_400_000_000], pa.timestamp("us")), "date", "dates from 1970-01-01 to 1970-01-02"),
        (pa.array(["a", "b", "a"]), "category", "text with 2 different values"),
        (pa.array([f"id{i}" for i in range(200)]), "category", "drop it if it names the rows"),
        (pa.array([1.5, 2.5]), "number", "numbers from 1.5 to 2.5"),
        (pa.array([1, 2, 3, 3]), "number", "3 different whole numbers from 1 to 3; say category"),
        (pa.array([0, 1, 1]), "number", "2 different whole numbers from 0 to 1"),
        (pa.array(range(200)), "number", "no two alike: drop it if it names the rows"),
        (pa.array(["a", "b"]).dictionary_encode(), "category", "text with 2 different values"),
    ],
)
def test_the_guess_of_a_kind_gives_its_reason(column: pa.Array, kind: ColumnKind, reason: str) -> None:
    found = describe_column(pa.chunked_array([column]))
    assert found[0] == kind
    assert reason in found[1]


def test_a_hundred_thousand_rows_are_encoded_in_a_moment() -> None:
    draw = np.random.default_rng(0)
    table = pa.table(
        {
            **{f"n{i}": draw.normal(size=100_000) for i in range(15)},
            **{f"c{i}": draw.integers(0, 50, 100_000).astype(str) for i in range(5)},
        }
    )
    codec = InputCodec.fit(table, table.column_names)
    start = time.process_time()
    codec.encode(table)
    assert time.process_time() - start < 2.0

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from polytask.errors import PolytaskError
from polytask.sources import Parquet


def test_types_are_kept_but_for_widths(tmp_path: Path) -> None:
    table = pa.table(
        {
            "n": pa.array([1, 2], pa.int16()),
            "f": pa.array([0.5, float("nan")], pa.float32()),
            "c": pa.array(["u", "v"]).dictionary_encode(),
            "day": pa.array([0, 16_000], pa.date32()),
            "flag": [True, None],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "data.parquet")
    read = Parquet(tmp_path / "data.parquet").read()
    assert [str(field.type) for field in read.schema] == ["int64", "double", "string", "timestamp[us]", "bool"]
    assert read["f"].null_count == 1
    assert read["c"].to_pylist() == ["u", "v"]


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(PolytaskError, match="not a whole Parquet file"):
        Parquet(tmp_path / "data.parquet").read()


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "data.parquet")
    with pytest.raises(PolytaskError, match=r"data\.parquet: 1 column name more than once: 'a'"):
        Parquet(tmp_path / "data.parquet").read()

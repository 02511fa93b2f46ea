from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import yaml

from polytask.errors import PolytaskError
from polytask.source import Source, open_source
from polytask.sources import ARFF, CSV, Arrays, Frame, Parquet
from polytask.tables import like, plain_table

ANSWER = pa.table({"price": [1.5, 2.5], "kind": ["flat", None]})


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.csv", "csv"),
        ("a.CSV.GZ", "csv"),
        ("a.tsv", "csv"),
        ("a.data", "csv"),
        ("a", "csv"),
        ("a.gz", "csv"),
        ("a.parquet", "parquet"),
        ("a.pq", "parquet"),
        ("data.v2.arff", "arff"),
        ("a.ndjson.gz", "jsonl"),
    ],
)
def test_the_suffix_of_a_path_gives_the_kind(path: str, kind: str) -> None:
    assert open_source(path).kind == open_source(Path(path)).kind == kind


def test_frames_and_arrays_are_opened_too() -> None:
    assert isinstance(open_source(pd.DataFrame({"a": [1]})), Frame)
    assert isinstance(open_source({"a": [1]}), Frame)
    assert isinstance(open_source(np.zeros((2, 3))), Arrays)
    assert open_source(CSV("a.csv"), delimiter=";") == CSV("a.csv", delimiter=";")


@pytest.mark.parametrize("value", [3, None, [1, 2], pl.Series([1])])
def test_what_cannot_be_opened(value: Any) -> None:
    with pytest.raises(PolytaskError, match="not something rows can be read from"):
        open_source(value)


def test_other_rows_are_read_with_the_same_options(tmp_path: Path) -> None:
    for name, text in (("old.csv", "a;b\n1,5;x\n"), ("new.csv", "a;b\n2,5;y\n")):
        (tmp_path / name).write_text(text)
    old = CSV(tmp_path / "old.csv", decimal=",", name="m", test=tmp_path / "old.csv")
    assert old.read_other(tmp_path / "new.csv", ["a"]).to_pydict() == {"a": [2.5], "b": ["y"]}
    assert old.with_datum(tmp_path / "new.csv") == CSV(tmp_path / "new.csv", decimal=",", name="m")


def test_other_rows_may_have_a_header_where_the_first_had_none(tmp_path: Path) -> None:
    files = {"old.data": "1,x\n", "new.data": "2,y\n", "header.csv": "b,a\ny,2\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    old = CSV(tmp_path / "old.data", header=False, names=["a", "b"])
    assert old.read_other(tmp_path / "new.data", ["a", "b"]).to_pydict() == {"a": [2], "b": ["y"]}
    assert old.read_other(tmp_path / "header.csv", ["a", "b"]).to_pydict() == {"b": ["y"], "a": [2]}


@pytest.mark.parametrize("source", [CSV("a/b.csv", names=["x"], test="t.csv"), Parquet("b.parquet", name="n"), ARFF("b.arff")])
def test_a_file_source_survives_yaml(source: Source) -> None:
    assert Source.coerce(yaml.safe_load(yaml.safe_dump(source.to_dict()))) == source
    assert Source.coerce(source) is source


def test_a_path_alone_is_a_source_in_a_recipe() -> None:
    assert Source.coerce("houses.csv") == CSV("houses.csv")
    assert isinstance(Source.coerce(pl.DataFrame({"a": [1]})), Frame)
    with pytest.raises(PolytaskError, match=r"no source of kind 'cvs'\. Did you mean 'csv'"):
        Source.coerce({"kind": "cvs", "path": "a.csv"})


def test_labels() -> None:
    assert [CSV("d/houses.csv").label, CSV("d/houses.csv.gz").label, CSV("h.csv", name="x").label] == ["houses", "houses", "x"]
    assert Frame({"a": [1]}).label == "frame"


def test_anchored_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    anchored = CSV("a.csv", test="b.csv").anchored()
    assert (anchored.path, anchored.test, anchored.validation) == (tmp_path / "a.csv", tmp_path / "b.csv", None)
    assert Frame({"a": [1]}).anchored().read().num_rows == 1


def test_a_file_has_the_fingerprint_of_its_bytes(tmp_path: Path) -> None:
    for name, text in (("a.csv", "x\n1\n"), ("b.csv", "x\n1\n"), ("c.csv", "x\n2\n")):
        (tmp_path / name).write_text(text)
    a, b, c = (CSV(tmp_path / name).fingerprint() for name in ("a.csv", "b.csv", "c.csv"))
    assert a == b != c
    assert CSV(tmp_path / "a.csv", test=tmp_path / "b.csv").fingerprint() != a
    with pytest.raises(PolytaskError, match=r"no file 'd\.csv'"):
        CSV(tmp_path / "d.csv").fingerprint()


def test_held_out_parts_have_the_columns_of_the_main_part() -> None:
    parts = Frame({"a": [1], "b": [2]}, test={"c": [0], "b": [3], "a": [4]}).parts()
    assert parts["test"].to_pydict() == {"a": [4], "b": [3]}
    with pytest.raises(
        PolytaskError, match=r"houses: the test part lacks 1 of the main part's 2 columns: area\. Did you mean 'areas'"
    ):
        Frame({"area": [1], "b": [2]}, name="houses", test={"areas": [1], "b": [3]}).parts()


def test_the_answer_is_of_the_kind_of_the_question() -> None:
    pandas = like(pd.DataFrame({"a": [1, 2]}, index=["u", "v"]), ANSWER)
    assert isinstance(pandas, pd.DataFrame)
    assert list(pandas.index) == ["u", "v"]
    assert list(pandas["price"]) == [1.5, 2.5]
    assert list(like(pd.DataFrame({"a": [1]}, index=["u"]), ANSWER).index) == [0, 1]
    assert like(pl.DataFrame({"a": [1, 2]}), ANSWER).equals(pl.DataFrame({"price": [1.5, 2.5], "kind": ["flat", None]}))
    assert isinstance(like(pl.DataFrame({"a": [1, 2]}).lazy(), ANSWER), pl.LazyFrame)
    assert like(pa.table({"a": [1, 2]}), ANSWER) == ANSWER
    assert like("new.csv", ANSWER) is ANSWER
    arrays = like(np.zeros((2, 3)), ANSWER)
    assert (arrays["price"].tolist(), arrays["kind"].tolist()) == ([1.5, 2.5], ["flat", None])


def test_plain_types() -> None:
    table = pa.table(
        {
            "unsigned": pa.array([2**63], pa.uint64()),
            "decimal": pa.array([150.0]).cast(pa.decimal128(10, 2)),
            "local": pa.array([0], pa.timestamp("ns", "Europe/Zurich")),
            "clock": pa.array([90], pa.time32("s")),
            "took": pa.array([1500], pa.duration("ms")),
            "list": pa.array([[1, 2]]),
        }
    )
    plain = plain_table(table)
    assert plain.to_pydict()["unsigned"] == [float(2**63)]
    assert plain.to_pydict()["decimal"] == [150.0]
    assert [plain["clock"][0].as_py(), plain["took"][0].as_py()] == [90.0, 1.5]
    assert str(plain.schema.field("local").type) == "timestamp[us]"
    assert plain["list"].to_pylist() == [[1, 2]]


def test_a_source_elsewhere_needs_only_read() -> None:
    class Counting(Source):
        rows: int = 3

        def read(self) -> pa.Table:
            return pa.table({"n": list(range(self.rows))})

    source = Source.coerce({"kind": "counting", "rows": 2})
    assert source.parts()["main"].to_pydict() == {"n": [0, 1]}
    assert source.fingerprint() == Counting(rows=2).fingerprint() != Counting().fingerprint()
    assert source.to_dict() == {"kind": "counting", "name": None, "inputs": None, "validation": None, "test": None, "rows": 2}


def test_nothing_here_loads_torch() -> None:
    code = "import sys, polytask.source, polytask.splitting; from polytask.sources import ARFF, CSV, Arrays, Frame, Parquet;"
    found = subprocess.run(
        [sys.executable, "-c", f"{code} print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"

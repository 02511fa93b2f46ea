from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from polytask import JSONL, Recipe, Regression, fit, load
from polytask.errors import PolytaskError
from polytask.source import open_source
from tests.houses import houses


def read(folder: Path, text: str, **options: Any) -> dict[str, list[Any]]:
    path = folder / "data.jsonl"
    path.write_text(text, encoding=options.get("encoding", "utf-8"))
    return JSONL(path, **options).read().to_pydict()


def test_values_keep_their_types(tmp_path: Path) -> None:
    text = '{"n": 1, "x": 2, "s": "007", "b": true, "d": "2014-10-13"}\n\n{"x": 2.5, "n": null, "b": false, "d": null}\n'
    day = datetime.datetime(2014, 10, 13)
    assert read(tmp_path, text) == {"n": [1, None], "x": [2.0, 2.5], "s": ["007", None], "b": [True, False], "d": [day, None]}


def test_objects_within_rows_become_columns(tmp_path: Path) -> None:
    text = '{"a": {"b": {"c": 1}, "d": "x"}, "e": 2}\n{"a": null, "e": 3}\n'
    assert read(tmp_path, text) == {"a.b.c": [1, None], "a.d": ["x", None], "e": [2, 3]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "utf-16"])
def test_names_and_text_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, '{"面积: 平方米": 80, "区 域": "海淀"}\n', encoding=encoding) == {
        "面积: 平方米": [80],
        "区 域": ["海淀"],
    }


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz"])
def test_the_suffix_gives_the_kind_and_gzip_is_unpacked(tmp_path: Path, name: str) -> None:
    data = b'{"a": 1}\n'
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    source = open_source(tmp_path / name)
    assert (source.kind, source.label, source.read().to_pydict()) == ("jsonl", "a", {"a": [1]})


def test_lists_stay_and_may_be_left_unused(tmp_path: Path) -> None:
    assert read(tmp_path, '{"a": [1, 2], "s": {"b": [1]}}\n') == {"a": [[1, 2]], "s.b": [[1]]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (" \n", "the file is empty"),
        ('{"a": 1}\n\n{"a": 1\n', "line 3 is not JSON. Found: '{\"a\": 1'. Write one JSON object a line"),
        ('[{"a": 1}, {"a": 2}]\n', "line 1 is not a JSON object. Found: '[{"),
        ('{"a": 1}\n{"a": "x"}\n', "column 'a' mixes types. Found: a number in line 1, text in line 2."),
        ('{"s": {"a": 1}}\n{"s": {"a": true}}\n', "column 's.a' mixes types. Found: a number in line 1, true or false"),
        ('{"a": {"b": 1}, "a.b": 2}\n', "1 column name more than once: 'a.b'"),
        ('{"a": 1, "a": 2}\n', "Column(/a) was specified twice"),
        ("{}\n", "the objects have no keys"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        read(tmp_path, text)
    assert told in str(caught.value)
    assert "data.jsonl" in str(caught.value)


def test_a_run_learns_from_it_and_answers_a_csv(tmp_path: Path) -> None:
    frame = houses(200)[["sqft_living", "suburb", "sold", "price"]]
    rows = frame.assign(sold=frame["sold"].dt.strftime("%Y-%m-%d")).to_dict("records")
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(sources=[tmp_path / "h.jsonl"], tasks=[Regression("price")], trainer={"epochs": 3})
    fit(recipe, tmp_path / "run")
    run = load(tmp_path / "run")
    frame.drop(columns="price").to_csv(tmp_path / "new.csv", index=False)
    assert run.predict(tmp_path / "new.csv").equals(run.predict(tmp_path / "h.jsonl"))

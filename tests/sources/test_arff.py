from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polytask.errors import PolytaskError
from polytask.sources import ARFF

HEADER = "@relation r\n@attribute a numeric\n@attribute b {x, y}\n"


def read(folder: Path, text: str) -> dict[str, list[Any]]:
    path = folder / "data.arff"
    path.write_text(text)
    return ARFF(path).read().to_pydict()


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(PolytaskError) as caught:
        read(folder, text)
    return str(caught.value)


def test_types_come_from_the_header(tmp_path: Path) -> None:
    text = """% Title
@RELATION 'a relation'
@Attribute 'number of rooms' INTEGER
@attribute "floor" {1, 2,'3 and up'}
@attribute area real % square meters
@attribute note string
@attribute sold date yyyy-MM-dd

@DATA
3, 1, 70.5, 'it\\'s, "fine"', 2014-10-13
% between the rows
007,'3 and up',?,"a, b",?
"""
    assert read(tmp_path, text) == {
        "number of rooms": [3, 7],
        "floor": ["1", "3 and up"],
        "area": [70.5, None],
        "note": ['it\'s, "fine"', "a, b"],
        "sold": [datetime.datetime(2014, 10, 13), None],
    }


def test_nominal_levels_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    text = "@relation r\n@attribute grade {1,2,3}\n@data\n1\n?\n3\n"
    assert read(tmp_path, text) == {"grade": ["1", None, "3"]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", "no @data section: not an ARFF file"),
        (HEADER + "@data\n", "there are no rows below @data"),
        (HEADER + "@data\n{0 1, 1 x}\n", "the rows are sparse, which is not supported"),
        (HEADER + "@data\n1,x\n2\n", "1 row does not have 2 cells. Found: line 6 has 1."),
        (HEADER + "@data\n1,x,3\n", "2 attributes, but rows of 3 cells"),
        (
            HEADER + "@data\n1,z\n",
            "attribute 'b' has other levels, and 1 cell is none of them. Found: 'z' in row 1. Declared: x, y.",
        ),
        (HEADER + "@data\nmany,x\n1,y\n", "attribute 'a' is numeric, and 1 cell is not. Found: 'many' in row 1."),
        (HEADER + "@attribute a numeric\n@data\n1,x,2\n", "attributes declared more than once: a"),
        ("@relation r\n@attribute a relational\n@data\n1\n", "attribute 'a' has a type that is not supported"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(tmp_path, text)


@pytest.mark.parametrize(("name", "shape"), [("enb", (768, 10)), ("slump", (103, 10)), ("sf1", (323, 13)), ("sf2", (1066, 13))])
def test_mulan(shared_data: Callable[[str], Path], name: str, shape: tuple[int, int]) -> None:
    table = ARFF(shared_data("mulan_mtr") / f"{name}.arff").read()
    assert table.shape == shape
    text = [field.name for field in table.schema if str(field.type) == "string"]
    assert len(text) == (10 if name.startswith("sf") else 0)
    assert not any(column.null_count for column in table.columns)

"""What is wrong with data is told with its task, column, file and rows, whatever the format; nothing is trained or written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command import fit_houses, mistake
from tests.houses import houses

N_ROWS = 60
TEXT_WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True, date_format="iso"),
}
WRITERS = {**TEXT_WRITERS, "parquet": lambda frame, path: frame.to_parquet(path, index=False)}
KINDS = ["regression", "quantile", "count", "binary", "multiclass", "ordinal", "multilabel"]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(**columns: Sequence[object]) -> pd.DataFrame:
    """Houses, with these columns changed or added."""
    frame = houses(N_ROWS).drop(columns=["id", "sold"])
    return frame.assign(**{name: list(values) for name, values in columns.items()})


def with_cells(name: str, cells: dict[int, object]) -> pd.DataFrame:
    """Houses, with some cells of a column changed."""
    column = list(table()[name])
    for row, cell in cells.items():
        column[row] = cell
    texts = any(isinstance(cell, str) for cell in cells.values())
    return table(**{name: map(str, column) if texts else column})


def refusal(frame: pd.DataFrame, *words: str, suffix: str = "csv") -> str:
    """What `polytask fit` says of a table."""
    WRITERS[suffix](frame, Path(f"h.{suffix}"))
    told = mistake("fit", f"h.{suffix}", *words, "--epochs", "1", "--out", "run")
    assert not Path("run").exists()
    return told


def written(data: bytes, *words: str, name: str = "h.csv") -> str:
    """What `polytask fit` says of a file."""
    Path(name).write_bytes(data)
    return mistake("fit", name, "--task", "price:regression", "--epochs", "1", *words)


ARFF = b"@relation r\n@attribute area numeric\n@attribute price numeric\n"


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("h.csv", b"", "h.csv: the file is empty. Give a file with a header and rows."),
        ("h.jsonl", b"\n", "h.jsonl: the file is empty. Give a file with a JSON object a line."),
        ("h.parquet", b"", "h.parquet: not a whole Parquet file. Found: Parquet file size is 0 bytes."),
        ("h.arff", b"", "h.arff: no @data section: not an ARFF file."),
        ("h.arff", ARFF + b"@data\n", "h.arff: there are no rows below @data."),
        ("h.csv", b"area,price", "h.csv: the file has a header but no rows. Without a header say so: --no-header."),
        ("h.csv", b"area,price\n1,2\n", "split: too few rows for 3 parts. Found: 1 row. Give more rows"),
        ("h.csv", b"area,price\n1,2\n3,4\n", "split: too few rows for 3 parts. Found: 2 rows."),
        ("h.csv", b"area,area,price\n1,2,3\n", "h.csv: 1 column name more than once: 'area'. Rename them in the file"),
        ("h.arff", ARFF + b"@attribute area numeric\n@data\n1,2,3\n", "h.arff: attributes declared more than once: area."),
        ("h.jsonl", b'{"price": 1, "a.b": 1, "a": {"b": 2}}\n', "h.jsonl: 1 column name more than once: 'a.b'."),
        ("h.csv", b"area,price\n1,2\n3\n4,5,6\n", "h.csv: 2 rows do not have 2 cells. Found: line 3 has 1, line 4 has 3."),
        ("h.arff", ARFF + b"@data\n1,2\n3,4,5\n", "h.arff: 1 row does not have 2 cells. Found: line 6 has 3."),
        ("h.arff", ARFF + b"@data\n1,2\n3,many\n", "'price' is numeric, and 1 cell is not. Found: 'many' in row 2."),
        ("h.csv", "area,price\ncafé,2\n".encode("latin-1"), "not utf-8 text. Found: byte 0xe9 at position 14. Say encoding: "),
        ("h.csv", "面积,price\n大,2\n".encode("gbk"), "Say encoding: gbk or cp1252 or latin-1, or save it as UTF-8."),
        ("h.csv", "area,price\n1,2\n".encode("utf-16"), "Say encoding: utf-16, or save it as UTF-8."),
        ("h.jsonl", "{}\n".encode("utf-16"), "h.jsonl: the file is not utf-8 text. Found: byte 0xff at position 0."),
        ("h.csv", b"area,price\n1,2\0\n", "not utf-8 text. Found: a NUL character at byte 14. Save it as UTF-8 text."),
        ("h.csv", b"PAR1\xff", "h.csv: the file is not text. Found: the first bytes of Parquet. Name it .parquet."),
        ("h.xlsx", b"PK\x03\x04\xff", "Found: the first bytes of a zip archive, as .xlsx is. Save the table in it as CSV"),
        ("h.csv", gzip.compress(b"area,price\n1,2\n", mtime=0)[:-5], "h.csv: the gzip data are broken."),
        ("h.csv", b'area,price\n"1,2\n3,4\n', "h.csv: line 2 opens a quote that never closes."),
        ("h.json", b'[{"area": 1}]', "h.json: line 1 is not a JSON object."),
        (
            "h.jsonl",
            b'{"price": 1}\n{"price": "x"}\n',
            "column 'price' mixes types. Found: a number in line 1, text in line 2.",
        ),
    ],
)
def test_files(name: str, data: bytes, told: str) -> None:
    assert told in written(data, name=name)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arff"])
def test_a_folder_is_no_file(suffix: str) -> None:
    Path(f"h.{suffix}").mkdir()
    assert f"h.{suffix}: cannot be read: Is a directory." in mistake("fit", f"h.{suffix}", "--task", "price:regression")


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_that_is_constant_or_missing(kind: str) -> None:
    place = "task 'y', column 'y': "
    told = refusal(table(y=[7] * N_ROWS), "--task", f"y:{kind}")
    assert told.startswith(place)
    assert "leave this task out" in told.lower()
    assert "42 rows" in told, "how many were looked at"
    missing = place + "no training row has a label. Found: 42 rows. Leave the task out"
    assert missing in refusal(table(y=[None] * N_ROWS), "--task", f"y:{kind}")


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kind", ["regression", "quantile", "count"])
def test_text_among_the_labels(kind: str, suffix: str) -> None:
    frame = with_cells("price", {3: "cheap", 50: "dear"})
    told = refusal(frame, "--task", f"price:{kind}", suffix=suffix)
    wrong = "task 'price', column 'price': 2 labels are not numbers. Found: 'cheap' in row 4 of h, 'dear' in row 51 of h. Mend"
    assert wrong in told


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_labels(kind: str) -> None:
    told = refusal(with_cells("price", {3: np.inf, 50: -np.inf}), "--task", f"price:{kind}")
    wrong = "task 'price', column 'price': 2 labels are infinite. Found: inf in row 4 of h, -inf in row 51 of h. Mend them"
    assert told.startswith(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_dates_and_lists_are_no_labels(kind: str) -> None:
    dates = table(y=pd.date_range("2020-01-01", periods=N_ROWS))
    assert "task 'y', column 'y': the" in refusal(dates, "--task", f"y:{kind}")
    told = refusal(table(y=[[1, 2]] * N_ROWS), "--task", f"y:{kind}", suffix="parquet")
    assert "task 'y', column 'y': a label is a single value. Found: a column of list<" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rooms:binary"], "task 'rooms', column 'rooms': a binary task has two classes. Found: 11 values in 42 rows: 2, 3, 4"),
        (
            ["price:multiclass"],
            "no two labels are alike. Found: 42 different labels in 42 rows. If they are amounts choose regr",
        ),
        (["debt:count"], "task 'debt', column 'debt': 60 counts are negative. Found: -1 in row 1 of h, "),
        (["debt:regression", "transform=log1p"], "task 'debt', transform: 42 labels are negative. Found: -"),
        (["price:regression", "weight_column=debt"], "task 'price', weight_column 'debt': 60 weights are negative. Found: -1 "),
        (["price:regression", "weight_column=suburb"], "weight_column 'suburb': 60 weights are not numbers. Found: '"),
        (["price:regression", "weight_column=wight"], "task 'price': no column 'wight' in h. Did you mean 'weight'?"),
        (["suburb:multiclass", "class_weights={nort: 2}"], "class_weights: no class 'nort'. Did you mean 'north'?"),
        (["tags:multilabel", "class_weights={z: 2}"], "task 'tags', class_weights: no class 'z'. There is: x, y."),
        (["suburb:multiclass", "classes=[north, south]"], "not among those of the training rows. Found: 'lake' in row "),
        (["tags:multilabel", "labels=[x]"], "labels are not among those of the training rows. Found: 'y' in row 1 of h. There"),
        (["tags:multilabel", "columns=[rooms]"], "task 'tags', column 'rooms': 60 labels are neither 0 nor 1. Found: "),
        (["price:quantile", "quantiles=[0.9, 0.1]"], "tasks.price.quantiles: the levels do not increase. Found: 0.9, 0.1."),
        (["waterfront:binary", "threshold=f2"], "tasks.waterfront.threshold: Binary: should be 'f1' or 'balanced_accuracy'"),
    ],
)
def test_labels(words: list[str], told: str) -> None:
    frame = table(debt=range(-1, -1 - N_ROWS, -1), weight=[1] * N_ROWS, tags=["x,y", "y"] * (N_ROWS // 2))
    task, *fields = words
    changes = [word for field in fields for word in ("--set", f"tasks.{task.split(':')[0]}.{field}")]
    assert told in refusal(frame, "--task", task, *changes)


def test_one_class_only_in_training() -> None:
    late = houses(N_ROWS).drop(columns="id").sort_values("sold").assign(new=[0] * 50 + [1] * 10)
    told = refusal(late, "--task", "new:binary", "--time", "sold")
    wrong = "task 'new', column 'new': a task with classes needs two of them in the training rows. Found: 0 in each of 42 rows."
    assert wrong in told


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_class_never_seen_in_training(part: str) -> None:
    with_cells("suburb", {4: "mars"}).to_csv("other.csv", index=False)
    told = refusal(table(), "--task", "suburb:multiclass", f"--{part}", "other.csv")
    place = (
        f"task 'suburb', column 'suburb': 1 label is not among those of the training rows. Found: 'mars' in row 5 of h ({part})"
    )
    assert place in told


@pytest.mark.parametrize("suffix", WRITERS)
def test_cells_of_an_input(suffix: str) -> None:
    frame = with_cells("age", {3: "old", 50: "?"})
    cells = "2 cells do not fit a column of numbers. Found: 'old' in row 4 of h, '?' in row 51 of h."
    assert f"column 'age': {cells}" in refusal(frame, "--task", "price:regression", suffix=suffix)
    assert cells in refusal(frame, "--task", "price:regression", "--column", "age:number", suffix=suffix)
    if suffix != "jsonl":  # which has no infinite numbers
        told = refusal(with_cells("lot", {3: np.inf}), "--task", "price:regression", suffix=suffix)
        assert "column 'lot': 1 cell does not fit finite numbers only. Found: 'inf' in row 4 of h. Mend them" in told


def test_a_column_of_lists_is_no_input() -> None:
    rows = "".join(json.dumps({"rooms": [1, 2], "area": n, "price": 2 * n}) + "\n" for n in range(N_ROWS))
    assert "column 'rooms': a column of list<item: int64> cannot be an input. Drop it" in written(rows.encode(), name="h.jsonl")


def test_another_type_in_a_held_out_file() -> None:
    with_cells("age", {4: "old"}).to_csv("other.csv", index=False)
    told = refusal(table(), "--task", "price:regression", "--test", "other.csv")
    assert "column 'age': 1 cell does not fit a column of numbers. Found: 'old' in row 5 of h (test)." in told


def test_one_column_as_input_and_target() -> None:
    told = refusal(table(), "--task", "price:regression", "--inputs", "price,age")
    assert "source 'h', inputs: column 'price' labels task 'price' of the same source, so it cannot be an input." in told


def test_a_column_that_looks_like_another() -> None:
    told = refusal(table().rename(columns={"price": "pric\u0435"}), "--task", "price:regression")
    assert told.endswith(r"(which is 'pric\u0435')?")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--time", "same"], "split.time: too few different times for 3 parts. Found: 1 different time."),
        (["--time", "half"], "split.time, column 'half': 30 times are missing. Found: '' in row 31 of h, "),
        (["--time", "suburb"], "split.time, column 'suburb': 60 times are not numbers. Found: '"),
        (["--group", "same"], "split.group: too few groups for 3 parts. Found: 1 group. Give more groups"),
        (["--group", "none"], "split.group, column 'none': no row has a group. Found: 60 rows."),
        (["--set", "split.test=0.9"], "split: validation and test leave no rows to train on. Found: 0.15 + 0.9."),
        (["--set", "split.stratify=[prize]"], "split.stratify: no task 'prize'. Did you mean 'price'?"),
        (
            ["--task", "rare:binary", "--set", "split.stratify=[rare]"],
            "split.stratify, task 'rare': it cannot be stratified. Found: a class with 2 rows, and 3 parts.",
        ),
        (
            ["--task", "late:regression", "--time", "order"],
            "task 'late', column 'late': no training row has a label. Found: 42 r",
        ),
    ],
)
def test_splits(words: list[str], told: str) -> None:
    half, rare = [*range(30), *[None] * 30], [1] * 2 + [0] * 58
    late = [None] * 55 + list(range(5))
    frame = table(same=[1] * N_ROWS, half=half, none=[None] * N_ROWS, rare=rare, late=late, order=range(N_ROWS))
    assert told in refusal(frame, "--task", "price:regression", *words)


NEW = [
    (lambda new: new.drop(columns="age"), "the new rows: 1 input column is missing: 'age'. There is: "),
    (lambda new: new.rename(columns={"age": "agge"}), "1 input column is missing: 'age'. Did you mean 'agge'?"),
    (lambda new: new.assign(age="old"), "column 'age': 20 cells do not fit a column of numbers. Found: 'old' in row 1 of n, "),
    (lambda new: new.assign(suburb=range(20)), "'suburb' held other values in training: 'lake', 'south', 'north'. Found: '0'"),
    (lambda new: new.assign(sold="soon"), "column 'sold': 20 cells do not fit a column of dates. Found: 'soon' in row 1 of n"),
    (lambda new: new.assign(sold=5), "column 'sold' is a column of dates. Found: cells of type int64."),
    (lambda new: new.assign(age=np.inf), "column 'age': 20 cells do not fit finite numbers only. Found: 'inf' in row 1 of n"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    fit_houses(folder)
    return folder / "run"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("change", "told"), NEW)
def test_new_rows(run: Path, change: Callable[[pd.DataFrame], pd.DataFrame], told: str, suffix: str) -> None:
    WRITERS[suffix](change(houses(20, seed=1)), Path(f"n.{suffix}"))
    Path("kept.csv").write_text("kept")
    assert told in mistake("predict", run, f"n.{suffix}", "--out", "kept.csv", "--overwrite")
    assert Path("kept.csv").read_text() == "kept"
    assert told in mistake("evaluate", run, f"n.{suffix}")
    assert sorted(path.name for path in Path().iterdir()) == ["kept.csv", f"n.{suffix}"], "no draft is left"

"""A file read piece by piece is the file read in one go."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from polytask import CSV, Binary, Multiclass, Parquet, Recipe, Regression, fit, load
from polytask.errors import PolytaskError
from polytask.sources import _pieces
from tests.houses import houses

EARLY = [f"{i},{i}" for i in range(60)]


def both(path: Path, needed: tuple[str, ...] = (), **options: Any) -> tuple[pa.Table, list[pa.Table]]:
    source = CSV("unread.csv", **options)
    return source.read_other(path, needed), list(source.read_in_pieces(path, needed))


@pytest.mark.parametrize(
    ("rows", "options", "kinds"),
    [
        (EARLY, {}, ["int64", "int64"]),
        ([*EARLY, "1.5,x"], {}, ["double", "string"]),
        ([*EARLY, "00501,true"], {}, ["string", "string"]),
        ([*["true,NA"] * 60, "FALSE,NA"], {}, ["bool", "null"]),
        ([*["NA,"] * 150, "3,x"], {}, ["int64", "string"]),
        ([*["1/2/2014,2014-01-02"] * 60, "13/2/2014,2014-12-31 10:00"], {}, ["timestamp[us]", "timestamp[us]"]),
        ([*["1/2/2014,1.5"] * 60, "soon,1.5.2"], {}, ["string", "string"]),
        ([*["1/2/2014,5."] * 60], {"date_order": "dmy", "strip": "."}, ["timestamp[us]", "double"]),
        ([*[">50K.,2."] * 60, ">50K,x."], {"strip": "."}, ["string", "string"]),
        ([*['"a,b\n""c""\n",1'] * 60, "x,2"], {}, ["string", "int64"]),
        ([*["面积,1"] * 60, "价,2"], {"encoding": "gbk"}, ["string", "int64"]),
        ([*["面积,1"] * 60, "价,2"], {"encoding": "utf-16"}, ["string", "int64"]),
        ([*["# said,by me", "1,2"] * 60], {"comment": "#"}, ["int64", "int64"]),
    ],
)
def test_types_are_those_of_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], options: dict[str, Any], kinds: list[str]
) -> None:
    monkeypatch.setattr(_pieces, "PIECE_CHARACTERS", 100)
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["a,b", *rows]) + "\n", encoding=options.get("encoding", "utf-8"), newline="")
    whole, pieces = both(path, **options)
    assert len(pieces) > 3
    assert [str(kind) for kind in whole.schema.types] == kinds
    assert pa.concat_tables(pieces).equals(whole)


@pytest.mark.parametrize("seed", range(20))
def test_however_the_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(_pieces, "PIECE_CHARACTERS", draw.randint(40, 150))
    cells = ["1", "-2.5", "NA", '"x\r\ny"', '"a ""b"""', "é", "2014-01-05", "true", ""]
    few = draw.sample(cells, draw.randint(1, 4))
    end = draw.choice(["\n", "\r\n"])
    text = f"a;b{end}" + "".join(f"{draw.choice(few)};{i}{end}" for i in range(40))
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(text.removesuffix(end if seed % 2 else "").encode("utf-8-sig")))
    whole, pieces = both(path)
    assert pa.concat_tables(pieces).equals(whole)


def test_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("b,a,c\n1,2,3\n")
    headerless = CSV("unread.csv", header=False, names=("a", "b"))
    (piece,) = headerless.read_in_pieces(tmp_path / "a.csv", {"a", "b"})
    assert piece.to_pydict() == {"b": [1], "a": [2]}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "the file is empty"),
        (b"a,b\n" + b"1,2\n" * 90 + b"1\n", "1 row does not have 2 cells. Found: line 92 has 1."),
        (b"a,b\n" + b"1,2\n" * 90 + b"\xff,2\n", "not utf-8 text. Found: byte 0xff. Say encoding: cp1252 or latin-1, or"),
        (b"a,b\n" + b"1,2\n" * 90 + b"\0,2\n", "the file is not utf-8 text. Found: a NUL character"),
        (b"PAR1\xff", "the file is not text. Found: the first bytes of Parquet."),
        (gzip.compress("".join(["a,b\n", *(f"{n * 7919},{n * n}\n" for n in range(900))]).encode())[:-900], "cannot be read"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, told: str) -> None:
    monkeypatch.setattr(_pieces, "PIECE_CHARACTERS", 100)
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(PolytaskError) as caught:
        list(CSV("unread.csv").read_in_pieces(tmp_path / "a.csv", ()))
    assert told in str(caught.value)
    with pytest.raises(PolytaskError, match=r"no file 'b.csv'"):
        list(CSV("unread.csv").read_in_pieces(tmp_path / "b.csv", ()))
    with pytest.raises(PolytaskError, match=r"no file 'b.parquet'"):
        list(Parquet("unread.parquet").read_in_pieces(tmp_path / "b.parquet", ()))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    houses(300).to_csv(folder / "houses.csv", index=False)
    tasks = [Regression("price"), Multiclass("condition"), Binary("waterfront")]
    recipe = Recipe(sources=[CSV(folder / "houses.csv")], tasks=tasks, drop=["id"], encoder="table", trainer={"epochs": 3})
    return fit(recipe).save(folder / "run")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "csv.gz"])
def test_the_answers_are_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_folder: Path, suffix: str
) -> None:
    monkeypatch.setattr("polytask.run.PIECE_ROWS", 4096)
    monkeypatch.setattr("polytask.sources.parquet.PIECE_ROWS", 1000)
    monkeypatch.setattr(_pieces, "PIECE_CHARACTERS", 100_000)
    frame, path = houses(10_000, 5), tmp_path / f"new.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    run = load(run_folder)
    pieces = list(run.predict_pieces(path, probabilities=True))
    assert [len(piece) for piece in pieces] == [4096, 4096, 10_000 - 2 * 4096]
    assert pa.concat_tables(pieces).equals(run.predict(path, probabilities=True))
    assert pa.concat_tables(run.predict_pieces(frame, ["price"])).equals(run.predict(path, ["price"]))


PEAK = """
import resource, sys
import pyarrow as pa
from polytask import load
run, n_rows = load(sys.argv[1]), 0
pieces = run.predict_pieces(sys.argv[2]) if sys.argv[3] == "pieces" else [run.predict(sys.argv[2])]
for piece in pieces:
    n_rows += len(piece)
print(n_rows, pa.default_memory_pool().max_memory() >> 20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = houses(100_000, 3).to_csv(index=False).split("\n", 1)
    peaks: dict[tuple[int, str], tuple[int, int]] = {}
    for n_blocks, how in ((1, "pieces"), (8, "pieces"), (8, "whole")):
        path = tmp_path / f"{n_blocks}.csv"
        path.write_text("\n".join([block[0], block[1] * n_blocks]))
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(run_folder), str(path), how], capture_output=True, text=True, check=True
        )
        n_rows, tables, process = map(int, done.stdout.split())
        peaks[n_blocks, how] = tables, process
        assert n_rows == 100_000 * n_blocks
    with capsys.disabled():
        sys.stdout.write(f"\npeak MB of tables and of the process, by (100,000 rows, how): {peaks}\n")
    # The tables alone: what torch and the allocator hold is the larger part of the process, and varies. Twice, for how far the
    # reader is ahead varies too.
    assert peaks[8, "pieces"][0] < 2 * peaks[1, "pieces"][0]
    assert peaks[8, "pieces"][0] < 0.5 * peaks[8, "whole"][0]

from __future__ import annotations

import datetime
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from polytask.errors import PolytaskError
from polytask.sources import CSV

ADULT = (
    """age workclass weight education education_num marital occupation relationship race sex gain loss hours country income"""
)


def written(folder: Path, text: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: Path, text: str | bytes, **options: Any) -> dict[str, list[Any]]:
    return CSV(written(folder, text), **options).read().to_pydict()


def column(folder: Path, cells: list[str], **options: Any) -> tuple[str, list[Any]]:
    """The type and the values of a column of these cells, beside a column that is never blank."""
    text = "row,x\n" + "".join(f"{row},{cell}\n" for row, cell in enumerate(cells))
    values = CSV(written(folder, text), delimiter=",", **options).read()["x"]
    return str(values.type), values.to_pylist()


def refusal(folder: Path, text: str | bytes, **options: Any) -> str:
    with pytest.raises(PolytaskError) as caught:
        read(folder, text, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", " 2\t", "-3"], "int64", [1, 2, -3]),
        (["1", "2.5", "1e3", ".5"], "double", [1.0, 2.5, 1000.0, 0.5]),
        (["0", "-0", "0.5"], "double", [0.0, -0.0, 0.5]),
        (["TRUE", "false", "True"], "bool", [True, False, True]),
        (["NA", "", "null"], "null", [None, None, None]),
        (["1", "NaN", "3"], "int64", [1, None, 3]),
        (["1", "two"], "string", ["1", "two"]),
        (["00501", "10001"], "string", ["00501", "10001"]),
        (["0x1F", "0x20"], "string", ["0x1F", "0x20"]),
        (["1234567890123456789012", "1"], "string", ["1234567890123456789012", "1"]),
        (["None", "left"], "string", ["None", "left"]),
        (["?", "1"], "string", ["?", "1"]),
        (["true", "perhaps"], "string", ["true", "perhaps"]),
        (["true", "1"], "string", ["true", "1"]),
    ],
)
def test_a_column_gets_the_narrowest_type_that_reads_every_cell(
    tmp_path: Path, cells: list[str], kind: str, values: list[Any]
) -> None:
    assert column(tmp_path, cells) == (kind, values)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2014-10-13", "2014-01-02"], [(2014, 10, 13), (2014, 1, 2)]),
        (["2014-1-3", "2014-10-13"], [(2014, 1, 3), (2014, 10, 13)]),
        (["2014/10/13", "2014/1/3"], [(2014, 10, 13), (2014, 1, 3)]),
        (["2014-10-13 08:30", "2014-10-13T09:00:01.5"], [(2014, 10, 13, 8, 30), (2014, 10, 13, 9, 0, 1, 500000)]),
        (["2014-10-13T08:30:00Z", "2014-10-13T08:30:00+02:00"], [(2014, 10, 13, 8, 30), (2014, 10, 13, 6, 30)]),
        (["20141013T083000", "20141014T000000"], [(2014, 10, 13, 8, 30), (2014, 10, 14)]),
        (["1/2/11", "1/13/11"], [(2011, 1, 2), (2011, 1, 13)]),
        (["1/2/11", "13/1/11"], [(2011, 2, 1), (2011, 1, 13)]),
        (["12/31/68", "1/1/69"], [(2068, 12, 31), (1969, 1, 1)]),
        (["1/13/2011 9:05", "12/1/2011 10:15:20"], [(2011, 1, 13, 9, 5), (2011, 12, 1, 10, 15, 20)]),
        (["13.1.2011", "1.2.2011"], [(2011, 1, 13), (2011, 2, 1)]),
    ],
)
def test_dates_in_the_ways_people_write_them(tmp_path: Path, cells: list[str], expected: list[tuple[int, ...]]) -> None:
    assert column(tmp_path, cells) == ("timestamp[us]", [datetime.datetime(*parts) for parts in expected])


@pytest.mark.parametrize("cells", [["2/30/11", "1/1/11"], ["13/13/11", "1/1/11"], ["1.2.3", "1.2.4"], ["2011-01-01", "soon"]])
def test_what_is_no_date_stays_text(tmp_path: Path, cells: list[str]) -> None:
    assert column(tmp_path, cells) == ("string", cells)


def test_a_date_order_can_be_said_where_the_values_do_not_tell_it(tmp_path: Path) -> None:
    assert column(tmp_path, ["1/2/11"])[1] == [datetime.datetime(2011, 1, 2)]
    assert column(tmp_path, ["1/2/11"], date_order="dmy")[1] == [datetime.datetime(2011, 2, 1)]
    assert column(tmp_path, ["2011-02-01"], date_order="dmy")[1] == [datetime.datetime(2011, 2, 1)]


def test_what_means_missing_is_an_option_and_an_empty_cell_always_does(tmp_path: Path) -> None:
    assert column(tmp_path, ["?", "1", " ", "2"], missing=("?",)) == ("int64", [None, 1, None, 2])
    assert column(tmp_path, ["?", "NA"], missing=("?",)) == ("string", [None, "NA"])


def test_strip_mends_text_and_leaves_numbers_alone(tmp_path: Path) -> None:
    assert column(tmp_path, ["<=50K.", ">50K. "], strip=".") == ("string", ["<=50K", ">50K"])
    assert column(tmp_path, [".5", "5."], strip=".") == ("double", [0.5, 5.0])
    assert column(tmp_path, ["$5", "$7"], strip="$") == ("int64", [5, 7])


def test_a_decimal_comma(tmp_path: Path) -> None:
    assert read(tmp_path, "a;b\n1,5;x\n-2,25;y\n", decimal=",") == {"a": [1.5, -2.25], "b": ["x", "y"]}
    assert read(tmp_path, "a;b\n1.234,5;x\n", decimal=",")["a"] == ["1.234,5"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_out(tmp_path: Path, delimiter: str) -> None:
    text = "a,b c\n1,x y\n2,z\n".replace(",", delimiter)
    assert read(tmp_path, text) == {"a": [1, 2], "b c": ["x y", "z"]}


def test_the_delimiter_is_found_out_among_quoted_ones(tmp_path: Path) -> None:
    assert read(tmp_path, 'a;b\n"1,2,3";x\n"4,5,6";y\n') == {"a": ["1,2,3", "4,5,6"], "b": ["x", "y"]}
    assert read(tmp_path, "a;b\nfoo, bar;1\nbaz;2\n") == {"a": ["foo, bar", "baz"], "b": [1, 2]}


def test_one_column(tmp_path: Path) -> None:
    assert read(tmp_path, "price\n1\n\n2\n") == {"price": [1, 2]}


def test_headers_names_and_neither(tmp_path: Path) -> None:
    rows = "1,x\n2,y\n"
    assert read(tmp_path, rows, header=False) == {"column_1": [1, 2], "column_2": ["x", "y"]}
    assert read(tmp_path, rows, header=False, names=["a", "b"]) == {"a": [1, 2], "b": ["x", "y"]}
    assert read(tmp_path, "p,q\n" + rows, names=["a", "b"]) == {"a": [1, 2], "b": ["x", "y"]}
    assert read(tmp_path, ", b \n" + rows) == {"column_1": [1, 2], "b": ["x", "y"]}


def test_quotes(tmp_path: Path) -> None:
    text = 'a,b\n"say ""hi"", you",1\n"two\nlines", "2"\nan 8" screen,3\n'
    assert read(tmp_path, text) == {"a": ['say "hi", you', "two\nlines", 'an 8" screen'], "b": [1, 2, 3]}


def test_blanks_before_a_quote_keep_the_delimiter_inside_it(tmp_path: Path) -> None:
    assert read(tmp_path, 'a, b\n1, "x, ""y"", z"\n"2, 3", w\n') == {"a": ["1", "2, 3"], "b": ['x, "y", z', "w"]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_comments_blank_lines_and_line_ends(tmp_path: Path, end: str) -> None:
    text = "|1x3 Cross validator\na,b\n\n1,x|y\n  | another\n2,z".replace("\n", end)
    assert read(tmp_path, text, comment="|") == {"a": [1, 2], "b": ["x|y", "z"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk", "cp1252"])
def test_encodings_and_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    word = "价格" if encoding == "gbk" else "prix à payer"
    data = f"{word},b\n1,é\n".replace("é", "e" if encoding == "gbk" else "é").encode(encoding)
    said = "utf-8" if encoding == "utf-8-sig" else encoding
    assert list(read(tmp_path, data, encoding=said)) == [word, "b"]


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(b"a,b\n1,2\n"), "data.csv.gz")
    assert CSV(path).read().to_pydict() == {"a": [1], "b": [2]}
    assert CSV(path).label == "data"
    broken = written(tmp_path, gzip.compress(b"a,b\n1,2\n")[:-6], "broken.csv.gz")
    with pytest.raises(PolytaskError, match=r"broken\.csv\.gz: the gzip data are broken"):
        CSV(broken).read()


def test_no_such_file_names_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path, "a\n1\n", "houses.csv")
    with pytest.raises(PolytaskError, match=r"no file 'house\.csv' in .*Did you mean 'houses\.csv'\?"):
        CSV(tmp_path / "house.csv").read()
    with pytest.raises(PolytaskError, match="no folder"):
        CSV(tmp_path / "nowhere" / "houses.csv").read()
    with pytest.raises(PolytaskError, match="cannot be read: Is a directory"):
        CSV(tmp_path).read()


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    written(tmp_path, "a\n1\n", "houses.csv")
    assert CSV("~/houses.csv").read().to_pydict() == {"a": [1]}


def test_files_without_rows(tmp_path: Path) -> None:
    assert "the file is empty" in refusal(tmp_path, "")
    assert "the file is empty" in refusal(tmp_path, "\n \n")
    assert "a header but no rows. Without a header say so: --no-header." in refusal(tmp_path, "a,b\n")


def test_ragged_rows_are_told_by_line(tmp_path: Path) -> None:
    text = '# made by hand\na,b\n"two\nlines",1\n\n2\n3,4,5\n6,7\n'
    told = refusal(tmp_path, text, comment="#", delimiter=",")
    assert "2 rows do not have 2 cells. Found: line 6 has 1, line 7 has 3." in told


def test_a_quote_that_never_closes_does_not_swallow_rows(tmp_path: Path) -> None:
    assert "line 3 opens a quote that never closes" in refusal(tmp_path, 'a,b\n1,2\n3,"x\n4,5\n6,7\n')
    assert "line 2 opens a quote that never closes" in refusal(tmp_path, 'a,b\n"1,2\n3,4\n')


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    assert "2 column names more than once: 'a', 'b'" in refusal(tmp_path, "a,b,a,b,c\n1,2,3,4,5\n")
    told = refusal(tmp_path, "1,2,3\n4,5,6\n", header=False, names=["a", "b"])
    assert "2 names for 3 columns" in told
    assert "a first row of 1, 2, 3" in told
    assert "1 column name more than once: 'a'" in refusal(tmp_path, "1,2\n", header=False, names=["a", "a"])


def test_the_wrong_encoding_names_the_byte_and_what_would_fit(tmp_path: Path) -> None:
    told = refusal(tmp_path, "prix,à\n1,2\n".encode("latin-1"))
    assert "byte 0xe0 at position 5" in told
    assert "latin-1" in told
    assert "Say encoding: utf-16, or save it as UTF-8." in refusal(tmp_path, "a,b\n1,é\n".encode("utf-16"))
    assert "Say encoding: utf-16-le, or" in refusal(tmp_path, "a,b\n1,2\n".encode("utf-16-le"))
    assert "Say encoding: utf-16-be, or" in refusal(tmp_path, "a,b\n1,2\n".encode("utf-16-be"))
    stray = refusal(tmp_path, b"a,b\n1,2\n3\0,4\n")
    assert "not utf-8 text. Found: a NUL character at byte 9. Save it as UTF-8 text." in stray
    assert "not text. Found: the first bytes of Parquet. Name it .parquet." in refusal(tmp_path, b"PAR1\xff\xfe")
    assert "the first bytes of a zip archive, as .xlsx is" in refusal(tmp_path, b"PK\x03\x04\xff\xfe")
    assert "Say encoding: utf-8" in refusal(tmp_path, "a,é\n1,2\n".encode(), encoding="ascii")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"encoding": "utf-9"}, "no such encoding"),
        ({"encoding": "base64"}, "no such encoding"),
        ({"delimiter": ";;"}, "at most 1 character"),
        ({"delimter": ";"}, "CSV has no field 'delimter'. Did you mean 'delimiter'?"),
        ({"decimal": "'"}, "'.' or ','"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], told: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        CSV("houses.csv", **options)
    assert told in str(caught.value)


def test_a_source_needs_its_path() -> None:
    with pytest.raises(PolytaskError, match="CSV needs 'path'"):
        CSV()


def test_a_held_out_file_is_read_with_the_same_options(tmp_path: Path) -> None:
    main = written(tmp_path, "25, Private, <=50K\n38, ?, >50K\n", "adult.data")
    test = written(tmp_path, "|1x3 Cross validator\n28, Private, >50K.\n", "adult.test")
    names = ["age", "workclass", "income"]
    parts = CSV(main, test=test, header=False, names=names, comment="|", missing=("?",), strip=".").parts()
    assert parts["main"].to_pydict() == {"age": [25, 38], "workclass": ["Private", None], "income": ["<=50K", ">50K"]}
    assert parts["test"].to_pydict() == {"age": [28], "workclass": ["Private"], "income": [">50K"]}


def test_kc_house(shared_data: Callable[[str], Path]) -> None:
    table = CSV(shared_data("kc_house") / "kc_house_data.csv").read()
    assert (table.num_rows, table.num_columns) == (21_613, 21)
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["id"], types["date"], types["price"], types["grade"]) == ("string", "timestamp[us]", "double", "int64")
    assert table["date"][0].as_py() == datetime.datetime(2014, 10, 13)
    assert not any(column.null_count for column in table.columns)


def test_bike_sharing(shared_data: Callable[[str], Path]) -> None:
    table = CSV(shared_data("bike_sharing") / "hour.csv").read()
    assert table.num_rows == 17_379
    assert table["dteday"][-1].as_py() == datetime.datetime(2012, 12, 31)


def test_student(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("student")
    tables = {path.stem: CSV(path).read() for path in sorted(folder.glob("*.csv"))}
    assert {name: (table.num_rows, table.num_columns) for name, table in tables.items()} == {
        "student-mat": (395, 33),
        "student-por": (649, 33),
    }
    assert tables["student-mat"].schema == tables["student-por"].schema


def test_adult(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("adult")
    source = CSV(
        folder / "adult.data",
        test=folder / "adult.test",
        header=False,
        names=ADULT.split(),
        comment="|",
        missing=("?",),
        strip=".",
    )
    parts = source.parts()
    assert parts["main"].num_rows == 32_561
    assert parts["main"].schema == parts["test"].schema
    assert [sum(column.null_count for column in part.columns) for part in parts.values()] == [4262, 2203]
    assert set(parts["test"]["income"].unique().to_pylist()) == {"<=50K", ">50K"}
    assert parts["main"].schema.field("age").type == pa.int64()

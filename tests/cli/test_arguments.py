"""What can be written on a command line is read as it was meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.cli.arguments import TaskWords, Words, parse_column, parse_list, parse_task
from polytask.errors import PolytaskError

PARTS = st.text(min_size=1)
OPTIONAL = st.none() | PARTS


@given(PARTS, OPTIONAL)
def test_any_name_and_kind_are_read_back(name: str, kind: str | None) -> None:
    words = TaskWords(name, kind=kind)
    assert parse_task(str(words)) == words


@given(PARTS, PARTS, PARTS, OPTIONAL)
def test_any_file_and_column_are_read_back(name: str, file: str, column: str, kind: str | None) -> None:
    words = TaskWords(name, file, column, kind)
    assert parse_task(str(words)) == words


@given(st.text())
def test_any_text_is_a_task_or_a_mistake_that_says_how_to_write_one(text: str) -> None:
    try:
        words = parse_task(text)
    except PolytaskError as error:
        assert "name=file:column:kind" in str(error)  # noqa: PT017  (a text that is a task raises nothing)
    else:
        assert words.name
        assert parse_task(str(words)) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("price", TaskWords("price")),
        ("price:regression", TaskWords("price", kind="regression")),
        ("living area", TaskWords("living area")),
        (" price : regression ", TaskWords("price", kind="regression")),
        ("maths=student-mat.csv:G3", TaskWords("maths", "student-mat.csv", "G3")),
        ("maths=data/student-mat.csv:G3:ordinal", TaskWords("maths", "data/student-mat.csv", "G3", "ordinal")),
        ('"a:b":regression', TaskWords("a:b", kind="regression")),
        ("'a:b':regression", TaskWords("a:b", kind="regression")),
        ('"a=b"', TaskWords("a=b")),
        ("' kept '", TaskWords(" kept ")),
        ('"say ""hi"""', TaskWords('say "hi"')),
        ("driver's age", TaskWords("driver's age")),
        ("x='C:\\data.csv':'y:1':binary", TaskWords("x", "C:\\data.csv", "y:1", "binary")),
    ],
)
def test_tasks(text: str, words: TaskWords) -> None:
    assert parse_task(text) == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a part of it is empty"),
        (":regression", "a part of it is empty"),
        ("price:", "a part of it is empty"),
        ('""', "a part of it is empty"),
        ("a:b:c", "not a task"),
        ("a=b", "not a task"),
        ("a=b=c:d", "not a task"),
        ("a=b:c:d:e", "not a task"),
        ("a:b=c:d", "not a task"),
        ('"a', 'the quote " is never closed'),
        ("x='y.csv:z", "the quote ' is never closed"),
        ('"a"b', "after a closing quote comes : or =, not 'b'"),
    ],
)
def test_what_is_no_task(text: str, message: str) -> None:
    with pytest.raises(PolytaskError) as caught:
        parse_task(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--task {text}: ")


def test_columns() -> None:
    assert parse_column("zip code:category") == ("zip code", "category")
    assert parse_column('"a:b":number') == ("a:b", "number")
    for text in ("zipcode", "a:b:c", "a=b:c"):
        with pytest.raises(PolytaskError, match="not a column and its kind"):
            parse_column(text)


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"])), min_size=2))
def test_lists_are_read_back(words: list[str]) -> None:
    text = ",".join('"' + word.replace('"', '""') + '"' for word in words)
    assert parse_list(text) == words


def test_a_list_of_plain_words() -> None:
    assert parse_list("age, work ,income") == ["age", "work ", "income"]
    assert parse_list("?") == ["?"]


def test_options_become_changes_of_a_recipe_and_set_has_the_last_word() -> None:
    words = Words(
        seed=3, epochs=5, balancer="dwa", group='the "house": no', primary=['a,"b, c"', "d"], set=["trainer.epochs=9"]
    )
    assert words.changes() == [
        "seed=3",
        "trainer.epochs=5",
        'balancer="dwa"',
        'split.group="the \\"house\\": no"',
        'primary=["a", "b, c", "d"]',
        "trainer.epochs=9",
    ]


def test_reading_options_are_fields_of_a_source() -> None:
    words = Words(delimiter=";", names="a,b", missing="?,-", strip=".", inputs="a", test="t.csv")
    fields = {"names": ["a", "b"], "inputs": ["a"], "missing": ["?", "-"], "delimiter": ";", "strip": "."}
    assert words.reading() == {**fields, "test": "t.csv", "header": False}
    assert Words().reading() == {}
    assert Words(names="a,b", header=True).reading() == {"names": ["a", "b"], "header": True}
    assert Words(header=False).reading() == {"header": False}

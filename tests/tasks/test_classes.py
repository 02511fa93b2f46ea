"""Labels of every type that a column may have: how classes are found, matched and given back."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import pyarrow as pa
import pytest
import torch

from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.tasks.multiclass import Multiclass

FOUND = {
    "integers": ([3, 1, None, 2, 3], (1, 2, 3)),
    "integers with holes, which arrive as floats": ([3.0, 1.0, None, 2.0, 3.0], (1, 2, 3)),
    "NaN for a hole": ([3.0, float("nan"), 1.0], (1, 3)),
    "fractions": ([0.5, 1.0, None, 2.5], (0.5, 1.0, 2.5)),
    "booleans": ([True, None, False], (False, True)),
    "text": (["b", None, "a", "B"], ("B", "a", "b")),
    "text of numbers": (["10", "9", None], ("10", "9")),
    "large whole floats": ([1e20, 2e20, None], (1e20, 2e20)),
}


def fitted(values: Sequence[object], **fields: object) -> FittedTask:
    return FittedTask.fit(Multiclass("kind", **fields), pa.array(values))


def complaint(values: Sequence[object], **fields: object) -> str:
    with pytest.raises(PolytaskError) as caught:
        fitted(values, **fields)
    return str(caught.value)


@pytest.mark.parametrize("case", FOUND)
def test_classes_are_found_and_come_back(case: str) -> None:
    values, classes = FOUND[case]
    task = fitted(values)
    assert task.codec.classes == classes
    assert list(map(type, task.codec.classes)) == list(map(type, classes))
    target, present = task.task.encode(pa.array(values), task.codec)
    assert present.tolist() == [value is not None and value == value for value in values]
    perfect = torch.nn.functional.one_hot(target[present], len(classes)).float()
    answers = task.task.answer(task.views(perfect), task.codec)["kind"].to_pylist()
    assert answers == [value for value in values if value is not None and value == value]


@pytest.mark.parametrize(
    ("trained", "later"),
    [
        ([0, 1], [1.0, None, 0.0]),
        ([0.0, None, 1.0], [1, 0, 0]),
        ([0, 1], ["1", None, "0"]),
        (["0", "1"], [1, 0, 0]),
        ([0.5, 1.0], [1, 1, 1]),
        ([True, False], ["true", None, "false"]),
    ],
)
def test_a_label_is_known_whatever_type_its_file_gave_it(trained: list[object], later: list[object]) -> None:
    task = fitted(trained)
    target, present = task.task.encode(pa.array(later), task.codec)
    found = [str(task.codec.classes[int(code)]).lower() for code in target[present]]
    assert [float(text) if text[0].isdigit() else text for text in found] == [
        float(value) if not isinstance(value, str) or value[0].isdigit() else value for value in later if value is not None
    ]


def test_a_class_that_training_has_not_seen_is_told() -> None:
    task = fitted(["house", "flat", "flat"])
    with pytest.raises(PolytaskError) as caught:
        task.task.encode(pa.array(["flat", "hous", "hous", "tent", None]), task.codec)
    assert str(caught.value) == (
        "task 'kind', column 'kind': 3 labels are not among those of the training rows. Found: 'hous' in row 2, "
        "'tent' in row 4. Did you mean 'house'? Mend or drop these rows, or give the task all its classes."
    )


def test_mistakes_in_the_labels_are_told() -> None:
    where = "task 'kind', column 'kind': "
    assert complaint(["a", "a"]).startswith(
        where + "a task with classes needs two of them in the training rows. Found: 'a' in each of 2 rows."
    )
    assert complaint([f"free text {i}" for i in range(10_001)]).startswith(
        where + "too many classes. Found: 10,001 different labels in 10,001 rows. If they are amounts choose regression"
    )
    assert complaint([f"free text {i}" for i in range(50)]).startswith(where + "no two labels are alike")
    assert complaint([1.0, float("inf")]).startswith(where + "1 label is infinite. Found: inf in row 2.")
    assert complaint([datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1)]).startswith(where)
    assert "not among those" in complaint(["a", "c"], classes=("a", "b"))
    with pytest.raises(PolytaskError, match="twice"):
        Multiclass("kind", classes=("a", "b", "a"))

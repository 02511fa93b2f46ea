from __future__ import annotations

import pytest

from polytask.task import Task
from polytask.testing import check_task
from tests.contracts.examples import LABELS, example

NUMBERS = ["bits", "whole", "floats with holes", "fractions"]
FITTING = {
    "binary": ["bits", "booleans", "text"],
    "multiclass": list(LABELS),
    "ordinal": list(LABELS),
    "multilabel": ["text", "booleans", "whole"],
    "count": ["bits", "whole", "floats with holes"],
    "regression": NUMBERS,
    "quantile": NUMBERS,
    "ranking": NUMBERS,
}


@pytest.mark.parametrize("kind", Task.kinds())
def test_task_keeps_its_contract(kind: str) -> None:
    check_task(example(Task, kind))


@pytest.mark.parametrize(("kind", "labels"), [(kind, labels) for kind, fitting in FITTING.items() for labels in fitting])
def test_task_keeps_its_contract_on_labels_of_every_type(kind: str, labels: str) -> None:
    check_task(example(Task, kind), LABELS[labels])

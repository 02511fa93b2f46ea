from __future__ import annotations

import pytest

from polytask.task import Task
from polytask.testing import check_task
from tests.contracts.examples import LABELS, example, labels_for

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
    "embedding": ["bits", "whole", "booleans", "text"],
    "clustering": list(LABELS),
}


@pytest.mark.parametrize("kind", Task.kinds())
def test_task_keeps_its_contract(kind: str) -> None:
    task = example(Task, kind)
    check_task(task, labels_for(task))


@pytest.mark.parametrize(
    "task",
    [
        {"kind": "segmentation", "dice": 0},
        {"kind": "segmentation", "ignore": [7]},
        {"kind": "dense_regression", "loss": "mse", "missing": 0.5},
        {"kind": "dense_regression", "loss": "scale_invariant"},
        {"kind": "dense_regression", "loss": "mse", "transform": "log"},
        {"kind": "reconstruction", "loss": "l1"},
    ],
    ids=str,
)
def test_a_task_of_pixels_keeps_its_contract_with_other_losses(task: dict[str, object]) -> None:
    made = Task.coerce({"name": "y", **task})
    check_task(made, labels_for(made))


@pytest.mark.parametrize(("kind", "labels"), [(kind, labels) for kind, fitting in FITTING.items() for labels in fitting])
def test_task_keeps_its_contract_on_labels_of_every_type(kind: str, labels: str) -> None:
    check_task(example(Task, kind), LABELS[labels])

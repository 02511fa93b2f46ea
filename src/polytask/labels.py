"""y of a scikit-learn estimator: the form it was given in, its columns, the tasks that they label, and how much rows count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, assert_all_finite

from polytask.component import Settings
from polytask.errors import PolytaskError, listed
from polytask.guessing import guess_task
from polytask.tables import as_table
from polytask.task import Task

Array = NDArray[Any]
CLASS_KINDS = {"binary", "multiclass", "ordinal"}


class Form(Settings):
    """How y was given: 0 dimensions for a mapping, 1, or 2; the library of a frame; the types of arrays."""

    n_dims: int
    library: str = ""
    dtypes: dict[str, Any] = Field(default_factory=dict)

    def as_array(self, task: str, answers: pa.ChunkedArray) -> Array:
        """A task's answers, of the labels' own type where they are classes."""
        array: Array = answers.to_numpy()
        wanted = self.dtypes.get(task)
        if wanted is None or array.dtype.kind == "f" or wanted.kind == "O":
            return array
        return array.astype(wanted)


def labels_of(y: Any, names: Sequence[str]) -> tuple[Form, pa.Table]:
    """The form of y, and its columns; those of an array have the names of the tasks, else "y" or "y0", "y1", ..."""
    if isinstance(y, Mapping):
        arrays = {str(name): np.asarray(column) for name, column in y.items()}
        return Form(n_dims=0, dtypes={name: array.dtype for name, array in arrays.items()}), _table(arrays)
    if is_frame(y):
        library = nw.from_native(y).implementation.value
        return Form(n_dims=2, library=library), as_table(y)
    array = np.asarray(y)
    if array.ndim not in (1, 2):
        raise PolytaskError("y is not an array of one or two dimensions", found=f"shape {array.shape}", mend="Reshape it.")
    single = array.ndim == 1
    count = 1 if single else array.shape[1]
    if len(names) != count:
        own = getattr(y, "name", None)
        names = [str(own or "y")] if count == 1 else [f"y{index}" for index in range(count)]
    arrays = {name: array if single else array[:, index] for index, name in enumerate(names)}
    return Form(n_dims=array.ndim, dtypes=dict.fromkeys(names, array.dtype)), _table(arrays)


def _table(arrays: Mapping[str, Array]) -> pa.Table:
    for array in arrays.values():
        if array.dtype.kind == "c":
            raise ValueError("Complex data not supported")
        if array.dtype.kind == "f":
            assert_all_finite(array, allow_nan=True, input_name="y")
    return as_table(arrays)


def given_names(tasks: Any) -> list[str]:
    """The columns of y by the names of task objects, where all are such."""
    given = list(tasks) if isinstance(tasks, Sequence) and not isinstance(tasks, str) else []
    return [task.label_column for task in given] if all(isinstance(task, Task) for task in given) else []


def kinds_of(tasks: Any) -> set[str]:
    """The kinds that are given; none where they are to be guessed."""
    if tasks is None:
        return set()
    given = [tasks] if isinstance(tasks, str) else list(tasks.values() if isinstance(tasks, Mapping) else tasks)
    return {task.kind if isinstance(task, Task) else str(task) for task in given}


def tasks_for(given: Any, labels: pa.Table) -> list[Task]:
    """The tasks for the columns of y."""
    names = labels.column_names
    if given is None:
        return [Task.find(guess_task(labels[name])[0])(name) for name in names]
    if isinstance(given, str):
        given = [given] * len(names)
    pairs = list(given.items()) if isinstance(given, Mapping) else None
    if pairs is None:
        given = list(given)
        if any(isinstance(task, str) for task in given) and len(given) != len(names):
            found = f"{len(given)} tasks, {len(names)} columns of y"
            raise PolytaskError(
                "not one task per column of y", where="tasks", found=found, mend="Name the columns: {name: kind}."
            )
        pairs = list(zip(names if len(names) == len(given) else [""] * len(given), given, strict=True))
    return [task if isinstance(task, Task) else Task.find(task)(str(name)) for name, task in pairs]


def weighted(table: pa.Table, tasks: Sequence[Task], sample_weight: Any) -> tuple[pa.Table, list[Task]]:
    """The table with one more column, which is the weight column of every task.

    Raises:
        ValueError: Not one number from 0 per row, or all are 0.
        PolytaskError: A task has a weight column of its own.

    Example:
        >>> from polytask.tasks import Regression
        >>> table, tasks = weighted(pa.table({"y": [1.0, 2.0]}), [Regression("y")], [3, 1])
        >>> table["sample_weight"].to_pylist(), tasks[0].weight_column
        ([3.0, 1.0], 'sample_weight')
    """
    own = [task.name for task in tasks if task.weight_column is not None]
    if own:
        what = f"the tasks {listed(map(repr, own))} have a weight column already"
        raise PolytaskError(what, where="sample_weight", mend="Give the one or the other.")
    weights = _check_sample_weight(sample_weight, np.empty(table.num_rows), dtype=np.float64, ensure_non_negative=True)
    name = "sample_weight"
    while name in table.column_names:
        name += "_"
    weighted = [task.model_copy(update={"weight_column": name}) for task in tasks]
    return table.append_column(name, pa.array(weights)), weighted


def check_labels(task: Task, labels: pa.Table) -> None:
    """Fractions are no classes, for scikit-learn's metrics and splits neither."""
    if task.kind in CLASS_KINDS and task.label_column in labels.column_names:
        present = labels[task.label_column].drop_null()
        if pa.types.is_floating(present.type):
            check_classification_targets(present.to_numpy())


def is_frame(value: Any) -> bool:
    """Whether it is a data frame of any library."""
    try:
        return isinstance(nw.from_native(value), nw.DataFrame | nw.LazyFrame)
    except TypeError:
        return False

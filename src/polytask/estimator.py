"""A network for many tasks as a scikit-learn estimator: it clones, pickles, and goes into GridSearchCV and pipelines."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import narwhals as nw
import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._tags import ClassifierTags, RegressorTags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import nn

from polytask.cells import ColumnKind
from polytask.component import Settings
from polytask.errors import PolytaskError, listed
from polytask.experiment import fit
from polytask.given import seen_labels
from polytask.labels import (
    CLASS_KINDS,
    check_labels,
    given_names,
    is_frame,
    kinds_of,
    labels_of,
    tasks_for,
    weighted,
)
from polytask.recipe import Recipe
from polytask.run import Run, load
from polytask.sources import Frame
from polytask.splitting import Split
from polytask.tables import as_table, like
from polytask.task import Task

CONTAINERS = ("default", "pandas", "polars", "pyarrow")
PARTS = ("encoder", "sharing", "head", "balancer")


class InvalidInputError(PolytaskError, ValueError):
    """What polytask refuses, as the ValueError that callers of a scikit-learn estimator expect."""


class MultiTaskEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """One network for all columns of y.

    X is a data frame (numbers, text, booleans, dates, missing cells) or a 2-D array. y is a 1-D array or a Series, a 2-D
    array, a data frame or a mapping of names to 1-D arrays; NaN and None are missing labels, in any row of any column.
    ``predict`` answers in the form of y. A share of the rows chooses when to stop.

    Args:
        tasks: What each column of y is: kinds such as "regression" in the order of the columns, or task objects, or a mapping
            of column to either; one kind alone for all columns; None guesses as ``polytask fit`` does.
        encoder: As in a Recipe, as are sharing, head, balancer, trainer, columns, drop and primary. Their fields can be set and
            searched as ``encoder__width``, ``trainer__optimizer__lr``.
        sharing: How the tasks share the encoder.
        head: For tasks that do not have one of their own.
        balancer: What turns the tasks' losses into one update.
        trainer: Epochs, optimizer, early stopping, as a Trainer or a mapping; None for the defaults.
        columns: The kinds of columns of X, where the guess from their values is wrong.
        drop: Columns of X that are not inputs.
        primary: The tasks that choose when to stop; empty for all.
        validation: The share of rows that chooses when to stop; 0 trains through all epochs.
        random_state: Of the split, the initial weights, dropout and the order of rows.

    Attributes:
        run_: The Run, with its scores on the validation rows.
        classes_: The classes: an array where y has one column, else a list with an array per class task.

    Raises:
        InvalidInputError: A PolytaskError that is also a ValueError.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> y = {"sum": X.sum(1), "sign": np.where(X[:, 0] > 0, "up", "down")}
        >>> estimator = MultiTaskEstimator(["regression", "binary"], trainer={"epochs": 20}).fit(X, y)
        >>> estimator.score(X, y) > 0.8, estimator.predict(X[:2])["sign"].tolist()
        (True, ['up', 'up'])
    """

    def __init__(
        self,
        tasks: Any = None,
        *,
        encoder: Any = "table",
        sharing: Any = "hard",
        head: Any = "linear",
        balancer: Any = "equal",
        trainer: Any = None,
        columns: Mapping[str, ColumnKind] | None = None,
        drop: Sequence[str] = (),
        primary: Sequence[str] = (),
        validation: float = 0.15,
        random_state: Any = 0,
    ) -> None:
        self.tasks = tasks
        self.encoder = encoder
        self.sharing = sharing
        self.head = head
        self.balancer = balancer
        self.trainer = trainer
        self.columns = columns
        self.drop = drop
        self.primary = primary
        self.validation = validation
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train on rows X and their labels y.

        Args:
            X: The rows.
            y: Their labels.
            sample_weight: How much each row counts in the losses and scores of all tasks, from 0; None for all alike.

        Raises:
            InvalidInputError: Whatever is wrong with the rows, the labels or the settings.
        """
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        with _mistakes_as_value_errors():
            inputs = self._rows(X, reset=True)
            form, labels = labels_of(y, given_names(self.tasks))
            check_consistent_length(np.empty(inputs.num_rows), np.empty(labels.num_rows))
            tasks = tasks_for(self.tasks, labels)
            for task in tasks:
                check_labels(task, labels)
            both = [name for name in labels.column_names if name in inputs.column_names]
            if both:
                what = f"columns of y are columns of X too: {listed(map(repr, both))}"
                raise PolytaskError(what, mend="Take them out of X: they would give the labels away.")
            table = pa.table([*inputs.columns, *labels.columns], names=[*inputs.column_names, *labels.column_names])
            if sample_weight is not None:
                table, tasks = weighted(table, tasks, sample_weight)
            self.run_: Run = fit(self._recipe(table, tasks, labels.column_names))
        self.n_outputs_ = len(tasks)
        self._form = form
        classes = [np.array(fitted.codec.classes) for fitted in self._class_tasks().values()]
        if classes:
            self.classes_ = classes[0] if form.n_dims == 1 else classes
        elif hasattr(self, "classes_"):
            del self.classes_
        return self

    def predict(self, X: Any) -> Any:
        """An answer per row and column of y, in the form that y had (or in that of ``set_output``)."""
        check_is_fitted(self)
        with _mistakes_as_value_errors():
            answers = self.run_.bundle.predict(self._rows(X, reset=False), list(self.run_.bundle.tasks))
        container = getattr(self, "_container", "default")
        if container != "default" or self._form.library:
            return _framed(answers, X, self._form.library if container == "default" else container)
        columns = {task: self._form.as_array(task, answers[task]) for task in self.run_.bundle.tasks}
        if self._form.n_dims == 0:
            return columns
        if self._form.n_dims == 1:
            return next(iter(columns.values()))
        mixed = len({column.dtype.kind in "OUS" for column in columns.values()}) > 1
        return np.stack([column.astype(object) if mixed else column for column in columns.values()], axis=1)

    def _class_tasks(self) -> dict[str, Any]:
        return {name: fitted for name, fitted in self.run_.bundle.tasks.items() if fitted.codec.classes}

    def _may_have_classes(self) -> bool:
        if hasattr(self, "run_"):
            return bool(self._class_tasks())
        return bool(kinds_of(self.tasks) & CLASS_KINDS) or self.tasks is None

    @available_if(_may_have_classes)  # type: ignore[untyped-decorator]  # scikit-learn ships no types
    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, ``[N, K]`` in the order of ``classes_``.

        A list with an array per class task where y has several columns, a mapping where y was one; tasks without classes have
        none.
        """
        check_is_fitted(self)
        tasks = self._class_tasks()
        with _mistakes_as_value_errors():
            answers = self.run_.bundle.predict(self._rows(X, reset=False), list(tasks), probabilities=True)
        shares = {}
        for name in tasks:
            first = answers.column_names.index(name) + 1  # after the answer come the classes, in their order
            columns = answers.columns[first : first + len(tasks[name].codec.classes)]
            shares[name] = np.stack([column.to_numpy() for column in columns], axis=1).astype(np.float64)
        if self._form.n_dims == 0:
            return shares
        return next(iter(shares.values())) if self._form.n_dims == 1 else list(shares.values())

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean over tasks of the accuracy of those with classes and the R2 of the others, on the rows with a label."""
        check_is_fitted(self)
        with _mistakes_as_value_errors():
            answers = self.run_.bundle.predict(self._rows(X, reset=False), list(self.run_.bundle.tasks))
            _, labels = labels_of(y, [fitted.task.label_column for fitted in self.run_.bundle.tasks.values()])
            weights = _check_sample_weight(sample_weight, np.empty(answers.num_rows), ensure_non_negative=True)
            tasks = self.run_.bundle.tasks
            truths = {name: labels[fitted.task.label_column].combine_chunks() for name, fitted in tasks.items()}
            codecs = {name: fitted.codec for name, fitted in tasks.items()}
            truths, _ = seen_labels(truths, [fitted.task for fitted in tasks.values()], codecs)
        scores = []
        for name, fitted in tasks.items():
            truth, guess = truths[name], answers[name]
            known = truth.is_valid()
            if pa.compute.any(known).as_py():
                measure = accuracy_score if fitted.codec.classes else r2_score
                true, guessed = (np.array(column.filter(known).to_pylist()) for column in (truth, guess))
                scores.append(float(measure(true, guessed, sample_weight=weights[known.to_numpy(zero_copy_only=False)])))
        if not scores:
            raise InvalidInputError("no row of y has a label", where="score", mend="Give rows with labels.")
        return float(np.mean(scores))

    def set_output(self, *, transform: str | None = None) -> Self:
        """The kind of frame that ``predict`` gives: "pandas", "polars", "pyarrow", or "default" for the form of y.

        The argument has scikit-learn's name for it.
        """
        if transform is not None and transform not in CONTAINERS:
            mend = f"One of {listed(CONTAINERS)}."
            raise InvalidInputError(f"no kind of output {transform!r}", where="set_output", mend=mend)
        if transform is not None:
            self._container = transform
        return self

    def set_params(self, **params: Any) -> Self:
        """Set parameters; a field of a part by its path, as in ``trainer__optimizer__lr=0.01``."""
        own = {name: value for name, value in params.items() if "__" not in name or name.partition("__")[0] not in _NESTED}
        super().set_params(**own)
        with _mistakes_as_value_errors():
            for path, value in params.items():
                part, _, inner = path.partition("__")
                if path not in own:
                    before = _plain_part(getattr(self, part))
                    setattr(self, part, _with_field(before, inner.split("__"), value))
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        kinds = (
            {fitted.task.kind for fitted in self.run_.bundle.tasks.values()} if hasattr(self, "run_") else kinds_of(self.tasks)
        )
        if kinds and kinds <= CLASS_KINDS:
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags(multi_label=False)
        elif kinds and not kinds & CLASS_KINDS:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The run as the files it is saved in: a network's hooks cannot be pickled."""
        state = dict(super().__getstate__())
        if "run_" in state:
            with tempfile.TemporaryDirectory() as folder:
                place = state.pop("run_").save(Path(folder, "run"))
                state["run_files"] = {str(f.relative_to(place)): f.read_bytes() for f in place.rglob("*") if f.is_file()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("run_files", None)
        super().__setstate__(state)
        if files is not None:
            with tempfile.TemporaryDirectory() as folder:
                for name, data in files.items():
                    file = Path(folder, name)
                    file.parent.mkdir(exist_ok=True)
                    file.write_bytes(data)
                networks = [self.encoder, self.head]
                self.run_ = load(folder, {type(n).__name__: n for n in networks if isinstance(n, nn.Module)})

    def _rows(self, X: Any, *, reset: bool) -> pa.Table:
        if is_frame(X):
            validate_data(self, X, skip_check_array=True, reset=reset)
            return as_table(X)
        array = validate_data(self, X, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=1 + reset, reset=reset)
        return as_table({f"x{index}": array[:, index] for index in range(array.shape[1])})

    def _recipe(self, table: pa.Table, tasks: Sequence[Task], labels: Sequence[str]) -> Recipe:
        unlearned = [name for name in labels if name not in [task.label_column for task in tasks]]
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        return Recipe(
            sources=(Frame(table, name="X and y"),),
            tasks=tuple(tasks),
            **{part: getattr(self, part) for part in PARTS},
            trainer={} if self.trainer is None else self.trainer,
            split=Split(validation=self.validation, test=0),
            columns=dict(self.columns or {}),
            drop=(*self.drop, *unlearned),
            primary=tuple(self.primary),
            seed=int(seed),
        )


_NESTED = (*PARTS, "trainer")


def _framed(answers: pa.Table, X: Any, library: str) -> Any:
    """The answers as a frame of a library, with the index of X where both are pandas'."""
    if library == "pyarrow":
        return answers
    if is_frame(X) and nw.from_native(X).implementation.value == library:
        return like(X, answers)
    return nw.from_arrow(answers, backend=cast("Any", library)).to_native()


def _plain_part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"kind": part}
    if isinstance(part, Settings):
        to_dict = getattr(part, "to_dict", None)
        return dict(to_dict() if to_dict else part.model_dump())
    return dict(part or {})


def _with_field(fields: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    inner = value if len(path) == 1 else _with_field(_plain_part(fields.get(path[0])), path[1:], value)
    return {**fields, path[0]: inner}


@contextmanager
def _mistakes_as_value_errors() -> Iterator[None]:
    try:
        yield
    except InvalidInputError:
        raise
    except PolytaskError as error:
        raise InvalidInputError(error.what, where=error.where, found=error.found, mend=error.mend) from error

"""What the tasks with classes share: finding the classes in a column, and going from values to codes and back."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, Field, model_validator
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from polytask.answers import AnswerColumn
from polytask.errors import CellsError, PolytaskError, are, counted, did_you_mean, listed, shown
from polytask.task import Codec, Task, refuse
from polytask.tasks._metrics import log_loss

ClassValue = bool | int | float | str
Rows = np.ndarray[Any, np.dtype[np.intp]]
MAX_CLASSES = 10_000
FEW_ROWS = 20  # fewer may all differ by chance
MAX_WHOLE = 2.0**63
Calibration = Literal["temperature"] | None
LOG_TEMPERATURES = (-3.0, 3.0)


def _checked_weights(value: object) -> object:
    mend = 'Give "balanced", or a mapping from classes to numbers above 0.'
    if not isinstance(value, Mapping):
        if value is not None and value != "balanced":
            raise PolytaskError("not weights of classes", where="class_weights", found=shown(value), mend=mend)
        return value
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            where = f"class_weights, class {name!r}"
            raise PolytaskError("a weight is a number above 0", where=where, found=shown(weight), mend=mend)
    return {_class_text(key): weight for key, weight in value.items()}


ClassWeights = Annotated[Literal["balanced"] | Mapping[str, float] | None, BeforeValidator(_checked_weights)]
Goal = Literal["f1", "balanced_accuracy"]
Threshold = Goal | Annotated[float, Field(gt=0, lt=1)]


class ClassTask(Task, abstract=True):
    """A task whose labels are one of a few classes.

    Args:
        classes: The classes in order; None for those found in the training labels, sorted.
        class_weights: What the loss of a row of each class is multiplied by: "balanced" gives all classes the same sum, N / (K
            n_k) a row as in scikit-learn; a mapping gives the numbers, 1 for a class that it does not name.
        calibration: "temperature" divides the logarithms of the probabilities by the number that gives the validation rows the
            least log loss (Guo 2017, arXiv:1706.04599, equation 9); None leaves the probabilities as they are.

    Class attributes:
        one_probability: Whether the view "probability" is that of the second of two classes, ``[N]``, and not ``[N, K]``.
    """

    one_probability: ClassVar[bool] = False

    classes: tuple[ClassValue, ...] | None = None
    class_weights: ClassWeights = None
    calibration: Calibration = None

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        names = [_class_text(value) for value in self.classes or ()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PolytaskError(f"{listed(map(repr, twice))} twice", where="classes", mend="Name each class once.")
        if self.classes is not None and len(self.classes) < 2:
            found, mend = listed(map(repr, self.classes)) or "none", "Name them all, or leave classes out."
            raise PolytaskError("a task with classes needs two of them", where="classes", found=found, mend=mend)
        return self

    def check_labels(self, column: pa.Array) -> None:
        label_text(column, self.place)

    def fit_target(self, column: pa.Array) -> Codec:
        found = self.classes if self.classes is not None else _sorted_classes(column, self.place)
        self.check_classes(found, counted(len(column), "row"))
        codec = Codec(width=self.width(len(found)), classes=found, start=(0.0,) * self.width(len(found)))
        return codec if self.class_weights is None else codec.model_copy(update={"class_weights": self._weights(column, codec)})

    def check_classes(self, classes: tuple[ClassValue, ...], rows: str) -> None:
        """Raise a PolytaskError where these classes, those of so many training rows, do not fit the task."""
        if len(classes) < 2:
            found = f"{classes[0]!r} in each of {rows}" if classes else f"no label in {rows}"
            mend = "Leave this task out, or give its classes."
            what = "a task with classes needs two of them in the training rows"
            raise PolytaskError(what, where=self.place, found=found, mend=mend)

    def _weights(self, column: pa.Array, codec: Codec) -> tuple[float, ...]:
        if self.class_weights == "balanced":
            counts = torch.bincount(self.encode(column, codec)[0], minlength=len(codec.classes)).double().clamp(min=1)
            return tuple((len(column) / len(counts) / counts).tolist())
        return given_weights(self.class_weights or {}, class_texts(codec), f"task {self.name!r}, class_weights")

    def row_weights(self, target: Tensor, codec: Codec) -> Float[Tensor, " B"] | None:
        return torch.tensor(codec.class_weights, device=target.device)[target] if codec.class_weights else None

    @property
    def tunes(self) -> bool:
        return self.calibration is not None

    def tune(self, estimate: Tensor, target: Tensor, codec: Codec, weights: Float[Tensor, " n"]) -> Codec:
        if self.calibration is None:
            return codec
        best = best_temperature(lambda temperature: log_loss(calibrated(estimate, temperature), target, weights))
        return codec.model_copy(update={"temperature": best})

    @abstractmethod
    def width(self, n_classes: int) -> int:
        """How many numbers the head gives."""

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        text, known = label_text(column, self.place), class_texts(codec)
        codes = pc.index_in(text, value_set=pa.array(known, pa.string()))
        present = text.is_valid().to_numpy(zero_copy_only=False)
        codes = codes.fill_null(-1).to_numpy(zero_copy_only=False)
        unseen = np.flatnonzero(present & (codes < 0))
        refuse_unseen(text.take(pa.array(unseen)), unseen, known, "its classes", self.place)
        return torch.from_numpy(np.maximum(codes, 0).astype(np.int64)), torch.from_numpy(present)

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        names = [f"{self.name}:{_class_text(value)}" for value in codec.classes]
        one = self.one_probability
        each = (
            AnswerColumn(name=name, view="probability", at=None if one else index, complement=one and index == 0, detail=True)
            for index, name in enumerate(names)
        )
        return (AnswerColumn(name=self.name, view="label", values=codec.classes), *each)


def refuse_unseen(unseen: pa.Array, rows: Rows, known: Sequence[str], field: str, where: str) -> None:
    """Raise a CellsError that names the first row of each label that training has not, if there are any.

    Args:
        unseen: The labels that training has not.
        rows: The row of each.
        known: Those that it has.
        field: Where the task takes the names of all of them.
        where: The task and column.
    """
    if not len(unseen):
        return
    first: dict[str, int] = {}
    for row, value in zip(rows.tolist(), unseen.to_pylist(), strict=True):
        first.setdefault(value, row)
    mend = f"{did_you_mean(unseen[0].as_py(), known)} Mend or drop these rows, or give the task all {field}."
    cells = {row: value for value, row in first.items()}
    raise CellsError(f"{are(len(unseen), 'label')} not among those of the training rows", cells=cells, where=where, mend=mend)


def best_temperature(loss_at: Callable[[float], Tensor]) -> float:
    """The temperature from e^-3 to e^3 with the least loss."""
    best = minimize_scalar(lambda log: float(loss_at(math.exp(log))), bounds=LOG_TEMPERATURES, method="bounded")
    return math.exp(best.x)


def each_calibrated(probability: Tensor, temperature: float) -> Tensor:
    """Probabilities of one or of several yes-or-no questions, of any shape, at a temperature; float64."""
    return probability.double() if temperature == 1 else torch.sigmoid(torch.logit(probability.double()) / temperature)


def calibrated(probability: Tensor, temperature: float) -> Tensor:
    """Probabilities, float64 ``[N]`` of the second of two classes or ``[N, K]``, at a temperature.

    Example:
        >>> calibrated(torch.tensor([[0.1, 0.9]]), 2.0)  # 1 : 9 becomes 1 : 3
        tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """
    if temperature == 1:
        return probability.double()
    if probability.ndim == 1:
        return each_calibrated(probability, temperature)
    return (probability.double().log() / temperature).softmax(1)


def best_threshold(probability: Tensor, target: Tensor, weights: Tensor, goal: Goal) -> float:
    """The probability above which to say yes, half-way between two of the rows': the one nearest to 1/2 of the best.

    Where all rows are of one class, or there are none, it is 1/2.

    Args:
        probability: Of the second class, ``[n]``.
        target: Class codes, ``[n]``.
        weights: How much each row counts, ``[n]``.
        goal: What is highest there.

    Example:
        >>> best_threshold(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 0, 1, 1]), torch.ones(4), "f1")
        0.25
    """
    values, order = probability.double().sort(descending=True)
    each = weights[order].double()
    truth = target[order] * each
    if not bool(target.any()) or bool(target.all()):
        return 0.5
    found, called = truth.cumsum(0), each.cumsum(0)  # yes to the first, to the first two, ...
    positive = truth.sum()
    if goal == "f1":
        score = 2 * found / (called + positive)
    else:
        score = (found / positive + 1 - (called - found) / (each.sum() - positive)) / 2
    below = torch.cat([values[1:], values.new_zeros(1)])
    score[values == below] = -1  # rows of one probability cannot be told apart
    thresholds = (values + below) / 2
    best = thresholds[score >= score.max() - 1e-12]
    return float(best[(best - 0.5).abs().argmin()])


def binary_losses(output: Tensor, target: Tensor, focal: float) -> Tensor:
    """Of logits and what is true (1 or 0) of the same shape: the focal loss, at 0 cross-entropy.

    Example:
        >>> binary_losses(torch.tensor([0.0, 0.0]), torch.tensor([0, 1]), focal=0.0)
        tensor([0.6931, 0.6931])
    """
    towards = output * (2 * target - 1)
    losses = functional.softplus(-towards)
    # As an exponential: the power's own derivative is infinite at 0 for a gamma below 1.
    return losses if focal == 0 else losses * (focal * functional.logsigmoid(-towards)).exp()


def merged_logits(outputs: Tensor) -> Tensor:
    """The logits ``[B, L]`` of the members' mean probabilities, of logits ``[B, members, L]``."""
    return functional.logsigmoid(outputs).logsumexp(1) - functional.logsigmoid(-outputs).logsumexp(1)


def given_weights(given: Mapping[str, float], known: Sequence[str], where: str) -> tuple[float, ...]:
    """The weight of each of the known classes or labels, 1 where none is given.

    Raises:
        PolytaskError: One is given for another.
    """
    for name in given:
        if name not in known:
            raise PolytaskError(f"no class {name!r}", where=where, mend=did_you_mean(name, known))
    return tuple(float(given.get(name, 1.0)) for name in known)


def class_texts(codec: Codec) -> list[str]:
    """The classes in order, as they are written in a file."""
    return [_class_text(value) for value in codec.classes]


def frequencies(target: Tensor, n_classes: int, weights: Tensor) -> Tensor:
    """The share of each class in the weight of all rows, float64 ``[K]``, with half a row for a class that has none."""
    sums = torch.bincount(target, weights=weights.double(), minlength=n_classes).clamp(min=0.5 * float(weights.mean()))
    return sums / sums.sum()


def _sorted_classes(column: pa.Array, where: str) -> tuple[ClassValue, ...]:
    values = _readable(column, where).unique().drop_null()
    if len(values) > MAX_CLASSES or len(values) == len(column) > FEW_ROWS:
        what = "too many classes" if len(values) > MAX_CLASSES else "no two labels are alike"
        found = f"{len(values):,} different labels in {counted(len(column), 'row')}"
        mend = "If they are amounts choose regression; free text cannot be a class."
        raise PolytaskError(what, where=where, found=found, mend=mend)
    return tuple(sorted(values.to_pylist()))


def label_text(column: pa.Array, where: str) -> pa.Array:
    """Labels as text, a number that is whole without a point.

    Raises:
        PolytaskError: They are dates, or infinite.
    """
    return _readable(column, where).cast(pa.string())


def _readable(column: pa.Array, where: str) -> pa.Array:
    values, mend = _whole(column), "Give the labels as text, numbers or booleans."
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        refuse(np.isinf(numbers), numbers, "label", "infinite", where, "Mend them, or leave them empty.")
        return values
    kind, types = values.type, pa.types
    if not (types.is_boolean(kind) or types.is_integer(kind) or types.is_null(kind) or _is_text(kind)):
        raise PolytaskError("these labels cannot be classes", where=where, found=f"a column of {kind}", mend=mend)
    return values


def _whole(column: pa.Array) -> pa.Array:
    """Numbers that are all whole as integers: a column of integers with holes often arrives as floats."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), MAX_WHOLE))
        if pc.all(whole, min_count=0).as_py():
            return column.cast(pa.int64())
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _class_text(value: ClassValue) -> str:
    text: Any = pa.scalar(value).cast(pa.string()).as_py()
    return str(text)

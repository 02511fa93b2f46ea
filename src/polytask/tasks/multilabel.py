"""Several labels at once, each there or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from polytask.answers import AnswerColumn
from polytask.errors import PolytaskError, counted, listed
from polytask.scorer import Scorer
from polytask.task import Codec, Task, numbers, refuse
from polytask.tasks._classes import (
    Calibration,
    ClassWeights,
    Threshold,
    best_temperature,
    best_threshold,
    binary_losses,
    each_calibrated,
    given_weights,
    label_text,
    merged_logits,
    refuse_unseen,
)
from polytask.tasks._metrics import multilabel_scorers

MAX_LABELS = 10_000
UNKNOWN = -1


class Multilabel(Task):
    """Each of L labels is there or not; the mean binary cross-entropy of the labels that a row tells.

    The labels are either columns of 0 and 1, of which a row may leave some empty, or words in one column of text, such as
    ``red, round``, or of lists of words. There a cell that the source takes for missing is a row without an answer, an empty
    text has no label.

    Args:
        columns: Columns of 0 and 1, one per label; None for one column of text.
        separator: Between the labels of a text, and of answers.
        labels: All labels of a text, in order; None for those found in the training rows, sorted.
        class_weights: What the loss of a label is multiplied by where it is there: "balanced" gives the rows with it and those
            without the same sum; a mapping gives the numbers, 1 for a label that it does not name.
        focal: Gamma of the focal loss of each label, as in a binary task; 0 is cross-entropy.
        threshold: A label is answered above this probability: a number, or "f1" or "balanced_accuracy" for what gives the
            validation rows the highest, for each label by itself.
        calibration: "temperature" divides the logits of all labels by the number that gives the validation rows the least log
            loss (Guo 2017, arXiv:1706.04599, equation 9, with a sigmoid for the softmax); None leaves them.

    Example:
        >>> task = Multilabel("tags")
        >>> codec = task.fit_target(pa.array(["red, round", "", "round"]))
        >>> codec.labels, task.encode(pa.array(["round", None]), codec)[0].tolist()
        (('red', 'round'), [[0, 1], [-1, -1]])
    """

    default_metrics: ClassVar[tuple[str, ...]] = ("f1", "roc_auc", "average_precision", "log_loss")

    columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    separator: str = Field(default=",", min_length=1)
    labels: tuple[str, ...] | None = Field(default=None, min_length=1)
    class_weights: ClassWeights = None
    focal: float = Field(default=0.0, ge=0)
    threshold: Threshold = 0.5
    calibration: Calibration = None

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if callable(self.loss) and self.class_weights is not None:
            mend = "Weigh the labels in the loss, or leave it out."
            raise PolytaskError("a loss of your own gives one value for all labels of a row", where="class_weights", mend=mend)
        if self.columns is not None and (self.column is not None or self.labels is not None):
            mend = "Leave out column and labels, or columns."
            raise PolytaskError("columns are the labels already", where="columns", mend=mend)
        names = self.columns or self.labels or ()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            where = "labels" if self.columns is None else "columns"
            raise PolytaskError(f"{listed(map(repr, twice))} twice", where=where, mend="Name each label once.")
        return self

    @property
    def label_columns(self) -> tuple[str, ...]:
        return self.columns or (self.label_column,)

    def labels_of(self, table: pa.Table) -> pa.Array:
        """The column of text, or the cells of all columns as a text such as "1,0,", which is null where all are empty."""
        if self.columns is None:
            return super().labels_of(self._joined(table))
        marks = [self._marks(table.column(name), name) for name in self.columns]
        known = np.any([mark.is_valid().to_numpy(zero_copy_only=False) for mark in marks], 0)
        joined = pc.binary_join_element_wise(*(mark.fill_null("") for mark in marks), ",") if len(marks) > 1 else marks[0]
        return pc.if_else(pa.array(known), joined, None)

    def check_labels(self, column: pa.Array) -> None:
        label_text(column, self.place)

    def fit_target(self, column: pa.Array) -> Codec:
        names = self.columns or self.labels or tuple(sorted(set(self._words(column)[0].to_pylist())))
        if not names or len(names) > MAX_LABELS:
            mend = f"Give from 1 to {MAX_LABELS:,}; the separator is {self.separator!r}."
            what = f"{len(names):,} labels are too many" if names else "no label in the training rows"
            raise PolytaskError(what, where=self.place, mend=mend)
        codec = Codec(width=len(names), labels=names, start=(0.0,) * len(names))
        target, present = self.encode(column, codec)
        rows = target[present]
        if len(rows) and all(len(told.unique()) < 2 for told in (row[row >= 0] for row in rows.T)):
            mend = "A constant needs no network: leave this task out."
            found = counted(len(rows), "row")
            raise PolytaskError("every label is the same in all training rows", where=self.place, found=found, mend=mend)
        return codec.model_copy(update={"thresholds": self._thresholds(names), "class_weights": self._weights(rows, names)})

    def _thresholds(self, names: Sequence[str]) -> tuple[float, ...]:
        return (0.5 if isinstance(self.threshold, str) else self.threshold,) * len(names)

    def _weights(self, rows: Tensor, names: Sequence[str]) -> tuple[float, ...]:
        if self.class_weights is None:
            return ()
        if self.class_weights == "balanced":
            there, not_there = ((rows == code).sum(0).double().clamp(min=1) for code in (1, 0))
            return tuple((not_there / there).tolist())
        return given_weights(self.class_weights, names, f"task {self.name!r}, class_weights")

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        present = torch.from_numpy(column.is_valid().to_numpy(zero_copy_only=False).copy())
        if self.columns is not None:
            return self._encoded_marks(column, len(codec.labels)), present
        words, rows = self._words(column)
        codes = pc.index_in(words, value_set=pa.array(codec.labels, pa.string()))
        unseen = codes.is_null()
        refuse_unseen(words.filter(unseen), rows[unseen.to_numpy(zero_copy_only=False)], codec.labels, "its labels", self.place)
        target = torch.zeros(len(column), len(codec.labels), dtype=torch.long)
        target[~present] = UNKNOWN
        target[torch.from_numpy(rows), torch.from_numpy(codes.to_numpy(zero_copy_only=False).astype(np.int64))] = 1
        return target, present

    def best_constant(self, target: Tensor, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        # A row's weight is spread over the labels it tells, as the loss is.
        told = (target != UNKNOWN) * weights.unsqueeze(1)
        told = told / (target != UNKNOWN).sum(1, keepdim=True).clamp(min=1)
        if codec.class_weights:
            told = told * _by_label(target, codec)
        total = told.sum(0).clamp(min=torch.finfo(torch.float64).tiny)
        floor = 0.5 / max(1, len(target))
        return torch.logit((told * (target == 1)).sum(0) / total, eps=floor)

    @property
    def searches_constant(self) -> bool:
        return self.focal > 0 or callable(self.loss)

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        return self._mean_told(binary_losses(output, target.clamp(min=0), self.focal), target)

    def weighted_losses(self, output: Float[Tensor, "B width"], target: Tensor, codec: Codec) -> Float[Tensor, " B"]:
        losses = binary_losses(output, target.clamp(min=0), self.focal)
        return self._mean_told(losses * _by_label(target, codec) if codec.class_weights else losses, target)

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"]:
        return merged_logits(outputs)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        return torch.sigmoid(output)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        probability = each_calibrated(estimate, codec.temperature)
        return {"probability": probability, "label": (probability > probability.new_tensor(codec.thresholds)).long()}

    @property
    def tunes(self) -> bool:
        return isinstance(self.threshold, str) or self.calibration is not None

    def tune(self, estimate: Tensor, target: Tensor, codec: Codec, weights: Float[Tensor, " n"]) -> Codec:
        if self.calibration is not None:
            codec = codec.model_copy(update={"temperature": self._best_temperature(estimate, target, weights)})
        if not isinstance(self.threshold, str):
            return codec
        found = []
        for probability, label in zip(each_calibrated(estimate, codec.temperature).T, target.T, strict=True):
            told = label != UNKNOWN
            found.append(best_threshold(probability[told], label[told], weights[told], self.threshold))
        return codec.model_copy(update={"thresholds": tuple(found)})

    def _best_temperature(self, estimate: Tensor, target: Tensor, weights: Tensor) -> float:
        # A probability of float32 may have been rounded to 0 or 1.
        logits, known = torch.logit(estimate.double(), eps=torch.finfo(torch.float32).eps), target.clamp(min=0)

        def loss_at(temperature: float) -> Tensor:
            return (self._mean_told(binary_losses(logits / temperature, known, 0.0), target) * weights).sum()

        return best_temperature(loss_at)

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        each = (
            AnswerColumn(name=f"{self.name}:{name}", view="probability", at=index, detail=True)
            for index, name in enumerate(codec.labels)
        )
        return (AnswerColumn(name=self.name, view="label", values=codec.labels, separator=self.separator), *each)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        return multilabel_scorers(codec.labels)

    @staticmethod
    def _mean_told(losses: Float[Tensor, "B L"], target: Tensor) -> Float[Tensor, " B"]:
        """The mean over the labels that each row tells."""
        told = target != UNKNOWN
        return (losses * told).sum(1) / told.sum(1).clamp(min=1)

    def _words(self, column: pa.Array) -> tuple[pa.Array, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """All labels of all texts one after the other, and the row of each."""
        lists = pc.split_pattern(label_text(column, self.place).fill_null(""), self.separator)
        words = pc.utf8_trim_whitespace(lists.flatten())
        rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
        some = pc.not_equal(words, "")
        return words.filter(some), rows[some.to_numpy(zero_copy_only=False)].astype(np.int64)

    def _joined(self, table: pa.Table) -> pa.Table:
        """The table with lists of words as texts."""
        column = table.column(self.label_column)
        if not (pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type)):
            return table
        return pa.table({self.label_column: pc.binary_join(column, self.separator)})

    def _marks(self, column: pa.ChunkedArray, name: str) -> pa.Array:
        """A column of 0 and 1 as text."""
        where = f"task {self.name!r}, column {name!r}"
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        values = numbers(array, where)
        wrong = ~np.isnan(values) & (values != 0) & (values != 1)
        refuse(wrong, values, "label", "neither 0 nor 1", where, "Mend them, or use another task.")
        return pa.array(np.where(values == 1, "1", "0"), mask=np.isnan(values))

    def _encoded_marks(self, column: pa.Array, n_labels: int) -> Tensor:
        cells = pc.split_pattern(column.cast(pa.string()).fill_null("," * (n_labels - 1)), ",").flatten()
        codes = pc.index_in(cells, value_set=pa.array(["0", "1"])).fill_null(UNKNOWN)
        return torch.from_numpy(codes.to_numpy(zero_copy_only=False).astype(np.int64)).view(-1, n_labels)


def _by_label(target: Tensor, codec: Codec) -> Float[Tensor, "N L"]:
    """What the loss of each label of each row is multiplied by."""
    return torch.where(target == 1, torch.tensor(codec.class_weights, device=target.device), 1.0)

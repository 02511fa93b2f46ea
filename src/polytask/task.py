"""The task contract: one thing to predict, how its raw values become a target, and how an output becomes an answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from pydantic import Field, field_serializer, model_validator
from torch import Tensor

from polytask.answers import AnswerColumn, read_answers
from polytask.augmentation import Operation
from polytask.batch import Inputs
from polytask.component import Component, Settings
from polytask.errors import CellsError, PolytaskError, are, did_you_mean, listed
from polytask.head import Head
from polytask.images import ImageFeature
from polytask.reading import DependsOn
from polytask.scorer import Scorer, user_scorer

Spatial = Literal["codes", "numbers", "image"]
NO_LABEL = 255  # a pixel of a target of codes that has none
MEND_NUMBERS = "Mend them, or say which text means missing; classes need a task such as multiclass."


class Codec(Settings):
    """What a task learned from its training labels; plain values, written to the manifest.

    Attributes:
        width: How many numbers the task reads from its head, or at every place of a map.
        space: The extents of that map; empty for a task of the whole row.
        image: The input image that the task is about, where it is about one.
        classes: The classes in order, as the values found in the column; empty where the target is a number.
        labels: The labels in order, where a row may have several.
        transform: Done to a numeric label first; "standardize": nothing, "log1p": a logarithm, "quantile": normal scores.
        knots: Labels and their normal scores, both increasing.
        center: Subtracted from a transformed label.
        scale: Divides a transformed label.
        residuals: What is added to a prediction on the scale of the loss before it is transformed back; the mean is taken.
        mean: The mean training label, where the mean on the scale of the loss is that of something else.
        thresholds: The probability above which the second of two classes is answered, or each of several labels.
        temperature: What divides the logarithms of probabilities before they are normalized again; 1 leaves them.
        class_weights: What the loss of a row of each class is multiplied by, or that of each label where it is there; empty
            where all count alike.
        start: The output that predicts the best constant, ``width`` numbers.
        null_loss: The loss of that constant on the training labels; None where the task has no such thing.
        joint_loss: For a task that is given another the loss of the best constant for both, over all rows where it is known
            whether both are so.
        mean_weight: The mean weight of a training row with a label.
        n_labels: How many training rows have a label.
        dtype: The arrow type of the answers.
    """

    width: int = 1
    space: tuple[int, ...] = ()
    image: ImageFeature | None = None
    classes: tuple[bool | int | float | str, ...] = ()
    labels: tuple[str, ...] = ()
    transform: str = "standardize"
    knots: tuple[tuple[float, float], ...] = ()
    center: float = 0.0
    scale: float = 1.0
    residuals: tuple[float, ...] = ()
    mean: float | None = None
    thresholds: tuple[float, ...] = (0.5,)
    temperature: float = 1.0
    class_weights: tuple[float, ...] = ()
    start: tuple[float, ...] = (0.0,)
    null_loss: float | None = None
    joint_loss: float | None = None
    mean_weight: float = 1.0
    n_labels: int = 0
    dtype: str = "double"


class Task(Component, family="tasks"):
    """One thing to predict.

    To add a kind, write ``tasks/<kind>.py`` with one class that has the abstract methods below. The order of use is:
    ``fit_target`` on the training labels gives a Codec; ``encode`` turns a column into targets; ``row_losses`` compares a
    head's output with them; ``estimate`` turns an output into probabilities or a mean; ``views`` says these in the column's
    own units; ``answer_columns`` makes columns of them.

    Args:
        name: The task's name, and its column where ``column`` is not given.
        column: The column that holds the labels.
        source: The name of the source that labels this task; None where only one source has the column.
        weight: Multiplies the task's normalized loss.
        weight_column: A column that says how much each row counts in this task's loss and scores; a row with 0 or nothing
            there has no label. None: all count alike.
        loss: The name of one of the task's ``losses``, or a callable ``(output [B, width], target [B]) -> [B]`` in their place;
            None for the first of them.
        metrics: Names of metrics, or callables ``(y_true, y_pred) -> float`` on NumPy arrays; None for the task's own choice.
            "f1:*" names that of every class or label.
        head: The head; None for the recipe's.
        depends_on: Other tasks that the head reads beside its features, as they are estimated, while training too: a name, a
            list of names, or a mapping {name: {what: estimate or state, gradient: false or true}}. See Reading.
        varies_with: The changes of images after which the label would be another, such as flip where it says what is on the
            left: the augmentation leaves them out for all tasks that are trained with this one.

    Class attributes:
        says_yes: Whether a target 1 means yes, so that another task may be given it.
        couples_rows: Whether the loss of a row depends on which others are in the batch.
        has_constant: Whether there is a best constant; else the loss is scaled by that of the untrained network.
        spatial: What a task with an answer at every pixel has as target: "codes", uint8 ``[B, H, W]`` with NO_LABEL where there
            is none; "numbers", float32 ``[B, H, W]`` with NaN where there is none; "image", the input image itself, uint8
            ``[B, C, H, W]``. None for a task of the whole row.
        usual_head: The kind of head that the task takes where it has none of its own, unless the recipe's is of this kind; None
            for the recipe's.
    """

    default_metrics: ClassVar[tuple[str, ...]] = ()
    losses: ClassVar[tuple[str, ...]] = ()
    couples_rows: ClassVar[bool] = False
    has_constant: ClassVar[bool] = True
    tunes_on_training: ClassVar[bool] = False
    says_yes: ClassVar[bool] = False
    spatial: ClassVar[Spatial | None] = None
    usual_head: ClassVar[str | None] = None

    name: str = Field(min_length=1)
    column: str | None = None
    source: str | None = None
    weight: float = Field(default=1.0, gt=0)
    weight_column: str | None = None
    loss: str | Callable[..., Any] | None = None
    metrics: tuple[str | Callable[..., Any], ...] | None = None
    head: Head | None = None
    depends_on: DependsOn = Field(default_factory=dict)
    varies_with: tuple[Operation, ...] = ()

    def __init__(self, name: str = "", **fields: Any) -> None:
        super().__init__(name=name, **fields)

    @model_validator(mode="after")
    def _loss_is_known(self) -> Task:
        if isinstance(self.loss, str) and self.loss not in self.losses and not self.loss.startswith("external:"):
            own = did_you_mean(self.loss, self.losses) if self.losses else "Leave it out for the task's own loss."
            mend = f"{own} A callable (output, target) -> one loss per row is taken too."
            raise PolytaskError(f"no loss {self.loss!r} for a {self.kind} task", where="loss", mend=mend)
        return self

    @field_serializer("loss")
    def _serialized_loss(self, loss: str | Callable[..., Any] | None) -> str | None:
        return loss if loss is None or isinstance(loss, str) else f"external:{getattr(loss, '__name__', 'loss')}"

    @field_serializer("metrics")
    def _serialized_metrics(self, metrics: tuple[str | Callable[..., Any], ...] | None) -> list[str] | None:
        if metrics is None:
            return None
        return [m if isinstance(m, str) else f"external:{getattr(m, '__name__', 'metric')}" for m in metrics]

    @property
    def label_column(self) -> str:
        """The column that holds the labels."""
        return self.column or self.name

    @property
    def label_columns(self) -> tuple[str, ...]:
        """All columns that hold labels: more than one where a subclass says so."""
        return (self.label_column,)

    @property
    def place(self) -> str:
        """What messages call this task's labels."""
        if not self.label_columns:
            return f"task {self.name!r}"
        columns = "column" if len(self.label_columns) == 1 else "columns"
        return f"task {self.name!r}, {columns} {listed(map(repr, self.label_columns))}"

    def head_among(self, usual: Head) -> Head:
        """The head that the task takes in a recipe with this one."""
        if self.head is not None:
            return self.head
        return usual if self.usual_head in (None, usual.kind) else Head.coerce(self.usual_head)

    @property
    def own_columns(self) -> tuple[str, ...]:
        """The columns that say something of this task's labels."""
        return (*self.label_columns, *((self.weight_column,) if self.weight_column is not None else ()))

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Those of its own columns without which rows cannot be scored."""
        return self.own_columns

    @property
    def barred_columns(self) -> tuple[str, ...]:
        """Those of its own columns that are no inputs."""
        return self.own_columns

    @property
    def seen_where(self) -> str | None:
        """The task where whose label is yes this one is seen; None for all rows. Its loss is then that of both together."""
        return None

    @property
    def reads(self) -> tuple[str, ...]:
        """The tasks without which this one is not computed: what its head reads, and what its loss does."""
        return tuple(dict.fromkeys([*self.depends_on, *([] if self.seen_where is None else [self.seen_where])]))

    @property
    def trains(self) -> tuple[str, ...]:
        """The tasks that it reads and whose parameters its loss trains too."""
        return tuple(name for name in self.reads if name == self.seen_where or self.depends_on[name].gradient)

    def among(self, tasks: Collection[str]) -> Self:
        """This task where there are these tasks only: it reads no others."""
        kept = {name: reading for name, reading in self.depends_on.items() if name in tasks}
        return self if len(kept) == len(self.depends_on) else self.model_copy(update={"depends_on": kept})

    def joint(self, output: Tensor, given: Tensor) -> Tensor:
        """The output, ``[B, width]`` or ``[B, members, width]``, that says whether this and what it is given are both so.

        For a task that is ``seen_where`` another.
        """
        raise NotImplementedError

    def weights_of(self, table: pa.Table) -> Float[Tensor, " N"]:
        """How much each row counts, 0 where nothing is given.

        Raises:
            PolytaskError: A weight is negative or not a number.
        """
        column, where = table.column(self.weight_column), f"task {self.name!r}, weight_column {self.weight_column!r}"
        values = numbers(
            column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column, where, "weight", "Give weights from 0."
        )
        refuse(values < 0, values, "weight", "negative", where, "Give weights from 0.")
        return torch.from_numpy(np.nan_to_num(values))

    def labels_of(self, table: pa.Table) -> pa.Array:
        """The labels as one array, null where a row has none: what ``fit_target`` and ``encode`` take.

        Raises:
            PolytaskError: A cell is a list or another nested value.
        """
        column = table.column(self.label_column)
        if pa.types.is_nested(column.type):
            found, mend = f"a column of {column.type}", "Give a column per value, or use multilabel for lists of words."
            raise PolytaskError("a label is a single value", where=self.place, found=found, mend=mend)
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def check_labels(self, column: pa.Array) -> None:
        """Read the labels of all rows (null where there is none), before the training rows alone are looked at.

        Raises:
            PolytaskError: One of them cannot be read, told by its row.
        """

    @abstractmethod
    def fit_target(self, column: pa.Array) -> Codec:
        """Learn classes, center and scale from the training labels (no nulls).

        ``start`` and ``null_loss`` are found afterwards.

        Raises:
            PolytaskError: The labels are of the wrong type, or constant.
        """

    @abstractmethod
    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        """Targets ``[N, ...]`` and which rows have one.

        Raises:
            PolytaskError: A label cannot be read, or is a class that training has not seen.
        """

    @abstractmethod
    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        """The task's own loss, one value per row. A task that ``couples_rows`` returns what belongs to each anchor row."""

    @abstractmethod
    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        """Probabilities, or a mean on the target's scale: what may be averaged over an ensemble's members."""

    @abstractmethod
    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        """An estimate in the column's own units, under the names that metrics read: "value", "label", "probability"."""

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        """The columns that ``predict`` writes, as plain values, so that they can be said where there is no torch.

        Empty where an answer is more than that: then ``answer`` makes the columns, and the task cannot be exported.
        """
        return ()

    def answer(self, views: Mapping[str, Tensor], codec: Codec, probabilities: bool = False) -> dict[str, pa.Array]:
        """The columns that ``predict`` writes, by default those of ``answer_columns``."""
        return read_answers(self.answer_columns(codec), {name: view.numpy() for name, view in views.items()}, probabilities)

    def statistics(self, views: Mapping[str, Tensor], target: Tensor, codec: Codec) -> Float[Tensor, "B n"]:
        """For a task that is ``spatial``: what its metrics need to know of each row, as sums over its pixels, float64.

        So predictions of many pixels need not be kept, and rows can be resampled.
        """
        raise NotImplementedError

    @abstractmethod
    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        """All metrics this task knows, by name."""

    def best_constant(self, target: Any, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        """The output that minimizes the task's own loss when it is the same for every row, with rows weighed by ``weights``.

        Where ``searches_constant`` it is near the minimum, and improved by descent.
        """
        return torch.zeros(codec.width)

    @property
    def searches_constant(self) -> bool:
        """Whether the best constant has no closed form under the loss that was chosen."""
        return callable(self.loss)

    def row_weights(self, target: Tensor, codec: Codec) -> Float[Tensor, " B"] | None:
        """What the loss of each row is multiplied by for its label; None where all count alike."""
        return None

    @property
    def hides(self) -> bool:
        """Whether the task is learned from inputs of which something is hidden, in a pass through the network of its own."""
        return False

    def hidden(self, inputs: Sequence[Inputs], target: Tensor, codec: Codec, seed: int) -> tuple[tuple[Inputs, ...], Tensor]:
        """For a task that ``hides``: inputs without what is hidden, drawn from ``seed``, and a target that knows what it is."""
        raise NotImplementedError

    def on_scale(self, target: Tensor, codec: Codec) -> Tensor:
        """Targets as the loss takes them, where these are not kept so."""
        return target

    def weighted_losses(self, output: Tensor, target: Tensor, codec: Codec) -> Tensor:
        """The task's own loss of each row ``[B]``, weighed for its label."""
        weights, losses = self.row_weights(target, codec), self.row_losses(output, target)
        return losses if weights is None else losses * weights

    def merged(self, outputs: Float[Tensor, "B members width"]) -> Float[Tensor, "B width"] | None:
        """The output whose estimate is the mean of the members' estimates: an ensemble is judged by its loss.

        None where no output says that; then it is judged by the mean of its members' losses, which is higher.
        """
        return None

    def truth(self, target: Tensor, codec: Codec) -> Tensor:
        """Targets in the units of ``views``: what metrics compare with."""
        return target

    def constant_views(self, codec: Codec, n_rows: int) -> dict[str, Tensor]:
        """What the best constant prediction says of ``n_rows`` rows."""
        return self.views(self.estimate(constant_output(codec, n_rows)), codec)

    def begins(self, n_steps: int, n_epochs: int) -> int:
        """The epoch, from 0, in which its loss begins, of ``n_epochs`` with ``n_steps`` each, if its head waits for features.

        Raises:
            PolytaskError: The training ends before.
        """
        return 0

    def remarks(self, views: Mapping[str, Tensor], codec: Codec) -> list[str]:
        """What is to be said of what a trained network says of the training rows."""
        return []

    @property
    def tunes(self) -> bool:
        """Whether ``tune`` learns something."""
        return False

    def tune(self, estimate: Tensor, target: Tensor, codec: Codec, weights: Float[Tensor, " n"]) -> Codec:
        """What is learned after training from estimates ``[n, ...]`` of labeled rows held out, and how much these count."""
        return codec

    def chosen_scorers(self, codec: Codec) -> dict[str, Scorer]:
        """The metrics asked for, or the task's own choice.

        Raises:
            PolytaskError: No metric has that name.
        """
        known = self.scorers(codec)
        chosen: dict[str, Scorer] = {}
        for metric in self.default_metrics if self.metrics is None else self.metrics:
            if isinstance(metric, str):
                if metric.startswith("external:"):
                    continue  # a callable of the person who trained the model, which a bundle does not hold
                matching = [
                    name for name in known if name == metric or (metric.endswith(":*") and name.startswith(metric[:-1]))
                ]
                if not matching:
                    raise PolytaskError(f"no metric {metric!r}", where=f"task {self.name!r}", mend=did_you_mean(metric, known))
                chosen |= {name: known[name] for name in matching}
            else:
                scorer = user_scorer(metric, known)
                chosen[scorer.name] = scorer
        return chosen


def constant_output(codec: Codec, n_rows: int) -> Tensor:
    """The output that predicts the best constant for so many rows, ``[n_rows, width, *space]``, without a copy for each."""
    start = torch.tensor(codec.start)
    return start.view(1, -1, *(1 for _ in codec.space)).expand(n_rows, -1, *codec.space)


def numbers(
    column: pa.Array, where: str, thing: str = "label", mend: str = MEND_NUMBERS
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A column as float64, NaN where missing.

    Args:
        column: The cells.
        where: The task and column, for messages.
        thing: What a cell is, for messages.
        mend: What to do about text.

    Raises:
        PolytaskError: It holds text, dates or nested values, or infinite ones.
    """
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    try:
        plain = pc.utf8_trim_whitespace(column) if text else column
        floats = plain.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        if not text:
            what, found = f"the {thing}s are not numbers", f"a column of {column.type}"
            turn = "Turn it into numbers first, such as the days since a start."
            raise PolytaskError(what, where=where, found=found, mend=turn) from None
        cells = {row: cell for row, cell in enumerate(column.to_pylist()) if cell is not None and not _is_number(cell)}
        what = f"{are(len(cells), thing)} {'not a number' if len(cells) == 1 else 'not numbers'}"
        raise CellsError(what, cells=cells, where=where, mend=mend) from None
    values: np.ndarray[Any, np.dtype[np.float64]] = floats.astype(np.float64)
    refuse(np.isinf(values), values, thing, "infinite", where, "Mend them, or leave them empty.")
    return values


def refuse(
    wrong: np.ndarray[Any, np.dtype[np.bool_]],
    values: np.ndarray[Any, np.dtype[np.float64]],
    thing: str,
    what: str,
    where: str,
    mend: str,
) -> None:
    """Raise a CellsError that names the rows where ``wrong`` is true, if there are any."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        cells = {int(row): float(values[row]) for row in rows}
        raise CellsError(f"{are(len(rows), thing)} {what}", cells=cells, where=where, mend=mend)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python allows between digits

"""What a comparison found: candidates against each task alone, as plain values and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from polytask.errors import PolytaskError, one_line
from polytask.evaluation.delta_m import DeltaM
from polytask.evaluation.plain import Number, plain
from polytask.evaluation.table import table
from polytask.evaluation.verdict import TaskComparison

ALONE, OWN, TREES = "alone", "run", "boosted trees"


@dataclass(frozen=True)
class Costs:
    """What a network costs.

    Attributes:
        parameters: What is learned: of the network that is trained, or where nothing is shared of a network per task.
        flops: Floating-point operations of its forward pass for all tasks, per row; those of products and convolutions.
        memory: The most bytes of tensors alive at once in a training step: weights, gradients, optimizer, activations.
        kept_parameters: As ``parameters``, of what answers afterwards: where each task has its best epoch (``trainer.best:
            task``) that is a network per such epoch. The mean over seeds.
        kept_flops: As ``flops``, likewise.
    """

    parameters: int
    flops: int
    memory: int
    kept_parameters: int
    kept_flops: int


@dataclass(frozen=True)
class Result:
    """What one way to learn the tasks gave.

    Attributes:
        name: "alone", "run" for the run's own recipe, or in what a candidate differs from that.
        differs: The parts of the recipe in which it differs, as plain values.
        losses: Per task the mean loss of the rows that judge, over seeds, in units of the best constant's.
        validation: Likewise of the validation rows.
        metrics: Per task and metric the mean over seeds on the rows that judge.
        n_trainings: How many trainings there were.
        seconds: Of one of them.
        costs: Of its networks.
        verdicts: On each task against alone, from the losses of the rows; none for alone itself.
        delta_m: The mean relative change of the metrics against alone.
        delta_m_of_seeds: Both its means, for each seed by itself.
    """

    name: str
    differs: dict[str, Any]
    losses: dict[str, Number]
    validation: dict[str, Number]
    metrics: dict[str, dict[str, Number]]
    n_trainings: int
    seconds: Number
    costs: Costs | None = None
    verdicts: tuple[TaskComparison, ...] = ()
    delta_m: DeltaM | None = None
    delta_m_of_seeds: tuple[tuple[Number, Number], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Ways to learn tasks together, against each task alone.

    Attributes:
        alone: Each task by itself: the recipe with the sharing ``separate`` and the balancer ``equal``.
        candidates: The run's own recipe, and what else was asked for; those that failed in training are left out.
        trees: Gradient boosting per target, where it applies.
        recipe: The run's encoder, sharing and balancer, as plain values.
        seeds: The seeds of the trainings.
        n_rows: The rows that judged each task.
        judged_on: Their part of the data, "test" or "validation".
        picks: Per task what is best by the validation rows alone: a candidate's name, or "alone".
        left_out: What could not be compared, and why.
        notes: What a reader should know.
    """

    alone: Result
    candidates: tuple[Result, ...]
    trees: Result | None
    recipe: dict[str, Any]
    seeds: tuple[int, ...]
    n_rows: dict[str, int]
    judged_on: str
    picks: dict[str, str]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Result:
        """A candidate, "alone" or "boosted trees", by its name."""
        return next(result for result in self.results if result.name == name)

    @property
    def results(self) -> tuple[Result, ...]:
        """Alone, the candidates, and boosted trees if there are such."""
        return (self.alone, *self.candidates, *(() if self.trees is None else (self.trees,)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(self.alone.losses)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, None for what is not finite; ``from_dict`` brings them back."""
        return dict(plain(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The comparison of ``to_dict``.

        Raises:
            PolytaskError: It is something else.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(values))
        except ValidationError as error:
            what, mend = "this is not a comparison, or one of another version", "Compare again."
            raise PolytaskError(what, where="comparison", found=one_line(error)[:200], mend=mend) from None

    def __str__(self) -> str:
        return table(self)

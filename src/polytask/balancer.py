"""The balancer contract: per-task losses or gradients become the weights of one update.

A balancer is a pure core: ``start`` gives a state, ``step`` takes state and signals and gives weights and the next state.
Nothing is kept on the object. ``polytask.Balance`` is the thin shell that keeps the state, in the trainer's loop or in
anybody's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polytask.component import Component


@dataclass(frozen=True)
class Signals:
    """What a balancer may read at a step, over the tasks present in the batch, in a fixed order.

    Attributes:
        tasks: Their names.
        losses: ``[T]``, detached.
        step: Steps done before this one.
        epoch: Epochs done before this one.
        gramian: ``[T, T]`` inner products of the task gradients of the shared parameters, for those who read it.
        jacobian: ``[T, P]`` these gradients themselves, for those who read it.
    """

    tasks: tuple[str, ...]
    losses: Float[Tensor, " T"]
    step: int = 0
    epoch: int = 0
    gramian: Float[Tensor, "T T"] | None = None
    jacobian: Float[Tensor, "T P"] | None = None


@dataclass(frozen=True)
class State:
    """What a balancer remembers.

    Attributes:
        per_task: Tensors whose first axis is the tasks. In ``step`` it has just the rows of the tasks present, in their order;
            the shell keeps the others.
        common: Tensors that belong to no task, such as a count of steps.
    """

    per_task: Mapping[str, Tensor] = field(default_factory=dict)
    common: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, index: Int[Tensor, " T"]) -> State:
        """The rows of some tasks."""
        return State({key: value[index] for key, value in self.per_task.items()}, self.common)

    def with_rows(self, index: Int[Tensor, " T"], other: State) -> State:
        """This state with the rows of some tasks, and what is common, replaced; it takes their precision and device."""
        new = other.per_task
        per_task = {
            key: value.to(new[key]).index_copy(0, index.to(new[key].device), new[key]) for key, value in self.per_task.items()
        }
        return State(per_task, other.common)


class Balancer(Component, family="balancers"):
    """What turns per-task losses or gradients into one update.

    To add one, write ``balancers/<kind>.py`` with one class below one of the three kinds of balancer in this module: by what it
    reads, LossBalancer, GramianBalancer or JacobianBalancer.

    Class attributes:
        observes: True where ``observe`` wants the losses of the same batch after the update, for one more forward pass.
        weights_sum_to: What the weights sum to, in words.
        cost: What a step costs beside a plain one, in words.
    """

    observes: ClassVar[bool] = False
    weights_sum_to: ClassVar[str] = ""
    cost: ClassVar[str] = ""

    def start(self, tasks: Sequence[str]) -> State:
        """The state before the first step."""
        return State()

    @abstractmethod
    def step(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """The weights ``[T]`` of this update (a JacobianBalancer: the update ``[P]``), and the next state."""

    def observe(self, state: State, losses_after: Float[Tensor, " T"]) -> State:
        """The next state, once the losses of the same tasks on the same batch after the update are known."""
        return state


class LossBalancer(Balancer, abstract=True):
    """Reads losses. Its weights are those of the whole losses, heads included, and cost one backward pass in all."""

    cost: ClassVar[str] = "one backward pass, as a plain step"


class GramianBalancer(Balancer, abstract=True):
    """Reads the Gramian of the task gradients.

    Its weights are those of the parameters that two or more tasks reach; each head keeps its own gradient.
    """

    cost: ClassVar[str] = "a backward pass per task"


class JacobianBalancer(Balancer, abstract=True):
    """Reads the task gradients themselves and gives the update of the shared parameters."""

    cost: ClassVar[str] = "a backward pass per task, and memory of T times the shared parameters"


def uniform(signals: Signals) -> Float[Tensor, " T"]:
    """1/T for each task present."""
    return torch.full_like(signals.losses, 1.0 / len(signals.tasks))

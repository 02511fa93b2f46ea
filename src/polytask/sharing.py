"""The sharing contract: how the tasks share the stages of an encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from polytask.balancer import Balancer
from polytask.batch import Batch, Features, FeatureSpec, Inputs
from polytask.component import Component
from polytask.encoder import TrunkPlan
from polytask.errors import PolytaskError, listed

StageOutputs = tuple[Features, ...]


def module_key(task: str) -> str:
    """A task's name as the key of a module: torch forbids dots and names that a ModuleDict has itself.

    Example:
        >>> module_key("price in no. of $")
        'task price in no%2E of $'
    """
    return "task " + task.replace("%", "%25").replace(".", "%2E")


class SharedTrunk(nn.Module):
    """What a sharing scheme builds: inputs to each task's features.

    ``forward(inputs, tasks)`` returns for every one of ``tasks`` the outputs of its stem and stages, whose shapes are
    ``specs``. What belongs to one task lies under its ``module_key``, never at its place among the tasks: by these keys
    weights find their place in a network with other tasks.

    Class attributes:
        axes: What the axes of a diagnostic are, such as ("task", "expert"), by the words that its name begins with. An axis
            of tasks has each once, in their order, or several times so many rows.
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    specs: tuple[FeatureSpec, ...]

    @abstractmethod
    def forward(self, inputs: Sequence[Inputs], tasks: Sequence[str]) -> Mapping[str, StageOutputs]:
        """Features per task."""

    def see(self, batch: Batch) -> None:
        """Told of a batch before the forward pass over it, where its losses are asked for.

        For schemes whose penalty depends on which rows have labels of which tasks.
        """

    def penalty(self) -> Tensor | None:
        """The regularizer Omega that is added to the sum of losses, a scalar; None where there is none.

        It is asked for once after every forward pass in training, and may depend on what that saw, as a mean over its rows.
        """
        return None

    def settle(self) -> None:
        """Told before the network is traced for export: a choice that weights make for all rows alike becomes a plain value."""

    def notes(self) -> list[str]:
        """What is to be said of how it was computed."""
        return []

    def diagnostics(self) -> dict[str, Tensor]:
        """What is worth plotting: gate weights, stitch matrices."""
        return {}


class Sharing(Component, family="sharings"):
    """How tasks share stages. To add a scheme, write ``sharings/<kind>.py`` with one class that has ``build``.

    A scheme sees only a TrunkPlan, so it works on every kind of input. Which parameters two or more tasks reach is found from
    the losses, not named here.

    Class attributes:
        shares: False where no parameter serves two tasks' losses: there is no gradient to balance then.
        independent: True where, besides, no penalty ties the tasks: clipping, schedule and early stopping are then per task.
        joint: True where a task's features depend on which other tasks there are: with weights of several epochs, each network
            then has the parts of all tasks in its trunk, not only those of the tasks that it answers.
    """

    shares: ClassVar[bool] = True
    independent: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    def check(self, tasks: Sequence[str]) -> None:
        """Whether the scheme's names of tasks are among those of the recipe, before any is left out.

        Raises:
            PolytaskError: One is not.
        """

    def goes_on_from(self, other: Sharing) -> bool:
        """Whether a network of this scheme can begin with the weights of one of ``other``, by their names, and answer as it."""
        return self.to_dict() == other.to_dict()

    def check_balancer(self, balancer: Balancer) -> None:
        """Whether there is anything that a balancer could balance.

        Raises:
            PolytaskError: It reads the gradients of shared parameters, and there are none.
        """
        if not self.shares and balancer.engines:
            able = [kind for kind in Balancer.kinds() if not Balancer.find(kind).engines]
            raise PolytaskError(
                f"{balancer.kind} balances gradients of shared parameters, and {self.kind} shares none",
                where="balancer",
                mend=f"Use one that reads losses alone: {listed(able, len(able))}.",
            )

    @abstractmethod
    def build(self, plan: TrunkPlan, tasks: Sequence[str]) -> SharedTrunk:
        """Make the trunk from as many copies of the plan's stem and stages as the scheme needs."""

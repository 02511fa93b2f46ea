"""The backward passes of one step: one for a weighted sum, or one for each task's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from polytask.balancer import Balancer, GradientBalancer, Reads, Signals, State
from polytask.errors import PolytaskError
from polytask.gradients.collected import Collected
from polytask.gradients.exact import Exact
from polytask.gradients.features import Features
from polytask.gradients.layered import Layered
from polytask.gradients.processes import Processes
from polytask.gradients.reach import Reach

Losses = Mapping[str, Tensor]


@dataclass(frozen=True)
class Share:
    """What a part of a batch adds to its losses, and to a regularizer with weight 1."""

    losses: Losses
    penalty: Tensor | None = None


Part = Callable[[bool], Share]


class NotFiniteError(PolytaskError):
    """A loss or a gradient of a task is NaN or infinite; the balancer has not seen it, and its state is as before."""


@dataclass(frozen=True)
class Outcome:
    """What a step came to.

    Attributes:
        losses: ``[T]``, over all parts and processes, without a graph.
        weights: ``[T]``; empty where the balancer gave an update.
        state: The balancer's next state.
    """

    losses: Tensor
    weights: Tensor
    state: State


@dataclass(frozen=True)
class Passes:
    """Adds balanced gradients to ``.grad``.

    Attributes:
        balancer: What weighs.
        parameters: All that are trained.
        reach: Which tasks reach which of them.
        processes: Those that each have a share of the losses.
    """

    balancer: Balancer
    parameters: Sequence[nn.Parameter]
    reach: Reach
    processes: Processes

    def step(self, state: State, signals: Signals, shares: Sequence[Part]) -> Outcome:
        """One step.

        Args:
            state: Of the tasks that are present.
            signals: All that is known of the step but the losses.
            shares: The parts of the batch.
        """
        reads = self.balancer.wants(state)
        return (
            self._of_losses(state, signals, shares) if reads == "losses" else self._of_gradients(reads, state, signals, shares)
        )

    def total(self, tasks: Sequence[str], shares: Iterable[Losses]) -> Tensor:
        """The loss of each task, ``[T]``, over all parts and processes."""
        total: dict[str, Tensor] = {}
        for share in shares:
            for task, loss in share.items():
                total[task] = total[task] + loss.detach() if task in total else loss.detach()
        zero = next(iter(total.values())) * 0 if total else self.parameters[0].new_zeros(())
        return self.processes.sum(torch.stack([total.get(task, zero) for task in tasks]))

    def _of_losses(self, state: State, signals: Signals, shares: Sequence[Part]) -> Outcome:
        """One backward pass of the weighted sum."""
        tasks = signals.tasks
        read = [shares[0](False)] if len(shares) == 1 else []
        with torch.no_grad():
            losses = self.total(tasks, [share.losses for share in read or [share(True) for share in shares]])
        weights, new = self.balancer.step(state, self._complete(signals, losses))
        whole, penalties = Collected(self.parameters), Collected(self.parameters)
        for share in read or (share(False) for share in shares):
            given = weights if tuple(share.losses) == tasks else weights[[tasks.index(task) for task in share.losses]]
            terms = [torch.dot(given, torch.stack(list(share.losses.values())))] if share.losses else []
            if self.processes.n > 1:
                penalties.add(self._mean(share.penalty))
                whole.add(terms[0] if terms else None)
            elif terms := [*terms, *([] if share.penalty is None else [share.penalty])]:
                torch.stack(terms).sum().backward()
        whole.write(self.processes)
        penalties.write(self.processes)
        return Outcome(losses, weights, new)

    def _of_gradients(self, reads: Reads, state: State, signals: Signals, shares: Sequence[Part]) -> Outcome:
        """A backward pass per task, through what is shared or as far as that."""
        engine = self._engine(reads, signals.tasks, several=len(shares) > 1)
        penalties = Collected(self.parameters)

        def losses_of(share: Part) -> Losses:
            given = share(False)
            penalties.add(self._mean(given.penalty))
            return given.losses

        read = []
        for share in shares:
            part = share(True).losses if engine.again else losses_of(share)
            engine.add(part)
            read.append({task: loss.detach() for task, loss in part.items()})
        engine.gather()
        losses = self.total(signals.tasks, read)
        signals = self._complete(signals, losses)
        again = [partial(losses_of, share) for share in shares] if engine.again else []
        if isinstance(engine, Layered) or reads == "gramian":
            signals = replace(signals, gramian=_finite(engine.gramian()))
            weights, new = self.balancer.step(state, signals)
            engine.write(weights, self.balancer.own(new, signals, weights), again)
        else:
            jacobian = engine.jacobian
            self._check_width(state, jacobian.shape[1])
            signals = replace(signals, jacobian=_finite(jacobian))
            update, new = self.balancer.step(state, signals)
            engine.write_update(update, self.balancer.own(new, signals, update), again)
            weights = update.new_zeros(0)
        penalties.write(self.processes)
        return Outcome(losses, weights, new)

    def _mean(self, penalty: Tensor | None) -> Tensor | None:
        """This process's part of the mean penalty: one that depends on the rows differs between processes."""
        return penalty if penalty is None or self.processes.n == 1 else penalty / self.processes.n

    def _engine(self, reads: Reads, tasks: tuple[str, ...], *, several: bool) -> Exact | Features | Layered:
        if isinstance(self.balancer, GradientBalancer) and self.balancer.gradients == "features":
            if reads == "jacobian" and self.processes.n > 1:
                raise PolytaskError(
                    "an update of the features of a batch that lies in several processes is none that one process would make",
                    where=f"balancer {self.balancer.kind}, gradients: features",
                    mend="Use gradients: exact, or a balancer that reads the Gramian.",
                )
            return Features(self.parameters, self.reach, tasks, self.processes, again=several)
        if reads == "jacobian" or several or self.processes.n > 1:
            return Exact(self.parameters, self.reach, tasks, self.processes)
        return Layered(self.parameters, self.reach, tasks)

    def _complete(self, signals: Signals, losses: Tensor) -> Signals:
        if not math.isfinite(losses.sum()):
            raise NotFiniteError("the losses are not finite", where="Balance.backward", found=str(losses.tolist()))
        return replace(signals, losses=losses)

    def _check_width(self, state: State, width: int) -> None:
        """What a balancer remembers of each parameter is worth nothing once others are shared."""
        before = {value.shape[1] for value in state.per_task.values() if value.ndim == 2} - {0, width}
        if "features" not in self.balancer.engines and before:
            raise PolytaskError(
                "the shared parameters are others than before",
                where=f"balancer {self.balancer.kind}",
                found=f"{width:,} numbers after {max(before):,}",
                mend="Name them: Balance(..., shared=[...]), or call balance.survey(outputs), of all tasks, at the start.",
            )


def checked(share: Share) -> Share:
    """The same, of scalars.

    Raises:
        PolytaskError: A loss is none.
    """
    for name, value in share.losses.items():
        if value.ndim:
            where, found = f"the loss of {name!r}", f"shape {tuple(value.shape)}"
            raise PolytaskError("a loss is a scalar", where=where, found=found, mend="Take its mean.")
    return share


def _finite(products: Tensor) -> Tensor:
    """A solver that is given NaN may fail in its own words, or never end."""
    if not math.isfinite(products.sum()):  # one pass, where isfinite().all() takes twenty times as long
        raise NotFiniteError("the gradients of the tasks are not finite", where="Balance.backward")
    return products

"""Balance: a balancer with its state, for the trainer's loop and for anybody's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from polytask.balancer import Balancer, Signals, State
from polytask.errors import PolytaskError, did_you_mean
from polytask.gradients.graph import Graph
from polytask.gradients.passes import Losses, Part, Passes, Share, checked
from polytask.gradients.processes import Processes
from polytask.gradients.reach import Reach


class Balance:
    """Takes the place of ``sum(losses).backward()``.

    Which parameters the tasks share is seen from the graphs of their losses: those that two or more tasks have ever reached.

    Where ``torch.distributed`` is initialized every process calls ``backward`` at every step, with the losses of its own part
    of the rows (or ``{}``), each a mean over the rows that have a label there; all of them get the gradients of the losses over
    all rows. ``start`` is then needed before the first step, and the network is not wrapped in anything that sums gradients.

    Args:
        network: The network whose gradients are balanced, or its parameters.
        balancer: What to do, as an object, by its kind, or as a mapping of kind and fields.
        shared: The names of the modules or parameters that are shared, where that is not to be seen from the graphs (those of a
            compiled network are all one).
        seed: Of what the balancer draws.
        group: The processes that train together; None for all there are.

    Attributes:
        weights: The weight of each task in the last step.
        epoch: Epochs done; raise it at the end of each one if the balancer looks at epochs (DWA).

    Raises:
        PolytaskError: There is no module or parameter of a name in ``shared``.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> balance = Balance(net, "equal")
        >>> out = net(torch.ones(1, 2))
        >>> balance.backward({"left": out[0, 0], "right": out[0, 1]})
        >>> net.bias.grad, balance.weights
        (tensor([0.5000, 0.5000]), {'left': 0.5, 'right': 0.5})
    """

    def __init__(
        self,
        network: nn.Module | Iterable[nn.Parameter],
        balancer: Balancer | str | Mapping[str, Any],
        *,
        shared: Iterable[str] | None = None,
        seed: int = 0,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        named = network.named_parameters() if isinstance(network, nn.Module) else ((str(i), p) for i, p in enumerate(network))
        trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self.parameters = [parameter for _, parameter in trained]
        self.balancer = Balancer.coerce(balancer)
        self.seed = seed
        self.epoch = 0
        self.steps = 0
        self._tasks: tuple[str, ...] = ()
        self._state = State()
        self._last: tuple[tuple[str, ...], Tensor] = ((), torch.zeros(0))
        self._reach = Reach(len(trained), None if shared is None else _keys([name for name, _ in trained], shared))
        self._processes = Processes(group)
        self._passes = Passes(self.balancer, self.parameters, self._reach, self._processes)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each task in the last step; empty for a balancer that gives an update instead."""
        names, weights = self._last
        return dict(zip(names, weights.tolist(), strict=False))

    def start(self, tasks: Iterable[str]) -> None:
        """Make the tasks known; those that come up later in ``backward`` are added then, those left out are forgotten.

        Raises:
            PolytaskError: The balancer names a task that is not among them.
        """
        names = tuple(tasks)
        self.balancer.check(names)
        self._begin(names)

    def _begin(self, names: tuple[str, ...]) -> None:
        kept = [task for task in self._tasks if task in names]
        fresh = self.balancer.start(names)
        if kept:
            old, new = ([every.index(task) for task in kept] for every in (self._tasks, names))
            fresh = fresh.with_rows(torch.tensor(new), self._state.rows(torch.tensor(old)))
        self._state = fresh
        self._tasks = names
        self._reach.forget(names)

    def survey(self, outputs: Mapping[str, Tensor]) -> None:
        """See from the graph of each task's output, or of its loss, which parameters it reaches.

        ``backward`` sees the same of the tasks in its batch. Where tasks are absent from the first batches, this alone tells
        from the start what they share with others.
        """
        self._reach.learn(list(outputs), Graph(outputs, self.parameters).reached)

    def backward(self, losses: Losses, penalty: Tensor | None = None, *, counts: Mapping[str, float] | None = None) -> None:
        """Add the balanced gradient to ``.grad``.

        Args:
            losses: A scalar per task present in this batch; leave out a task that has no labels here.
            penalty: A regularizer that is added to the sum with weight 1, whatever the balancer does; with several processes
                the mean of theirs.
            counts: With several processes how many labels each task has in this one; None where a task has as many in each one
                that has any.

        Raises:
            PolytaskError: There is no loss, or one is not a scalar.
            NotFiniteError: A loss is NaN or infinite, or the gradient of one for a balancer that reads gradients.
        """
        self.backward_in_parts([lambda again: Share(losses, penalty)], counts=counts)

    def backward_in_parts(self, parts: Sequence[Part], *, counts: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """As ``backward``, for a batch that goes through the network in parts, so that one graph at a time is in memory.

        Args:
            parts: Called one after the other, each gives its share of the tasks' losses and of a penalty: what the shares of a
                task sum up to is its loss. With several parts a balancer that reads losses needs them before it can weight
                any, and one that reads gradients at features before it can go further: each part is then called with True, and
                once more with False, and has to give the same.
            counts: How many labels each task has in all parts; not needed for a single part in a single process.

        Returns:
            The loss of each task, without a graph.

        Raises:
            PolytaskError, NotFiniteError: As ``backward``.
        """
        first = checked(parts[0](False)) if len(parts) == 1 else None
        present = tuple(first.losses if first is not None else counts or ())
        tasks, factors = self._agreed(present, counts)
        if not tasks:
            mend = "Skip batches without labels."
            raise PolytaskError("no task has a loss in this batch", where="Balance.backward", mend=mend)

        def share(part: Part, again: bool) -> Share:
            given = first if first is not None else checked(part(again))
            if factors is None:
                return given
            return replace(given, losses={task: loss * factors[task] for task, loss in given.losses.items()})

        shares = [partial(share, part) for part in parts]
        state, index = self._rows(tasks)
        signals = Signals(tasks, torch.zeros(len(tasks)), self.steps, self.epoch, self.seed)
        outcome = self._passes.step(state, signals, shares)
        self._last = (tasks, outcome.weights.detach())
        self._keep(outcome.state, index)
        self.steps += 1
        return dict(zip(tasks, outcome.losses, strict=True))

    def observe(self, losses: Losses, *, counts: Mapping[str, float] | None = None) -> None:
        """Tell a balancer that ``observes`` what the losses of the same batch are after the optimizer's step."""
        tasks, factors = self._agreed(tuple(losses), counts)
        state, index = self._rows(tasks)
        shares = {task: loss * factors[task] for task, loss in losses.items()} if factors else losses
        self._keep(self.balancer.observe(state, self._passes.total(tasks, [shares])), index)

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on: the balancer's state by task, and the counts."""
        return {
            "kind": self.balancer.kind,
            "tasks": list(self._tasks),
            "per_task": dict(self._state.per_task),
            "common": dict(self._state.common),
            "steps": self.steps,
            "epoch": self.epoch,
            "reach": self._reach.state_dict(),
            "last": {"tasks": list(self._last[0]), "weights": self._last[1]},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``.

        Raises:
            PolytaskError: It was saved by another kind of balancer.
        """
        if saved["kind"] != self.balancer.kind:
            raise PolytaskError(f"this state belongs to {saved['kind']!r}, not to {self.balancer.kind!r}", where="Balance")
        self._tasks, self._state = tuple(saved["tasks"]), State(saved["per_task"], saved["common"])
        self.steps, self.epoch = saved["steps"], saved["epoch"]
        self._reach.load_state_dict(saved["reach"])
        self._last = (tuple(saved["last"]["tasks"]), saved["last"]["weights"])

    def _agreed(
        self, present: tuple[str, ...], counts: Mapping[str, float] | None
    ) -> tuple[tuple[str, ...], dict[str, float] | None]:
        """The tasks that are present in any process, and the part that this one's labels are of all that each has."""
        if self._processes.n == 1:
            return present, None
        if new := [task for task in present if task not in self._tasks]:
            mend = "Call balance.start(tasks) with the same tasks, in the same order, in every process."
            raise PolytaskError(f"task {new[0]!r} is not known to all processes", where="Balance.backward", mend=mend)
        mine = {task: float(counts[task]) if counts is not None else 1.0 for task in present}
        device = self.parameters[0].device
        total = self._processes.sum(torch.tensor([mine.get(task, 0.0) for task in self._tasks], device=device)).tolist()
        everywhere = {task: number for task, number in zip(self._tasks, total, strict=True) if number > 0}
        return tuple(everywhere), {task: mine[task] / everywhere[task] for task in present}

    def _rows(self, names: tuple[str, ...]) -> tuple[State, Tensor | None]:
        """The state of these tasks, and where it belongs; None where these are all tasks."""
        if names == self._tasks:
            return self._state, None
        if new := [name for name in names if name not in self._tasks]:
            self._begin((*self._tasks, *new))
            if names == self._tasks:
                return self._state, None
        index = torch.tensor([self._tasks.index(name) for name in names], dtype=torch.int64)
        return self._state.rows(index), index

    def _keep(self, new: State, index: Tensor | None) -> None:
        self._state = new if index is None else self._state.with_rows(index, new)


def _keys(names: Sequence[str], wanted: Iterable[str]) -> list[int]:
    """The places of the parameters that have one of these names, or are in a module that has."""
    keys: dict[int, None] = {}
    for word in wanted:
        found = [key for key, name in enumerate(names) if name == word or name.startswith(f"{word}.")]
        if not found:
            modules = {name.rpartition(".")[0] for name in names} | {name.partition(".")[0] for name in names}
            what = f"there is no trained parameter or module {word!r}"
            raise PolytaskError(what, where="Balance, shared", mend=did_you_mean(word, sorted(modules - {""} | {*names})))
        keys |= dict.fromkeys(found)
    return list(keys)

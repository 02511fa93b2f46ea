"""One update of a network's weights from a batch; tasks whose loss or gradient is not finite are left out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from polytask.balancer import Balancer
from polytask.batch import Batch
from polytask.encoder import Pace
from polytask.gradients.balance import Balance
from polytask.gradients.conflict import Conflicts
from polytask.gradients.graph import gradients_where_trained
from polytask.gradients.health import GradientNorms
from polytask.gradients.passes import NotFiniteError, Part, Share
from polytask.keeping import Average, Buffers
from polytask.model import MultiTaskModel
from polytask.training import Trainer

# What torch says where it has no class for it: on a CPU, on Apple's GPUs, by cuBLAS and cuDNN.
NO_MEMORY = ("can't allocate memory", "MPS backend out of memory", "ALLOC_FAILED")
LOOK_EVERY = 100  # steps; a look takes a backward pass per task, of at most 16

Losses = dict[str, Tensor]


@dataclass
class Group:
    """Parameters that are clipped, averaged and slowed down together: all, or where nothing is shared a task's own.

    Attributes:
        tasks: Whose they are.
        parameters: These.
        average: Their moving average.
        factor: Of their learning rate.
    """

    tasks: tuple[str, ...]
    parameters: list[nn.Parameter]
    average: Average | None
    factor: float = 1.0


class OutOfMemory(RuntimeError):  # noqa: N818  # as torch's own is called
    """A step did not fit in memory; all is as it was before it."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether that is why an operation failed, on whichever device."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


class Updater:
    """Makes one update after the other.

    Args:
        model: What is trained, on its device.
        settings: How.
        balancer: What makes one update of the losses.
        tasks: All tasks there will be.
        seed: Of what the balancer draws.

    Attributes:
        step: How many there were.
        n_pieces: In how many pieces the rows of a step go through the network: as asked for, or more where these did not fit.
        dropped: Per task the steps that it was left out of since this was last emptied.
        conflicts: How far the gradients of the tasks agree, looked at every LOOK_EVERY steps.
        norms: The sizes of the same gradients at each layer.
    """

    def __init__(
        self, model: MultiTaskModel, settings: Trainer, balancer: Balancer, tasks: Sequence[str], seed: int = 0
    ) -> None:
        self.model, self.settings = model, settings
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.paces = {parameter: pace for parameter, pace in model.paces().items() if parameter.requires_grad}
        self.device = self.parameters[0].device
        decay = settings.average
        self.groups = [
            Group(names, own, None if decay is None else Average(own, decay)) for names, own in model.trained_apart().items()
        ]
        self.optimizer, self.owners = self._build_optimizer()
        self.balance = Balance(model, balancer, seed=seed)
        self.balance.start(tasks)
        self.buffers = Buffers(model)
        self.conflicts = Conflicts(self.parameters)
        self.norms = GradientNorms(model.layers, self.parameters)
        self.step, self.looked, self.n_pieces = 0, -1, settings.accumulate
        self.dropped: dict[str, int] = {}
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Make ready for the steps of an epoch, from 0: what is frozen until later requires no gradient."""
        self.balance.epoch = epoch
        for parameter, pace in self.paces.items():
            parameter.requires_grad_(pace.at(epoch) > 0)

    def in_pieces(self, rows: Int[Tensor, " B"], cut: Callable[[Tensor], Batch], rate: float) -> Losses:
        """One update from some rows; where that does not fit in memory it is done again in twice as many pieces, and so on.

        Args:
            rows: The indices of the rows.
            cut: Makes a batch of some of them.
            rate: The learning rate.

        Raises:
            OutOfMemory: Not even a single row fits.
        """
        while True:
            pieces = rows.chunk(self.n_pieces)
            try:
                return self([cut(piece) for piece in pieces], rate)
            except OutOfMemory:
                if len(pieces) == len(rows):
                    raise
            self.n_pieces *= 2  # here, where what the failed step held is gone

    def __call__(self, pieces: Sequence[Batch], rate: float) -> Losses:
        """One update from a batch that goes through the network in pieces; the losses of the tasks that had a part in it.

        Raises:
            OutOfMemory: It does not fit.
        """
        for options, (owner, pace) in zip(self.optimizer.param_groups, self.owners, strict=True):
            options["lr"] = rate * owner.factor * pace.at(self.balance.epoch)
        self.buffers.keep()
        before = self.balance.state_dict()
        try:
            losses, finite = self._gradients(pieces)
            if not finite:
                pieces, losses = self._without_guilty(pieces, before)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._rewind(before)
            self.optimizer.zero_grad(set_to_none=True)
            raise OutOfMemory(str(error)) from None
        if losses:
            self.optimizer.step()
            for group in self._moved(losses):
                if group.average is not None:
                    group.average.update()
            if self.balance.balancer.observes:
                self._observe(pieces)
        self.step += 1
        return losses

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged weights, if there are such."""
        for average in self._averages():
            average.swap()
        try:
            yield
        finally:
            for average in self._averages():
                average.swap()

    def take(self, parameters: Sequence[nn.Parameter]) -> None:
        """Go on from these parameters, which were set from outside."""
        for average in self._averages():
            average.take(parameters)

    def _averages(self) -> list[Average]:
        return [group.average for group in self.groups if group.average is not None]

    def slow_down(self, tasks: Sequence[str], factor: float) -> None:
        """Multiply the learning rate of these tasks, which share nothing with others, from now on."""
        for group in self._moved(tasks):
            group.factor *= factor

    def _moved(self, tasks: Collection[str]) -> list[Group]:
        """The groups that are updated by the losses of some tasks."""
        return [group for group in self.groups if not set(tasks).isdisjoint(group.tasks)]

    def _build_optimizer(self) -> tuple[torch.optim.Optimizer, list[tuple[Group, Pace]]]:
        """One optimizer for all, and whose each of its groups of parameters is, and how it is paced.

        Only where rates fall apart are there more than one.
        """
        apart = self.settings.schedule == "plateau" and len(self.groups) > 1
        parts: dict[tuple[int, Pace], list[nn.Parameter]] = {(0, Pace()): []}  # first, for its rate is told
        for place, owned in enumerate([group.parameters for group in self.groups] if apart else [self.parameters]):
            for parameter in owned:
                parts.setdefault((place, self.paces.get(parameter, Pace())), []).append(parameter)
        built = [(place, pace, self.settings.optimizer.build(own, self.device)) for (place, pace), own in parts.items() if own]
        first = built[0][2]
        owners = [(self.groups[place], pace) for place, pace, one in built for _ in one.param_groups]
        for options in [options for _, _, other in built[1:] for options in other.param_groups]:
            first.add_param_group(options)
        return first, owners

    def _gradients(self, pieces: Sequence[Batch]) -> tuple[Losses, bool]:
        """The losses, with the balanced and clipped gradient in ``.grad``, and whether all of it is finite."""
        shares = self._shares(pieces)
        if not shares:
            return {}, True
        if self.step == 0:
            self._survey(pieces[0])
        self.optimizer.zero_grad(set_to_none=True)
        try:
            losses = self.balance.backward_in_parts(shares, counts=_n_labels(pieces))
        except NotFiniteError:
            return {}, False
        return losses, self._clip(losses)

    def _clip(self, losses: Losses) -> bool:
        """Clip what each group of parameters has in ``.grad``, and say whether all of it is finite.

        Where nothing is shared the weights of a balancer say only how tasks compare: their mean is made 1, so that ``equal``
        leaves each task the gradient that it has alone.
        """
        limit = self.settings.clip or math.inf
        if not self.model.independent:
            return math.isfinite(nn.utils.clip_grad_norm_(self.parameters, limit))
        groups = [[p.grad for p in group.parameters if p.grad is not None] for group in self._moved(losses)]
        gradients = [gradient for group in groups for gradient in group]
        owners = torch.tensor([place for place, group in enumerate(groups) for _ in group])
        squares = torch.stack(torch._foreach_norm(gradients)).square().cpu()
        norms = squares.new_zeros(len(groups)).index_add_(0, owners, squares).sqrt().tolist()
        weights = self.balance.weights.values()
        scale = len(weights) / sum(weights)
        factors = [scale * min(1.0, limit / (scale * norm + 1e-6)) for norm in norms]
        torch._foreach_mul_(gradients, [factor for factor, group in zip(factors, groups, strict=True) for _ in group])
        return all(math.isfinite(norm) for norm in norms)

    def _shares(self, pieces: Sequence[Batch]) -> list[Part]:
        """For each piece what gives its share of the losses; none where no task has a label."""
        if not any(piece.tasks for piece in pieces):
            return []
        total, n_rows = _n_labels(pieces), sum(piece.n_rows for piece in pieces)
        parts = [{task: n / total[task] for task, n in _n_labels([piece]).items()} for piece in pieces]
        return [
            partial(self._share, i, p, part, p.n_rows / n_rows) for i, (p, part) in enumerate(zip(pieces, parts, strict=True))
        ]

    def _share(self, index: int, piece: Batch, parts: Mapping[str, float], rows: float, again: bool = False) -> Share:
        """A piece's losses and penalty, each times the part of the batch's labels, or rows, that it has.

        One that will be asked for again leaves no trace in batch statistics.
        """
        self.model.clock.step = self.step * self.n_pieces + index
        bfloat16 = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            losses = self.model.losses(piece)
            penalty = self.model.trunk.penalty()
        if again:
            self.buffers.restore()
        elif index == 0 and self.step % LOOK_EVERY == 0 and self.looked != self.step:
            self.looked = self.step  # a step that is done again is looked at once
            self.norms.add(self._own_gradients(losses) if self.model.independent else self.conflicts.look(losses))
        if rows == 1:
            return Share(losses, penalty)
        return Share({task: loss * parts[task] for task, loss in losses.items()}, None if penalty is None else penalty * rows)

    def _own_gradients(self, losses: Losses) -> dict[str, list[Tensor | None]]:
        """The gradients of tasks that share nothing, in one pass: that of the sum is each task's own."""
        total = sum(losses.values())
        if not isinstance(total, Tensor) or not total.requires_grad:
            return {}
        found = gradients_where_trained(total, self.parameters)
        owners = {id(p): task for group in self.groups for task in group.tasks for p in group.parameters}
        pairs = [(owners[id(p)], gradient) for p, gradient in zip(self.parameters, found, strict=True)]
        return {task: [gradient if owner == task else None for owner, gradient in pairs] for task in losses}

    def _survey(self, piece: Batch) -> None:
        """Let a balancer of gradients know what each task reaches, whatever has labels first, and is frozen."""
        if self.balance.balancer.engines:
            for parameter in self.paces:
                parameter.requires_grad_(True)
            self.model.eval()
            self.balance.survey(self.model.learned(piece.inputs))
            self.begin(self.balance.epoch)
            self.model.train()

    def _observe(self, pieces: Sequence[Batch]) -> None:
        self.buffers.keep()
        after: Losses = {}
        with torch.no_grad():
            for share in self._shares(pieces):
                after |= {task: after[task] + loss if task in after else loss for task, loss in share(True).losses.items()}
        if finite := {task: loss for task, loss in after.items() if math.isfinite(loss)}:
            self.balance.observe(finite)

    def _without_guilty(self, pieces: Sequence[Batch], before: Mapping[str, Any]) -> tuple[Sequence[Batch], Losses]:
        """Do a step again without the tasks whose loss or gradient is not finite, as if they had no label in this batch.

        The draws are those of the first time, for they are a function of the step. Where no task alone is to blame, or what is
        left is not finite either, the step is left out for all.
        """
        every = dict.fromkeys(task for piece in pieces for task in piece.tasks)
        self._rewind(before)
        guilty = self._guilty(pieces)
        rest = [piece.without(guilty) for piece in pieces]
        self._rewind(before)
        losses, finite = self._gradients(rest) if guilty else ({}, False)
        if not finite:
            self._rewind(before)
            guilty, rest, losses = list(every), [], {}
        for task in guilty:
            self.dropped[task] = self.dropped.get(task, 0) + 1
        return rest, losses

    def _guilty(self, pieces: Sequence[Batch]) -> list[str]:
        guilty: dict[str, None] = {}
        for share in self._shares(pieces):
            for task, loss in share(False).losses.items():
                reached = [parameter for group in self._moved([task]) for parameter in group.parameters]
                found = gradients_where_trained(loss, reached)
                norm = nn.utils.get_total_norm(filter(torch.is_tensor, found))
                if not (math.isfinite(loss.detach()) and math.isfinite(norm)):
                    guilty[task] = None
        return list(guilty)

    def _rewind(self, before: Mapping[str, Any]) -> None:
        self.balance.load_state_dict(before)
        self.buffers.restore()

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "factors": [group.factor for group in self.groups],
            "averages": [{"steps": a.steps, "weights": a.averages} for a in self._averages()],
            "balance": self.balance.state_dict(),
            "conflicts": self.conflicts.state_dict(),
            "norms": self.norms.found,
            "step": self.step,
            "n_pieces": self.n_pieces,
            "dropped": self.dropped,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``, wherever its tensors are."""
        self.model.load_state_dict(saved["model"])
        states = {int(index): state for index, state in saved["optimizer"].items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        for group in self.optimizer.param_groups:
            group["lr"] = saved["learning_rate"]
        for owner, factor in zip(self.groups, saved["factors"], strict=True):
            owner.factor = factor
        for average, kept in zip(self._averages(), saved["averages"], strict=True):
            average.restore(kept["steps"], kept["weights"])
        self.balance.load_state_dict(on_device(saved["balance"], self.device))
        self.conflicts.load_state_dict(saved["conflicts"])
        self.norms.found = saved["norms"]
        self.step, self.n_pieces, self.dropped = saved["step"], saved["n_pieces"], dict(saved["dropped"])


def on_device(value: Any, device: torch.device) -> Any:
    """Nested dictionaries of tensors on a device."""
    if isinstance(value, Mapping):
        return {key: on_device(item, device) for key, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def _n_labels(pieces: Sequence[Batch]) -> dict[str, int]:
    """How many labels each task has in all pieces."""
    counts: dict[str, int] = {}
    for piece in pieces:
        for task in piece.tasks:
            labeled = piece.labeled[task]
            counts[task] = counts.get(task, 0) + (piece.n_rows if labeled is None else len(labeled))
    return counts

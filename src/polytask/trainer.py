"""The training loop. It knows contracts, never a plug-in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balancer import Balancer
from polytask.batch import Batch, Dataset
from polytask.checkpoint import Checkpoints
from polytask.errors import PolytaskError, listed
from polytask.gradients.balance import Balance, NotFiniteError
from polytask.keeping import Average, Buffers, copied
from polytask.mixing import Mixing, mixed_batches
from polytask.model import MultiTaskModel, mean_losses
from polytask.optimization import rate_at
from polytask.training import Epoch, Trainer

SCALE_BATCHES = 20
PLATEAU_FACTOR = 0.3
COUNTS = ("step", "epoch", "batch", "sums", "counts", "dropped", "waited", "factor", "ended")


def train(
    model: MultiTaskModel,
    training: Dataset,
    validation: Dataset,
    settings: Trainer,
    balancer: Balancer,
    *,
    seed: int = 0,
    primary: Sequence[str] = (),
    mixing: Mixing | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[Epoch]:
    """Train in place; afterwards the model has the weights of its best epoch, is in evaluation mode and on the CPU.

    Args:
        model: Already built; its tasks are those to train.
        training: Rows to learn from.
        validation: Rows that choose the epoch; may be empty.
        settings: Epochs, optimizer, ...
        balancer: What makes one update of the losses.
        seed: Of the order of rows; dropout has the model's.
        primary: The tasks that choose the epoch; empty for all.
        mixing: The share of each source of rows in an epoch; None for that of its rows.
        on_epoch: Called after every epoch, and first for those done before it went on.
        checkpoints: Where the state is saved; what lies there is gone on from, bit for bit as if it had never stopped.

    Raises:
        Stopped: A signal asked for it; the state is saved.
        PolytaskError: The weights or all losses are no longer finite. (A task alone is left out of the steps where its loss
            or gradient is not; the other tasks' updates are those of a batch in which it has no label.)
    """
    with _deterministic(settings.deterministic), torch.random.fork_rng():
        return _Loop(model, training, validation, settings, balancer, seed, primary, mixing).run(on_epoch, checkpoints)


class _Loop:
    """One training run."""

    def __init__(
        self,
        model: MultiTaskModel,
        training: Dataset,
        validation: Dataset,
        settings: Trainer,
        balancer: Balancer,
        seed: int,
        primary: Sequence[str],
        mixing: Mixing | None = None,
    ) -> None:
        self.device = settings.chosen_device()
        self.model = model.to(self.device)
        self.training, self.validation = training.to(self.device), validation.to(self.device)
        self.settings, self.seed = settings, seed
        # What an untrained head says of the validation rows may not choose.
        learning = [t for t in validation.tasks if bool(training.present[t].any()) and bool(validation.present[t].any())]
        self.deciding = [t for t in (primary or validation.tasks) if t in learning]
        self.batch_size = settings.rows_per_step(training.n_rows)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = settings.optimizer.build(self.parameters, self.device)
        self.average = None if settings.average is None else Average(model, settings.average)
        self.balance = Balance(model, balancer)
        self.balance.start(training.tasks)
        self.buffers = Buffers(model)
        self.mixing = mixing or Mixing()
        self.sources = {name: mask.nonzero().squeeze(1) for name, mask in training.sources.items()}
        self.n_steps = settings.epochs * len(self._batches(0))
        self.step = 0
        self.epoch, self.batch = 0, 0  # done: epochs, and batches of the epoch that is going on
        self.sums: dict[str, Tensor] = {}  # what this epoch has seen so far: summed losses, and in how many steps
        self.counts: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.best, self.waited = math.inf, 0
        self.factor = 1.0  # of the learning rate, after its plateaus
        self.best_weights: dict[str, Tensor] | None = None
        self.history: list[Epoch] = []
        self.ended = False

    def run(self, on_epoch: Callable[[Epoch], None] | None, checkpoints: Checkpoints | None) -> list[Epoch]:
        self.began = time.perf_counter()
        saved = None if checkpoints is None else checkpoints.load()
        if saved is None:
            set_scales(self.model, self.training, self.batch_size)
        else:
            self._restore(saved)
        tell: Callable[[Epoch], None] = on_epoch or (lambda _: None)
        for epoch in self.history:
            tell(epoch)
        while not self.ended:
            self._pass(checkpoints)
            self._close()
            tell(self.history[-1])
        if checkpoints is not None:
            checkpoints.visit(self._state, now=True)
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        self.model.eval().cpu()
        return self.history

    def _batches(self, epoch: int) -> list[Tensor]:
        n_rows, n_epochs = self.training.n_rows, self.settings.epochs
        return mixed_batches(self.mixing, self.sources, n_rows, self.batch_size, self.seed, epoch, n_epochs)

    def _pass(self, checkpoints: Checkpoints | None) -> None:
        """One pass over the training rows, or what is left of it."""
        self.model.train()
        self.balance.epoch = self.epoch
        for rows in self._batches(self.epoch)[self.batch :]:
            losses = self._step(self.training.batch(rows.to(self.device)))
            for task, loss in losses.items():
                self.sums[task] = self.sums[task] + loss.detach() if task in self.sums else loss.detach()
                self.counts[task] = self.counts.get(task, 0) + 1
            self.batch += 1
            if checkpoints is not None:
                checkpoints.visit(self._state)
            if self._is_late():
                break
        self.model.clock.step = None

    def _close(self) -> None:
        """The end of an epoch: is it the best so far, and was it the last?"""
        training = {task: float(self.sums[task]) / self.counts[task] for task in self.training.tasks if task in self.sums}
        self._check_weights()
        if self.average is not None:
            self.average.swap()
        validation, selection = self._validate()
        improved = not self.deciding or (selection is not None and selection < self.best)
        if improved:
            self.best_weights, self.waited = copied(self.model), 0
            self.best = self.best if selection is None else selection
        else:
            self.waited += 1
            if self.settings.schedule == "plateau" and self.waited % self.settings.plateau == 0:
                self.factor *= PLATEAU_FACTOR
        if self.average is not None:
            self.average.swap()
        rate = self.optimizer.param_groups[0]["lr"]
        seconds = time.perf_counter() - self.began
        weights, dropped = self.balance.weights, self.dropped
        self.epoch, self.batch = self.epoch + 1, 0
        self.history.append(Epoch(self.epoch, seconds, rate, training, validation, selection, weights, improved, dropped))
        patience = self.settings.patience
        waited_long = patience is not None and self.waited >= patience
        self.ended = self.epoch == self.settings.epochs or waited_long or self._is_late()
        self.sums, self.counts, self.dropped = {}, {}, {}

    def _is_late(self) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and time.perf_counter() - self.began >= 60 * minutes

    def _validate(self) -> tuple[dict[str, float], float | None]:
        """The finite validation losses, and their mean over the tasks that choose; None where one of these is not finite."""
        losses = mean_losses(self.model, self.validation) if self.deciding else {}
        finite = {task: loss for task, loss in losses.items() if math.isfinite(loss)}
        if losses and not finite:
            raise self._not_finite(losses)
        if not self.deciding or any(task not in finite for task in self.deciding):
            return finite, None
        return finite, sum(finite[task] for task in self.deciding) / len(self.deciding)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        """One update; the losses of the tasks that had a part in it."""
        self.model.clock.step = self.step
        rate = self.settings.optimizer.lr * rate_at(self.step, self.n_steps, self.settings.schedule, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.factor
        self.step += 1
        self.buffers.keep()
        before = self.balance.state_dict()
        losses, finite = self._gradients(batch)
        if not finite:
            batch, losses = self._without_guilty(batch, before)
        if not losses:
            return losses
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        if self.balance.balancer.observes:
            with torch.no_grad():
                after = {task: loss for task, loss in self.model.losses(batch).items() if math.isfinite(loss)}
            if after:
                self.balance.observe(after)
        return losses

    def _gradients(self, batch: Batch) -> tuple[dict[str, Tensor], bool]:
        """The losses, with the balanced and clipped gradient in ``.grad``, and whether all of it is finite."""
        losses = self.model.losses(batch)
        if not losses:
            return losses, True
        self.optimizer.zero_grad(set_to_none=True)
        try:
            self.balance.backward(losses, self.model.trunk.penalty())
        except NotFiniteError:
            return losses, False
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip or math.inf)
        return losses, math.isfinite(norm)

    def _without_guilty(self, batch: Batch, before: Mapping[str, Any]) -> tuple[Batch, dict[str, Tensor]]:
        """Do a step again without the tasks whose loss or gradient is not finite, as if they had no label in this batch.

        The draws are those of the first time, for they are a function of the step. Where no task alone is to blame, or what is
        left is not finite either, the step is left out for all.
        """
        self._rewind(before)
        guilty = self._guilty(batch)
        rest = batch.without(guilty)
        self._rewind(before)
        losses, finite = self._gradients(rest) if guilty and rest.tasks else ({}, False)
        if not finite:
            self._rewind(before)
            guilty, rest, losses = list(batch.tasks), batch.without(batch.tasks), {}
        for task in guilty:
            self.dropped[task] = self.dropped.get(task, 0) + 1
        return rest, losses

    def _guilty(self, batch: Batch) -> list[str]:
        guilty = []
        for task, loss in self.model.losses(batch).items():
            found = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            norm = nn.utils.get_total_norm(filter(torch.is_tensor, found))
            if not (math.isfinite(loss.detach()) and math.isfinite(norm)):
                guilty.append(task)
        return guilty

    def _rewind(self, before: Mapping[str, Any]) -> None:
        self.balance.load_state_dict(before)
        self.buffers.restore()

    def _state(self) -> dict[str, Any]:
        """All that the next step depends on, but what is a function of the recipe and the data."""
        return {
            "model": self.model.state_dict(),
            "scales": {task: fitted.codec.null_loss for task, fitted in self.model.tasks.items()},
            "optimizer": self.optimizer.state_dict()["state"],
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "average": None if self.average is None else {"steps": self.average.steps, "weights": self.average.averages},
            "balance": self.balance.state_dict(),
            "best": {"selection": None if math.isinf(self.best) else self.best, "weights": self.best_weights},
            "history": [epoch.to_dict() for epoch in self.history],
            "seconds": time.perf_counter() - self.began,
            **{name: getattr(self, name) for name in COUNTS},
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(saved["model"])
            for task, fitted in self.model.tasks.items():
                codec = fitted.codec.model_copy(update={"null_loss": saved["scales"][task]})
                self.model.tasks[task] = replace(fitted, codec=codec)
            states = {int(index): state for index, state in saved["optimizer"].items()}
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
            for group in self.optimizer.param_groups:
                group["lr"] = saved["learning_rate"]
            if self.average is not None:
                self.average.restore(saved["average"]["steps"], saved["average"]["weights"])
            self.balance.load_state_dict(_on(saved["balance"], self.device))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            mend = "Use the recipe, the data and the versions that it began with, or fit again."
            raise PolytaskError(f"the checkpoint is not of this training: {error}", where="resume", mend=mend) from None
        best = saved["best"]["selection"]
        self.best, self.best_weights = math.inf if best is None else best, _on(saved["best"]["weights"], self.device)
        self.history = [Epoch(**epoch) for epoch in saved["history"]]
        self.began -= saved["seconds"]
        for name in COUNTS:
            setattr(self, name, _on(saved[name], self.device))

    def _check_weights(self) -> None:
        """A network that is lost, or that no task has moved in a whole epoch, is not trained on.

        Raises:
            PolytaskError: It is so.
        """
        whole = math.isfinite(nn.utils.get_total_norm([parameter.detach() for parameter in self.parameters]))
        if not whole or not self.sums:
            raise self._not_finite(self.training.tasks)

    def _not_finite(self, tasks: Iterable[str]) -> PolytaskError:
        names = list(tasks)
        mend = "Lower trainer.optimizer.lr, set trainer.clip, or look for extreme values in the inputs and labels."
        where = f"epoch {self.epoch + 1}, {'tasks' if len(names) > 1 else 'task'} {listed(map(repr, names))}"
        return PolytaskError("the loss is no longer finite", where=where, mend=mend)


def set_scales(model: MultiTaskModel, data: Dataset, batch_size: int) -> None:
    """Give a task without a best constant (its loss couples rows) a scale: its loss before training, over 20 batches."""
    unscaled = [task for task, fitted in model.tasks.items() if fitted.codec.null_loss is None]
    if not unscaled:
        return
    first = data.select(unscaled).batches(batch_size)
    sums, counts = dict.fromkeys(unscaled, 0.0), dict.fromkeys(unscaled, 0)
    model.eval()
    with torch.no_grad():
        for _, batch in zip(range(SCALE_BATCHES), first, strict=False):
            for task, loss in model.losses(batch).items():
                if math.isfinite(loss):
                    sums[task] += float(loss) / model.tasks[task].task.weight
                    counts[task] += 1
    for task in unscaled:
        mean = sums[task] / counts[task] if counts[task] else 1.0
        scale = mean if math.isfinite(mean) and mean > 0 else 1.0
        fitted = model.tasks[task]
        model.tasks[task] = replace(fitted, codec=fitted.codec.model_copy(update={"null_loss": scale}))


def _on(value: Any, device: torch.device) -> Any:
    """Nested dictionaries of tensors on a device."""
    if isinstance(value, Mapping):
        return {key: _on(item, device) for key, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)

"""The training loop. It knows contracts, never a plug-in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polytask.balancer import Balancer
from polytask.batch import Batch, Dataset
from polytask.component import Settings
from polytask.errors import PolytaskError, listed
from polytask.gradients.balance import Balance
from polytask.mixing import Mixing, mixed_batches
from polytask.model import MultiTaskModel, mean_losses
from polytask.optimization import Optimizer, Schedule, rate_at

SCALE_BATCHES = 20


class Trainer(Settings):
    """How a network is trained.

    Args:
        epochs: At most so many passes over the training rows.
        batch_size: Rows a step; None for the power of two nearest to a fortieth of the rows, from 32 to 512.
        optimizer: Any of torch.optim.
        schedule: The learning rate over time, after a warm-up.
        warmup: The share of all steps in which the learning rate rises to its value.
        clip: The largest norm of the whole gradient; None does not clip.
        patience: Stop after so many epochs in which the mean normalized validation loss did not improve; None never stops.
            The weights of the best epoch are kept in any case.
        average: Judge and keep an exponential moving average of the weights, which forgets this share of it less than 1 a
            step (0.99: the last hundred steps or so; fewer at the start); None keeps the raw weights.
        device: "auto" takes a GPU if there is one.
        deterministic: Ask torch for deterministic algorithms; slower on a GPU, and refused where an operation has none.
    """

    epochs: int = Field(default=200, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = "constant"
    warmup: float = Field(default=0.0, ge=0, le=1)
    clip: float | None = Field(default=1.0, gt=0)
    patience: int | None = Field(default=16, ge=1)
    average: float | None = Field(default=0.99, gt=0, lt=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    deterministic: bool = False

    def rows_per_step(self, n_rows: int) -> int:
        """The batch size for so many training rows.

        Example:
            >>> Trainer().rows_per_step(16_000), Trainer().rows_per_step(300)
            (512, 32)
        """
        if self.batch_size is not None:
            return self.batch_size
        return int(min(512, max(32, 2 ** round(math.log2(max(n_rows / 40, 1))))))

    def chosen_device(self) -> torch.device:
        """The device to train on.

        Raises:
            PolytaskError: It is not there.
        """
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        name = self.device if self.device != "auto" else ("cuda" if there["cuda"] else "cpu")
        if not there[name]:
            raise PolytaskError(f"no {name} device on this machine", where="trainer.device", mend="Use auto or cpu.")
        return torch.device(name)


@dataclass(frozen=True)
class Epoch:
    """What happened in an epoch; losses are normalized, so 1 is the best constant prediction.

    Attributes:
        epoch: Counted from 1.
        seconds: Since training began.
        learning_rate: At its end.
        training: Mean loss per task over the epoch's steps.
        validation: Loss per task on the validation rows, and
        selection: its mean over the tasks that choose the epoch; None without validation rows.
        weights: The balancer's weights in its last step.
        best: Whether its weights are the best so far.
    """

    epoch: int
    seconds: float
    learning_rate: float
    training: dict[str, float]
    validation: dict[str, float]
    selection: float | None
    weights: dict[str, float]
    best: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain values: a line of ``history.jsonl``."""
        return asdict(self)


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
        on_epoch: Called after every epoch.

    Raises:
        PolytaskError: A task's loss is no longer finite.
    """
    with _deterministic(settings.deterministic), torch.random.fork_rng():
        return _Loop(model, training, validation, settings, balancer, seed, primary, mixing).run(on_epoch)


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
        self.mixing = mixing or Mixing()
        self.sources = {name: mask.nonzero().squeeze(1) for name, mask in training.sources.items()}
        self.n_steps = settings.epochs * len(self._batches(0))
        self.step = 0

    def run(self, on_epoch: Callable[[Epoch], None] | None) -> list[Epoch]:
        set_scales(self.model, self.training, self.batch_size)
        best, best_weights, waited = math.inf, None, 0
        history: list[Epoch] = []
        began = time.perf_counter()
        for epoch in range(self.settings.epochs):
            losses = self._epoch(epoch)
            if self.average is not None:
                self.average.swap()
            validation = mean_losses(self.model, self.validation) if self.deciding else {}
            selection = sum(validation[t] for t in self.deciding) / len(self.deciding) if self.deciding else None
            self._check_finite(losses | validation, epoch)
            improved = selection is None or selection < best
            if improved:
                best_weights, waited = _copied(self.model), 0
                best = best if selection is None else selection
            else:
                waited += 1
            if self.average is not None:
                self.average.swap()
            rate = self.optimizer.param_groups[0]["lr"]
            seconds = time.perf_counter() - began
            history.append(Epoch(epoch + 1, seconds, rate, losses, validation, selection, self.balance.weights, improved))
            if on_epoch is not None:
                on_epoch(history[-1])
            if self.settings.patience is not None and waited >= self.settings.patience:
                break
        if best_weights is not None:
            self.model.load_state_dict(best_weights)
        self.model.eval().cpu()
        return history

    def _batches(self, epoch: int) -> list[Tensor]:
        n_rows, n_epochs = self.training.n_rows, self.settings.epochs
        return mixed_batches(self.mixing, self.sources, n_rows, self.batch_size, self.seed, epoch, n_epochs)

    def _epoch(self, epoch: int) -> dict[str, float]:
        self.model.train()
        self.balance.epoch = epoch
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for rows in self._batches(epoch):
            losses = self._step(self.training.batch(rows.to(self.device)))
            for task, loss in losses.items():
                sums[task] = sums[task] + loss.detach() if task in sums else loss.detach()
                counts[task] = counts.get(task, 0) + 1
        self.model.clock.step = None
        return {task: float(sums[task]) / counts[task] for task in self.training.tasks if task in sums}

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        self.model.clock.step = self.step
        rate = self.settings.optimizer.lr * rate_at(self.step, self.n_steps, self.settings.schedule, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.step += 1
        losses = self.model.losses(batch)
        if not losses:
            return losses
        self.optimizer.zero_grad(set_to_none=True)
        self.balance.backward(losses, self.model.trunk.penalty())
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        if self.balance.balancer.observes:
            with torch.no_grad():
                self.balance.observe(self.model.losses(batch))
        return losses

    def _check_finite(self, losses: dict[str, float], epoch: int) -> None:
        broken = [task for task, loss in losses.items() if not math.isfinite(loss)]
        if broken:
            mend = "Lower trainer.optimizer.lr, set trainer.clip, or look for extreme values in the inputs and labels."
            where = f"epoch {epoch + 1}, {'tasks' if len(broken) > 1 else 'task'} {listed(map(repr, broken))}"
            raise PolytaskError("the loss is no longer finite", where=where, mend=mend)


class Average:
    """An exponential moving average of a network's weights, beside them.

    Buffers such as batch statistics stay the network's own. The decay at step t, from 1, is the smaller of ``decay`` and (1 +
    t) / (10 + t), so that the initial weights are soon forgotten (Tan and Le 2019 and TensorFlow's ExponentialMovingAverage
    do the same).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = [p for p in network.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averages, list(self.weights), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights and their average; twice is as before."""
        for weight, average in zip(self.weights, self.averages, strict=True):
            weight.data, average.data = average.data, weight.data


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
                sums[task] += float(loss) / model.tasks[task].task.weight
                counts[task] += 1
    for task in unscaled:
        mean = sums[task] / counts[task] if counts[task] else 1.0
        scale = mean if math.isfinite(mean) and mean > 0 else 1.0
        fitted = model.tasks[task]
        model.tasks[task] = replace(fitted, codec=fitted.codec.model_copy(update={"null_loss": scale}))


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)

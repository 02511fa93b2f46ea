"""How a network is trained, as part of a recipe, and what is recorded of each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field

from polytask.component import Settings
from polytask.errors import PolytaskError, listed
from polytask.optimization import Optimizer, Schedule


class Trainer(Settings):
    """How a network is trained.

    Args:
        epochs: At most so many passes over the training rows.
        batch_size: Rows a step; None for the power of two nearest to a fortieth of the rows, from 32 to 512.
        optimizer: Any of torch.optim.
        schedule: The learning rate over time, after a warm-up: constant, half a cosine, or plateau: times 0.3 whenever the mean
            validation loss has not improved for a quarter of ``patience`` (for 4 epochs where there is none).
        warmup: The share of all steps in which the learning rate rises to its value.
        clip: The largest norm of the whole gradient; None does not clip.
        patience: Stop after so many epochs in which the mean normalized validation loss did not improve; None never stops.
            The weights of the best epoch are kept in any case.
        minutes: Stop after so many minutes of training, in the middle of an epoch if need be.
        average: Judge and keep an exponential moving average of the weights, which forgets this share of it less than 1 a
            step (0.99: the last hundred steps or so; fewer at the start); None keeps the raw weights.
        scale_stages: Scale the initial weights of stems and stages so that every layer's output has unit variance on some
            training rows (layer-sequential unit variance, arXiv:1511.06422).
        device: "auto" takes a GPU if there is one.
        checkpoint: Seconds between two saves of the state into the run's folder, from which `polytask resume` goes on; 0 saves
            after every step, None only where it is stopped.
        deterministic: Ask torch for deterministic algorithms; slower on a GPU, and refused where an operation has none.
    """

    epochs: int = Field(default=200, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = "constant"
    warmup: float = Field(default=0.0, ge=0, le=1)
    clip: float | None = Field(default=1.0, gt=0)
    patience: int | None = Field(default=16, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    average: float | None = Field(default=0.99, gt=0, lt=1)
    scale_stages: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    checkpoint: float | None = Field(default=30.0, ge=0)
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

    @property
    def plateau(self) -> int:
        """The epochs without an improvement after which the schedule "plateau" lowers the rate."""
        return max(1, (self.patience or 16) // 4)

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
        selection: its mean over the tasks that choose the epoch; None without validation rows, or where one is not finite:
            such an epoch is not chosen, and the task is missing in ``validation``.
        weights: The balancer's weights in its last step.
        best: Whether its weights are the best so far.
        dropped: Per task the steps that it was left out of, because its loss or gradient was not finite.
    """

    epoch: int
    seconds: float
    learning_rate: float
    training: dict[str, float]
    validation: dict[str, float]
    selection: float | None
    weights: dict[str, float]
    best: bool
    dropped: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values: a line of ``history.jsonl``."""
        return asdict(self)


def left_out(history: Sequence[Epoch]) -> list[str]:
    """What is to be said of the tasks that were left out of steps, or of choosing the epoch."""
    notes = []
    for task in sorted({task for epoch in history for task in epoch.dropped}):
        steps = sum(epoch.dropped.get(task, 0) for epoch in history)
        whole = [epoch.epoch for epoch in history if task in epoch.dropped and task not in epoch.training]
        every = f", every step of epoch {listed(whole)}" if whole else ""
        text = f"task {task!r} was left out of {steps} steps, in which its loss or gradient was not finite{every}"
        notes.append(text.replace(" 1 steps", " 1 step"))
    for task in sorted({task for epoch in history for task in epoch.validation}):
        absent = [epoch.epoch for epoch in history if epoch.validation and task not in epoch.validation]
        notes += [f"the validation loss of task {task!r} was not finite in epoch {listed(absent)}"] if absent else []
    return notes

"""How a network is trained, as part of a recipe, and what is recorded of each epoch."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from polytask.component import Settings
from polytask.errors import PolytaskError, listed
from polytask.optimization import Optimizer, Schedule

# Where a recipe does not say: the most epochs, or steps if these are more, in all and without an improvement.
EPOCHS, STEPS = 200, 6000
LARGEST_BATCH, FEWEST_STEPS = 4096, 10  # where as many rows as fit are asked for
PATIENCE, PATIENT_STEPS = 10, 300
VANISHING = 1e-4  # of the norm at the head; 0.007 is the least that was seen at a layer that learns
EXPLODING = 1e2  # 4 is the most that was seen


class Trainer(Settings):
    """How a network is trained.

    Args:
        epochs: At most so many passes over the training rows; None for 200, and more where these would be fewer than 6,000
            steps.
        batch_size: Rows a step; None for the power of two nearest to a fortieth of the rows, from 32 to 512; "fits" for the
            largest power of two that fits in memory, at most 4,096 and a tenth of the rows. It is found before training, by
            steps of it, and the run's recipe has the number.
        optimizer: Any of torch.optim.
        schedule: The learning rate over time, after a warm-up: constant, half a cosine, or plateau: times 0.3 after every
            quarter of ``patience`` (of its default where it is "never") without an improvement.
        warmup: The share of all steps in which the learning rate rises to its value.
        clip: The largest norm of the whole gradient; None does not clip.
        patience: Stop after so many epochs in which the losses that weights are kept by did not fall by a thousandth; None for
            10, and more where these would be fewer than 300 steps, "never" for no such stop.
        best: The weights of which epoch are kept: of that with the least "mean" normalized validation loss over the tasks
            (or the primary ones), or of the best for each "task" (or primary one; the others go with the mean of these), in
            which case the model is as many networks as there are such epochs, each for its tasks.
        minutes: Stop after so many minutes of training, in the middle of an epoch if need be.
        average: Judge and keep an exponential moving average of the weights, which forgets this share of it less than 1 a
            step (0.99: the last hundred steps or so; fewer at the start); None keeps the raw weights.
        scale_stages: Scale the initial weights of stems and stages so that every layer's output has unit variance on some
            training rows (layer-sequential unit variance, arXiv:1511.06422).
        accumulate: The rows of a step go through the network in so many pieces, and their gradients are summed: less memory for
            the same step (but for batch statistics and dropout, and for losses that compare rows). Where they do not fit in
            memory so they go in twice as many, and so on, which is said.
        precision: "bfloat16" computes layers in half the bits, losses and weights in float32; faster on recent GPUs.
        device: "auto" takes a GPU if there is one.
        checkpoint: Seconds between two saves of the state into the run's folder, from which `polytask resume` goes on; 0 saves
            after every step, None only where it is stopped.
        deterministic: Ask torch for deterministic algorithms; slower on a GPU, and refused where an operation has none.
    """

    epochs: int | None = Field(default=None, ge=1)
    batch_size: Annotated[int, Field(ge=1)] | Literal["fits"] | None = None
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = "constant"
    warmup: float = Field(default=0.0, ge=0, le=1)
    clip: float | None = Field(default=1.0, gt=0)
    patience: Annotated[int, Field(ge=1)] | Literal["never"] | None = None
    best: Literal["mean", "task"] = "task"
    minutes: float | None = Field(default=None, gt=0)
    average: float | None = Field(default=0.99, gt=0, lt=1)
    scale_stages: bool = False
    accumulate: int = Field(default=1, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    checkpoint: float | None = Field(default=30.0, ge=0)
    deterministic: bool = False

    def rows_per_step(self, n_rows: int) -> int:
        """The batch size for so many training rows.

        Example:
            >>> Trainer().rows_per_step(16_000), Trainer().rows_per_step(300)
            (512, 32)
        """
        if isinstance(self.batch_size, int):
            return self.batch_size
        return int(min(512, max(32, 2 ** round(math.log2(max(n_rows / 40, 1))))))

    def most_rows(self, n_rows: int) -> int:
        """The largest batch size that is looked for where it is to fit: of ten steps an epoch, so that not too few are left."""
        return min(LARGEST_BATCH, max(n_rows // FEWEST_STEPS, self.rows_per_step(0)))

    def n_epochs(self, n_steps: int) -> int:
        """The most epochs there can be where one has ``n_steps`` steps.

        Example:
            >>> Trainer().n_epochs(100), Trainer().n_epochs(3), Trainer(epochs=5).n_epochs(3)
            (200, 2000, 5)
        """
        return self.epochs if self.epochs is not None else max(EPOCHS, math.ceil(STEPS / max(n_steps, 1)))

    def n_patient(self, n_steps: int) -> float:
        """The epochs without an improvement that end a training where one has ``n_steps`` steps; infinite for never.

        Example:
            >>> Trainer().n_patient(100), Trainer().n_patient(3), Trainer(patience="never").n_patient(3)
            (10, 100, inf)
        """
        if self.patience is None:
            return max(PATIENCE, math.ceil(PATIENT_STEPS / max(n_steps, 1)))
        return math.inf if self.patience == "never" else self.patience

    def n_plateau(self, n_steps: int) -> int:
        """The epochs without an improvement after which the schedule "plateau" lowers the rate."""
        never = self.patience == "never"
        return max(1, int(Trainer().n_patient(n_steps) if never else self.n_patient(n_steps)) // 4)

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
        epoch: Counted from 1; 0 is what an earlier training began with, before the first step.
        last: The most epochs there can be.
        seconds: Since training began.
        learning_rate: At its end.
        training: Mean loss per task over the epoch's steps.
        validation: Loss per task on the validation rows, and
        selection: its mean over the tasks that choose the epoch; None without validation rows, or where one is not finite:
            such an epoch is not chosen, and the task is missing in ``validation``.
        weights: The balancer's weights in its last step.
        best: The tasks for which its weights are the best so far.
        dropped: Per task the steps that it was left out of, because its loss or gradient was not finite.
        gradients: Per task the norm of its gradient at each layer of the network, where it was looked at.
        notes: What the network says of how it was computed.
        rows: The training rows that were seen in it.
        conflicts: How far the gradients of the tasks agree, as ``Agreement.to_dict`` has it; empty where none were compared.
    """

    epoch: int
    last: int
    seconds: float
    learning_rate: float
    training: dict[str, float]
    validation: dict[str, float]
    selection: float | None
    weights: dict[str, float]
    best: tuple[str, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    gradients: dict[str, dict[str, float]] = field(default_factory=dict)
    conflicts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values: a line of ``history.jsonl``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Epoch:
        """The epoch of ``to_dict()``."""
        return cls(**{**values, "best": tuple(values["best"]), "notes": tuple(values.get("notes", ()))})


def left_out(history: Sequence[Epoch]) -> list[str]:
    """What is to be said of how it went: of tasks that were left out of steps, or of choosing the epoch, and by the network."""
    notes = list(dict.fromkeys(note for epoch in history for note in epoch.notes))
    for task in sorted({task for epoch in history for task in epoch.dropped}):
        steps = sum(epoch.dropped.get(task, 0) for epoch in history)
        whole = [epoch.epoch for epoch in history if task in epoch.dropped and task not in epoch.training]
        every = f", every step of epoch {listed(whole)}" if whole else ""
        text = f"task {task!r} was left out of {steps} steps, in which its loss or gradient was not finite{every}"
        notes.append(text.replace(" 1 steps", " 1 step"))
    for task in sorted({task for epoch in history for task in epoch.validation}):
        first = next((epoch.epoch for epoch in history if task in epoch.training), 0)  # before, its loss had not begun
        absent = [e.epoch for e in history if e.epoch >= first and e.validation and task not in e.validation]
        notes += [f"the validation loss of task {task!r} was not finite in epoch {listed(absent)}"] if absent else []
    return notes


def gradient_notes(history: Sequence[Epoch]) -> list[str]:
    """What is to be said of gradients that vanish on their way through the network, or explode; by the median over epochs.

    A normalized loss is about 1 and at most a few, and so are its gradients in a network that learns.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for epoch in history:
        for task, parts in epoch.gradients.items():
            for part, norm in parts.items():
                found.setdefault(task, {}).setdefault(part, []).append(norm)
    notes = []
    for task, norms in found.items():
        middle = {part: statistics.median(values) for part, values in norms.items()}
        head = middle.get("head", 0.0)
        faint = [part for part, norm in middle.items() if norm < VANISHING * head]
        large = [part for part, norm in middle.items() if norm > EXPLODING]
        if faint:
            least = min(middle[part] for part in faint) / head
            notes.append(
                f"the gradient of task {task!r} vanishes: at {listed(faint)} it is {least:.0e} of that at its head, so these "
                "layers hardly learn from it. Use fewer stages, normalized layers (encoder.normalization: layer), or another "
                "activation in a network of your own"
            )
        if large:
            most = max(middle[part] for part in large)
            notes.append(
                f"the gradient of task {task!r} explodes: at {listed(large)} its norm is {most:.0e}, where 1 is usual. Keep "
                "trainer.clip, lower trainer.optimizer.lr, normalize layers (encoder.normalization: layer), or look for "
                "extreme values in inputs and labels"
            )
    return notes


def peak_memory() -> int | None:
    """The bytes that this process had at most, on a GPU those of tensors there; None where the system does not tell."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024

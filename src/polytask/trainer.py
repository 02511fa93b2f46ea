"""The training loop. It knows contracts, never a plug-in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polytask.augmenting import Augmenter
from polytask.balancer import Balancer
from polytask.batch import Batch, Dataset
from polytask.checkpoint import Checkpoints
from polytask.errors import PolytaskError, listed, one_line
from polytask.initialization import begin_head
from polytask.keeping import Best, Chosen, Course, Judged, copied
from polytask.mixing import Mixing, mixed_batches
from polytask.model import MultiTaskModel, mean_losses
from polytask.optimization import rate_at
from polytask.reading import together
from polytask.training import Epoch, Trainer
from polytask.update import OutOfMemory, Updater, is_out_of_memory, on_device

SCALE_BATCHES = 20
PLATEAU_FACTOR = 0.3
COUNTS = ("epoch", "batch", "sums", "counts", "ended")


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        history: Its epochs.
        chosen: Which tasks answer with which weights: all with those of one epoch, or groups of them each with its own.
    """

    history: list[Epoch]
    chosen: list[Chosen]


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
    augmenter: Augmenter | None = None,
    begun: Sequence[Chosen] = (),
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Train in place; afterwards the model has the weights of its last epoch, is in evaluation mode and on the CPU.

    Args:
        model: Already built; its tasks are those to train.
        training: Rows to learn from.
        validation: Rows that choose the epoch; may be empty.
        settings: Epochs, optimizer, ...
        balancer: What makes one update of the losses.
        seed: Of the order of rows, and of what the balancer draws; dropout has the model's.
        primary: The tasks that choose the epoch; empty for all.
        mixing: The share of each source of rows in an epoch; None for that of its rows.
        augmenter: What changes training batches; None leaves them.
        begun: The weights of an earlier training, each with the tasks that it answered; they stay where no epoch is better.
        on_epoch: Called after every epoch, and first for those done before it went on.
        checkpoints: Where the state is saved; what lies there is gone on from, bit for bit as if it had never stopped.

    Raises:
        Stopped: A signal asked for it; the state is saved.
        PolytaskError: The weights or all losses are no longer finite. (A task alone is left out of the steps where its loss
            or gradient is not; the other tasks' updates are those of a batch in which it has no label.) Or it does not fit in
            memory, a single row at a time.
    """
    with _deterministic(settings.deterministic), torch.random.fork_rng(), told_out_of_memory():
        loop = _Loop(model, training, validation, settings, balancer, seed, primary, mixing, augmenter)
        return loop.run(begun, on_epoch, checkpoints)


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
        augmenter: Augmenter | None = None,
    ) -> None:
        self.device = settings.chosen_device()
        self.model = model.to(self.device)
        self.training, self.validation = training.to(self.device), validation.to(self.device)
        self.settings, self.seed = settings, seed
        # What an untrained head says of the validation rows may not choose.
        learning = [t for t in validation.tasks if bool(training.present[t].any()) and bool(validation.present[t].any())]
        self.deciding = tuple(t for t in (primary or validation.tasks) if t in learning)
        self.courses = self._courses(learning)
        self.batch_size = settings.rows_per_step(training.n_rows)
        self.update = Updater(model, settings, balancer, training.tasks, seed)
        self.mixing, self.augmenter = mixing or Mixing(), augmenter
        self.sources = {name: mask.nonzero().squeeze(1) for name, mask in training.sources.items()}
        self.steps_per_epoch = math.ceil(training.n_rows / self.batch_size)
        self.n_epochs = settings.n_epochs(self.steps_per_epoch)
        self.begins = self._begins()
        self.epoch, self.batch = 0, 0  # done: epochs, and batches of the epoch that is going on
        self.sums: dict[str, Tensor] = {}  # what this epoch has seen so far: summed losses, and in how many steps
        self.counts: dict[str, int] = {}
        self.history: list[Epoch] = []
        self.ended = False

    def _courses(self, learning: Sequence[str]) -> list[Course]:
        """Which tasks' training ends together, and which of their weights are chosen together, by which losses.

        Where nothing is shared each task is on its own, with those that it reads. Else tasks that decide nothing go with the
        mean.
        """
        if self.model.independent:
            groups = together(self.training.tasks, self.model.reads)
            judged = [Judged(tasks, tuple(task for task in tasks if task in learning)) for tasks in groups]
            return [Course(alone.tasks, Best([alone], apart=True)) for alone in judged]
        alone = self.deciding if self.settings.best == "task" else ()
        rest = tuple(task for task in self.training.tasks if task not in alone)
        chosen = [*(Judged((task,), (task,)) for task in alone), *([Judged(rest, self.deciding)] if rest else [])]
        return [Course(self.training.tasks, Best(chosen, reads=self.model.reads))]

    def _begins(self) -> dict[str, int]:
        """The epoch in which the loss of each task begins: at once where all tasks that are trained together would wait."""
        begins: dict[str, int] = {}
        for course in self.courses:
            tasks = [self.model.tasks[task].task for task in course.tasks if bool(self.training.present[task].any())]
            epochs = {task.name: task.begins(self.steps_per_epoch, self.n_epochs) for task in tasks}
            begins |= {task: epoch - min(epochs.values()) for task, epoch in epochs.items()}
        return begins

    def run(
        self, begun: Sequence[Chosen], on_epoch: Callable[[Epoch], None] | None, checkpoints: Checkpoints | None
    ) -> Trained:
        self.began = time.perf_counter()
        saved = None if checkpoints is None else checkpoints.load()
        if saved is None:
            set_scales(self.model, self.training, self.batch_size)
            if begun and self.deciding:
                self._judge_begun(begun)
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
        self.model.eval().cpu()
        return Trained(self.history, self._chosen())

    def _chosen(self) -> list[Chosen]:
        """Which tasks answer with which weights; those of tasks that share nothing are put together."""
        chosen = [pair for course in self.courses for pair in course.best.chosen()]
        if not self.model.independent or not chosen:
            return chosen
        whole = dict(self.model.state_dict())
        for _, weights in chosen:
            whole |= weights
        return [(self.training.tasks, whole)]

    def _going(self) -> list[Course]:
        """Those that go on."""
        return [course for course in self.courses if not course.ended]

    def _going_on(self, data: Dataset) -> Dataset:
        """The same rows without the labels of tasks whose training has ended, or not begun."""
        out = {task for course in self.courses if course.ended for task in course.tasks}.union(self._waiting())
        return data.select([task for task in data.tasks if task not in out]) if out else data

    def _waiting(self) -> list[str]:
        """The tasks whose head waits for features that other tasks have shaped."""
        return [task for task in self.begins if not self.model.has_begun(task)]

    def _begin_heads(self) -> None:
        """Let the heads begin whose time has come, with the features that the training rows have now."""
        for task in self._waiting():
            if self.epoch >= self.begins[task]:
                self.update.take(begin_head(self.model, task, self.training, self.seed))

    def _batches(self, epoch: int) -> list[Tensor]:
        n_rows = self.training.n_rows
        return mixed_batches(self.mixing, self.sources, n_rows, self.batch_size, self.seed, epoch, self.n_epochs)

    def _pass(self, checkpoints: Checkpoints | None) -> None:
        """One pass over the training rows, or what is left of it."""
        self._begin_heads()
        self.update.begin(self.epoch)
        self.model.train()
        training = self._going_on(self.training)

        def cut(rows: Tensor) -> Batch:
            batch = training.batch(rows)
            return batch if self.augmenter is None else self.augmenter(batch, self.update.step)

        for rows in self._batches(self.epoch)[self.batch :]:
            for task, loss in self.update.in_pieces(rows.to(self.device), cut, self._rate()).items():
                self.sums[task] = self.sums[task] + loss if task in self.sums else loss
                self.counts[task] = self.counts.get(task, 0) + 1
            self.batch += 1
            if checkpoints is not None:
                checkpoints.visit(self._state)
            if self._is_late():
                break
        self.model.clock.step = None

    def _rate(self) -> float:
        settings, n_steps = self.settings, self.n_epochs * self.steps_per_epoch
        return settings.optimizer.lr * rate_at(self.update.step, n_steps, settings.schedule, settings.warmup)

    def _close(self) -> None:
        """The end of an epoch: is it the best so far, and was it the last?"""
        training = {task: float(self.sums[task]) / self.counts[task] for task in self.training.tasks if task in self.sums}
        self._check_weights()
        with self.update.averaged():
            validation = self._validate()
            better = self._offer(self.epoch + 1, validation)
        self._put_down(self.epoch + 1, training, validation, better)
        for course in self._going():
            self._wait(course)
        self.epoch, self.batch = self.epoch + 1, 0
        self.ended = self.epoch == self.n_epochs or not self._going() or self._is_late()
        self.sums, self.counts, self.update.dropped = {}, {}, {}

    def _offer(self, number: int, validation: Mapping[str, float]) -> tuple[str, ...]:
        """The tasks for which the weights as they are now are the best so far."""
        return tuple(task for c in self._going() for task in c.best.offer(number, validation, self.model))

    def _wait(self, course: Course) -> None:
        """Lower the rate where there was no improvement for some time, and end where there was none for long."""
        waits = not set(course.tasks).isdisjoint(self._waiting())
        course.waited = 0 if course.best.gained() or waits else course.waited + 1
        plateau = self.settings.n_plateau(self.steps_per_epoch)
        if self.settings.schedule == "plateau" and course.waited and course.waited % plateau == 0:
            self.update.slow_down(course.tasks, PLATEAU_FACTOR)
        course.ended = course.waited >= self.settings.n_patient(self.steps_per_epoch)

    def _judge_begun(self, begun: Sequence[Chosen]) -> None:
        """Judge the weights of an earlier training as epoch 0: where tasks are chosen for apart each answers with its own."""
        first = copied(self.model)
        losses: dict[str, float] = {}
        better: tuple[str, ...] = ()
        for number, (tasks, weights) in enumerate(begun if self.settings.best == "task" else [(self.training.tasks, {})]):
            self.model.load_state_dict(first | {key: value for key, value in weights.items() if key in first})
            own = {task: loss for task, loss in self._validate().items() if task in tasks}
            better += self._offer(-number, own)
            losses |= own
        self.model.load_state_dict(first)
        for course in self.courses:
            course.best.gained()
        self._put_down(0, {}, losses, better)

    def _put_down(self, number: int, training: dict[str, float], validation: dict[str, float], better: tuple[str, ...]) -> None:
        """Put an epoch down in the history."""
        update = self.update
        selection = Judged((), self.deciding).mean(validation)
        self.history.append(
            Epoch(
                epoch=number,
                last=self.n_epochs,
                seconds=time.perf_counter() - self.began,
                learning_rate=update.optimizer.param_groups[0]["lr"],
                training=training,
                validation=validation,
                selection=selection if self.deciding and math.isfinite(selection) else None,
                weights=update.balance.weights,
                best=better,
                dropped=update.dropped,
                gradients=update.norms.taken(),
                notes=(*self.model.trunk.notes(), *self._pieces_told()),
                conflicts=update.conflicts.taken().to_dict(),
                rows=min(self.batch * self.batch_size, self.training.n_rows),
            )
        )

    def _pieces_told(self) -> list[str]:
        asked, n_pieces = self.settings.accumulate, min(self.update.n_pieces, self.batch_size)
        if n_pieces == asked:
            return []
        whole = "whole" if asked == 1 else f"in {asked}"
        return [
            f"batches of {self.batch_size} rows went through the network in {n_pieces} pieces, for they did not fit {whole}"
        ]

    def _is_late(self) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and time.perf_counter() - self.began >= 60 * minutes

    def _validate(self) -> dict[str, float]:
        """The finite validation losses; that of a task whose training has ended is what it was."""
        going = self._going_on(self.validation)
        losses = mean_losses(self.model, going) if self.deciding else {}
        finite = {task: loss for task, loss in losses.items() if math.isfinite(loss)}
        if losses and not finite:
            raise self._not_finite(losses)
        return {task: loss for task, loss in self._last_losses().items() if task not in going.tasks} | finite

    def _last_losses(self) -> dict[str, float]:
        return self.history[-1].validation if self.history else {}

    def _state(self) -> dict[str, Any]:
        """All that the next step depends on, but what is a function of the recipe and the data."""
        return {
            "update": self.update.state_dict(),
            "scales": {task: fitted.codec.null_loss for task, fitted in self.model.tasks.items()},
            "courses": [course.state_dict() for course in self.courses],
            "history": [epoch.to_dict() for epoch in self.history],
            "seconds": time.perf_counter() - self.began,
            **{name: getattr(self, name) for name in COUNTS},
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        try:
            self.update.load_state_dict(saved["update"])
            for task, fitted in self.model.tasks.items():
                codec = fitted.codec.model_copy(update={"null_loss": saved["scales"][task]})
                self.model.tasks[task] = replace(fitted, codec=codec)
            for course, state in zip(self.courses, saved["courses"], strict=True):
                course.load_state_dict(on_device(state, self.device))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            mend = "Use the recipe, the data and the versions that it began with, or fit again."
            raise PolytaskError(f"the checkpoint is not of this training: {error}", where="resume", mend=mend) from None
        self.history = [Epoch.from_dict(epoch) for epoch in saved["history"]]
        self.began -= saved["seconds"]
        for name in COUNTS:
            setattr(self, name, on_device(saved[name], self.device))

    def _check_weights(self) -> None:
        """A network that is lost, or that no task has moved in a whole epoch, is not trained on.

        Raises:
            PolytaskError: It is so.
        """
        whole = math.isfinite(nn.utils.get_total_norm([parameter.detach() for parameter in self.update.parameters]))
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


@contextmanager
def told_out_of_memory() -> Iterator[None]:
    """Within, where memory does not suffice it is a user's error."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            raise
        mend = "Take a smaller encoder or smaller images (images.size), another balancer, or trainer.device: cpu."
        what = "the training does not fit in memory, a single row at a time" if isinstance(error, OutOfMemory) else ""
        raise PolytaskError(what or "the training does not fit in memory", found=one_line(error), mend=mend) from None


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)

"""A task with what it learned: codec, best constant and its loss, and how its losses and answers are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from polytask.batch import Stored
from polytask.errors import PolytaskError, rows_named
from polytask.images import ImageFeature
from polytask.task import Codec, Task, constant_output

NULL_LOSS_FLOOR = 1e-8
WALL = 1e30
PIECE_PIXELS = 2**20  # of outputs, where a loss of many pixels is taken piece by piece


@dataclass(frozen=True)
class FittedTask:
    """A task with what it learned from the training labels."""

    task: Task
    codec: Codec
    members: int = 1

    @classmethod
    def fit(
        cls,
        task: Task,
        column: pa.Array,
        weights: Float[Tensor, " N"] | None = None,
        codec: Codec | None = None,
        image: tuple[ImageFeature, Stored] | None = None,
    ) -> FittedTask:
        """Fit the codec, the best constant and its loss on the training labels of ``column`` (nulls are missing labels).

        Args:
            task: The task.
            column: Its labels.
            weights: How much each row counts; None for all alike.
            codec: One that is kept: only the constant, its loss and the mean weight are found.
            image: For a task whose target is an input image: this, and those of the rows of ``column``.
        """
        labels, rows = column.drop_null(), np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        target: Tensor | Stored
        with rows_named(lambda row: int(rows[row])):
            if image is None:
                codec = task.fit_target(labels) if codec is None else codec
                target, _ = task.encode(labels, codec)
            else:
                form, pixels = image
                codec = task.fit_target(labels).model_copy(update=about(form)) if codec is None else codec
                target = replace(pixels, rows=pixels.rows[torch.from_numpy(rows)])
        if weights is None or not len(labels):
            each = torch.ones(len(labels), dtype=torch.float64)
        else:
            each = weights[torch.from_numpy(rows)].double()
        mean = float(each.mean()) if len(labels) else 1.0
        fitted = cls(task, codec.model_copy(update={"n_labels": len(labels), "mean_weight": mean}))
        return fitted._with_constant(target, each / mean) if len(labels) else fitted

    def scaled_weights(self, weights: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Weights of rows as the loss takes them: 1 is the mean over the training rows."""
        return (weights / self.codec.mean_weight).float()

    @property
    def scale(self) -> float:
        """What the loss that is trained is divided by: that of the best constant."""
        joint = self.codec.joint_loss if self.task.seen_where is not None else None
        return joint or self.codec.null_loss or 1.0

    def with_joint(self, target: Tensor, weights: Float[Tensor, " n"] | None) -> FittedTask:
        """A task that is given another, with the loss of the best constant for both.

        Args:
            target: Of training rows where it is known whether both are so.
            weights: How much they count, as the loss takes them; None for all alike.
        """
        if not len(target):
            return self
        each = torch.ones(len(target), dtype=torch.float64) if weights is None else weights.double()
        null = self._with_constant(target, each).codec.null_loss
        return replace(self, codec=self.codec.model_copy(update={"joint_loss": null}))

    def channels(self, output: Tensor) -> Float[Tensor, "B *members n"]:
        """What another task is handed of an estimate, of each member its own."""
        if self.members == 1:
            return self.task.estimate(output).reshape(output.shape[0], -1)
        return self.task.estimate(output.flatten(0, 1)).reshape(*output.shape[:2], -1)

    def losses(self, output: Tensor, target: Tensor) -> Float[Tensor, " B"]:
        """One loss per row, before normalization; the mean over members of an ensemble (output ``[B, members, width]``).

        Raises:
            PolytaskError: A user's loss did not return one value per row.
        """
        if self.members == 1:
            return self._losses(output, target)
        if self.task.couples_rows:
            return torch.stack([self._losses(member, target) for member in output.unbind(1)]).mean(0)
        losses = self._losses(output.flatten(0, 1), target.repeat_interleave(self.members, 0))
        return losses.view(-1, self.members).mean(1)

    def answer_losses(self, output: Tensor, target: Tensor) -> Float[Tensor, " B"]:
        """One loss per row of what is answered: as ``losses``, but for an ensemble that of its members' mean estimate."""
        merged = None if self.members == 1 else self.task.merged(output)
        return self.losses(output, target) if merged is None else self._losses(merged, target)

    def views(self, output: Tensor) -> dict[str, Tensor]:
        """An output in the column's own units."""
        return self.task.views(self._estimate(output), self.codec)

    def remarks(self, output: Tensor) -> list[str]:
        """What is to be said of an output for the training rows."""
        return self.task.remarks(self.views(output), self.codec)

    def judged(self, output: Tensor, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What metrics compare: an output in the column's own units, and what is true; of many pixels their sums by row."""
        return self._compared(self.views(output), target)

    def constant_judged(self, target: Tensor) -> dict[str, Tensor]:
        """The same of the best constant prediction for these rows; empty where there is none."""
        if not self.task.has_constant:
            return {}
        return self._compared(self.constant_views(len(target)), target)[0]

    def constant_views(self, n_rows: int) -> dict[str, Tensor]:
        """What the best constant prediction says of ``n_rows`` rows."""
        return self.task.constant_views(self.codec, n_rows)

    def _compared(self, views: dict[str, Tensor], target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if self.task.spatial is None:
            return views, self.task.truth(target, self.codec)
        return {"statistics": self.task.statistics(views, target, self.codec)}, torch.zeros(len(target))

    def tuned(self, output: Tensor, target: Tensor, weights: Float[Tensor, " n"] | None = None) -> FittedTask:
        """This task with what it learns from a trained network's output on labeled rows held out; see ``Task.tune``."""
        each = torch.ones(len(target), dtype=torch.float64) if weights is None else weights.double()
        return replace(self, codec=self.task.tune(self._estimate(output), target, self.codec, each))

    def _estimate(self, output: Tensor) -> Tensor:
        if self.members == 1:
            return self.task.estimate(output)
        estimate = self.task.estimate(output.flatten(0, 1))
        members: Tensor = estimate.unflatten(0, (-1, self.members))
        return members.mean(1)

    def _losses(self, output: Tensor, target: Tensor) -> Tensor:
        target = self.task.on_scale(target, self.codec)
        if not callable(self.task.loss):
            return self.task.weighted_losses(output, target, self.codec)
        losses = self.task.loss(output, target)
        if not isinstance(losses, Tensor) or losses.shape != target.shape[:1]:
            found = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            mend = f"Return a tensor of shape ({len(target)},), without taking the mean."
            raise PolytaskError(
                "the loss must give one value per row", where=f"task {self.task.name!r}", found=found, mend=mend
            )
        weights = self.task.row_weights(target, self.codec)
        return losses if weights is None else losses * weights

    def _with_constant(self, target: Tensor | Stored, each: Tensor) -> FittedTask:
        if not self.task.has_constant:
            return self
        by_label = self.task.row_weights(target, self.codec) if isinstance(target, Tensor) else None
        weights = each if by_label is None else each * by_label
        start = self.task.best_constant(target, self.codec, weights).float()
        if self.task.searches_constant:
            few = torch.linspace(0, len(target) - 1, min(len(target), self._n_at_once)).long()
            start = self._minimized(start, target.index_select(0, few), each[few])
        null = self._mean_of_constant(start, target, each)
        # One that is negative at its best, as a log-likelihood may be, says nothing of size: the untrained network's will.
        scaled = math.isfinite(null) and null >= 0
        found: dict[str, object] = {"start": tuple(start.tolist()), "null_loss": max(null, NULL_LOSS_FLOOR) if scaled else None}
        if self.codec.mean is not None and isinstance(target, Tensor):
            found["mean"] = float((self.task.truth(target, self.codec).double() * each).mean())
        return FittedTask(self.task, self.codec.model_copy(update=found), self.members)

    @property
    def _n_at_once(self) -> int:
        """Rows whose loss is taken at once."""
        return max(1, PIECE_PIXELS // (self.codec.width * math.prod(self.codec.space))) if self.codec.space else 2**62

    def _mean_of_constant(self, start: Tensor, target: Tensor | Stored, each: Tensor) -> float:
        """The mean loss of a constant output."""
        codec, total = self.codec.model_copy(update={"start": tuple(start.tolist())}), 0.0
        for rows in torch.arange(len(target)).split(min(self._n_at_once, len(target))):
            losses = self._losses(constant_output(codec, len(rows)), target.index_select(0, rows))
            total += float((losses.double() * each[rows]).sum())
        return total / len(target)

    def _minimized(self, start: Tensor, target: Tensor, each: Tensor) -> Tensor:
        """The best constant under a loss without a closed form, by descent from a point near it."""
        output = start.double().requires_grad_()
        optimizer = torch.optim.LBFGS([output], max_iter=100, line_search_fn="strong_wolfe")
        value, space = target.double() if target.is_floating_point() else target, self.codec.space

        def closure() -> Tensor:
            optimizer.zero_grad()
            spread = output.view(1, -1, *(1 for _ in space)).expand(len(value), -1, *space)
            loss = (self._losses(spread, value) * each).mean()
            loss.backward()
            if not (output.grad is not None and bool(output.grad.isfinite().all()) and math.isfinite(loss.detach())):
                output.grad = torch.zeros_like(output)  # the line search knows no NaN: a wall that it turns back from
                return torch.full_like(loss, WALL)
            return loss

        with torch.enable_grad():
            if float(closure().detach()) == WALL:
                return start
            optimizer.step(closure)
        return output.detach().float() if bool(torch.isfinite(output).all()) else start


def about(image: ImageFeature) -> dict[str, object]:
    """What a codec says of the input image that a task is about."""
    return {"image": image, "width": image.channels, "space": (image.height, image.width), "start": (0.0,) * image.channels}

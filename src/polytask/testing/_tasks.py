"""check_task: from labels to answers, alone and as an ensemble."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import torch
from torch import Tensor

from polytask.batch import Stored
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.images import ImageFeature
from polytask.task import Codec, Task, constant_output
from polytask.testing._given import check_spec, close, demand, place

LABELS = (0, 1, 1, None, 0, 1, 1, 0, 1, None, 1, 0)
MEMBERS = 3


def check_task(task: Task, labels: Sequence[object] | pa.Array = LABELS) -> None:
    """Whether a task keeps its contract.

    Spec and codec come back from JSON. Missing labels are marked as such, change nothing that is learned, and have a valid
    value as target. Losses are one per row, finite with finite gradients for outputs up to 30 and for a single row, and those
    of a row do not depend on other rows unless ``couples_rows``. No small change of the best constant is better than it, and
    its loss is the null loss. Ensembles have the mean loss of their members, and ``merged`` answers as their mean. Answers have
    one value per row, classes are those of the labels, and every metric is finite. All this holds after tuning, which takes
    rows by their weights. A column without labels gives a codec or a PolytaskError, nothing else.

    Args:
        task: The task.
        labels: Example labels, with None for a missing one; zeros and ones if not given. For a task with a label at every pixel
            arrays, as ``polytask.maps.tensors`` makes them; for one whose target is the input image which rows have one.

    Raises:
        ContractError: It does not; the message says where.

    Example:
        >>> from polytask.tasks import Multiclass
        >>> check_task(Multiclass("animal"), ["cat", "dog", None, "eel", "dog"])
    """
    where = place(task)
    check_spec(task)
    column = labels if isinstance(labels, pa.Array) else pa.array(labels)
    image = _images(len(column)) if task.spatial == "image" else None
    fitted = FittedTask.fit(task, column, image=image)
    codec = fitted.codec
    read = Codec(**json.loads(codec.model_dump_json()))
    demand(read == codec, where, "the codec does not come back from JSON", found=f"{read} for {codec}")
    demand(len(codec.start) == codec.width, where, f"start has not {codec.width} numbers, the width", found=codec.start)
    known, seen = column.drop_null(), None if image is None else (image[0], _known(image[1], column))
    demand(FittedTask.fit(task, known, image=seen).codec == codec, where, "missing labels change what is learned")
    target, present = task.encode(column, codec)
    _check_target(task, column, target, present, where)
    _check_without_labels(task, column.type, where)
    target = task.encode(known, codec)[0] if seen is None else seen[1].index_select(0, torch.arange(len(known)))
    _check_losses(fitted, target, where)
    _check_constant(fitted, target, where)
    _check_members(fitted, target, where)
    _check_answers(fitted, known, target, where)
    _check_tuning(fitted, known, target, where)


def _images(n_rows: int) -> tuple[ImageFeature, Stored]:
    """Images of 3 x 4 pixels in color."""
    form = ImageFeature(column="photo", channels=3, height=3, width=4, mean=(90.0, 120.0, 150.0), deviation=(60.0, 70.0, 80.0))
    pixels = torch.randint(0, 256, (n_rows, *form.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return form, Stored(pixels, torch.arange(n_rows))


def _known(images: Stored, column: pa.Array) -> Stored:
    return replace(images, rows=images.rows[torch.tensor(column.is_valid().to_pylist())])


def _check_target(task: Task, column: pa.Array, target: Tensor, present: Tensor, where: str) -> None:
    demand(len(target) == len(column), where, "not one target per row", found=f"{len(target)} for {len(column)} rows")
    demand(
        present.dtype == torch.bool and present.shape == (len(column),), where, "encode's mask is not bool [N]", found=present
    )
    demand(
        present.tolist() == column.is_valid().to_pylist(), where, "the mask is not where the labels are", found=present.tolist()
    )
    if task.spatial != "numbers":  # of which NaN is no label
        mend = "Put any valid value where labels miss."
        demand(torch.isfinite(target).all(), where, "a target is not finite", found=target.tolist(), mend=mend)


def _check_without_labels(task: Task, kind: pa.DataType, where: str) -> None:
    for empty in (pa.nulls(3, kind), pa.nulls(3, pa.float64()), pa.nulls(0, kind)):
        try:
            fitted = FittedTask.fit(task, empty)
        except PolytaskError:
            continue
        target, present = task.encode(empty, fitted.codec)
        demand(not present.any(), where, "a column without labels has some", found=present.tolist())
        finite = bool(torch.isfinite(target).all()) or task.spatial == "numbers"
        demand(finite, where, "a target is not finite where a column has no labels", found=target.tolist())


def _check_losses(fitted: FittedTask, target: Tensor, where: str) -> None:
    learned = fitted.task.on_scale(target, fitted.codec)
    shape = tuple(fitted.task.row_losses(_outputs(fitted, len(target)), learned).shape)
    demand(shape == (len(target),), where, "row_losses does not give one loss per row", found=shape, mend="Take no mean.")
    for scale in (1.0, 30.0):
        output = (scale * _outputs(fitted, len(target))).requires_grad_()
        before = target.clone()
        losses = fitted.losses(output, target)
        demand(torch.isfinite(losses).all(), where, f"losses are not finite for outputs about {scale:g}", found=losses.tolist())
        same = torch.allclose(before.double(), target.double(), rtol=0, atol=0, equal_nan=True)
        demand(same, where, "row_losses changed the targets")
        (gradient,) = torch.autograd.grad(losses.sum(), output)
        demand(
            torch.isfinite(gradient).all(),
            where,
            f"gradients are not finite for outputs about {scale:g}",
            found=gradient.tolist(),
        )
        demand(gradient.abs().max() > 0, where, f"the gradient is zero for outputs about {scale:g}")
    output = _outputs(fitted, len(target))
    turned = fitted.losses(output.flip(0), target.flip(0)).flip(0)
    demand(close(fitted.losses(output, target), turned), where, "the order of rows changes their losses")
    alone = torch.cat([fitted.losses(output[i : i + 1], target[i : i + 1]) for i in range(len(target))])
    demand(torch.isfinite(alone).all(), where, "the loss of a single row is not finite", found=alone.tolist())
    if not fitted.task.couples_rows:
        mend = "Set couples_rows to True."
        demand(close(fitted.losses(output, target), alone), where, "a row's loss depends on the other rows", mend=mend)


def _check_constant(fitted: FittedTask, target: Tensor, where: str) -> None:
    codec = fitted.codec
    if not fitted.task.has_constant:
        demand(codec.null_loss is None, where, "it has a null loss, but has_constant is False", found=codec.null_loss)
        return
    if callable(fitted.task.loss) and codec.null_loss is None:
        return  # a user's loss may be negative at its best, and is then scaled by its first steps
    demand(codec.null_loss is not None and codec.null_loss > 0, where, "its null loss is not above zero", found=codec.null_loss)
    start = torch.tensor(codec.start)
    best = _mean_loss(fitted, start, target)
    demand(
        abs(best - (codec.null_loss or 0)) <= 1e-4 * best,
        where,
        f"the null loss is not {best:g}, the loss of start",
        found=codec.null_loss,
    )
    generator = torch.Generator().manual_seed(0)
    for size in (0.01, 0.1, 1.0):
        for _ in range(8):
            other = start + size * torch.randn(codec.width, generator=generator)
            loss = _mean_loss(fitted, other, target)
            mend = "Let best_constant give the minimum."
            demand(
                loss >= best * (1 - 1e-5),
                where,
                f"the constant {other.tolist()} beats start",
                found=f"{loss:g} < {best:g}",
                mend=mend,
            )


def _check_members(fitted: FittedTask, target: Tensor, where: str) -> None:
    outputs = torch.stack([_outputs(fitted, len(target), seed) for seed in range(MEMBERS)], 1)
    task, ensemble = fitted.task, replace(fitted, members=MEMBERS)
    means = torch.stack([fitted.losses(output, target) for output in outputs.unbind(1)]).mean(0)
    demand(close(ensemble.losses(outputs, target), means), where, "an ensemble's losses are not the mean of its members'")
    merged = task.merged(outputs)
    if merged is not None:
        mean = torch.stack([task.estimate(output) for output in outputs.unbind(1)], 1).mean(1)
        demand(close(task.estimate(merged), mean), where, "merged outputs do not have the mean of the members' estimates")
    alike = outputs[:, :1].expand_as(outputs)
    one, three = fitted.views(outputs[:, 0]), ensemble.views(alike)
    same = one.keys() == three.keys() and all(close(one[key].double(), three[key].double()) for key in one)
    demand(same, where, "members that are all alike do not answer as one of them does", mend="Let views take rows alone.")


def _check_answers(fitted: FittedTask, labels: pa.Array, target: Tensor, where: str) -> None:
    task, codec, n_rows = fitted.task, fitted.codec, len(labels)
    views = fitted.views(_outputs(fitted, n_rows))
    for name, view in views.items():
        demand(
            len(view) == n_rows and torch.isfinite(view).all(), where, f"the view {name!r} is not finite with one value per row"
        )
    columns = task.answer(views, codec)
    demand(task.name in columns, where, f"no column {task.name!r} is answered", found=list(columns))
    detailed = task.answer(views, codec, True)
    demand(columns.keys() <= detailed.keys(), where, "answers with probabilities lack a column", found=list(detailed))
    for name, column in detailed.items():
        demand(
            len(column) == n_rows and not column.null_count,
            where,
            f"the column {name!r} has not one answer per row",
            found=column,
        )
    if codec.classes:
        answers, known = _values(columns[task.name]), _values(labels)
        demand(answers <= known, where, "answers are not among the labels", found=f"{answers} of {known}")
    _check_truth(fitted, labels, target, views, where)
    scorers = task.scorers(codec)
    lacking = set(task.default_metrics) - scorers.keys()
    demand(scorers and not lacking, where, "it does not know its own metrics", found=sorted(lacking))
    views, truth = fitted.judged(_outputs(fitted, n_rows), target)
    for name, scorer in scorers.items():
        demand(
            scorer.reads in views,
            where,
            f"the metric {name!r} reads {scorer.reads!r}, which views does not give",
            found=list(views),
        )
        value = float(scorer.compute(views[scorer.reads], truth))
        demand(value == value, where, f"the metric {name!r} is NaN")


def _check_tuning(fitted: FittedTask, labels: pa.Array, target: Tensor, where: str) -> None:
    """What is learned after training comes back from JSON, keeps the constant, weighs rows, and answers as well."""
    output = _outputs(fitted, len(labels))
    tuned = fitted.tuned(output, target)
    if not fitted.task.tunes:
        demand(tuned.codec == fitted.codec, where, "tune changes the codec", mend="Let tunes say so.")
        return
    read = Codec(**json.loads(tuned.codec.model_dump_json()))
    demand(read == tuned.codec, where, "the tuned codec does not come back from JSON", found=f"{read} for {tuned.codec}")
    same = (tuned.codec.start, tuned.codec.null_loss) == (fitted.codec.start, fitted.codec.null_loss)
    demand(same, where, "tuning changes the best constant or its loss")
    alike = fitted.tuned(output, target, torch.full((len(labels),), 2.0)).views(output)
    views = tuned.views(output)
    held = all(close(view.double(), alike[name].double()) for name, view in views.items())
    demand(held, where, "rows that all weigh 2 are tuned on otherwise than rows that all weigh 1")
    _check_answers(tuned, labels, target, where)


def _check_truth(fitted: FittedTask, labels: pa.Array, target: Tensor, views: dict[str, Tensor], where: str) -> None:
    """Metrics compare with the labels themselves."""
    if fitted.task.spatial is not None:
        return
    truth = fitted.task.truth(target, fitted.codec)
    if fitted.codec.classes:
        found = [fitted.codec.classes[int(code)] for code in truth]
        demand(found == labels.to_pylist(), where, "truth does not give the codes of the labels", found=found)
    elif "value" in views:
        wanted = torch.tensor(labels.cast(pa.float64()).to_pylist(), dtype=torch.float64)
        demand(
            close(truth.double() / wanted.abs().max(), wanted / wanted.abs().max()),
            where,
            "truth does not give the labels",
            found=truth.tolist(),
        )


def _outputs(fitted: FittedTask, n_rows: int, seed: int = 0) -> Tensor:
    shape = (n_rows, fitted.codec.width, *fitted.codec.space)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _mean_loss(fitted: FittedTask, constant: Tensor, target: Tensor) -> float:
    codec = fitted.codec.model_copy(update={"start": tuple(constant.tolist())})
    return float(fitted.losses(constant_output(codec, len(target)), target).double().mean())


def _values(column: pa.Array) -> set[object]:
    """The distinct values of a column, or of all its arrays."""
    nested = isinstance(column.type, pa.FixedShapeTensorType)
    return set(column.storage.flatten().to_pylist() if nested else column.to_pylist())

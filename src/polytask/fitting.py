"""From prepared data to a trained bundle, and from a bundle to scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import polytask
from polytask.augmenting import Augmenter
from polytask.batch import Dataset
from polytask.bundle import Bundle
from polytask.checkpoint import Checkpoints
from polytask.errors import PolytaskError
from polytask.fitted import FittedTask
from polytask.given import with_joint_labels
from polytask.initialization import scale_stages
from polytask.intervals import N_RESAMPLES
from polytask.manifest import Manifest, TaskRecord
from polytask.memory import Steps
from polytask.model import MultiTaskModel, outputs_by_batch, outputs_on
from polytask.preparation import Prepared
from polytask.recipe import Recipe
from polytask.scores import Scores, score_task
from polytask.task import Task
from polytask.trainer import told_out_of_memory, train
from polytask.training import Epoch
from polytask.warm_start import frozen

Views = dict[str, Tensor]


def train_bundle(
    recipe: Recipe,
    prepared: Prepared,
    *,
    tasks: Sequence[str] | None = None,
    seed: int | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[Bundle, list[Epoch]]:
    """Build and train the network of a recipe.

    Args:
        recipe: What to build and how to train it.
        prepared: Its data.
        tasks: Train these tasks only, on the rows that have a label of one of them; they read no others.
        seed: Of weights, dropout and order, in place of the recipe's.
        on_epoch: Called after every epoch.
        checkpoints: Where the state of the training is saved, and what is gone on from.

    Raises:
        PolytaskError: A loss is no longer finite, a part cannot be built, a task has no row to be tuned on, or the balancer has
            nothing to balance.
    """
    recipe.sharing.check_balancer(recipe.balancer)  # a copy of a recipe with another part is not checked as a recipe is
    recipe = with_rows_that_fit(recipe, prepared)
    wanted, origin = _trained(prepared, tasks), prepared.origin
    names = [fitted.task.name for fitted in wanted]
    for fitted in wanted:
        _held_out(fitted.task, prepared)  # said before training
    seed = recipe.seed if seed is None else seed
    augmenter = augmenter_of(recipe, prepared, tasks, seed)
    bundle = untrained(recipe, prepared, tasks, seed)
    every = [record.task for record in bundle.manifest.tasks]
    training = labeled_rows(with_joint_labels(prepared.training, every), names)
    assert isinstance(bundle.model, MultiTaskModel)  # no manifest of a recipe has snapshots
    if recipe.trainer.scale_stages and recipe.encoder.brings_weights:
        mend = "Leave it out."
        raise PolytaskError(f"the encoder {recipe.encoder.kind} brings its weights", where="trainer.scale_stages", mend=mend)
    if recipe.trainer.scale_stages:
        scale_stages(bundle.model, training, seed)  # before weights of an earlier run take their place
    with frozen(bundle.model, () if origin is None else origin.begin(bundle)):
        trained = train(
            bundle.model,
            training,
            labeled_rows(with_joint_labels(prepared.validation, every), names),
            recipe.trainer,
            recipe.balancer,
            seed=seed,
            primary=[name for name in recipe.primary if name in names],
            mixing=recipe.mixing,
            augmenter=augmenter,
            begun=() if origin is None else origin.begun(names),
            on_epoch=on_epoch,
            checkpoints=checkpoints,
        )
    chosen = trained.chosen or [(tuple(names), bundle.model.state_dict())]
    bundle = bundle.with_weights(chosen if origin is None else origin.with_frozen_tasks(chosen))
    _tune(bundle, prepared, names)
    return bundle, trained.history


def first_steps(recipe: Recipe, prepared: Prepared) -> Steps:
    """The first steps of a recipe's training, to see what memory they take."""
    names = [fitted.task.name for fitted in prepared.tasks]
    data = labeled_rows(with_joint_labels(prepared.training, [fitted.task for fitted in prepared.tasks]), names)

    def build() -> MultiTaskModel:
        model = untrained(recipe, prepared, names, recipe.seed).model
        assert isinstance(model, MultiTaskModel)  # no manifest of a recipe has snapshots
        return model

    return Steps(build, data, recipe.trainer, recipe.balancer, recipe.seed)


def with_rows_that_fit(recipe: Recipe, prepared: Prepared) -> Recipe:
    """The recipe with a number for its batch size, where that is to be the largest that fits in memory.

    Raises:
        PolytaskError: Not even a single row fits.
    """
    if recipe.trainer.batch_size != "fits":
        return recipe
    steps = first_steps(recipe, prepared)
    with told_out_of_memory():
        found = steps.rows_that_fit(recipe.trainer.most_rows(steps.data.n_rows))
    size = recipe.trainer.rows_per_step(steps.data.n_rows) if found is None else found
    return recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"batch_size": size})})


def untrained(recipe: Recipe, prepared: Prepared, tasks: Sequence[str] | None = None, seed: int | None = None) -> Bundle:
    """The network of a recipe for some of its tasks, None for all, with its initial weights.

    Raises:
        PolytaskError: The sharing scheme names a task that there is not, or a part cannot be built.
    """
    carried = () if prepared.origin is None else prepared.origin.records()
    own = [TaskRecord(task=f.task, codec=f.codec) for f in _among(prepared.tasks, tasks)]
    names = [record.task.name for record in (*carried, *own)]
    recipe.sharing.check([*(record.task.name for record in carried), *(fitted.task.name for fitted in prepared.tasks)])
    origin = prepared.origin
    encoder = recipe.encoder if origin is None else recipe.encoder.settled(origin.bundle.manifest.encoder)
    bundle = Bundle.build(
        Manifest(
            polytask=polytask.__version__,
            encoder=encoder,
            sharing=recipe.sharing,
            head=recipe.head,
            seed=recipe.seed if seed is None else seed,
            inputs=tuple(part.keep(names) for part in prepared.inputs),
            tasks=(*carried, *own),
        )
    )
    # From now on it is built from what it holds: weights that its encoder brought are among its own.
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"encoder": encoder.settled()}))


def augmenter_of(recipe: Recipe, prepared: Prepared, tasks: Sequence[str] | None = None, seed: int | None = None) -> Augmenter:
    """What augments the training batches of these tasks, None for all.

    Raises:
        PolytaskError: There is something to do, and no image.
    """
    trained = [fitted.task for fitted in _trained(prepared, tasks)]
    codecs = [part.codec for part in prepared.inputs]
    return Augmenter(recipe.augmentation, codecs, trained, recipe.seed if seed is None else seed)


def _trained(prepared: Prepared, tasks: Sequence[str] | None) -> list[FittedTask]:
    """Those of these tasks that are not frozen."""
    frozen_tasks = () if prepared.origin is None else prepared.origin.frozen_tasks
    return [fitted for fitted in _among(prepared.tasks, tasks) if fitted.task.name not in frozen_tasks]


def _among(fitted: Sequence[FittedTask], tasks: Sequence[str] | None) -> list[FittedTask]:
    """Those of these tasks, which then read no others."""
    if tasks is None:
        return list(fitted)
    return [replace(f, task=f.task.among(tasks)) for f in fitted if f.task.name in tasks]


def _tune(bundle: Bundle, prepared: Prepared, tasks: Sequence[str]) -> None:
    """Let these tasks learn what they learn from a trained network's answers."""
    for name in tasks:
        bundle.tasks[name] = tuned_on(bundle.tasks[name], partial(_outputs_of, bundle, name), prepared)


def _outputs_of(bundle: Bundle, task: str, data: Dataset) -> Tensor:
    return outputs_on(bundle.model, data, [task])[task]


def tuned_on(fitted: FittedTask, outputs: Callable[[Dataset], Tensor], prepared: Prepared) -> FittedTask:
    """A task with what it learns from the outputs of anything that was trained, as a network's tasks do."""
    data, name = _held_out(fitted.task, prepared), fitted.task.name
    rows = data.present[name]
    if not (fitted.task.tunes and bool(rows.any())):
        return fitted
    return fitted.tuned(outputs(data)[rows], data.targets[name][rows], row_weights(data, name))


def _held_out(task: Task, prepared: Prepared) -> Dataset:
    """The validation rows; for a task that may take them, the training rows where none of those has its label.

    Raises:
        PolytaskError: There are none, and the task may not take training rows.
    """
    if prepared.validation.n_rows and bool(prepared.validation.present[task.name].any()):
        return prepared.validation
    if task.tunes and not task.tunes_on_training and bool(prepared.training.present[task.name].any()):
        mend = "Give the split a share for validation, or leave out the task's calibration and tuned threshold."
        raise PolytaskError("no validation row has a label to tune on", where=f"task {task.name!r}", mend=mend)
    return prepared.training


def score(bundle: Bundle, data: Dataset, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Scores:
    """The metrics of every task on the rows that have its label, with intervals, beside the best constant prediction.

    Raises:
        PolytaskError: No row has a label, or a metric fails.
    """
    scores = {}
    for name, (views, truth, constant) in _judged(bundle, data).items():
        fitted, task = bundle.tasks[name], bundle.tasks[name].task
        scores[name] = score_task(
            name,
            task.kind,
            task.chosen_scorers(fitted.codec),
            views,
            constant,
            truth,
            weights=row_weights(data, name),
            n_resamples=n_resamples,
            seed=seed,
        )
    if not scores:
        raise PolytaskError("no row has a label of any task", where="scores", mend="Give rows with label columns.")
    return Scores(scores)


def metric_values(bundle: Bundle, data: Dataset) -> dict[str, dict[str, float]]:
    """The metrics of every task alone, without intervals."""
    judged = _judged(bundle, data)
    return {name: _metrics(bundle.tasks[name], views, truth, data) for name, (views, truth, _) in judged.items()}


def task_metrics(fitted: FittedTask, output: Tensor, data: Dataset) -> dict[str, float]:
    """The metrics of a task on the rows that have its label, of the outputs for all rows."""
    rows = data.present[fitted.task.name]
    return _metrics(fitted, *fitted.judged(output[rows], data.targets[fitted.task.name][rows]), data)


def _metrics(fitted: FittedTask, views: Views, truth: Tensor, data: Dataset) -> dict[str, float]:
    weights = row_weights(data, fitted.task.name)
    each = () if weights is None else (weights,)
    scorers = fitted.task.chosen_scorers(fitted.codec)
    return {name: float(scorer.compute(views[scorer.reads], truth, *each)) for name, scorer in scorers.items()}


def row_losses(bundle: Bundle, data: Dataset) -> dict[str, NDArray[np.float64]]:
    """The normalized loss of each labeled row, per task."""
    found: dict[str, list[Tensor]] = {task: [] for task in data.tasks}
    for task, output, target in labeled_outputs(bundle, data, data.tasks):
        with torch.inference_mode():
            found[task].append(bundle.tasks[task].answer_losses(output, target))
    return {task: _normalized(bundle.tasks[task], torch.cat(losses), data) for task, losses in found.items()}


def task_losses(fitted: FittedTask, output: Tensor, data: Dataset) -> NDArray[np.float64]:
    """The normalized loss of each row that has a task's label, of the outputs for all rows."""
    rows = data.present[fitted.task.name]
    with torch.inference_mode():
        return _normalized(fitted, fitted.answer_losses(output[rows], data.targets[fitted.task.name][rows]), data)


def _normalized(fitted: FittedTask, values: Tensor, data: Dataset) -> NDArray[np.float64]:
    weights = row_weights(data, fitted.task.name)
    if weights is not None:
        values = values * weights / weights.mean()
    losses: NDArray[np.float64] = values.double().numpy() / (fitted.codec.null_loss or 1.0)
    return losses


def _judged(bundle: Bundle, data: Dataset) -> dict[str, tuple[Views, Tensor, Views]]:
    """What each task that has labels says of the rows that have them, what is true, and what the best constant says."""
    present = [task for task in data.tasks if bool(data.present[task].any())]
    parts: dict[str, list[tuple[Views, Tensor, Views]]] = {task: [] for task in present}
    for task, output, target in labeled_outputs(bundle, data, present):
        fitted = bundle.tasks[task]
        with torch.inference_mode():
            parts[task].append((*fitted.judged(output, target), fitted.constant_judged(target)))
    return {
        task: (_joined([part[0] for part in each]), torch.cat([part[1] for part in each]), _joined([part[2] for part in each]))
        for task, each in parts.items()
    }


def _joined(views: Sequence[Views]) -> Views:
    return {name: torch.cat([part[name] for part in views]) for name in views[0]}


def labeled_outputs(bundle: Bundle, data: Dataset, tasks: Sequence[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For batch after batch each task with what the network says of the rows that have its label, and their targets."""
    for batch, outputs in outputs_by_batch(bundle.model, data, tasks):
        for task, output in outputs.items():
            rows = batch.labeled[task]
            target = batch.targets[task]
            yield task, output if rows is None else output[rows], target if rows is None else target[rows]


def remarks(bundle: Bundle, data: Dataset) -> list[str]:
    """What tasks have to say of what a trained network says of the training rows."""
    waiting = [name for network in bundle.networks for name in network.tasks if not network.has_begun(name)]
    notes = [f"task {name!r} was not learned: the training ended before its loss began" for name in waiting]
    asked = [name for name in data.tasks if type(bundle.tasks[name].task).remarks is not Task.remarks and name not in waiting]
    outputs = outputs_on(bundle.model, data, asked) if asked else {}
    return notes + [note for name, output in outputs.items() for note in bundle.tasks[name].remarks(output[data.present[name]])]


def row_weights(data: Dataset, task: str) -> Tensor | None:
    """How much each row with a label of a task counts, float64; None where all count alike."""
    return data.weights[task][data.present[task]].double() if task in data.weights else None


def labeled_rows(data: Dataset, tasks: Sequence[str]) -> Dataset:
    """The rows with a label of one of these tasks."""
    part = data.select(tasks)
    rows = torch.stack([part.present[task] for task in tasks]).any(0)
    return part if bool(rows.all()) else part.where(rows)

"""fit(recipe) -> Run: the one path that the library, the command line and the estimator all take."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

import polytask
from polytask.bundle import n_parameters
from polytask.checkpoint import STATE, Checkpoints
from polytask.errors import PolytaskError, listed
from polytask.evaluation.conflict import agreement_of, conflict_notes
from polytask.fitting import augmenter_of, remarks, score, train_bundle, with_rows_that_fit
from polytask.preparation import prepare
from polytask.recipe import Recipe
from polytask.run import Run, load
from polytask.run_folder import CHECKPOINTS, RECIPE, RECORD, aside, begin, cannot_write, check_free, settled
from polytask.training import Epoch, gradient_notes, left_out, peak_memory


def fit(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Run:
    """Train one network for all tasks of a recipe and score it on the test rows.

    Args:
        recipe: What to learn from what, and how.
        out: A folder to save the run in.
        overwrite: Replace an earlier run there, once this one is trained.
        on_epoch: Called after every epoch, with its losses; what it raises ends the training.

    Raises:
        Stopped: Ctrl-C or SIGTERM, where ``out`` is given; the training is saved, and ``resume(out)`` goes on with it.
        PolytaskError: Whatever is wrong with the recipe, the data or the place to save to; said before training where it can
            be.
    """
    place = None if out is None else check_free(out, overwrite)
    return _run(anchored(recipe), place, on_epoch, anew=True)


def resume(folder: str | Path, recipe: Recipe | None = None, *, on_epoch: Callable[[Epoch], None] | None = None) -> Run:
    """Go on with a training that was stopped or killed, bit for bit as if it had not been.

    Args:
        folder: The ``out`` of that ``fit``. Where its run is finished already, this is ``load``.
        recipe: The same recipe again, where it has what a file cannot hold: rows in memory, functions, networks.
        on_epoch: Called after every epoch, and first for those done before.

    Raises:
        PolytaskError: There is no such training, or its recipe or data have changed.
        Stopped: As for ``fit``.
    """
    place = settled(folder)
    asked = place / CHECKPOINTS / RECIPE
    if not asked.is_file():
        if (place / RECORD).is_file():
            shutil.rmtree(aside(place), ignore_errors=True)  # what a crash at the very end left
            return load(place)
        raise PolytaskError("no training to go on with", where=str(folder), mend="`polytask fit ... --out` begins one.")
    stored = Recipe.from_yaml(asked)
    given = stored if recipe is None else anchored(recipe)
    if given.trainer.batch_size == "fits":  # what was found then
        size = {"batch_size": stored.trainer.batch_size}
        given = given.model_copy(update={"trainer": given.trainer.model_copy(update=size)})
    one, two = given.to_dict(), stored.to_dict()
    if other := [key for key in one if one[key] != two[key]]:
        what = f"the training was begun with another {listed(other)}"
        raise PolytaskError(what, where=str(asked), mend="Give the same recipe, or fit anew with overwrite=True.")
    return _run(given, place, on_epoch, anew=False)


def _run(recipe: Recipe, place: Path | None, on_epoch: Callable[[Epoch], None] | None, *, anew: bool) -> Run:
    """Prepare, train, score and save."""
    began = time.perf_counter()
    prepared = prepare(recipe)
    recipe, asked = with_rows_that_fit(recipe, prepared), recipe
    fingerprints, origin = recipe.fingerprints(), prepared.origin
    if place is None:
        bundle, history = train_bundle(recipe, prepared, on_epoch=on_epoch)
        before = 0.0
    else:
        data = fingerprints if origin is None else fingerprints | {str(origin.settings.run): origin.fingerprint}
        with _saving(recipe, place / CHECKPOINTS, data, anew) as checkpoints:
            bundle, history = train_bundle(recipe, prepared, on_epoch=on_epoch, checkpoints=checkpoints)
        before = checkpoints.seconds
    judged = "test" if prepared.test.n_rows else "validation" if prepared.validation.n_rows else "training"
    scores = score(bundle, getattr(prepared, judged), recipe.seed)
    epochs = [epoch.to_dict() for epoch in history]
    conflicts = conflict_notes(agreement_of(epochs), recipe.balancer.kind)
    record: dict[str, Any] = {
        "polytask": polytask.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rows": {part: getattr(prepared, part).n_rows for part in ("training", "validation", "test")},
        "scored_on": judged,
        "parameters": n_parameters(bundle.model),
        "peak_memory": peak_memory(),
        "seconds": round(before + time.perf_counter() - began, 3),
        "best_epochs": {task: epoch.epoch for epoch in history for task in epoch.best},
        "data": fingerprints,
        "parts": dict(prepared.parts),
        "notes": [
            *prepared.notes,
            *_told_of_size(asked, recipe),
            *augmenter_of(recipe, prepared).notes,
            *left_out(history),
            *gradient_notes(history),
            *conflicts,
            *remarks(bundle, prepared.training),
        ],
    }
    if origin is not None:
        record["warm_start"] = {"run": str(origin.settings.run), "weights": origin.fingerprint}
        record["notes"] += origin.seen_before(fingerprints, prepared.parts)
    run = Run(recipe, bundle, scores, epochs, record, prepared)
    if place is not None:
        _write_or_rescue(run, place)
    return run


def _told_of_size(asked: Recipe, recipe: Recipe) -> list[str]:
    size = recipe.trainer.batch_size
    return (
        []
        if size == asked.trainer.batch_size
        else [f"batches of {size} rows, the most that fit in memory (of 4,096 and a tenth of the rows at most)"]
    )


@contextmanager
def _saving(recipe: Recipe, folder: Path, data: Mapping[str, str], anew: bool) -> Iterator[Checkpoints]:
    """The checkpoints of a training, while signals end it at a step; nothing is left of one that failed before the first."""
    checkpoints = Checkpoints(folder, recipe.trainer.checkpoint, data)
    try:
        if anew:
            begin(recipe.to_yaml(), folder)
    except OSError as error:
        mend = "Choose a place you may write to."
        raise cannot_write(error, folder.parent, mend) from None
    try:
        with checkpoints.listening():
            yield checkpoints
    except PolytaskError:
        if not (folder / STATE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # it holds something else, and is not ours to remove
                folder.parent.rmdir()
        raise


def _write_or_rescue(run: Run, place: Path) -> None:
    """Save a run; where that fails, put it elsewhere rather than lose the training, and say so."""
    try:
        run.write(place)
    except PolytaskError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="polytask-"))
        try:
            mend = f"The run was saved in {str(run.save(elsewhere / 'run'))!r} instead: move it where you want it."
        except PolytaskError:
            shutil.rmtree(elsewhere, ignore_errors=True)
            kept = (place / CHECKPOINTS / STATE).is_file()
            goes_on = f"`polytask resume {place}` goes on from its last checkpoint" if kept else "fit again"
            mend = f"{str(elsewhere.parent)!r} cannot take it either. Make room, then {goes_on}."
        raise PolytaskError(error.what, where=error.where, found=error.found, mend=mend) from error


def anchored(recipe: Recipe) -> Recipe:
    """The same recipe with absolute paths: it means the same wherever its file lies."""
    sources, begun = tuple(source.anchored() for source in recipe.sources), recipe.warm_start
    update = {"sources": sources, "encoder": recipe.encoder.anchored(), "warm_start": begun and begun.anchored()}
    return recipe.model_copy(update=update)

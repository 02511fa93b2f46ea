"""The folder of a run on disk: whether its place is free, and how it is begun and replaced so that a crash leaves it whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from polytask.checkpoint import sync
from polytask.errors import PolytaskError

RECORD, RECIPE, SCORES, HISTORY, CARD, MODEL = "run.json", "recipe.yaml", "scores.json", "history.jsonl", "README.md", "model"
CHECKPOINTS = "checkpoints"


def check_free(folder: str | Path, overwrite: bool) -> Path:
    """The place for a run.

    Raises:
        PolytaskError: Something is there that may not be replaced, or it cannot be written.
    """
    place = settled(folder)
    if place.exists() and not place.is_dir():
        raise PolytaskError("is a file, not a folder for a run", where=str(folder), mend="Choose another name.")
    if place.is_dir() and any(place.iterdir()):
        unfinished = is_unfinished(place)
        if not unfinished and not (place / RECORD).is_file():
            raise PolytaskError("the folder holds something else than a run", where=str(folder), mend="Choose another folder.")
        if unfinished and not overwrite:
            mend = f"`polytask resume {folder}` (polytask.resume) goes on with it; --overwrite (overwrite=True) begins anew."
            raise PolytaskError("there is an unfinished training", where=str(folder), mend=mend)
        if not overwrite:
            raise PolytaskError(
                "there is a run already", where=str(folder), mend="Choose another folder, or --overwrite (overwrite=True)."
            )
    parent = next(path for path in place.parents if path.exists())
    if not os.access(parent, os.W_OK):
        raise PolytaskError("the folder cannot be written", where=str(parent), mend="Choose a place you may write to.")
    return place


def is_unfinished(place: Path) -> bool:
    """Whether there is a training under way and nothing else."""
    return place.is_dir() and [path.name for path in place.iterdir()] == [CHECKPOINTS]


def finished(folder: str | Path) -> Path:
    """The place of a run whose training is finished.

    Raises:
        PolytaskError: There is no such folder, or the training is not finished.
    """
    place = settled(folder)
    if not place.is_dir():
        raise PolytaskError("no such run folder", where=str(place), mend="`polytask fit ... --out run/` makes one.")
    if is_unfinished(place):
        mend = f"If it is not going on still, `polytask resume {folder}` (polytask.resume) goes on with it."
        raise PolytaskError("the training of this run is not finished", where=str(folder), mend=mend)
    return place


def read_record(place: Path) -> dict[str, Any]:
    """What the run.json of a run says.

    Raises:
        PolytaskError: It is missing or damaged.
    """
    try:
        record: dict[str, Any] = json.loads((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolytaskError(f"the run is damaged: {error}", where=str(place), mend="Take a copy, or fit again.") from None
    return record


def settled(folder: str | Path) -> Path:
    """The absolute place of a run, where a crash in the middle of replacing it is mended."""
    place = Path(folder).expanduser().absolute()
    if not place.exists() and aside(place).is_dir():
        aside(place).rename(place)
    return place


def aside(place: Path) -> Path:
    """Where a run is put while another takes its place."""
    return place.with_name(f".{place.name}.old")


def begin(recipe: str, folder: Path) -> None:
    """Make the folder of a training's checkpoints, with its recipe, in one step: a crash leaves all of it or nothing."""
    place = folder.parent
    draft = place.with_name(f".{place.name}.begin")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / folder.name).mkdir(parents=True)
    (draft / folder.name / RECIPE).write_text(recipe, encoding="utf-8")
    for path in (draft / folder.name / RECIPE, draft / folder.name, draft):
        sync(path)
    if place.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        (draft / folder.name).replace(folder)
        draft.rmdir()
        sync(place)
    else:
        draft.replace(place)
    sync(place.parent)

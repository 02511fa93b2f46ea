"""The folder of a run on disk: whether its place is free, and how it is begun and replaced so that a crash leaves it whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polytask.checkpoint import sync
from polytask.errors import PolytaskError, shown
from polytask.scores import Scores

RECORD, RECIPE, SCORES, HISTORY, CARD, MODEL = "run.json", "recipe.yaml", "scores.json", "history.jsonl", "README.md", "model"
CHECKPOINTS = "checkpoints"
MEND = "Take the run's folder from a copy, or fit again."


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
    check_writable(next(path for path in place.parents if path.exists()))
    return place


def check_writable(folder: Path) -> None:
    """Raise a PolytaskError where no file can be put into a folder."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "the folder cannot be written" if folder.is_dir() else "is a file, not a folder"
        raise PolytaskError(what, where=str(folder), mend="Choose a place you may write to.")


def write_whole(path: Path, text: str) -> None:
    """Write a file in one step: where that fails, what was there before still is.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_record(place: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """What run.json, scores.json and history.jsonl of a run say, as plain values.

    Raises:
        PolytaskError: One of them is missing, damaged, or says something else.
    """
    record = _parsed(place / RECORD, "data", "parameters")
    scores = _parsed(place / SCORES)
    history = [_object(line, place / HISTORY, "epoch", "training") for line in _text(place / HISTORY).splitlines()]
    if not history:
        raise PolytaskError("no epoch is in it", where=str(place / HISTORY), mend=MEND)
    return record, scores, history


def read_scores(values: Mapping[str, Any], path: Path) -> Scores:
    """The scores that a file says.

    Raises:
        PolytaskError: It says something else.
    """
    try:
        return Scores.from_dict(values)
    except PolytaskError as error:
        raise PolytaskError(error.what, where=str(path), found=error.found, mend=MEND) from None


def cannot_write(error: OSError, place: Path, mend: str, what: str = "run") -> PolytaskError:
    """The error for a run, or what is made of it, that could not be written."""
    return PolytaskError(f"cannot write the {what}", where=str(place), found=error.strerror or str(error), mend=mend)


def _parsed(path: Path, *keys: str) -> dict[str, Any]:
    return _object(_text(path), path, *keys)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PolytaskError("the run is damaged: the file is missing", where=str(path), mend=MEND) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PolytaskError("the run is damaged", where=str(path), found=str(error), mend=MEND) from None


def _object(text: str, path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object that has these keys with objects or numbers in them."""
    try:
        value = json.loads(text)
    except ValueError:
        raise PolytaskError("the run is damaged: this is not JSON", where=str(path), found=shown(text), mend=MEND) from None
    if not isinstance(value, dict) or not value or not all(isinstance(value.get(key), dict | int) for key in keys):
        raise PolytaskError("this is not of a run", where=str(path), found=shown(value), mend=MEND)
    return value


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


def settled(folder: str | Path) -> Path:
    """The absolute place of a run, where a crash in the middle of replacing it is mended."""
    place = Path(folder).expanduser().absolute()
    if not place.exists() and aside(place).is_dir():
        aside(place).rename(place)
    return place


def aside(place: Path) -> Path:
    """Where a run is put while another takes its place."""
    return place.with_name(f".{place.name}.old")


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A folder beside a place to write into; once the block is done it is put there, in one step, instead of what is there.

    Where the block raises, nothing of it is left.

    Raises:
        OSError: It cannot be written.
    """
    draft, before = place.with_name(f".{place.name}.new"), aside(place)
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        for path in (*draft.rglob("*"), draft):
            sync(path)
        if place.exists():
            shutil.rmtree(before, ignore_errors=True)
            place.rename(before)
        draft.rename(place)  # a crash between these two is mended by settled
        sync(place.parent)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def begin(recipe: str, folder: Path) -> None:
    """Make the folder of a training's checkpoints, with its recipe, in one step: a crash leaves all of it or nothing."""
    place = folder.parent
    draft = place.with_name(f".{place.name}.begin")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        (draft / folder.name).mkdir(parents=True)
        (draft / folder.name / RECIPE).write_text(recipe, encoding="utf-8")
        for path in (draft / folder.name / RECIPE, draft / folder.name, draft):
            sync(path)
        if place.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            (draft / folder.name).replace(folder)
            sync(place)
        else:
            draft.replace(place)
        sync(place.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)

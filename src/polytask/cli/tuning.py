"""What `tune` does with its words, and what it says at the end."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from polytask.cli.arguments import Words
from polytask.cli.training import check_words, say_next, tell

if TYPE_CHECKING:
    from polytask.tuning.outcome import Tuning


def tuned(words: Words, **options: Any) -> Tuning:
    """The search that the words and options ask for, with progress."""
    from rich.console import Console

    from polytask.cli.progress import TuneProgress
    from polytask.recipe import read_fields, told_of
    from polytask.tuning.tune import arms_of, space_of, tune

    check_words(words)
    fields = read_fields(words.recipes[0], words.changes()) if words.recipes else _started(words)
    with told_of(words.recipes[0]) if words.recipes else nullcontext():
        space = space_of(fields, level=options.pop("space"))
    n_trials = options["trials"] * len(arms_of(space, options["baseline"]))
    with TuneProgress(n_trials, Console()) as progress:
        return tune(space, **options, on_trial=progress.trial, on_epoch=progress.epoch)


def say_tuning(found: Tuning, out: str) -> None:
    """Print the tables, what was kept where, and how to go on."""
    text, _, notes = str(found).partition("\nnote: ")
    typer.echo(f"\n{text.rstrip()}\n")
    tell([f"note: {note}" for note in notes.split("\nnote: ") if note])
    place, folder = Path(out).expanduser(), shlex.quote(out.rstrip("/") or out)
    there = [name for name in ("recipe.yaml", "tune.json", "trials.csv", "front.svg", "run") if (place / name).exists()]
    typer.echo(f"\nsaved in {out}: {', '.join(there)}")
    if found.run is None:
        say_next(f"polytask fit {folder}/recipe.yaml --out run/")
    else:
        say_next(f"polytask show {folder}/run", f"polytask predict {folder}/run NEW.csv --out answers.csv")


def _started(words: Words) -> dict[str, Any]:
    """The recipe of data files and tasks, as plain values; kinds that were guessed are told."""
    from polytask.cli.starting import start_fields, told

    fields, _, guesses = start_fields(words)
    tell(told({task["name"]: task["kind"] for task in fields["tasks"]}, guesses))
    return fields

"""What the commands that train have in common: the recipe of their words, progress, scores, and what to do next."""

from __future__ import annotations

import json
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from polytask.cli.arguments import Words
from polytask.errors import PolytaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from polytask.cli.progress import FitProgress
    from polytask.recipe import Recipe
    from polytask.run import Run

WIDTH = 100


def recipe_of(words: Words, out: str | None, overwrite: bool) -> Recipe:
    """The recipe that a file or the words ask for."""
    check_words(words)
    from polytask.recipe import Recipe
    from polytask.run_folder import check_free

    if out is not None:
        check_free(out, overwrite)
    if words.recipes:
        return Recipe.from_yaml(words.recipes[0], words.changes())
    from polytask.cli.starting import start

    started = start(words)
    tell(started.told())
    return started.recipe


def check_words(words: Words) -> None:
    """Whether they are one recipe, or data files and tasks, before anything is read.

    Raises:
        PolytaskError: They are something else.
    """
    words.tasks()
    if words.recipes and len(words.files) > 1:
        raise PolytaskError("give one recipe, or data files, not both", found=", ".join(words.files))
    if words.recipes and (given := words.only_with_data()):
        mend = "Change the recipe, or use --set, as in --set tasks.price.kind=ordinal."
        raise PolytaskError(f"a recipe says this already: {', '.join(given)}", where=words.recipes[0], mend=mend)


def train(recipe: Recipe, out: str | None, overwrite: bool) -> Run:
    """Fit with progress, and say how it went."""
    from polytask.experiment import fit

    if out is None:
        typer.echo("note: the run will not be saved; --out FOLDER keeps it")
    return followed(recipe, out, lambda on_epoch: fit(recipe, out, overwrite=overwrite, on_epoch=on_epoch))


def train_with_folds(recipe: Recipe, folds: int, out: str | None, overwrite: bool) -> None:
    """Cross-validate; where there is a place for a run, once it is there."""
    from polytask.checkpoint import Stopped
    from polytask.evaluation.folds import check_folds
    from polytask.run_folder import RECIPE

    if out is None:
        typer.echo("note: no network is kept; with --out FOLDER one is trained on the recipe's own split and saved first")
        _cross_validated(recipe, folds)
        return
    check_folds(recipe, folds)  # a mistake in them is told before the network trains
    try:
        run = train(recipe, out, overwrite)
    except Stopped as stopped:
        later = f"polytask fit {shlex.quote(str(Path(out) / RECIPE))} --folds {folds}"
        raise Stopped(f"{stopped}, without the folds; after it, `{later}` trains these", stopped.signal) from None
    _cross_validated(recipe, folds, out, run.record["notes"])


def _cross_validated(recipe: Recipe, folds: int, out: str | None = None, told: Sequence[str] = ()) -> None:
    """Train and judge every fold with progress, and say what they found but the notes that were told already."""
    from rich.console import Console

    from polytask.cli.progress import FoldsProgress
    from polytask.evaluation.folds import cross_validate

    try:
        with FoldsProgress(folds, Console()) as progress:
            scores = cross_validate(recipe, folds, on_fold=progress.fold, on_epoch=progress.epoch)
    except KeyboardInterrupt:
        kept = "nothing was to be saved" if out is None else f"the run in {out} is saved, without folds.json"
        before = "; the scores of those before it are above" if progress.done else ""
        raise KeyboardInterrupt(f"interrupted in fold {progress.done + 1} of {folds}{before}; {kept}") from None
    typer.echo(f"\nScores over {folds} folds, each judged by the network that has not seen it\n{scores}")
    tell([f"note: {note}" for note in scores.notes if note not in told])
    if out is not None:
        put_beside(scores.to_dict(), Path(out).expanduser() / "folds.json")


def put_beside(found: dict[str, Any], place: Path) -> None:
    """Put what was found, and has been printed, into the folder of a run."""
    from polytask.run_folder import write_whole

    try:
        write_whole(place, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        mend = "Make room or mend the place; what was there is unchanged."
        raise PolytaskError("cannot be written", where=str(place), found=error.strerror or str(error), mend=mend) from None
    typer.echo(f"\nsaved in {place}")


def followed(recipe: Recipe, out: str | None, training: Callable[[FitProgress], Run]) -> Run:
    """Show a training's progress, then its scores."""
    from rich.console import Console

    from polytask.cli.progress import FitProgress

    with FitProgress(Console(), "images" if recipe.encoder.reads_images else "rows") as progress:
        run = training(progress)
    say_run(run)
    if out is not None:
        typer.echo(f"\nsaved in {out}")
    return run


def say_run(run: Run) -> None:
    """Print the sizes of a run, its scores and its notes."""
    rows, record = run.record["rows"], run.record
    sizes = ", ".join(f"{count:,} {part}" for part, count in rows.items())
    n_networks = len(run.bundle.manifest.snapshots)
    several = f" in {n_networks} networks" if n_networks else ""
    typer.echo(f"rows: {sizes}; {record['parameters']:,} parameters{several}\n")
    typer.echo(f"Scores on the {record['scored_on']} rows")
    typer.echo(run.scores())
    tell([f"note: {note}" for note in record["notes"]])


def tell(lines: list[str], err: bool = False) -> None:
    """Print lines, folded where they are long."""
    for line in lines:
        typer.echo(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False), err=err)


def say_next_of(out: str, recipe: Recipe) -> None:
    """Print what can be done with a run."""
    run = shlex.quote(out)
    compare = [f"polytask compare {run}"] if len(recipe.tasks) > 1 and recipe.warm_start is None else []
    say_next(*compare, f"polytask predict {run} NEW.csv --out answers.csv")


def say_next(*commands: str) -> None:
    """Print commands to go on with."""
    typer.echo("\n".join(f"{'next:' if index == 0 else '':<6}{command}" for index, command in enumerate(commands)))

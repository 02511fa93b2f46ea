"""The command ``polytask``. A command imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import polytask
from polytask.cli.arguments import Words, parse_list, with_words
from polytask.cli.training import followed, put_beside, recipe_of, say_next, say_next_of, say_run, tell, train, train_with_folds
from polytask.errors import PolytaskError

if TYPE_CHECKING:
    pass

MISTAKE = 2
N_NEW_ROWS = 5


class Commands(TyperGroup):
    """All commands: a mistake of the user is told on one line, and ``--debug`` may stand anywhere."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, sorted(args, key="--debug".__ne__))

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except PolytaskError as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt as interrupt:
            if ctx.params["debug"]:
                raise
            typer.echo(str(interrupt) or "interrupted", err=True)
            raise typer.Exit(128 + getattr(interrupt, "signal", signal.SIGINT)) from None
        return result


app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)

RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder that `polytask fit --out` wrote.")]
Rows = Annotated[str, typer.Argument(metavar="FILE", help="A file with rows like those of the training.")]
SourceName = Annotated[
    str | None, typer.Option(metavar="NAME", help="The training source these rows are like, if there were several.")
]
Out = Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to save the run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Folds = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Cross-validate: K networks, each judged by a fold of the rows that it has not seen (those of a test file judge "
        "none). With --out this comes after the run is trained and saved, and is kept in its folds.json.",
    ),
]


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polytask {polytask.__version__}")
        raise typer.Exit


def _examples(*commands: str) -> str:
    return "[dim]Examples[/dim]\n\n" + "\n\n".join(command.replace("[", "\\[") for command in commands)


@app.callback(epilog="Start with: polytask demo, or polytask init YOUR-TABLE.csv")
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train one neural network for several tasks, and learn whether sharing helped each of them."""


@app.command(
    epilog=_examples(
        "polytask fit houses.csv --task price --task condition:ordinal --task waterfront:binary --drop id --out run/",
        "polytask fit recipe.yaml --set trainer.epochs=5 --out run/",
        "polytask fit recipe.yaml --folds 5",
        "polytask fit --task maths=student-mat.csv:G3:regression --task portuguese=student-por.csv:G3:regression --out run/",
        "polytask fit labels.csv --image photo --task species --task age:regression --out run/",
        "polytask fit a-folder-per-class/ --out run/",
        "polytask fit adult.data --names age,work,income --missing ? --task income --test adult.test --out run/",
    )
)
@with_words
def fit(words: Words, out: Out = None, overwrite: Overwrite = False, folds: Folds = None) -> None:
    """Train one network for all tasks of FILES, or of a recipe.yaml, and score it on rows it has not seen."""
    recipe = recipe_of(words, out, overwrite)
    if folds is None:
        train(recipe, out, overwrite)
    else:
        train_with_folds(recipe, folds, out, overwrite)
    if out is not None:
        say_next_of(out, recipe)


@app.command(epilog=_examples("polytask resume run/"))
def resume(run: RunFolder) -> None:
    """Go on with a training that was stopped or killed, bit for bit as if it had not been."""
    from polytask.experiment import resume as go_on
    from polytask.run_folder import CHECKPOINTS, RECIPE

    asked = Path(run) / CHECKPOINTS / RECIPE
    if not asked.is_file():
        trained = go_on(run)  # says what is wrong, if anything is
        typer.echo(f"the training in {run} is finished already")
    else:
        trained = followed(run, lambda on_epoch: go_on(run, on_epoch=on_epoch))
    say_next_of(run, trained.recipe)


@app.command(
    epilog=_examples(
        "polytask init houses.csv", "polytask init houses.csv --task price --task condition --drop id > recipe.yaml"
    )
)
@with_words
def init(words: Words) -> None:
    """Write a commented recipe for FILES to the standard output; without --task, list the columns to choose from."""
    from polytask.cli.drafting import column_list, draft
    from polytask.cli.starting import open_sources, start

    if words.recipes:
        mend = "Give data files; `polytask fit` takes the recipe."
        raise PolytaskError("this is a recipe already", where=words.recipes[0], mend=mend)
    if not words.task:
        typer.echo(column_list(open_sources(words, [])))
        typer.echo("Choose what to predict: --task COLUMN, or --task COLUMN:kind where the guess is wrong.", err=True)
        return
    started = start(words, read_all=True)
    tell(started.told(), err=True)
    typer.echo(draft(started), nl=False)


@app.command(epilog=_examples("polytask evaluate run/ houses-test.csv"))
def evaluate(run: RunFolder, rows: Rows, source: SourceName = None) -> None:
    """Score a run on the rows of a file that has the labels."""
    from polytask.run import load

    typer.echo(load(run).evaluate(rows, source=source))


@app.command(epilog=_examples("polytask show run/"))
def show(run: RunFolder) -> None:
    """Print a run's scores and notes, how far its tasks' gradients agreed, and the weights that a balancer gave them."""
    from polytask.evaluation.conflict import agreement_table, weights_table
    from polytask.run import load

    trained = load(run)
    say_run(trained)
    tables = [agreement_table(trained.conflicts()), weights_table(trained.history)]
    typer.echo("".join(f"\n{table}\n" for table in tables if table), nl=False)


@app.command(
    epilog=_examples(
        "polytask predict run/ new.csv --out answers.csv",
        "polytask predict run/ new.csv --tasks price,condition --probabilities --out answers.parquet",
    )
)
def predict(
    run: RunFolder,
    rows: Rows,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="A .csv or .parquet file; else CSV is printed.")] = None,
    tasks: Annotated[str | None, typer.Option(metavar="A,B,...", help="The tasks to answer; all by default.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Add a column task:class for every class.")] = False,
    source: SourceName = None,
    overwrite: Overwrite = False,
) -> None:
    """Answer every row of a file, in its order; label columns are not needed."""
    from polytask.cli.answers import check_out, write_answers

    place = None if out is None else check_out(out, overwrite)
    from polytask.run import load

    chosen = None if tasks is None else parse_list(tasks)
    pieces = load(run).predict_pieces(rows, chosen, source=source, probabilities=probabilities)
    n_rows, names = write_answers(pieces, place)
    if place is not None:
        typer.echo(f"{n_rows:,} rows written to {out}: {', '.join(names)}")


@app.command(epilog=_examples("polytask keep run/ --tasks price,condition --out small/"))
def keep(
    run: RunFolder,
    tasks: Annotated[str, typer.Option(metavar="A,B,...", help="The tasks to keep.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where to save what is kept.")],
    overwrite: Overwrite = False,
) -> None:
    """Save a run with some of its tasks only, to ship without the others; what it answers stays the same."""
    from polytask.run import load
    from polytask.run_folder import check_free

    check_free(out, overwrite)
    whole = load(run)
    kept = whole.keep(*parse_list(tasks))
    kept.save(out, overwrite)
    left, before = kept.record["parameters"], whole.record["parameters"]
    typer.echo(f"kept {', '.join(kept.bundle.tasks)}: {left:,} of {before:,} parameters are left\nsaved in {out}")


@app.command(epilog=_examples("polytask compare run/", "polytask compare run/ --seeds 10"))
def compare(
    run: RunFolder,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="How often each network is trained.")] = 3,
) -> None:
    """Train every task alone at the same budget and on the same split, and say whether sharing helped it."""
    from rich.console import Console

    from polytask.cli.progress import CompareProgress
    from polytask.run import load
    from polytask.run_folder import check_writable

    trained, place = load(run), Path(run).expanduser() / "compare.json"
    check_writable(place.parent)
    with CompareProgress(Console()) as progress:
        comparison = trained.compare(seeds, on_fit=progress)
    typer.echo(comparison)
    put_beside(comparison.to_dict(), place)


@app.command("list", epilog=_examples("polytask list", "polytask list balancers"))
def list_kinds(
    family: Annotated[str | None, typer.Argument(metavar="[FAMILY]", help="Such as balancers; all by default.")] = None,
) -> None:
    """List the kinds of sources, tasks, encoders, sharings, heads and balancers there are."""
    from polytask.cli.catalog import FAMILIES, family_named, listing

    if family is not None:
        typer.echo(listing(family_named(family)))
        return
    typer.echo("\n\n".join(f"{name}: {what}\n{listing(name)}" for name, what in FAMILIES.items()))


@app.command(epilog=_examples("polytask describe balancer uncertainty", "polytask describe source csv"))
def describe(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="Such as balancer.")],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Such as uncertainty; see polytask list.")],
) -> None:
    """Say what a kind does, what can be set, and where it comes from."""
    from polytask.cli.catalog import describe, family_named

    typer.echo(describe(family_named(family), kind))


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, with which an editor can complete and check it."""
    from polytask.recipe import Recipe

    typer.echo(json.dumps(Recipe.json_schema(), indent=1, ensure_ascii=False))


@app.command()
def demo(
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where to save the run.")] = "demo-run",
    overwrite: Overwrite = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the recipe. Repeatable.")
    ] = None,
) -> None:
    """Learn four things from two scanned digits side by side: each digit, their sum, and whether they are equal."""
    from polytask.cli.answers import write_answers
    from polytask.recipe import Recipe, changed
    from polytask.run_folder import check_free

    check_free(out, overwrite)
    kinds = {"left": "multiclass", "right": "multiclass", "total": "regression", "same": "binary"}
    tasks = [{"kind": kind, "name": name} for name, kind in kinds.items()]
    recipe = Recipe(**changed({"sources": [{"kind": "two_digits"}], "tasks": tasks}, set_ or []))
    typer.echo("Two scanned digits side by side: which is left, which is right, their sum, and whether they are equal.")
    train(recipe, out, overwrite)
    test = recipe.sources[0].parts()["test"].drop_columns(list(kinds))
    write_answers([test.slice(0, N_NEW_ROWS)], Path(out) / "new.csv")
    run = shlex.quote(out)
    say_next(f"polytask predict {run} {shlex.quote(str(Path(out) / 'new.csv'))}", f"polytask compare {run} --seeds 1")


def main() -> None:
    """What the command ``polytask`` runs."""
    # OpenMP's threads spin while they wait. Where another process wants one of the cores, a training with two threads took
    # 20 to 76 s in place of 1.4, and where they sleep at once a sixth more than it need on free cores: so they spin briefly.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "12000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file gets UTF-8 on every system, as a recipe must be
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # the line of our code says nothing to its user
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # its reader had enough; Python would complain once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

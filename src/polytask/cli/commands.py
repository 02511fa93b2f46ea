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
from polytask.cli.training import followed, recipe_of, say_next, say_next_of, say_run, tell, train, train_with_folds
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


@app.command(
    epilog=_examples(
        "polytask tune recipe.yaml --trials 40 --budget 30m --out tuned/",
        "polytask tune recipe.yaml --set 'encoder.width={search: [64, 512], log: true}' --space all",
        "polytask tune houses.csv --task price --task condition --pareto --choose price=3,condition=1",
        "polytask fit tuned/recipe.yaml --folds 5",
    )
)
@with_words
def tune(
    words: Words,
    trials: Annotated[int, typer.Option(metavar="N", help="How many trials, of each kind.")] = 40,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Time for all of it, with that of earlier sessions: 90s, 30m, 1h30m; no end by default."
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where trials and results are kept, and what is gone on with if it is there.")
    ] = "tuned",
    space: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="What is searched where the recipe does not say: training (learning rate, weight decay, dropout, weights of "
            "tasks), network (width, depth, shared stages too), all (sharing and balancer too), or given: nothing.",
        ),
    ] = "training",
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Search for the whole front over the tasks; no trial is stopped early then.")
    ] = False,
    choose: Annotated[
        str | None,
        typer.Option(metavar="TRIAL", help="Which trial of the front to take: its name, or what tasks count: price=3,grade=1."),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="As many trials with equal weights, to see what the weights gain.")
    ] = True,
    seeds: Annotated[
        int,
        typer.Option(metavar="N", help="How often the default and the best are trained for the test rows, if there is time."),
    ] = 3,
    fit: Annotated[bool, typer.Option("--fit/--no-fit", help="Train the best recipe and keep it in FOLDER/run.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew where there is another search.")] = False,
) -> None:
    r"""Search for a better recipe: learning rate, regularization, weights of the tasks, and what a recipe.yaml says.

    In place of any value the recipe may have {search: [0.0001, 0.01], log: true} or {search: \[mmoe, hard, ple]}.

    Stopped or killed, the same command goes on.
    """
    from polytask.cli.tuning import say_tuning, tuned

    say_tuning(
        tuned(
            words,
            trials=trials,
            budget=budget,
            out=out,
            space=space,
            pareto=pareto,
            choose=choose,
            baseline=baseline,
            seeds=seeds,
            fit_best=fit,
            overwrite=overwrite,
        ),
        out,
    )


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


@app.command(epilog=_examples("polytask report run/", "polytask report run/ run2/ --out comparison.html"))
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="A run's folder, or several to compare.")],
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to; else report.html (comparison.html) in the first run's folder.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page about a run that needs no network: verdict, tasks, what is between them, inputs, record."""
    from polytask.run import load

    first, *others = [load(run) for run in runs]
    place = first.report(out, others=others, overwrite=overwrite)
    typer.echo(f"saved in {place if out is None else out}")


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


@app.command(
    epilog=_examples(
        "polytask export run/ --to onnx", "polytask export run/ --to torch --tasks price,condition --out model/ --overwrite"
    )
)
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(metavar="TARGET", help="onnx, or torch for a program of torch.export.")] = "onnx",
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to; by default RUN/onnx or RUN/torch.")] = None,
    tasks: Annotated[str | None, typer.Option(metavar="A,B,...", help="The tasks to answer; all by default.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the network for others to run, once it says what `predict` says; with it comes what makes inputs of rows."""
    from polytask.run import load
    from polytask.run_folder import finished

    place = finished(run) / to if out is None else Path(out)
    from polytask.export.exporting import check_place, check_target

    check_target(to)
    check_place(place, overwrite)
    exported = load(run).export(place, to, None if tasks is None else parse_list(tasks), overwrite)
    files = ", ".join(sorted(file.name for file in place.expanduser().iterdir()))
    typer.echo(f"{exported}\nsaved in {place if out is None else out}: {files}")


@app.command(
    epilog=_examples(
        "polytask compare run/",
        "polytask compare run/ --with mmoe,ple,cross_stitch,balancer:cagrad --seeds 5",
        "polytask compare run/ --with mmoe --with '{sharing: {kind: hard, stages: 1}, balancer: dwa}'",
        "polytask compare run/ --with mmoe --pick best --out picked/",
    )
)
def compare(
    run: RunFolder,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="A,B,...",
            help="What else to compare: kinds of sharing, balancer:KIND, encoder:KIND, or a mapping of these in braces. "
            "Repeatable.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="How often each network is trained.")] = 3,
    trees: Annotated[bool, typer.Option("--trees/--no-trees", help="Whether to fit gradient boosting to each target.")] = True,
    pick: Annotated[
        str | None,
        typer.Option(metavar="best", help="Save a run in which each task is learned as is best by the validation rows alone."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to save the run that is picked.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Say per task whether sharing helped: against a network of its own at the same budget, and against other ways to share."""
    from polytask.cli.comparing import check_pick, compared, parse_others, save_picked
    from polytask.run_folder import check_writable

    others = parse_others(with_ or [])
    check_pick(pick, out, overwrite)
    from polytask.run import load

    trained = load(run)
    check_writable(Path(run).expanduser())
    picked = compared(trained, run, seeds, others, trees, pick is not None)
    if picked is not None and out is not None:
        save_picked(picked, out, overwrite)


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

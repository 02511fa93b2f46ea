"""The commands that learn something: fit, tune, resume, init, demo. Each imports what it needs when it runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from polytask.cli.app import Out, Overwrite, RunFolder, app, examples
from polytask.cli.arguments import Words, with_words
from polytask.cli.training import followed, recipe_of, say_next, say_next_of, tell, train, train_with_folds
from polytask.errors import PolytaskError

N_NEW_ROWS = 5

Folds = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Cross-validate: K networks, each judged by a fold of the rows that it has not seen (those of a test file judge "
        "none). With --out this comes after the run is trained and saved, and is kept in its folds.json.",
    ),
]


@app.command(
    epilog=examples(
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
    epilog=examples(
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


@app.command(epilog=examples("polytask resume run/"))
def resume(run: RunFolder) -> None:
    """Go on with a training that was stopped or killed, bit for bit as if it had not been."""
    from polytask.experiment import resume as go_on
    from polytask.recipe import Recipe
    from polytask.run_folder import CHECKPOINTS, RECIPE

    asked = Path(run) / CHECKPOINTS / RECIPE
    if not asked.is_file():
        trained = go_on(run)  # says what is wrong, if anything is
        typer.echo(f"the training in {run} is finished already")
    else:
        trained = followed(Recipe.from_yaml(asked), run, lambda on_epoch: go_on(run, on_epoch=on_epoch))
    say_next_of(run, trained.recipe)


@app.command(
    epilog=examples(
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
    recipe = Recipe(**changed({"sources": [{"kind": "two_digits"}], "tasks": tasks, "encoder": "table"}, set_ or []))
    typer.echo("Two scanned digits side by side: which is left, which is right, their sum, and whether they are equal.")
    train(recipe, out, overwrite)
    test = recipe.sources[0].parts()["test"].drop_columns(list(kinds))
    write_answers([test.slice(0, N_NEW_ROWS)], Path(out) / "new.csv")
    run = shlex.quote(out)
    say_next(f"polytask predict {run} {shlex.quote(str(Path(out) / 'new.csv'))}", f"polytask compare {run} --seeds 1")

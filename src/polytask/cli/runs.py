"""The commands that ask something of a run. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polytask.cli.app import Overwrite, Rows, RunFolder, SourceName, app, examples
from polytask.cli.arguments import parse_list
from polytask.cli.training import say_run


@app.command(epilog=examples("polytask evaluate run/ houses-test.csv"))
def evaluate(run: RunFolder, rows: Rows, source: SourceName = None) -> None:
    """Score a run on the rows of a file that has the labels."""
    from polytask.run import load

    typer.echo(load(run).evaluate(rows, source=source))


@app.command(epilog=examples("polytask show run/"))
def show(run: RunFolder) -> None:
    """Print a run's scores and notes, how far its tasks' gradients agreed, and the weights that a balancer gave them."""
    from polytask.evaluation.conflict import agreement_table, weights_table
    from polytask.run import load

    trained = load(run)
    say_run(trained)
    tables = [agreement_table(trained.conflicts()), weights_table(trained.history)]
    typer.echo("".join(f"\n{table}\n" for table in tables if table), nl=False)


@app.command(epilog=examples("polytask report run/", "polytask report run/ run2/ --out comparison.html"))
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
    epilog=examples(
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
    """Answer every row of a file, in its order; label columns are not needed.

    Where an answer is an array of pixels a CSV file holds the path of a file: a PNG, or .npy of numbers, in a folder beside it.
    """
    from polytask.cli.answers import check_out, write_answers

    place = None if out is None else check_out(out, overwrite)
    from polytask.run import load

    chosen = None if tasks is None else parse_list(tasks)
    pieces = load(run).predict_pieces(rows, chosen, source=source, probabilities=probabilities)
    written = write_answers(pieces, place, overwrite)
    if place is not None:
        beside = (
            "" if written.folder is None else f"\narrays lie in {written.folder}: codes and images as .png, numbers as .npy"
        )
        typer.echo(f"{written.n_rows:,} rows written to {out}: {', '.join(written.columns)}{beside}")


@app.command(
    epilog=examples("polytask embed run/ new.csv --out vectors.npy", "polytask embed run/ new.csv --task price --out v.parquet")
)
def embed(
    run: RunFolder,
    rows: Rows,
    out: Annotated[str, typer.Option(metavar="FILE", help="A .npy, .parquet or .csv file.")],
    task: Annotated[str | None, typer.Option(metavar="A", help="Whose features, where tasks have some of their own.")] = None,
    stage: Annotated[int, typer.Option(metavar="N", help="After which stage: 0 is the stem, -1 the last.")] = -1,
    source: SourceName = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the shared representation of every row of a file, in its order: the vectors that the heads read."""
    from polytask.cli.answers import VECTORS, check_out, write_vectors

    place = check_out(out, overwrite, VECTORS)
    from polytask.run import load

    vectors = load(run).embed(rows, task, stage=stage, source=source)
    write_vectors(vectors, place)
    typer.echo(f"{len(vectors):,} rows of {vectors.shape[1]} numbers written to {out}")


@app.command(epilog=examples("polytask keep run/ --tasks price,condition --out small/"))
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
    epilog=examples(
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
    epilog=examples(
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
    picked = compared(trained, run, seeds, others, trees, pick is not None, overwrite)
    if picked is not None and out is not None:
        save_picked(picked, out, overwrite)

"""All commands of ``polytask``, and what runs them."""

from __future__ import annotations

import json
import os
import sys
import warnings
from io import TextIOWrapper
from typing import Annotated

import typer

from polytask.cli import learning, runs  # their commands
from polytask.cli.app import app, examples

__all__ = ["app", "learning", "main", "runs"]


@app.command("list", epilog=examples("polytask list", "polytask list balancers"))
def list_kinds(
    family: Annotated[str | None, typer.Argument(metavar="[FAMILY]", help="Such as balancers; all by default.")] = None,
) -> None:
    """List the kinds of sources, tasks, encoders, sharings, heads and balancers there are."""
    from polytask.cli.catalog import FAMILIES, family_named, listing

    if family is not None:
        typer.echo(listing(family_named(family)))
        return
    typer.echo("\n\n".join(f"{name}: {what}\n{listing(name)}" for name, what in FAMILIES.items()))


@app.command(epilog=examples("polytask describe balancer uncertainty", "polytask describe source csv"))
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
    from polytask.tuning.schema import searchable_schema

    typer.echo(json.dumps(searchable_schema(), indent=1, ensure_ascii=False))


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

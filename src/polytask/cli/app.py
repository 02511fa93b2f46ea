"""The command ``polytask``: what all its commands have in common."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import polytask
from polytask.errors import PolytaskError

MISTAKE = 2


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


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polytask {polytask.__version__}")
        raise typer.Exit


def examples(*commands: str) -> str:
    """What a command's help ends with."""
    return "[dim]Examples[/dim]\n\n" + "\n\n".join(command.replace("[", "\\[") for command in commands)


@app.callback(epilog="Start with: polytask demo, or polytask init YOUR-TABLE.csv")
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train one neural network for several tasks, and learn whether sharing helped each of them."""

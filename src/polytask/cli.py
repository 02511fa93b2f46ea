from __future__ import annotations
import typer
from polytask.arguments import Words, with_words
app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich")

@app.command(epilog="Examples:\n\npolytask fit a.csv --task x\n\npolytask fit b.csv")
@with_words
def fit(words: Words, out: str | None = None) -> None:
    """Train one network."""
    print(words, out)

@app.command()
def foo() -> None:
    """Foo."""
def main() -> None:
    app()

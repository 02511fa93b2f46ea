"""The command line: words in, runs and tables out. Help loads neither torch nor pydantic."""

from polytask.cli.commands import main

__all__ = ["main"]

"""Running the command inside the test process, and a small run to work with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from polytask.cli.commands import app
from tests.houses import houses

WIDE = {"TERMINAL_WIDTH": "100", "COLUMNS": "100"}
N_ROWS = 160
TASKS = ["--task", "price", "--task", "condition:ordinal", "--task", "waterfront:binary", "--drop", "id"]
LABELS = ["price", "condition", "waterfront"]


@dataclass(frozen=True)
class Answer:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


def polytask(*words: str | Path) -> Answer:
    """The answer of the command ``polytask WORDS``; an exception that it does not explain fails the test."""
    result = CliRunner().invoke(app, [str(word) for word in words], env=WIDE)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def done(*words: str | Path) -> str:
    """What a command that succeeds says."""
    answer = polytask(*words)
    assert answer.code == 0, answer.err
    return answer.out


def mistake(*words: str | Path) -> str:
    """What a command that meets a user's mistake says: one line that begins with ``error:``."""
    answer = polytask(*words)
    assert answer.code == 2, (answer.code, answer.out, answer.err)
    assert answer.err.startswith("error: "), answer.err
    assert answer.err.count("\n") == 1, answer.err
    return answer.err.removeprefix("error: ").rstrip("\n")


def write_houses(folder: Path) -> None:
    """houses.csv, with labels, and new.csv, without."""
    frame = houses(N_ROWS)
    frame.to_csv(folder / "houses.csv", index=False)
    houses(20, seed=1).drop(columns=LABELS).to_csv(folder / "new.csv", index=False)


def fit_houses(folder: Path, run: str = "run") -> str:
    """Write houses.csv and new.csv, and fit a small run to them; what the command said."""
    write_houses(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        return done("fit", "houses.csv", *TASKS, "--epochs", "2", "--set", "encoder.width=16", "--out", run)
    finally:
        os.chdir(before)

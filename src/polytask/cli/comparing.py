"""What ``polytask compare`` does: reads what is to be compared, follows the trainings, and keeps what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml

from polytask.cli.arguments import parse_list
from polytask.cli.training import put_beside, say_next, say_run
from polytask.errors import PolytaskError, one_line

if TYPE_CHECKING:
    from polytask.evaluation.comparison import Comparison
    from polytask.run import Run

KEPT = "compare.json"


def parse_others(texts: Sequence[str]) -> list[str | Mapping[str, Any]]:
    """Read what ``--with`` says: words parted by commas, or one mapping in braces.

    Raises:
        PolytaskError: Braces hold something else than a mapping.

    Example:
        >>> parse_others(["mmoe,balancer:cagrad", "{sharing: {kind: mmoe, n_experts: 8}}"])
        ['mmoe', 'balancer:cagrad', {'sharing': {'kind': 'mmoe', 'n_experts': 8}}]
    """
    found: list[str | Mapping[str, Any]] = []
    for text in texts:
        found += [_mapping(text)] if text.lstrip().startswith("{") else parse_list(text)
    return found


def check_pick(pick: str | None, out: str | None, overwrite: bool) -> None:
    """Whether ``--pick`` and ``--out`` go together and there is a place for the run.

    Raises:
        PolytaskError: They do not, or there is none.
    """
    from polytask.run_folder import check_free

    if pick not in (None, "best"):
        raise PolytaskError("there is one way to pick", where="--pick", found=str(pick), mend="Write --pick best.")
    if (pick is None) != (out is None):
        mend = "Write --pick best --out FOLDER, or neither."
        raise PolytaskError("a run that is picked is saved, and no other is", where="--pick" if pick else "--out", mend=mend)
    if out is not None:
        check_free(out, overwrite)


def compared(
    run: Run, folder: str, seeds: int, others: Sequence[str | Mapping[str, Any]], trees: bool, pick: bool, overwrite: bool
) -> Run | None:
    """Compare with progress; print what was found and put it into the run's folder. The run that was picked, if any.

    A comparison that is interrupted leaves an earlier one there, unless ``overwrite``.
    """
    from rich.console import Console

    from polytask.cli.progress import CompareProgress
    from polytask.evaluation.trials import Interrupted

    place, picked = Path(folder).expanduser() / KEPT, None
    try:
        with CompareProgress(Console()) as progress:
            if pick:
                found, picked = run.pick(seeds, others, trees=trees, on_fit=progress)
            else:
                found = run.compare(seeds, others, trees=trees, on_fit=progress)
    except Interrupted as interrupted:
        if interrupted.comparison is None:
            raise KeyboardInterrupt(f"{interrupted}: not all had a training yet, so nothing is compared or saved") from None
        n_seeds, left = len(interrupted.comparison.seeds), ""
        if place.exists() and not overwrite:
            typer.echo(interrupted.comparison)
            left = f"; {place} is of an earlier comparison and stays, which --overwrite would replace"
        else:
            _keep(interrupted.comparison, place)
        told = f"{interrupted}: the tables are of the {n_seeds} of {seeds} seeds that were done{left}"
        raise KeyboardInterrupt(told) from None
    _keep(found, place)
    return picked


def save_picked(picked: Run, out: str, overwrite: bool) -> None:
    """Save a run that was picked, and say what it is."""
    from polytask.evaluation.picking import PICKED

    by_name: dict[str, list[str]] = {}
    for task, name in picked.record[PICKED].items():
        by_name.setdefault(name, []).append(task)
    told = "\n".join(f"  {name}: {', '.join(tasks)}" for name, tasks in by_name.items())
    typer.echo(f"\nPicked by the validation rows, the simplest within a standard error of the best:\n{told}\n")
    say_run(picked)
    picked.save(out, overwrite)
    typer.echo(f"\nsaved in {out}")
    say_next(f"polytask predict {out} NEW.csv --out answers.csv")


def _keep(found: Comparison, place: Path) -> None:
    typer.echo(found)
    put_beside(found.to_dict(), place)


def _mapping(text: str) -> Mapping[str, Any]:
    mend = "Write it as in --with '{sharing: {kind: mmoe, n_experts: 8}}'."
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PolytaskError("cannot be read", where=f"--with {text}", found=one_line(error), mend=mend) from None
    if not isinstance(value, dict):
        raise PolytaskError("not a mapping", where=f"--with {text}", mend=mend)
    return value

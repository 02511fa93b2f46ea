"""Trials and the file that keeps them: a line each, written once it is done, so that only the one going on can be lost."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from polytask.checkpoint import sync
from polytask.errors import PolytaskError, listed, shown
from polytask.run_folder import check_writable, write_whole
from polytask.tuning.search import Value

FORMAT = 1
TRIALS, TABLE, SPACE = "trials.jsonl", "trials.csv", "search.yaml"
FINALS, RUN, BEST, OUTCOME, FRONT = "finals", "run", "recipe.yaml", "tune.json", "front"
OURS = (TABLE, SPACE, FINALS, RUN, BEST, OUTCOME, f"{FRONT}.svg", f"{FRONT}.png")
MEND = "Give the recipe and the data that it was begun with, choose another folder (--out), or begin anew (--overwrite)."

Arm = Literal["tuned", "equal"]
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """A training with values that were drawn.

    Attributes:
        arm: "tuned", or "equal" where all tasks weigh the same.
        number: Counted from 0, the recipe that the search starts at.
        values: What was drawn, by the names of the places; of a choice what it is called.
        state: "complete"; "pruned" where it was stopped because others were better at that epoch; "failed".
        losses: The validation loss of each task with the weights that are kept for it.
        objective: Their mean over the tasks that choose; None where it failed.
        epochs: How many it had.
        seconds: How long it took.
        reports: The objective after each of its epochs.
        rungs: What successive halving remembers of it.
        why: What failed.
    """

    arm: Arm
    number: int
    values: Mapping[str, Value]
    state: State
    losses: Mapping[str, float]
    objective: float | None
    epochs: int
    seconds: float
    reports: Sequence[float] = ()
    rungs: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.arm}-{self.number}"


class Ledger:
    """The trials of a search, in memory and, where there is a folder, in its file.

    Args:
        folder: Where the file lies; None for none.
        asked: What is searched, on which data, as plain values: a folder takes no trials of another search.
        overwrite: Begin anew.

    Raises:
        PolytaskError: The folder holds another search or something else, cannot be written, or its file is damaged.
    """

    def __init__(self, folder: Path | None, asked: Mapping[str, Any], overwrite: bool = False) -> None:
        self.folder, self.trials = folder, list[Trial]()
        self._size = 0
        if folder is None:
            return
        self._path, header = folder / TRIALS, {"format": FORMAT, **_as_read(asked)}
        if folder.is_file():
            raise PolytaskError("is a file, not a folder for a search", where=str(folder), mend="Choose another name.")
        check_writable(next(path for path in (folder, *folder.parents) if path.exists()))
        if self._path.is_file() and not overwrite:
            self._go_on(header)
        elif folder.is_dir() and any(folder.iterdir()) and not self._path.is_file():
            what = "the folder holds something else than a search"
            raise PolytaskError(what, where=str(folder), mend="Choose another folder (--out).")
        else:
            self._begin(header)

    def of(self, arm: Arm) -> list[Trial]:
        """The trials of an arm, in their order."""
        return [trial for trial in self.trials if trial.arm == arm]

    def add(self, trial: Trial) -> None:
        """Keep a trial; once this returns it outlives a crash.

        Raises:
            PolytaskError: It cannot be written, or somebody else writes into the file.
        """
        self.trials.append(trial)
        if self.folder is not None:
            self._append(asdict(trial))

    def write_table(self) -> None:
        """Write all trials as a table, a column for each value."""
        if self.folder is not None:
            write_whole(self.folder / TABLE, table(self.trials))

    def _begin(self, header: Mapping[str, Any]) -> None:
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in OURS:
                path = self.folder / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            write_whole(self._path, _line(header))
        except OSError as error:
            raise self._unwritable(error) from None
        self._size = self._path.stat().st_size

    def _go_on(self, header: Mapping[str, Any]) -> None:
        """Read what is there, but for a last line that a crash cut short."""
        whole, mark, _ = self._path.read_text(encoding="utf-8").rpartition("\n")
        try:
            first, *lines = [json.loads(line) for line in whole.split("\n")]
            self.trials = [Trial(**line) for line in lines]
        except (ValueError, TypeError) as error:
            found, mend = shown(str(error)), "Take the folder from a copy, or begin anew (--overwrite)."
            raise PolytaskError("the file of trials is damaged", where=str(self._path), found=found, mend=mend) from None
        if other := list(_differences(first, header)):
            raise PolytaskError(f"the folder holds a search of another {listed(other)}", where=str(self.folder), mend=MEND)
        self._size = len((whole + mark).encode())
        os.truncate(self._path, self._size)

    def _append(self, values: Mapping[str, Any]) -> None:
        line = _line(values).encode()
        try:
            with self._path.open("ab") as file:
                if file.tell() != self._size:
                    what, mend = (
                        "another process writes its trials here",
                        "Wait until it ends, or choose another folder (--out).",
                    )
                    raise PolytaskError(what, where=str(self._path), mend=mend)
                file.write(line)
            sync(self._path)
        except OSError as error:
            raise self._unwritable(error) from None
        self._size += len(line)

    def _unwritable(self, error: OSError) -> PolytaskError:
        found, mend = error.strerror or str(error), "Make room or mend the place; the trials before this one are kept."
        return PolytaskError("cannot write the trials", where=str(self._path), found=found, mend=mend)


def table(trials: Sequence[Trial]) -> str:
    """Trials as CSV: what they are, the loss of each task, and the value of each place, empty where it was no part of it."""
    tasks = dict.fromkeys(task for trial in trials for task in trial.losses)
    names = dict.fromkeys(name for trial in trials for name in trial.values)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["trial", "state", "objective", *(f"loss {t}" for t in tasks), "epochs", "seconds", *names, "why"])
    for trial in trials:
        losses = [trial.losses.get(task, "") for task in tasks]
        values = [trial.values.get(name, "") for name in names]
        objective = "" if trial.objective is None else trial.objective
        out.writerow([trial.name, trial.state, objective, *losses, trial.epochs, trial.seconds, *values, trial.why])
    return text.getvalue()


def _differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[str]:
    """In what two searches differ, in words."""
    for key in dict.fromkeys([*one, *two]):
        before, now = one.get(key), two.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            yield from (f"{key} ({name})" for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name))
        else:
            yield key


def _as_read(values: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(values))


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"

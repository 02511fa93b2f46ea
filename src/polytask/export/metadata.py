"""What lies beside an exported network, in JSON: how rows become its inputs, and how its outputs become answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from polytask.answers import AnswerColumn
from polytask.component import Settings, read_document
from polytask.errors import PolytaskError, did_you_mean, listed, one_line
from polytask.input_sets import InputSet
from polytask.source import Source

FORMAT = 1
METADATA = "metadata.json"
Target = Literal["onnx", "torch"]
SUFFIXES: dict[Target, str] = {"onnx": ".onnx", "torch": ".pt2"}
MEND = "Take the folder from a copy, or export again."


class Graph(Settings):
    """One exported network, for the rows of one set of input columns.

    Attributes:
        file: Its file in the folder.
        rows: The input columns, and the sources that have them.
        inputs: The names of its inputs: "numbers", float32 [N, n], and "categories", int64 [N, m], where there are any.
        outputs: The names of its outputs: of each task the views that its answer is made of, as ``task:view``.
    """

    file: Annotated[str, Field(pattern=r"^model(-\d+)?\.(onnx|pt2)$")]
    rows: InputSet
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Metadata(Settings):
    """What an exported folder says of itself.

    Attributes:
        format: The version of this file's layout.
        polytask: The version that wrote it.
        target: What the networks are written as.
        graphs: The networks, one for each set of input columns.
        tasks: Per task the columns of its answer.
        sources: How the files of the training were read; no paths.
    """

    format: int = FORMAT
    polytask: str
    target: Target
    graphs: Annotated[tuple[Graph, ...], Field(min_length=1)]
    tasks: Mapping[str, tuple[AnswerColumn, ...]]
    sources: tuple[Source, ...] = ()

    @property
    def sets(self) -> tuple[InputSet, ...]:
        """The distinct sets of input columns."""
        return tuple(graph.rows for graph in self.graphs)

    def wanted(self, tasks: Sequence[str] | None, index: int) -> list[str]:
        """The tasks to answer for rows of one set of input columns; None stands for all.

        Raises:
            PolytaskError: One is unknown, or is not answered for such rows.
        """
        mine = [task for task in self.tasks if task in self.graphs[index].rows.tasks]
        for task in mine if tasks is None else tasks:
            if task not in self.tasks:
                raise PolytaskError(f"no task {task!r} in this model", mend=did_you_mean(task, self.tasks))
            if task not in mine:
                what = f"task {task!r} is not answered for rows with these columns"
                raise PolytaskError(what, mend=f"For them there is: {listed(mine)}.")
        return mine if tasks is None else list(tasks)

    def write(self, folder: Path) -> None:
        """Write it into a folder.

        Raises:
            OSError: It cannot be written.
        """
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / METADATA).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what ``write`` wrote.

        Raises:
            PolytaskError: It is not there, damaged or of a newer format.
        """
        path = folder / METADATA
        if not path.is_file():
            mend = "Give the folder that `polytask export` wrote."
            raise PolytaskError(f"not an exported model: it has no {METADATA}", where=str(folder), mend=mend)
        return read_document(cls, path, FORMAT, "of an exported model", MEND)


def damaged(file: Path, error: Exception) -> PolytaskError:
    """The error for a network that cannot be read."""
    found = one_line(error)[:200] if file.is_file() else "no such file"
    return PolytaskError("the network is missing or damaged", where=str(file), found=found, mend=MEND)

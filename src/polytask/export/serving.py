"""Answers of an exported network. For ONNX neither torch nor anything that trains is loaded: NumPy, pyarrow and onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polytask.answers import read_answers
from polytask.errors import PolytaskError, one_line, rows_named
from polytask.export.metadata import MEND, Metadata, damaged
from polytask.input_sets import input_set_of
from polytask.maps import tensors
from polytask.source import Source, reader_of
from polytask.tables import like, plain_table, rows_of

BATCH_ROWS = 4096
Arrays = dict[str, NDArray[Any]]


class ExportedModel:
    """A folder that ``polytask export`` wrote, ready to answer. Loading it runs no code from the folder.

    Args:
        folder: The folder.
        threads: How many threads a network may use; None leaves it to its library. For torch it holds for the process.

    Attributes:
        metadata: What the networks read and say.

    Raises:
        PolytaskError: It is not an exported model, or a damaged one; or what runs it is not installed.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        self._folder = Path(folder).expanduser()
        self.metadata = Metadata.read(self._folder)
        load = _onnx_network if self.metadata.target == "onnx" else _torch_network
        self._networks = [load(self._folder / graph.file, graph.inputs, threads) for graph in self.metadata.graphs]

    def __repr__(self) -> str:
        return f"ExportedModel({str(self._folder)!r}): {', '.join(self.metadata.tasks)}"

    def predict(
        self, data: object, tasks: Sequence[str] | None = None, *, source: str | None = None, probabilities: bool = False
    ) -> Any:
        """Answers for new rows, in their order, as ``Run.predict`` gives them.

        Args:
            data: A path, data frame, NumPy array, mapping of columns, list of rows (a mapping each), or source.
            tasks: Which tasks to answer; None for all that were trained on such rows.
            source: The training source these rows are like, where sources had different input columns.
            probabilities: Add a column ``task:class`` per class.

        Returns:
            What was given: a frame of its kind, a mapping of arrays, a list of rows; a pyarrow Table for a path or a source.

        Raises:
            PolytaskError: Input columns are missing or of another type, or a name is unknown.
        """
        if isinstance(data, list | tuple):
            table = _table_of_rows(data)
            return rows_of(self._answers(table, tasks, source, probabilities, "the new rows"))
        given, reader = reader_of(data, self.metadata.sources, source)
        needed = {name for part in self.metadata.sets for name in part.codec.names}
        table = given.read() if reader is given else reader.read_other(getattr(given, given.datum), needed)
        labels = [label for part in self.metadata.sets for label in part.sources]
        alike = source or (given.label if given.label in labels else None)
        answers = self._answers(table, tasks, alike, probabilities, given.label)
        return answers if isinstance(data, Source) else like(data, answers)

    def inputs(self, table: pa.Table, index: int = 0) -> Arrays:
        """What a network reads of a table's rows: its inputs by name, for whoever runs it in another way."""
        encoded = self.metadata.graphs[index].rows.codec.arrays(table)
        return {name: encoded[name] for name in self.metadata.graphs[index].inputs}

    def outputs(self, inputs: Arrays, index: int = 0) -> Arrays:
        """What a network says of these inputs: its outputs by name."""
        n_rows = len(next(iter(inputs.values())))
        # Of no row at all, a network is asked about one that is forgotten again.
        padded = inputs if n_rows else {name: np.zeros((1, *array.shape[1:]), array.dtype) for name, array in inputs.items()}
        starts = range(0, max(n_rows, 1), BATCH_ROWS)
        parts = [self._networks[index]({k: v[start : start + BATCH_ROWS] for k, v in padded.items()}) for start in starts]
        joined = [np.concatenate(each)[:n_rows] if len(each) > 1 else each[0][:n_rows] for each in zip(*parts, strict=True)]
        return dict(zip(self.metadata.graphs[index].outputs, joined, strict=True))

    def _answers(
        self, table: pa.Table, tasks: Sequence[str] | None, source: str | None, probabilities: bool, where: str
    ) -> pa.Table:
        index = input_set_of(self.metadata.sets, table, source)
        wanted = self.metadata.wanted(tasks, index)
        with rows_named(lambda row: f"row {row + 1:,} of {where}"):
            inputs = self.inputs(table, index)
        outputs = self.outputs(inputs, index)
        columns: dict[str, pa.Array] = {}
        for task in wanted:
            views = {column.view: outputs[f"{task}:{column.view}"] for column in self.metadata.tasks[task]}
            columns |= read_answers(self.metadata.tasks[task], views, probabilities)
        return pa.table(columns)


Network = Callable[[Arrays], list[NDArray[Any]]]


def _onnx_network(file: Path, inputs: Sequence[str], threads: int | None) -> Network:
    """A network in a file of ONNX.

    It is read as bytes, so that nothing beside the file can be named in it.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        mend = 'Install it: pip install "polytask[onnx]", or pip install onnxruntime.'
        raise PolytaskError(f"an ONNX model needs the package {error.name!r}", where=str(file), mend=mend) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimizations
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # it has exceptions of its own for every kind of damage
        raise damaged(file, error) from None
    _check_inputs([item.name for item in session.get_inputs()], inputs, file)
    return lambda arrays: session.run(None, arrays)


def _torch_network(file: Path, inputs: Sequence[str], threads: int | None) -> Network:
    """A network in a file of torch.export."""
    try:
        import torch

        from polytask.export.program import read_program
    except ImportError as error:
        mend = "Install it: pip install torch; or export to onnx, which needs none."
        raise PolytaskError("a program of torch.export needs the package 'torch'", where=str(file), mend=mend) from error
    if threads is not None:
        torch.set_num_threads(threads)
    program = read_program(file)
    _check_inputs(program.graph_signature.user_inputs, inputs, file)
    module: Any = program.module(check_guards=False)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in inputs))
        return [output.numpy() for output in outputs]

    return run


def _check_inputs(there: Sequence[Any], told: Sequence[str], file: Path) -> None:
    if sorted(map(str, there)) != sorted(told):
        found = f"it reads {', '.join(map(str, there))}, not {', '.join(told)}"
        raise PolytaskError("the network is not the one that the metadata tell of", where=str(file), found=found, mend=MEND)


def _table_of_rows(rows: Sequence[Any]) -> pa.Table:
    """A list of rows as a table; a cell that a row does not have is missing."""
    wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if wrong is not None or not rows:
        found = "an empty list" if wrong is None else f"a {type(wrong).__name__} in the list"
        raise PolytaskError("not rows", found=found, mend="Give each row as a mapping from column to cell.")
    names = dict.fromkeys(str(name) for row in rows for name in row)
    try:
        return plain_table(pa.table({name: _column([row.get(name) for row in rows]) for name in names}))
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        mend = "Give each column one type, and arrays in it one shape."
        raise PolytaskError("a column mixes types", found=one_line(error), mend=mend) from None


def _column(cells: Sequence[Any]) -> pa.Array:
    """Cells as a column; those that are arrays of one shape as a column of arrays."""
    arrays = [cell for cell in cells if isinstance(cell, np.ndarray) and cell.ndim > 1]
    if not arrays:
        return pa.array(cells, from_pandas=True)
    missing = np.array([cell is None for cell in cells])
    return tensors(np.stack([arrays[0] if cell is None else cell for cell in cells]), missing)

"""From a trained network to a folder that others run: written, asked whether it says the same, and then put in its place."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import polytask
from polytask.bundle import Bundle
from polytask.errors import PolytaskError, did_you_mean, listed
from polytask.evaluation.card import model_card
from polytask.export.agreement import Exported, check_agreement
from polytask.export.card import use_of
from polytask.export.graph import refusal, traced
from polytask.export.metadata import METADATA, SUFFIXES, Graph, Metadata, Target
from polytask.export.program import plain_program, write_program
from polytask.export.serving import ExportedModel
from polytask.run_folder import CARD, cannot_write, check_writable, replacing, settled
from polytask.scores import Scores
from polytask.source import Source
from polytask.sources._file import FileSource
from polytask.sources._memory import MemorySource

PACKAGES: dict[Target, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}


def check_target(target: str) -> Target:
    """The target of that name, where all that it needs is installed.

    Raises:
        PolytaskError: There is none, or a package is missing.
    """
    for known in get_args(Target):
        if target == known:
            if lacking := [name for name in PACKAGES[known] if find_spec(name) is None]:
                mend = 'Install them: pip install "polytask[onnx]".'
                raise PolytaskError(f"exporting to {target} needs {listed(lacking)}", where="export", mend=mend)
            return known  # type: ignore[no-any-return]
    raise PolytaskError(f"cannot export to {target!r}", where="export", mend=did_you_mean(target, get_args(Target)))


def check_place(folder: str | Path, overwrite: bool) -> Path:
    """The place for an exported model.

    Raises:
        PolytaskError: Something is there that may not be replaced, or it cannot be written.
    """
    place = settled(folder)
    if place.exists() and not place.is_dir():
        raise PolytaskError("is a file, not a folder for a model", where=str(folder), mend="Choose another name.")
    if place.is_dir() and any(place.iterdir()):
        if not (place / METADATA).is_file():
            what = "the folder holds something else than an exported model"
            raise PolytaskError(what, where=str(folder), mend="Choose another folder.")
        if not overwrite:
            mend = "Choose another folder, or --overwrite (overwrite=True)."
            raise PolytaskError("there is an exported model already", where=str(folder), mend=mend)
    check_writable(next(path for path in place.parents if path.exists()))
    return place


def export(
    bundle: Bundle,
    sources: Sequence[Source],
    scores: Scores,
    record: Mapping[str, Any],
    folder: str | Path,
    target: str,
    tasks: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write networks, metadata.json and a model card into a folder, once they say what ``predict`` says.

    Args:
        bundle: The network.
        sources: Where the training's rows came from; those that can still be read are asked about.
        scores: For the model card.
        record: Of the training, for the model card.
        folder: Where to.
        target: "onnx" or "torch".
        tasks: Which tasks to answer; None for all.
        overwrite: Replace an exported model that is there.

    Returns:
        How far it agrees with ``predict``.

    Raises:
        PolytaskError: The place is taken, a name is unknown, a part cannot be exported, or the answers differ.
    """
    known, place = check_target(target), check_place(folder, overwrite)
    metadata = describe(bundle, sources, known, tasks)
    try:
        with replacing(place) as draft:
            write_networks(bundle, metadata, draft)
            agreement = check_agreement(ExportedModel(draft), bundle, sources)
            mine = Scores({task: scores[task] for task in scores if task in metadata.tasks})
            card = model_card(bundle, mine, record, tasks=list(metadata.tasks), use=use_of(metadata, agreement))
            (draft / CARD).write_text(card, encoding="utf-8")
    except OSError as error:
        raise cannot_write(error, place, "Export to another place.", "model") from error
    return agreement


def describe(bundle: Bundle, sources: Sequence[Source], target: Target, tasks: Sequence[str] | None = None) -> Metadata:
    """What is to be exported: a graph for each set of input columns that tells of one of the tasks.

    Raises:
        PolytaskError: A task is unknown, or does not say its answers column by column.
    """
    if tasks is not None:
        bundle.check_tasks(tasks)
    wanted = [task for task in bundle.tasks if tasks is None or task in tasks]
    columns = {task: bundle.tasks[task].task.answer_columns(bundle.tasks[task].codec) for task in wanted}
    if silent := [task for task in wanted if not columns[task]]:
        kind = bundle.tasks[silent[0]].task.kind
        what = f"the answers of a {kind} task are more than columns of numbers and labels"
        raise PolytaskError(what, where=f"task {silent[0]!r}", mend="Leave it out: --tasks names those to export.")
    sets = [(part, part.keep(wanted)) for part in bundle.manifest.inputs]
    kept = [part for _, part in sets if part.sources]
    graphs = []
    for number, part in enumerate(kept, 1):
        made = part.codec.made_up(1)
        graphs.append(
            Graph(
                file=f"model{f'-{number}' if len(kept) > 1 else ''}{SUFFIXES[target]}",
                rows=part,
                inputs=tuple(name for name, tensor in made.items() if tensor.shape[1]),
                outputs=tuple(f"{task}:{view}" for task in wanted if task in part.tasks for view in _views(columns[task])),
            )
        )
    read = tuple(_without_paths(sources))
    return Metadata(polytask=polytask.__version__, target=target, graphs=tuple(graphs), tasks=columns, sources=read)


def _views(columns: Sequence[Any]) -> dict[str, None]:
    return dict.fromkeys(column.view for column in columns)


def _without_paths(sources: Sequence[Source]) -> list[Source]:
    """How rows are read, without where those of the training were."""
    files = [source.with_datum(Path(source.path.name)) for source in sources if isinstance(source, FileSource)]
    return [*files, *(source.with_datum(None) for source in sources if isinstance(source, MemorySource))]


def write_networks(bundle: Bundle, metadata: Metadata, folder: Path) -> None:
    """Write the networks that the metadata tell of, and these, into a folder.

    Raises:
        PolytaskError: A part of the network cannot be exported.
        OSError: They cannot be written.
    """
    for graph in metadata.graphs:
        _write_graph(bundle, graph, metadata, folder)
    metadata.write(folder)


def _write_graph(bundle: Bundle, graph: Graph, metadata: Metadata, folder: Path) -> None:
    index = next(i for i, part in enumerate(bundle.manifest.inputs) if part.codec == graph.rows.codec)
    tasks = [task for task in metadata.tasks if task in graph.rows.tasks]
    program = plain_program(traced(bundle, index, graph, tasks), graph.inputs)
    if metadata.target == "torch":
        write_program(program, folder / graph.file)
        return
    import torch

    made = bundle.manifest.inputs[index].codec.made_up(2)
    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                args=tuple(made[name] for name in graph.inputs),
                dynamo=True,
                verbose=False,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
            )
    except Exception as error:  # an operation that ONNX has not, told in many ways
        raise refusal(bundle, "ONNX", error) from error
    assert written is not None
    written.save(folder / graph.file, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, the exporter says nothing of its own ways: its steps, and packages that it would know more with."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""Bundle: a trained network with all it needs to answer, in memory and on disk. No pickle, no code, no import paths."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from polytask.batch import Dataset, Inputs
from polytask.columns import InputCodec
from polytask.errors import CellsError, PolytaskError, are, did_you_mean, listed, one_line
from polytask.fitted import FittedTask
from polytask.given import with_joint_views
from polytask.input_sets import input_set_of
from polytask.keeping import Chosen
from polytask.manifest import MANIFEST, MEND, Manifest, Snapshot, TaskRecord
from polytask.model import MultiTaskModel, Network, Snapshots, build_model, outputs_by_batch
from polytask.pictures import Pictures
from polytask.reading import check_reads, given_of, reads_of, with_read

WEIGHTS = "weights.safetensors"
N_TRIED = 16

Trained = tuple[Snapshot, Mapping[str, Tensor]]  # a network and its weights


@dataclass(frozen=True)
class Bundle:
    """A network with its specs, codecs and tasks.

    Attributes:
        manifest: What it was built from.
        model: The network, in evaluation mode.
    """

    manifest: Manifest
    model: Network

    @classmethod
    def build(cls, manifest: Manifest) -> Self:
        """Build the network that a manifest describes, with its initial weights.

        Raises:
            PolytaskError: Its snapshots do not have each task once, or a task reads one that is not there.
        """
        names, networks = [record.task.name for record in manifest.tasks], manifest.networks
        check_reads([record.task for record in manifest.tasks], manifest.sharing)
        if sorted(name for one in networks for name in one.tasks) != sorted(names):
            found = "; ".join(listed(one.tasks) for one in networks)
            raise PolytaskError("the snapshots of a model have each task once", found=found)
        built = [_network(manifest, one) for one in networks]
        return cls(manifest, Snapshots(built, names) if manifest.snapshots else built[0])

    def with_weights(self, chosen: Sequence[Chosen]) -> Self:
        """This network with the weights chosen for its tasks; where these are of several epochs it becomes as many networks."""
        if len(chosen) < 2:
            for _, weights in chosen:
                self.take_weights(weights)
            return self
        return self._of(self.manifest, [(Snapshot(tasks=tasks), weights) for tasks, weights in chosen], self.tasks)

    @classmethod
    def _of(cls, manifest: Manifest, networks: Sequence[Trained], tasks: Mapping[str, FittedTask]) -> Self:
        """These networks, with these tasks in their order."""
        records = tuple(TaskRecord(task=fitted.task, codec=fitted.codec) for fitted in tasks.values())
        bundle = cls.build(manifest.model_copy(update={"tasks": records}).of([network for network, _ in networks]))
        built = list(bundle.model.networks) if isinstance(bundle.model, Snapshots) else [bundle.model]
        for network, (_, weights) in zip(built, networks, strict=True):
            network.load_state_dict({key: weights[key] for key in network.state_dict()})
        bundle.model.eval()
        return bundle

    def picked(self, chosen: Sequence[tuple[Bundle, Sequence[str]]]) -> Self:
        """One bundle in which each task answers as in one of several that were trained on the same data, bit for bit.

        Args:
            chosen: Bundles of these tasks and inputs, of any encoder and sharing, each with those of its tasks to take.

        Raises:
            PolytaskError: A task's answers would not be the same.
        """
        networks = [trained for bundle, tasks in chosen for trained in bundle._trained(tasks)]
        found = {task: bundle.tasks[task] for bundle, tasks in chosen for task in tasks}
        joined = self._of(self.manifest, networks, {task: found[task] for task in self.tasks})
        for bundle, tasks in chosen:
            joined.check_answers(bundle, tasks)
        return joined

    def _trained(self, tasks: Sequence[str]) -> list[Trained]:
        """The networks that answer some of these tasks, for these alone, with their weights."""
        pairs = zip(self.manifest.networks, self.chosen_weights(), strict=True)
        kept = [(one, tuple(task for task in one.tasks if task in tasks), weights) for one, (_, weights) in pairs]
        return [(one.model_copy(update={"tasks": names}), weights) for one, names, weights in kept if names]

    def chosen_weights(self) -> list[Chosen]:
        """What ``with_weights`` takes: the tasks of each network, with its weights."""
        return [(tuple(network.tasks), network.state_dict()) for network in self.networks]

    @property
    def tasks(self) -> dict[str, FittedTask]:
        """The fitted tasks by name."""
        return self.model.tasks

    def predict(
        self,
        table: pa.Table,
        tasks: Sequence[str] | None = None,
        *,
        source: str | None = None,
        probabilities: bool = False,
    ) -> pa.Table:
        """Answers for every row of a table, in its order; label columns are not needed.

        Args:
            table: Has at least the input columns.
            tasks: Which tasks to answer; None for all that were trained on rows with these input columns.
            source: The name of the training source that the rows are like, where sources had different input columns.
            probabilities: Add a column ``task:class`` per class.

        Raises:
            PolytaskError: Input columns are missing or of another type, or a name is unknown.
        """
        index = input_set_of(self.manifest.inputs, table, source)
        wanted = self._wanted(tasks, index)
        pictures = self.manifest.inputs[index].codec.pictures(table)
        data = self.asked(table, index, pictures)
        parts = []
        for _, outputs in outputs_by_batch(self.model, data, asked_for(self.tasks, wanted)):
            views = views_of(self.tasks, outputs)
            columns: dict[str, pa.Array] = {}
            for task in wanted:
                fitted = self.tasks[task]
                columns |= fitted.task.answer(views[task], fitted.codec, probabilities)
            parts.append(pa.table(columns))
        return without_rows(pa.concat_tables(parts).combine_chunks(), unusable_rows(pictures))

    @property
    def networks(self) -> list[MultiTaskModel]:
        """The networks that answer, each for its tasks."""
        return list(self.model.networks) if isinstance(self.model, Snapshots) else [self.model]  # type: ignore[arg-type]

    def dataset(self, table: pa.Table, index: int, labels: Mapping[str, pa.Array] | None = None) -> Dataset:
        """A table's rows as tensors for input set ``index``, with targets where ``labels`` are given.

        Rows whose images cannot be used, and are to be skipped, have no label.
        """
        pictures = self.manifest.inputs[index].codec.pictures(table)
        unusable = unusable_rows(pictures)
        left = {
            task: without_rows(pa.table({task: column}), unusable)[task].combine_chunks()
            for task, column in (labels or {}).items()
        }
        return self.asked(table, index, pictures, left)

    def asked(
        self, table: pa.Table, index: int, pictures: Mapping[str, Pictures], labels: Mapping[str, pa.Array] | None = None
    ) -> Dataset:
        """As ``dataset``, with the images of the rows already read, and nothing done about those that cannot be used."""
        inputs: list[Inputs] = [{} for _ in self.manifest.inputs]
        inputs[index] = self.manifest.inputs[index].codec.encode(table, pictures)
        targets, present, weights = {}, {}, {}
        for task, column in (labels or {}).items():
            fitted = self.tasks[task]
            targets[task], present[task] = fitted.task.encode(column, fitted.codec)
            if fitted.codec.image is not None:
                targets[task] = inputs[index][fitted.codec.image.key]
            if fitted.task.weight_column is not None:
                weights[task] = fitted.scaled_weights(fitted.task.weights_of(table))
        return Dataset(tuple(inputs), targets, present, weights=weights)

    def keep(self, tasks: Sequence[str]) -> Self:
        """The same network with these tasks only: without the other heads, and what only they need of the trunk.

        Raises:
            PolytaskError: A task is unknown or reads one that is not kept, none is named, or the sharing scheme does not part
                the tasks.
        """
        self.check_tasks(tasks)
        for task in tasks:
            if lost := [name for name in self.tasks[task].task.reads if name not in tasks]:
                what, mend = (
                    f"it reads {listed(map(repr, lost))}, which would not be kept",
                    f"Keep {listed(map(repr, lost))} too.",
                )
                raise PolytaskError(what, where=f"keep, task {task!r}", mend=mend)
        sets = tuple(part for part in (part.keep(tasks) for part in self.manifest.inputs) if part.sources)
        manifest = self.manifest.model_copy(update={"inputs": sets})
        kept = self._of(manifest, self._trained(tasks), {name: fitted for name, fitted in self.tasks.items() if name in tasks})
        kept.check_answers(self, list(kept.tasks))
        return kept

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights that have a place in this network; the others of its own stay as they are.

        Raises:
            PolytaskError: One has another shape there.
        """
        own = self.model.state_dict()
        known = {key: value for key, value in weights.items() if key in own}
        for key, value in known.items():
            if value.shape != own[key].shape:
                found = f"{key}: {_shape(tuple(value.shape))}, where {_shape(tuple(own[key].shape))} is needed"
                raise PolytaskError("the weights are not of such a network", where="weights", found=found)
        self.model.load_state_dict(own | known)

    def check_answers(self, other: Bundle, tasks: Sequence[str]) -> None:
        """Try whether these tasks say of rows what they say in another network, bit for bit.

        Raises:
            PolytaskError: They do not: what a task is handed by the sharing scheme depends on which other tasks there are.
        """
        for part in self.manifest.inputs:
            one, two = self._tried(part.codec, tasks), other._tried(part.codec, tasks)
            if changed := [task for task in tasks if not torch.equal(one[task], two[task])]:
                what = f"the answers of {listed(map(repr, changed))} depend on which other tasks there are"
                mend = "It does not part its tasks: keep them all, and freeze nothing."
                kinds = dict.fromkeys(one.sharing.kind for one in self.manifest.networks if one.sharing is not None)
                raise PolytaskError(what, where=f"sharing {listed(kinds)}", mend=mend)

    def _tried(self, codec: InputCodec, tasks: Sequence[str]) -> dict[str, Tensor]:
        """What the network says of made-up rows with these columns."""
        inputs = [part.codec.made_up(N_TRIED) if part.codec == codec else {} for part in self.manifest.inputs]
        with torch.inference_mode():
            return self.model.eval()(inputs, tasks)  # type: ignore[no-any-return]

    def _wanted(self, tasks: Sequence[str] | None, index: int) -> list[str]:
        if tasks is None:
            return [task for task in self.tasks if task in self.manifest.inputs[index].tasks]
        self.check_tasks(tasks)
        return list(tasks)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise a PolytaskError where no task is named, or an unknown one."""
        if not tasks:
            raise PolytaskError("no task is named", where="tasks", mend=f"There is: {listed(self.tasks)}.")
        for task in tasks:
            if task not in self.tasks:
                raise PolytaskError(f"no task {task!r} in this run", mend=did_you_mean(task, self.tasks))

    def save(self, folder: Path) -> None:
        """Write manifest and weights into a folder.

        Raises:
            OSError: It cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        records = [TaskRecord(task=fitted.task, codec=fitted.codec) for fitted in self.tasks.values()]
        manifest = self.manifest.model_copy(update={"tasks": tuple(records)})
        text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        try:
            save_file({key: value.contiguous() for key, value in self.model.state_dict().items()}, folder / WEIGHTS)
        except SafetensorError as error:  # of a full disk, say
            raise OSError(str(error)) from None

    @classmethod
    def load(cls, folder: Path, modules: Mapping[str, nn.Module] | None = None) -> Self:
        """Read what ``save`` wrote. Runs no code from the folder, and compares sizes before any weight is read.

        Args:
            folder: The ``model/`` folder of a run.
            modules: Networks of your own that the model was made with, by class name.

        Raises:
            PolytaskError: Not a polytask model, damaged, or of a newer format.
        """
        manifest = Manifest.read(folder).with_modules(modules or {})
        shapes = _stored_shapes(folder / WEIGHTS)
        with _AllocationLimit(4 * sum(map(math.prod, shapes.values())) + 1_000_000, folder):
            bundle = cls.build(manifest)
        _check_shapes({key: tuple(value.shape) for key, value in bundle.model.state_dict().items()}, shapes, folder)
        bundle.model.load_state_dict(load_file(folder / WEIGHTS))
        bundle.model.eval()
        return bundle


def unusable_rows(pictures: Mapping[str, Pictures]) -> dict[int, str]:
    """The rows whose images cannot be used, and why."""
    return {row: why for read in pictures.values() for row, why in read.unusable.items()}


def without_rows(table: pa.Table, unusable: Mapping[int, str]) -> pa.Table:
    """The table with nothing in the rows whose images cannot be used, which is said."""
    if not unusable:
        return table
    told = CellsError(f"{are(len(unusable), 'row')} left out: the image cannot be used", cells=dict(sorted(unusable.items())))
    warnings.warn(str(told), stacklevel=2)
    return table.take(pa.array([None if row in unusable else row for row in range(len(table))], pa.int64()))


def views_of(tasks: Mapping[str, FittedTask], outputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """All that tasks say of rows, in the units of their columns, with what is said of one and those it is given together.

    Args:
        tasks: All tasks of a network.
        outputs: What the network says for some of them, and for those that they are given.
    """
    every = [fitted.task for fitted in tasks.values()]
    return with_joint_views({task: tasks[task].views(output) for task, output in outputs.items()}, every)


def asked_for(tasks: Mapping[str, FittedTask], wanted: Sequence[str]) -> tuple[str, ...]:
    """Some tasks with those that they are given: what ``views_of`` takes the outputs of."""
    return tuple(with_read(wanted, given_of(fitted.task for fitted in tasks.values())))


def _network(manifest: Manifest, network: Snapshot) -> MultiTaskModel:
    """The network that answers these tasks, with what they read."""
    encoder, sharing = network.encoder or manifest.encoder, network.sharing or manifest.sharing
    inside = with_read(network.tasks, reads_of(record.task for record in manifest.tasks))
    tasks = [FittedTask(record.task, record.codec) for record in manifest.tasks if record.task.name in inside]
    among = [record.task.name for record in manifest.tasks if record.task.name in inside or sharing.joint]
    codecs = [part.codec for part in manifest.inputs]
    return build_model(encoder, sharing, manifest.head, codecs, tasks, manifest.seed, among, network.tasks)


class _AllocationLimit(TorchDispatchMode):
    """Refuses to make tensors of more elements than the weights on disk can fill: a stranger's manifest may ask for any."""

    makers = frozenset({"empty", "zeros", "ones", "full", "rand", "randn"})

    def __init__(self, n_elements: int, folder: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left, self.folder = n_elements, folder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in self.makers and args:
            size = args[0] if isinstance(args[0], list | tuple) else args
            self.left -= math.prod(int(n) for n in size if isinstance(n, int | float))
            if self.left < 0:
                raise PolytaskError("the manifest asks for a larger network than the weights are", where=str(self.folder))
        return func(*args, **(kwargs or {}))


def _stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise PolytaskError("the weights are missing or damaged", where=str(path), found=one_line(error), mend=MEND) from None


def _check_shapes(expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    wrong = sorted(key for key in expected.keys() | stored.keys() if expected.get(key) != stored.get(key))
    if wrong:
        first = wrong[0]
        found = f"{first}: {_shape(stored.get(first))}, where the manifest says {_shape(expected.get(first))}"
        what = f"{len(wrong)} of the weights do not fit the manifest"
        raise PolytaskError(what, where=str(folder), found=found, mend=f"The two files are not of the same model. {MEND}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape)) or "a number"


def n_parameters(model: nn.Module) -> int:
    """How many numbers a network has learned."""
    return sum(math.prod(p.shape) for p in model.parameters())

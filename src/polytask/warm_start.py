"""Going on from a run: its weights and codecs in a new network, where all, some or only what is new is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
from torch import nn

from polytask.bundle import WEIGHTS, Bundle
from polytask.cells import ColumnKind
from polytask.columns import InputCodec
from polytask.component import Settings
from polytask.encoder import Encoder, set_key
from polytask.errors import CellsError, PolytaskError, listed, shown
from polytask.fitted import FittedTask
from polytask.head import Head
from polytask.images import ImageFeature
from polytask.input_sets import InputSet, input_set_of
from polytask.keeping import Chosen
from polytask.manifest import TaskRecord
from polytask.reading import handed_of, in_order, reads_of, with_read
from polytask.run_folder import MODEL, finished, read_record, settled
from polytask.sharing import Sharing, module_key
from polytask.task import Codec, Task


class WarmStart(Settings):
    """The run whose weights a training begins with.

    The inputs are those of that run, with its codecs, for its weights mean something with them only; encoder and sharing must
    be the same (but the scheme ``adapters`` goes on from ``hard``). A task goes on with its codec and its head; it begins anew
    where its kind, the settings of its kind or its head are others, or where its labels cannot be said in that codec. The
    optimizer begins anew. The scores of what goes on are fair on rows that the run was not trained on; where it had the same
    data, split otherwise, a note says so.

    Args:
        run: The folder of that run.
        freeze: What stays as it was. nothing: all is trained on, and tasks that the recipe does not name are left out. shared:
            what came from the run of all before the heads; heads are trained. everything: also the heads that came from the
            run, so that only what is new is trained. With the last two the run's other tasks are taken along, and answer as
            before.

    Example:
        >>> WarmStart(run="run", freeze="shared").freeze
        'shared'
    """

    run: Path
    freeze: Literal["nothing", "shared", "everything"] = "nothing"

    def anchored(self) -> Self:
        """The same run by its absolute path."""
        return self.model_copy(update={"run": self.run.expanduser().absolute()})

    @property
    def told(self) -> str:
        """What a run says of it."""
        stays = {"nothing": "", "shared": "; all before the heads stays as it was", "everything": "; they stay as they were"}
        return f"began with the weights of {self.run}{stays[self.freeze]}"


@dataclass(frozen=True)
class Origin:
    """The run of a warm start, and what of it goes on.

    Attributes:
        settings: What was asked for.
        bundle: Its network.
        record: What its run.json says.
        fingerprint: The sha256 of its weights' file, in hexadecimal.
        continued: The recipe's tasks that go on with their codec and head.
        carried: Its tasks that the recipe does not name, and that are taken along as they are.
    """

    settings: WarmStart
    bundle: Bundle
    record: Mapping[str, Any]
    fingerprint: str
    continued: frozenset[str] = frozenset()
    carried: tuple[str, ...] = ()

    @classmethod
    def read(cls, settings: WarmStart, encoder: Encoder, sharing: Sharing, heads: Sequence[Head | None]) -> Self:
        """Read the run.

        Args:
            settings: Which run.
            encoder: That of the recipe.
            sharing: That of the recipe.
            heads: All that the recipe has.

        Raises:
            PolytaskError: There is no such run, it is damaged, or its encoder or sharing is another.
        """
        own = [part for part in (encoder, *heads) if part is not None and getattr(part, "placeholder", False)]
        modules = {getattr(part, "name", ""): getattr(part, "module", None) for part in own}
        if not settled(settings.run).exists():
            mend = "Give the folder of a run; that which a training began with must be there until it is finished."
            raise PolytaskError("no such run folder", where=f"warm_start, run {settings.run}", mend=mend)
        try:
            place = finished(settings.run)
            bundle = Bundle.load(place / MODEL, {name: module for name, module in modules.items() if module is not None})
            record, _, _ = read_record(place)
        except PolytaskError as error:
            where = f"warm_start, run {error.where or settings.run}"
            raise PolytaskError(error.what, where=where, found=error.found, mend=error.mend) from None
        if any(one.encoder is not None or one.sharing is not None for one in bundle.manifest.snapshots):
            what, mend = (
                "its tasks were picked of several networks, which are no one's weights to go on with",
                "Go on from another.",
            )
            raise PolytaskError(what, where=f"warm_start, run {settings.run}", mend=mend)
        before = bundle.manifest.encoder
        parts = [(encoder.settled(before), before), (sharing, bundle.manifest.sharing)]
        for new, old in parts[:1] if sharing.goes_on_from(bundle.manifest.sharing) else parts:
            free = encoder.pace_fields if new.family == "encoders" else ()
            if changed := _differing(*({k: v for k, v in part.to_dict().items() if k not in free} for part in (new, old))):
                name, one, two = changed
                field = f"{new.family[:-1]}.{name}"
                what = f"{field} is {one!r}, but {two!r} in the earlier run"
                raise PolytaskError(what, where="warm_start", mend=f"Give its {new.family[:-1]}, or fit without warm_start.")
        with (place / MODEL / WEIGHTS).open("rb") as file:
            return cls(settings, bundle, record, hashlib.file_digest(file, "sha256").hexdigest())

    @property
    def frozen_tasks(self) -> frozenset[str]:
        """The tasks of which nothing is trained."""
        return frozenset(self.carried) | (self.continued if self.settings.freeze == "everything" else frozenset())

    def columns_of(self, source: str, table: pa.Table, barred: Mapping[str, str], notes: list[str]) -> tuple[str, ...]:
        """The input columns of a source: those of the set of the run's that its table has.

        Args:
            source: Its label.
            table: Its rows.
            barred: The columns that may not be inputs, and why.
            notes: Are told which more columns the table has.

        Raises:
            PolytaskError: Columns are missing, or one of them is barred.
        """
        where = f"source {source!r}"
        sets = self.bundle.manifest.inputs
        codec = sets[input_set_of(sets, table, where=where)].codec
        for name in codec.names:
            if name in barred:
                what = f"column {name!r} {barred[name]}, but it is an input of the earlier run"
                raise PolytaskError(what, where=where, mend="Let it be one, or fit without warm_start.")
        if more := [name for name in table.column_names if name not in {*codec.kinds, *barred}]:
            notes.append(f"no inputs, as the earlier run has none of that name: {listed(map(repr, more))} ({where})")
        return codec.names

    def codec_of(self, names: Sequence[str], kinds: Mapping[str, ColumnKind]) -> InputCodec:
        """How these columns become tensors in the run.

        Raises:
            PolytaskError: A column is to be of another kind.
        """
        codec = next(part.codec for part in self.bundle.manifest.inputs if part.codec.names == names)
        for name, kind in kinds.items():
            if codec.kinds[name] != kind:
                what = f"{name!r} is a {codec.kinds[name]} in the earlier run"
                raise PolytaskError(what, where="columns", found=kind, mend="Leave it out here, or fit without warm_start.")
        return codec

    def image_of(self, names: Sequence[str], column: str) -> ImageFeature | None:
        """The form that the images of one of these columns had in the run; None where it was left out there."""
        codec = next(part.codec for part in self.bundle.manifest.inputs if part.codec.names == names)
        return next((feature for feature in codec.image_features if feature.column == column), None)

    def codecs(self, tasks: Sequence[Task], head: Head, labels: Mapping[str, pa.Array], notes: list[str]) -> dict[str, Codec]:
        """The codecs of the tasks that go on with theirs, and with their heads.

        Args:
            tasks: The recipe's.
            head: For those that have none of their own.
            labels: The training labels of each.
            notes: Are told which tasks of the earlier run begin anew, and why.
        """
        known: dict[str, Codec] = {}
        asked = {task.name: task for task in tasks}
        for task in (asked[name] for name in in_order(reads_of(tasks)) if name in asked):
            before = self.bundle.tasks.get(task.name)
            if before is None:
                continue
            anew = [name for name in task.depends_on if name in asked and name not in known]
            why = self._strange(task, head, before, labels[task.name])
            if why or anew:
                why = why or f"it reads {listed(map(repr, anew))}, which {'does' if len(anew) == 1 else 'do'}"
                notes.append(f"task {task.name!r} begins anew: {why}")
            else:
                known[task.name] = before.codec
        return known

    def _strange(self, task: Task, head: Head, before: FittedTask, labels: pa.Array) -> str:
        """Why a task cannot go on with its codec and head; empty where it can."""
        own = _own_settings(task) | {"head": task.head_among(head).to_dict()}
        old = _own_settings(before.task) | {"head": before.task.head_among(self.bundle.manifest.head).to_dict()}
        if changed := _differing(own, old):
            name, one, two = changed
            return f"its {name} is {one!r}, but {two!r} in the earlier run"
        try:
            task.encode(labels, before.codec)
        except CellsError as error:
            return f"{error.what} ({listed(dict.fromkeys(map(shown, error.cells.values())))})"
        except PolytaskError as error:
            return error.what
        return ""

    def going_on(self, tasks: Collection[str], continued: Collection[str], notes: list[str]) -> Self:
        """The same, with what of it goes on in a network for these tasks, of which some go on with their heads.

        Raises:
            PolytaskError: Nothing would be trained.
        """
        freeze, others = self.settings.freeze, [task for task in self.bundle.tasks if task not in tasks]
        if others and freeze == "nothing":
            notes.append(f"tasks of the earlier run that are left out: {listed(map(repr, others))}")
        elif others:
            notes.append(
                f"tasks of the earlier run that answer as before, and have no scores here: {listed(map(repr, others))}"
            )
        carried = () if freeze == "nothing" else tuple(others)
        origin = replace(self, continued=frozenset(continued), carried=carried)
        for name in carried:
            moving = set(with_read([name], handed_of(f.task for f in self.bundle.tasks.values()))) - origin.frozen_tasks
            if moving:
                what = f"it is to answer as before, and reads {listed(map(repr, sorted(moving)))}, which is trained"
                mend = f"Name {name!r} among the tasks too, or freeze everything."
                raise PolytaskError(what, where=f"warm_start, task {name!r} of the earlier run", mend=mend)
        if origin.frozen_tasks.issuperset(tasks):
            mend = "Name a task that it does not have, or freeze less."
            raise PolytaskError(
                "nothing would be trained: all tasks are the earlier run's", where="warm_start.freeze", mend=mend
            )
        return origin

    def records(self) -> tuple[TaskRecord, ...]:
        """The tasks that are taken along."""
        fitted = [self.bundle.tasks[name] for name in self.carried]
        return tuple(TaskRecord(task=item.task, codec=item.codec) for item in fitted)

    def with_carried(self, sets: Sequence[InputSet]) -> tuple[InputSet, ...]:
        """These sets of input columns, with the sources of tasks that are taken along; first these, then those they lack."""
        merged = {set_key(part.codec): part for part in sets}
        for part in (part.keep(self.carried) for part in self.bundle.manifest.inputs):
            key = set_key(part.codec)
            there = merged.get(key)
            if there is not None:
                labels = [*part.sources, *(label for label in there.sources if label not in part.sources)]
                sources = {label: (*part.sources.get(label, ()), *there.sources.get(label, ())) for label in labels}
                merged[key] = there.model_copy(update={"sources": sources})
            elif part.sources:
                merged[key] = part
        labels = [label for part in merged.values() for label in part.sources]
        for label in labels:
            if labels.count(label) > 1:
                what = f"source {label!r} has other columns than the source of that name in the earlier run"
                raise PolytaskError(what, where="warm_start", mend="Give it another name.")
        return tuple(merged.values())

    def seen_before(self, data: Mapping[str, str], parts: Mapping[str, str]) -> list[str]:
        """What is to be said of sources whose rows the run had, but split otherwise, where tasks that it has are scored.

        Args:
            data: The fingerprint of each source.
            parts: And of how its rows are split.
        """
        if not self.continued:
            return []
        before = {digest: self.record["parts"][label] for label, digest in self.record["data"].items()}
        return [
            f"the rows of {label!r} are those of the earlier run, split otherwise: that was trained on test rows of this one, "
            "so the scores of what goes on say too much (split.stratify: false in both splits them alike)"
            for label, digest in data.items()
            if before.get(digest, parts[label]) != parts[label]
        ]

    def begin(self, bundle: Bundle) -> set[str]:
        """Give a new network the weights that go on; the names of those that stay as they are.

        Where the run has weights of several epochs, what tasks share is that with which most of them answer.

        Raises:
            PolytaskError: The sharing scheme would change the answers of a task that is to answer as before.
        """
        snapshots = self.bundle.chosen_weights()
        trunks = [weights for _, weights in (*snapshots, self._main)]
        going_on = {key: value for weights in trunks for key, value in weights.items() if key.startswith("trunk.")}
        stay = set(going_on)
        for tasks, weights in snapshots:
            for task in tasks:
                head = {key: value for key, value in weights.items() if key.startswith(f"heads.{module_key(task)}.")}
                going_on |= head if task in {*self.continued, *self.carried} else {}
                stay |= head.keys() if task in self.frozen_tasks else set()
        bundle.take_weights(going_on)
        trained = tuple(task for task in bundle.tasks if task not in self.frozen_tasks)
        as_it_will_be = bundle.with_weights(self.with_frozen_tasks([(trained, bundle.model.state_dict())]))
        as_it_will_be.check_answers(self.bundle, sorted(self.frozen_tasks))
        return set() if self.settings.freeze == "nothing" else stay

    def with_frozen_tasks(self, chosen: Sequence[Chosen]) -> list[Chosen]:
        """The weights chosen for the tasks that were trained, and for those of which nothing was: see Bundle.with_weights.

        These answer with the trunk that was frozen, or, where the run has several, each with its own.
        """
        (trained, weights), *others = chosen
        frozen = [task for task in self._main[0] if task in self.frozen_tasks]
        # What a task reads is, in the network trained here, that of the run's network which answers with it.
        reads = handed_of(fitted.task for fitted in self.bundle.tasks.values())
        here = tuple(task for task in frozen if set(with_read([task], reads)) <= set(self._main[0]))
        elsewhere = tuple(task for task in frozen if task not in here)
        mine = [(elsewhere, self._main[1])] if elsewhere else []
        return [((*here, *trained), weights), *others, *mine, *self._apart(self.frozen_tasks)]

    def begun(self, tasks: Sequence[str]) -> list[Chosen]:
        """What a training of these tasks begins with, beyond what ``begin`` gave: the trunk that tasks apart answer with."""
        trunks = [
            (names, {k: v for k, v in own.items() if k.startswith("trunk.")}) for names, own in self._apart(self.continued)
        ]
        elsewhere = {task for names, _ in trunks for task in names}
        return [(tuple(task for task in tasks if task not in elsewhere), {}), *trunks]

    def _apart(self, tasks: Collection[str]) -> list[Chosen]:
        """These tasks with the weights of the run that they answer with, where these are not those of most."""
        others = [(names, own) for names, own in self.bundle.chosen_weights() if names != self._main[0]]
        apart = [(tuple(task for task in names if task in tasks), own) for names, own in others]
        return [(names, own) for names, own in apart if names]

    @property
    def _main(self) -> Chosen:
        """The weights with which most of the run's tasks answer."""
        return max(self.bundle.chosen_weights(), key=lambda chosen: len(chosen[0]))


@contextmanager
def frozen(network: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Let these parameters stay as they are meanwhile."""
    parameters = [p for name, p in network.named_parameters() if name in names and p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _own_settings(task: Task) -> dict[str, Any]:
    """What a task says beyond what all tasks say, and what its head is handed of others."""
    own = {name: value for name, value in task.to_dict().items() if name not in Task.model_fields}
    return own | {"depends_on": {name: reading.what for name, reading in task.depends_on.items()}}


def _differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first field in which two components differ, and its two values."""
    return next(((name, one.get(name), two.get(name)) for name in {**one, **two} if one.get(name) != two.get(name)), None)

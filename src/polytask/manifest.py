"""Manifest: everything about a network but its weights, as plain values and as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator
from torch import nn

from polytask.component import Component, Settings, read_document
from polytask.encoder import Encoder
from polytask.errors import PolytaskError
from polytask.head import Head
from polytask.input_sets import InputSet
from polytask.sharing import Sharing
from polytask.task import Codec, Task

FORMAT = 2  # 1: snapshots were lists of tasks
MANIFEST = "manifest.json"
MEND = "Take the model's folder from a copy, or fit again."


class TaskRecord(Settings):
    """A task as the manifest holds it."""

    task: Task
    codec: Codec


class Snapshot(Settings):
    """Tasks that answer with a network of their own.

    Attributes:
        tasks: Their names.
        encoder: Of that network; None for the manifest's.
        sharing: Likewise.
    """

    tasks: tuple[str, ...]
    encoder: Encoder | None = None
    sharing: Sharing | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_format_1(cls, value: Any) -> Any:
        return {"tasks": value} if isinstance(value, list | tuple) else value


class Manifest(Settings):
    """Everything about a network but its weights; plain values.

    Attributes:
        snapshots: The tasks that answer with networks of their own, where not all answer with one: with the weights of another
            epoch, or of another scheme.
    """

    format: int = FORMAT
    polytask: str
    encoder: Encoder
    sharing: Sharing
    head: Head
    seed: int
    inputs: tuple[InputSet, ...]
    tasks: tuple[TaskRecord, ...]
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def networks(self) -> tuple[Snapshot, ...]:
        """The networks, each with all that it is made of."""
        own = self.snapshots or (Snapshot(tasks=tuple(record.task.name for record in self.tasks)),)
        return tuple(
            Snapshot(tasks=one.tasks, encoder=one.encoder or self.encoder, sharing=one.sharing or self.sharing) for one in own
        )

    def of(self, networks: Sequence[Snapshot]) -> Self:
        """The same tasks and inputs with these networks; what is the manifest's own is not said again.

        Where there is one only, it is the manifest's own.
        """
        if len(networks) == 1:
            only = networks[0]
            update = {"encoder": only.encoder or self.encoder, "sharing": only.sharing or self.sharing, "snapshots": ()}
            return self.model_copy(update=update)
        own = {"encoder": self.encoder, "sharing": self.sharing}
        said = [{name: part for name, part in own.items() if getattr(network, name) == part} for network in networks]
        plain = [network.model_copy(update=dict.fromkeys(same)) for network, same in zip(networks, said, strict=True)]
        return self.model_copy(update={"snapshots": tuple(plain)})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest in the ``model/`` folder of a run.

        Raises:
            PolytaskError: There is none, it is damaged or of a newer format, or it names what is not there.
        """
        path = folder / MANIFEST
        if not path.is_file():
            mend = "Give the run folder that `polytask fit --out` wrote."
            raise PolytaskError("not a polytask model: it has no manifest", where=str(path), mend=mend)
        plug_in = "If it names a plug-in, install or define it before loading."
        return read_document(cls, path, FORMAT, "a polytask manifest", MEND, plug_in)

    def with_modules(self, modules: Mapping[str, nn.Module]) -> Self:
        """The manifest with the placeholders of external modules filled."""

        def filled(component: Any) -> Any:
            name = getattr(component, "name", None)
            if (
                isinstance(component, Component)
                and getattr(component, "placeholder", False)
                and name is not None
                and name in modules
            ):
                return component.model_copy(update={"module": modules[name]})
            return component

        records = tuple(
            r.model_copy(update={"task": r.task.model_copy(update={"head": filled(r.task.head)})}) for r in self.tasks
        )
        snapshots = tuple(one.model_copy(update={"encoder": filled(one.encoder)}) for one in self.snapshots)
        parts = {"encoder": filled(self.encoder), "head": filled(self.head)}
        return self.model_copy(update={**parts, "tasks": records, "snapshots": snapshots})

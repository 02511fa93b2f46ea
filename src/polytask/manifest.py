"""Manifest: everything about a network but its weights, as plain values and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from torch import nn

from polytask.component import Component, Settings
from polytask.encoder import Encoder
from polytask.errors import PolytaskError, one_line, shown
from polytask.head import Head
from polytask.input_sets import InputSet
from polytask.sharing import Sharing
from polytask.task import Codec, Task

FORMAT = 1
MANIFEST = "manifest.json"
MEND = "Take the model's folder from a copy, or fit again."


class TaskRecord(Settings):
    """A task as the manifest holds it."""

    task: Task
    codec: Codec


class Manifest(Settings):
    """Everything about a network but its weights; plain values.

    Attributes:
        snapshots: The tasks that answer with weights of the same epoch, where not all do.
    """

    format: int = FORMAT
    polytask: str
    encoder: Encoder
    sharing: Sharing
    head: Head
    seed: int
    inputs: tuple[InputSet, ...]
    tasks: tuple[TaskRecord, ...]
    snapshots: tuple[tuple[str, ...], ...] = ()

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
        try:
            fields: Any = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise PolytaskError("the manifest is damaged", where=str(path), found=one_line(error), mend=MEND) from None
        if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
            raise PolytaskError("not a polytask manifest", where=str(path), found=shown(fields), mend=MEND)
        if fields["format"] > FORMAT:
            what = f"written by a newer polytask ({fields.get('polytask')}), format {fields['format']}"
            raise PolytaskError(what, where=str(path), mend="Install that version or a later one.")
        try:
            return cls(**fields)
        except (PolytaskError, ValidationError) as error:
            mend = "If it names a plug-in, install or define it before loading."
            raise PolytaskError(f"the manifest cannot be used: {error}", where=str(path), mend=mend) from None

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
        return self.model_copy(update={"encoder": filled(self.encoder), "head": filled(self.head), "tasks": records})

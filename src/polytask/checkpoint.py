"""The state of a training on disk: written so that a crash at any moment leaves the last whole one, and read back bit for bit.

A checkpoint is one safetensors file: nested dictionaries and lists, with their tensors apart and everything else as JSON in a
tensor of bytes. No pickle, no code.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polytask.errors import PolytaskError, listed

FORMAT = 1
STATE, JSON, MARK = "state.safetensors", "json", "$tensor"


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal, after its state was saved; the text says how to go on.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.signal = number


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: Where they lie; the run's name is that of the folder around it.
        every: Seconds between two of them; None for none but the last, and that of a stop.
        data: The fingerprints of the sources, by name.

    Attributes:
        seconds: That the training had taken before it went on.
        stopping: The number of the signal that asked for its end; 0 for none.
    """

    def __init__(self, folder: Path, every: float | None, data: Mapping[str, str]) -> None:
        self.folder, self.every, self.data = folder, every, dict(data)
        self.written = time.monotonic()
        self.stopping = 0
        self.seconds = 0.0

    def load(self) -> dict[str, Any] | None:
        """The state to go on from; None where nothing was saved yet.

        Raises:
            PolytaskError: The file is damaged or of a newer format, or the data have changed.
        """
        if not (self.folder / STATE).exists():
            return None
        state = read(self.folder / STATE)
        self.seconds = state["seconds"]
        changed = [label for label in self.data | state["data"] if self.data.get(label) != state["data"].get(label)]
        if changed:
            what = f"the data of {listed(map(repr, changed))} changed since this training began"
            raise PolytaskError(what, where=str(self.folder.parent), mend="Put them back as they were, or fit again.")
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state in place of the one before.

        Raises:
            PolytaskError: It cannot be written; the one before is still there.
        """
        write(self.folder / STATE, {"data": self.data, **state})
        self.written = time.monotonic()

    def visit(self, state: Callable[[], Mapping[str, Any]], *, now: bool = False) -> None:
        """Save if it is time to, or ``now``. That it cannot be written is a warning: the training may still end well.

        Raises:
            Stopped: A signal asked for it; the state is saved.
            PolytaskError: A signal asked for it, and the state cannot be saved.
        """
        if self.stopping:
            self.save(state())
            name, run = signal.Signals(self.stopping).name, self.folder.parent
            text = f"stopped by {name}; the training is saved: `polytask resume {run}` goes on with it"
            raise Stopped(text, self.stopping)
        if now or (self.every is not None and time.monotonic() - self.written >= self.every):
            try:
                self.save(state())
            except PolytaskError as error:
                self.written = time.monotonic()
                warnings.warn(str(error), stacklevel=2)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the training at its next step instead of at once; a second one acts at once.

        Only the main thread can, so elsewhere nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}

        def stop(number: int, _: object) -> None:
            self.stopping = number
            signal.signal(number, before[number])

        numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dictionaries and lists of tensors and plain values, so that there is always a whole file at ``path``.

    Raises:
        PolytaskError: It cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"format": FORMAT, "state": _taken_apart(state, "", tensors)}, allow_nan=False)
    tensors[JSON] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        save_file(tensors, draft)
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        mend = "Make room or mend the place; the checkpoint before this one is still there."
        raise PolytaskError(f"cannot write the checkpoint: {error}", where=str(path), mend=mend) from None


def read(path: Path) -> dict[str, Any]:
    """What ``write`` wrote, with its tensors on the CPU.

    Raises:
        PolytaskError: It is damaged, or of a newer format.
    """
    try:
        tensors = load_file(path)
        content = json.loads(tensors[JSON].numpy().tobytes())
        newer = content["format"] > FORMAT
        state: dict[str, Any] = {} if newer else _put_together(content["state"], tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        mend = "Take a copy, or fit again."
        raise PolytaskError(f"the checkpoint is damaged: {error}", where=str(path), mend=mend) from None
    if newer:
        raise PolytaskError("written by a newer polytask", where=str(path), mend="Install that version or a later one.")
    return state


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk, so that they outlive a loss of power."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and keeps names by itself
        return
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value with its tensors moved to ``tensors``, each copied: safetensors takes none that share memory."""
    if isinstance(value, Tensor):
        unique = f"{len(tensors)}{name}"
        tensors[unique] = value.detach().to("cpu", copy=True).contiguous()
        return {MARK: unique}
    if isinstance(value, Mapping):
        return {str(key): _taken_apart(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_taken_apart(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {MARK}:
            return tensors[value[MARK]]
        return {key: _put_together(item, tensors) for key, item in value.items()}
    return [_put_together(item, tensors) for item in value] if isinstance(value, list) else value

"""How much memory a training step takes, and how many rows a step may have to fit in what is free."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from polytask.balancer import Balancer
from polytask.batch import Dataset
from polytask.model import MultiTaskModel
from polytask.training import Trainer
from polytask.update import Updater

STEPS = 2  # the first makes the optimizer's state
FEW, MORE = 8, 32  # rows of the steps from which is told what others take
SHARE = 0.6  # of what is free: operations need some inside, and validation, data and others too


class Steps:
    """The first steps of a training, to see what memory they take; nothing of it is seen afterwards.

    Args:
        build: Makes the network.
        data: The training rows.
        settings: How it is trained.
        balancer: What makes one update of the losses.
        seed: Of the order of rows.
    """

    def __init__(
        self, build: Callable[[], MultiTaskModel], data: Dataset, settings: Trainer, balancer: Balancer, seed: int
    ) -> None:
        self.build, self.settings, self.balancer, self.seed = build, settings, balancer, seed
        self.device = settings.chosen_device()
        self.data = data.to(self.device)
        self.order = torch.randperm(data.n_rows, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def peak(self, n_rows: int) -> int:
        """The most bytes of tensors alive at once in the second step of so many rows, in as many pieces as a training takes.

        On CUDA it is the allocator's peak, with what operations need inside; elsewhere of tensors that operations return.

        Raises:
            OutOfMemory: Not even a single row fits.
        """
        if self.device.type == "cuda":
            before = int(torch.cuda.memory_allocated())
            self._take(n_rows, torch.cuda.reset_peak_memory_stats)
            return int(torch.cuda.max_memory_allocated()) - before
        alive = Alive()
        with alive:
            self._take(n_rows, alive.forget)
        return alive.peak

    def rows_that_fit(self, most: int) -> int | None:
        """The largest power of two of rows whose step fits, at most ``most``; None where it is not known what is free.

        On a GPU the largest is tried first, then half of it, and so on. Elsewhere the peaks of two small steps tell what a row
        takes, of which as many fit as in a share of what is free.

        Raises:
            OutOfMemory: Not even a single row fits.
        """
        size = _power_of_two(most)
        if self.device.type == "cuda":
            return self._tried(size)
        free = free_memory()
        if free is None:
            return None
        few, more = min(FEW, self.data.n_rows), min(MORE, self.data.n_rows)
        one, other = self.peak(few), self.peak(more)
        a_row = max((other - one) / max(more - few, 1), 1.0)
        fitting = int((SHARE * free - (one - few * a_row)) / a_row)
        return min(size, _power_of_two(fitting))

    def _tried(self, size: int) -> int:
        while size > 1 and self._take(size) > self.settings.accumulate:
            size //= 2
        return size

    def _take(self, n_rows: int, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Take the steps, in as many pieces as they need to fit: how many these are."""
        with torch.random.fork_rng():
            model = self.build().to(self.device)
            model.train()
            update = Updater(model, self.settings, self.balancer, self.data.tasks, self.seed)
            for step in range(STEPS):
                rows = self.order.roll(-step * n_rows)[:n_rows]
                meanwhile()
                update.in_pieces(rows, self.data.batch, self.settings.optimizer.lr)
        return update.n_pieces


def _power_of_two(most: int) -> int:
    """The largest that is at most so much, and 1 at least."""
    return 1 << (max(most, 1).bit_length() - 1)


def free_memory() -> int | None:
    """The bytes that may still be taken, of the machine and of the container that this runs in; None where neither tells."""
    try:
        told = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:  # no Linux
        return None
    if told is None:
        return None
    free = int(told[1]) * 1024
    try:
        limit, used = (Path("/sys/fs/cgroup", name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return free if limit.strip() == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one of another kind
        return free


class Alive(TorchDispatchMode):
    """Counts the bytes of storages that operations made, while they are alive.

    Attributes:
        now: Bytes alive.
        peak: The most there were since ``forget``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._see([leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)])
        return made

    def forget(self) -> None:
        """The peak is that of what comes now."""
        self.peak = self.now

    def _see(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage not in self.known:
                n_bytes = storage.nbytes()
                self.known[storage] = n_bytes
                self.now += n_bytes
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, n_bytes)

    def _gone(self, n_bytes: int) -> None:
        self.now -= n_bytes

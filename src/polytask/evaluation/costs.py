"""What a network costs: parameters, floating-point operations, and the memory of a training step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from polytask.batch import Dataset
from polytask.bundle import n_parameters
from polytask.fitting import labeled_rows, untrained
from polytask.given import with_joint_labels
from polytask.model import MultiTaskModel, Network
from polytask.preparation import Prepared
from polytask.recipe import Recipe
from polytask.update import Updater

FLOP_ROWS = 64
STEPS = 2  # the first makes the optimizer's state


def n_learned(recipe: Recipe, prepared: Prepared) -> int:
    """The parameters of a recipe's network; where nothing is shared of a network per task, with the columns that it sees."""
    if not recipe.sharing.independent:
        return n_parameters(untrained(recipe, prepared).model)
    names = [fitted.task.name for fitted in prepared.tasks]
    return sum(n_parameters(untrained(recipe, prepared, [name]).keep([name]).model) for name in names)


def flops_per_row(model: Network, data: Dataset) -> int:
    """Operations of a forward pass that answers all tasks, per row: a product of ``[n, k]`` and ``[k, m]`` takes 2 n k m.

    Products and convolutions are counted, and nothing else: not embeddings, which look rows up, nor what is done number by
    number.

    Args:
        model: Any network.
        data: Rows for it; some that are spread over all of them are passed through.
    """
    rows = torch.linspace(0, data.n_rows - 1, min(FLOP_ROWS, data.n_rows)).long().unique()
    batch = data.batch(rows)
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.enable_grad():  # without gradients torch has fused layers, uncounted
        model(batch.inputs, tuple(model.tasks))
    return round(float(counter.get_total_flops()) / len(rows))


def step_memory(recipe: Recipe, prepared: Prepared) -> int:
    """The most bytes of tensors alive at once in the second step of a training: of the whole process of it but the data set.

    That is weights, their moving average, gradients, the optimizer's state, what is kept for the backward pass, and what the
    balancer holds. On CUDA it is the allocator's peak, with what operations need inside; elsewhere of tensors that operations
    return.

    Raises:
        PolytaskError: The network cannot be built or trained.
        RuntimeError: Likewise.
    """
    device = recipe.trainer.chosen_device()
    names, seed = [fitted.task.name for fitted in prepared.tasks], recipe.seed
    data = labeled_rows(with_joint_labels(prepared.training, [fitted.task for fitted in prepared.tasks]), names).to(device)
    size = recipe.trainer.rows_per_step(data.n_rows)
    order = torch.randperm(data.n_rows, generator=torch.Generator().manual_seed(seed)).to(device)
    batches = [order.roll(-step * size)[:size] for step in range(STEPS)]

    def train(meanwhile: Callable[[], None]) -> None:
        model = untrained(recipe, prepared, names, seed).model.to(device)
        assert isinstance(model, MultiTaskModel)  # no manifest of a recipe has snapshots
        model.train()
        update = Updater(model, recipe.trainer, recipe.balancer, names, seed)
        for rows in batches:
            meanwhile()
            update([data.batch(piece) for piece in rows.chunk(recipe.trainer.accumulate)], recipe.trainer.optimizer.lr)

    with torch.random.fork_rng():
        return _peak_on_cuda(train) if device.type == "cuda" else _peak(train)


def _peak(work: Callable[[Callable[[], None]], None]) -> int:
    alive = _Alive()
    with alive:
        work(alive.forget)
    return alive.peak


def _peak_on_cuda(work: Callable[[Callable[[], None]], None]) -> int:
    before = int(torch.cuda.memory_allocated())
    work(torch.cuda.reset_peak_memory_stats)
    return int(torch.cuda.max_memory_allocated()) - before


class _Alive(TorchDispatchMode):
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

"""What a network costs: parameters, floating-point operations, and the memory of a training step."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from polytask.batch import Dataset
from polytask.bundle import n_parameters
from polytask.fitting import first_steps, untrained
from polytask.model import Network
from polytask.preparation import Prepared
from polytask.recipe import Recipe

FLOP_ROWS = 64


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
    balancer holds; see ``Steps.peak``.

    Raises:
        PolytaskError: The network cannot be built or trained.
        RuntimeError: Likewise.
    """
    steps = first_steps(recipe, prepared)
    return steps.peak(recipe.trainer.rows_per_step(steps.data.n_rows))

"""Weights that follow from the data: stems and stages scaled on some training rows, heads that begin with their features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from polytask.batch import Batch, Dataset, Features
from polytask.head import pooled
from polytask.keeping import Buffers
from polytask.model import MultiTaskModel, outputs_on
from polytask.seeding import derived_seed, seeded

N_ROWS = 512  # of each source
AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def scale_stages(model: MultiTaskModel, data: Dataset, seed: int = 0) -> None:
    """Divide every affine layer of the stems and stages by the deviation of its output, which then has unit variance.

    The layers are taken in the order in which some training rows (of every source up to 512) pass them, each after those before
    it were scaled, in training mode with the dropout of the first step. The variance is over rows, units and places at once, to
    the precision of the numbers. Heads, gates and layers whose output does not vary stay as they are, and so do weights that
    are not trained and all buffers.

    It is algorithm 1 of the paper but for two things. The weights are not made orthonormal first: they are those of a seed and
    a name. And a bias is divided with its weights, where the algorithm divides the weights alone and repeats until the variance
    is within a tolerance of 1: so one pass is exact. (Scaling the stages' outputs themselves would silence residual stages:
    what comes in has unit variance already.)

    References:
        Mishkin and Matas 2016, All you need is a good init (layer-sequential unit variance), arXiv:1511.06422, algorithm 1.

    Example:
        >>> from polytask import Frame, Linear, Hard, Recipe, Regression, Table
        >>> from polytask.model import build_model
        >>> from polytask.preparation import prepare
        >>> table = {"x": torch.arange(99.0).square().numpy(), "y": torch.arange(99.0).numpy()}
        >>> data = prepare(Recipe(sources=[Frame(table)], tasks=[Regression("y")]))
        >>> model = build_model(Table(width=8), Hard(), Linear(), [data.inputs[0].codec], data.tasks)
        >>> scale_stages(model, data.training)
        >>> model.trunk.stem(data.training.inputs).tensor.std(correction=0).item()
        1.000
    """
    batch, buffers, before = data.batch(_some_rows(data, seed)), Buffers(model), model.training
    buffers.keep()
    model.train()
    model.clock.step = 0
    try:
        with seeded(derived_seed(seed, "scale stages")):
            layers = _affine_layers(model, batch)
            _pass_with(layers, _scaled_once(layers), model, batch)
    finally:
        model.clock.step = None
        model.train(before)
        buffers.restore()


def begin_head(model: MultiTaskModel, task: str, data: Dataset, seed: int = 0) -> list[nn.Parameter]:
    """Let a task's head begin with the pooled features that the rows with its label have now; the parameters that it set."""
    head, seen = model.head_of(task), list[Tensor]()

    def remember(_: nn.Module, given: Any) -> None:
        seen.append(pooled(given[0][-1], model.specs[task]).cpu())

    handle, before = head.register_forward_pre_hook(remember), model.training
    try:
        outputs_on(model, data.where(data.present[task]), [task])
    finally:
        handle.remove()
        model.train(before)
    head.begin(torch.cat(seen), derived_seed(seed, "begin", task))  # type: ignore[operator]
    return list(head.parameters())


def _some_rows(data: Dataset, seed: int) -> Tensor:
    """Rows of every source, in their order: each stem sees some."""
    sources = data.sources or {"": torch.ones(data.n_rows, dtype=torch.bool)}
    chosen = []
    for name, mask in sources.items():
        generator = torch.Generator().manual_seed(derived_seed(seed, "scale stages", name))
        rows = mask.nonzero().squeeze(1)
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:N_ROWS]])
    return torch.cat(chosen).sort().values


def _affine_layers(model: MultiTaskModel, batch: Batch) -> list[nn.Module]:
    """The trained affine layers of the stems and stages, which are known by giving Features."""
    stages: dict[nn.Module, None] = {}

    def remember(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Features):
            stages[module] = None

    _pass_with(list(model.trunk.modules()), remember, model, batch)
    inside = {layer: None for stage in stages for layer in stage.modules() if isinstance(layer, AFFINE)}
    return [layer for layer in inside if all(p.requires_grad for p in layer.parameters(recurse=False))]


def _scaled_once(layers: list[nn.Module]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
    """A hook that scales a layer at its first use, and gives what it would have put out then."""
    done: set[Tensor] = set()
    # read now: in the pass a task may have changed weights of its own in their places
    own = {layer: list(layer.parameters(recurse=False)) for layer in layers}

    def scale(layer: nn.Module, _: Any, output: Tensor) -> Tensor | None:
        parameters, deviation = own[layer], output.std(correction=0)
        if not done.isdisjoint(parameters) or not torch.finfo(output.dtype).eps < deviation < torch.inf:
            return None
        done.update(parameters)
        for parameter in parameters:
            parameter.div_(deviation)
        return output / deviation

    return scale


def _pass_with(layers: list[nn.Module], hook: Callable[..., Any], model: MultiTaskModel, batch: Batch) -> None:
    """Send a batch through the trunk with a hook after each of these modules."""
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        model.trunk(batch.inputs, tuple(model.tasks))
    finally:
        for handle in handles:
            handle.remove()

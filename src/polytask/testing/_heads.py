"""check_head: a head on made-up features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec
from polytask.head import Head, OutputSpec
from polytask.seeding import seeded
from polytask.testing._given import check_gradients, check_spec, close, demand, place, random_features, same_values

VECTORS = (FeatureSpec("vector", 6), FeatureSpec("vector", 5))
N_ROWS = 6
NEAR = 3.0
SPACE = (7, 9)
MEMBERS = 3


def check_head(head: Head, specs: Sequence[FeatureSpec] = VECTORS, widths: Sequence[int] = (1, 3)) -> None:
    """Whether a head keeps its contract.

    Its output is ``[B, width]`` and finite for one row or many. A row's output depends on that row alone, and on no padding.
    Its initial weights depend on torch's generator alone, its output depends on every parameter, and it begins near ``start``:
    within 3 on standard normal features (but for somebody's own module, whose weights are not ours to set, and where
    ``has_start`` is False). Where it begins with features, it does so as a function of these and a seed. Where it knows the
    members of an ensemble it keeps this for every one of them, and a member's output depends on that member's features alone.

    Args:
        head: The head.
        specs: Shapes of the features it is to read, stem first. Try it with every kind of features it is meant for.
        widths: How many numbers the task reads.

    Raises:
        ContractError: It does not; the message says where.

    Example:
        >>> from polytask.heads import MLP
        >>> check_head(MLP(hidden=(8,)), [FeatureSpec("map", 4, (3, 3))])
    """
    check_spec(head)
    for width in widths:
        _check_width(head, specs, width, f"{place(head)}, width {width}")
        if head.knows_members:
            _check_members(head, specs, width, f"{place(head)}, width {width}, {MEMBERS} members")


def _check_width(head: Head, specs: Sequence[FeatureSpec], width: int, where: str) -> None:
    start = 50.0 * (-1.0) ** torch.arange(width)
    features = tuple(random_features(spec, N_ROWS, seed) for seed, spec in enumerate(specs))
    modules = [_built(head, specs, start, seed) for seed in (0, 0, 1)]
    module, twin, other = modules
    demand(same_values(module.state_dict(), twin.state_dict()), where, "one seed gives two sets of initial weights")
    shared = {p.data_ptr() for p in module.parameters() if p.numel()} & {p.data_ptr() for p in other.parameters()}
    demand(not shared, where, "two heads share a parameter", mend="Make new parameters in build.")
    for rows in (slice(None), slice(0, 1)):
        output = module(_cut(features, rows))
        shape = (len(features[0].tensor[rows]), width, *_space(head))
        demand(output.shape == shape, where, f"the output is not of shape {shape}", found=tuple(output.shape))
        demand(torch.isfinite(output).all(), where, "the output is not finite")
    check_gradients([module(features)], module, where)
    module.eval()
    with torch.no_grad():
        output = module(features)
        alone = torch.cat([module(_cut(features, slice(i, i + 1))) for i in range(N_ROWS)])
        demand(close(output, alone), where, "a row's output depends on the other rows")
        demand(
            close(output, module(_garbled(features))),
            where,
            "padding changes the output",
            mend="Use the mask, as `pooled` does.",
        )
        _check_state(module, features, output, where)
        far = float((output - _spread(start, head)).abs().max())
        mend = "Set the bias of the last layer, as `starting_at` does."
        demand(
            far < NEAR or not head.has_start or getattr(head, "placeholder", False),
            where,
            "it does not begin near start",
            found=f"{far:.3g} away",
            mend=mend,
        )
        other.load_state_dict(module.state_dict())
        demand(
            close(output, other.eval()(features)), where, "loaded weights give other outputs", mend="Register it as a buffer."
        )
        if hasattr(module, "begun"):
            _check_beginning(module, twin.eval(), features, specs[-1].width, where)


def _check_members(head: Head, specs: Sequence[FeatureSpec], width: int, where: str) -> None:
    start = 50.0 * (-1.0) ** torch.arange(width)
    module = _built(head, [replace(spec, members=MEMBERS) for spec in specs], start, 0)
    single = [random_features(spec, N_ROWS, seed) for seed, spec in enumerate(specs)]
    alike = tuple(Features(f.tensor.unsqueeze(1).repeat_interleave(MEMBERS, 1), f.mask) for f in single)
    output = module(alike)
    shape = (N_ROWS, MEMBERS, width)
    demand(output.shape == shape, where, f"the output is not of shape {shape}", found=tuple(output.shape))
    check_gradients([output], module, where)
    module.eval()
    with torch.no_grad():
        output = module(alike)
        far = float((output - start).abs().max())
        mend = "Set the bias of the last layer, as `starting_at` does."
        begins_near = far < NEAR or not head.has_start
        demand(begins_near, where, "a member does not begin near start", found=f"{far:.3g} away", mend=mend)
        for f in alike:
            f.tensor[:, 0] += 1
        changed = module(alike)
        mend = "Keep the axis of members apart."
        demand(close(output[:, 1:], changed[:, 1:]), where, "a member's output depends on another's features", mend=mend)
        demand(not close(output[:, 0], changed[:, 0]), where, "a member's output does not depend on its features")


def _check_beginning(module: nn.Module, twin: nn.Module, features: tuple[Features, ...], width: int, where: str) -> None:
    """Begun twice with the same features it is the same, and what it began with is among its weights."""
    vectors = torch.randn(N_ROWS, width, generator=torch.Generator().manual_seed(0))
    demand(not module.begun, where, "it has begun before it was told to")
    for begun in (module, twin):
        begun.begin(vectors, seed=1)  # type: ignore[operator]
        demand(begun.begun, where, "it does not say that it has begun")
    demand(same_values(module.state_dict(), twin.state_dict()), where, "one seed gives two beginnings")
    output = module(features)
    demand(torch.isfinite(output).all(), where, "the output is not finite once it has begun")
    fresh = copy.deepcopy(module)
    fresh.load_state_dict(module.state_dict())
    demand(
        close(output, fresh(features)), where, "what it began with is not among its weights", mend="Register it as a buffer."
    )


def _check_state(module: nn.Module, features: tuple[Features, ...], output: Tensor, where: str) -> None:
    """Where other tasks may read its state it gives that beside the same output."""
    if hasattr(module, "state_width"):
        again, state = module(features, with_state=True)
        demand(torch.equal(again, output), where, "with its state it gives another output")
        shape = (len(output), module.state_width)
        demand(state.shape == shape, where, f"its state is not of shape {shape}", found=tuple(state.shape))


def _built(head: Head, specs: Sequence[FeatureSpec], start: Tensor, seed: int) -> nn.Module:
    with seeded(seed):
        return head.build(specs, OutputSpec(len(start), start, _space(head)))


def _space(head: Head) -> tuple[int, ...]:
    """The extents of what a head is asked for: no multiples of those of its features."""
    return SPACE if head.dense else ()


def _spread(start: Tensor, head: Head) -> Tensor:
    """What the head begins near, at every place."""
    return start.view(-1, *(1 for _ in _space(head)))


def _cut(features: Sequence[Features], rows: slice) -> tuple[Features, ...]:
    return tuple(Features(f.tensor[rows], None if f.mask is None else f.mask[rows]) for f in features)


def _garbled(features: Sequence[Features]) -> tuple[Features, ...]:
    """The same features with noise where there is nothing."""
    return tuple(f if f.mask is None else Features(torch.where(f.mask.unsqueeze(2), f.tensor, 1e3), f.mask) for f in features)

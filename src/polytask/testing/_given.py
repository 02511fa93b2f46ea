"""What the checks share: how a broken contract is told, the data they make up, and how tensors are compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec
from polytask.component import Component
from polytask.errors import PolytaskError
from polytask.head import pooled


class ContractError(PolytaskError, AssertionError):
    """A plug-in breaks its contract.

    It is told as every mistake is, and it is an AssertionError too, so that test runners count a failure and not an error.
    """


def demand(held: object, where: str, what: str, *, found: object = "", mend: str = "") -> None:
    """Raise a ContractError that says ``what`` unless ``held`` is true."""
    if not held:
        raise ContractError(what, where=where, found=str(found), mend=mend)


def place(component: Component) -> str:
    """What messages call a plug-in.

    Example:
        >>> from polytask.balancers import DWA
        >>> place(DWA())
        "balancer 'dwa'"
    """
    return f"{component.family.removesuffix('s')} {component.kind!r}"


def check_spec(component: Component) -> None:
    """A spec is plain values that give it back."""
    where, spec = place(component), component.to_dict()
    try:
        read = json.loads(json.dumps(spec, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ContractError(
            "the spec is not plain values", where=where, found=str(error), mend="Give it a serializer."
        ) from error
    again = type(component).coerce(read).to_dict()
    demand(again == spec, where, "the spec does not come back from JSON", found=f"{again} for {spec}")


def tables() -> list[pa.Table]:
    """Two tables with different columns: numbers, a category and a boolean with missing cells; and numbers alone."""
    rng = np.random.default_rng(0)
    holes = np.where(np.arange(12) % 4 == 3, np.nan, rng.normal(size=12))
    first = {
        "area": rng.normal(100, 20, 12),
        "kind": ["flat", "house", None] * 4,
        "new": [True, False] * 6,
        "age": holes,
    }
    second = {f"x{i}": rng.normal(size=8) for i in range(3)}
    return [
        pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()}) for columns in (first, second)
    ]


def pictures() -> list[pa.Table]:
    """Two tables with images of 8 x 8 pixels: grey ones beside a number and a category; and color alone."""
    rng = np.random.default_rng(0)
    grey, color = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((12, 8, 8), (8, 8, 8, 3)))
    scans = {"scan": pa.FixedShapeTensorArray.from_numpy_ndarray(grey)}
    beside = {"age": pa.array(rng.normal(size=12)), "kind": pa.array(["flat", "house", None] * 4)}
    return [pa.table(scans | beside), pa.table({"photo": pa.FixedShapeTensorArray.from_numpy_ndarray(color)})]


def random_features(spec: FeatureSpec, n_rows: int, seed: int = 0) -> Features:
    """Standard normal Features of one member; sequences of 1 to 5 steps, maps with sides of 4 where the spec does not say."""
    generator = torch.Generator().manual_seed(seed)
    if spec.kind == "vector":
        return Features(torch.randn(n_rows, spec.width, generator=generator))
    if spec.kind == "map":
        return Features(torch.randn(n_rows, spec.width, *(spec.space or (4, 4)), generator=generator))
    (length,) = spec.space or (math.prod(spec.grid) if spec.grid else 5,)
    lengths = torch.arange(n_rows) % length + 1
    if spec.grid:  # the places of a map are all there
        lengths = torch.full((n_rows,), length)
    mask = torch.arange(length) < lengths.unsqueeze(1)
    return Features(torch.randn(n_rows, length, spec.width, generator=generator), mask)


def check_features(features: Features, spec: FeatureSpec, n_rows: int, where: str) -> None:
    """Features have the shape that their spec says, and finite values."""
    tensor, mask = features.tensor, features.mask
    shape = tuple(tensor.shape)
    rows = (n_rows,) if spec.members == 1 else (n_rows, spec.members)
    n_axes = {"vector": 0, "sequence": 1, "map": len(spec.space) or len(shape) - len(rows) - 1}[spec.kind]
    demand(spec.kind != "map" or 1 <= n_axes <= 3, where, "a map has one to three axes", found=shape)
    demand(len(shape) == len(rows) + 1 + n_axes, where, f"features are not of the shape that {spec} says", found=shape)
    space = shape[len(rows) : -1] if spec.kind == "sequence" else shape[len(rows) + 1 :]
    width = shape[len(rows)] if spec.kind == "map" else shape[-1]
    fits = shape[: len(rows)] == rows and width == spec.width and space == (spec.space or space)
    demand(fits, where, f"features are not of the shape that {spec} says", found=shape)
    demand(torch.isfinite(tensor[kept_places(features)]).all(), where, "features are not finite")
    if spec.kind == "sequence":
        demand(mask is not None, where, "a sequence has no mask", mend="Return Features(tensor, mask).")
        assert mask is not None
        demand(mask.dtype == torch.bool, where, "the mask is not bool", found=mask.dtype)
        demand(mask.shape == (n_rows, *space), where, "the mask is not [B, L]", found=f"{tuple(mask.shape)} for L = {space[0]}")
        demand(mask.any(1).all(), where, "the mask of a row is empty", mend="Keep one step at least.")


def kept_places(features: Features) -> Tensor:
    """An index of the places that mean something."""
    if features.mask is None:
        return torch.ones(features.tensor.shape[:1], dtype=torch.bool)
    mask = features.mask
    return mask if features.tensor.ndim == 3 else mask.unsqueeze(1).expand(features.tensor.shape[:3])


def as_vectors(features: Sequence[Features], specs: Sequence[FeatureSpec]) -> Tensor:
    """Everything that the outputs of stem and stages say of each row, ``[B, ...]``: padding and lengths make no difference."""
    vectors = []
    for part, spec in zip(features, specs, strict=True):
        vectors.append(pooled(part, spec).flatten(1))
    return torch.cat(vectors, 1)


def close(left: Tensor, right: Tensor) -> bool:
    """Equal but for rounding in float32."""
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-4, atol=1e-5)


def same_values(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """The same keys with the same tensors, bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(value, right[key]) for key, value in left.items())


def check_gradients(outputs: Iterable[Tensor], module: nn.Module, where: str) -> None:
    """The sum of all outputs, weighted at random, has a finite gradient by every parameter."""
    generator = torch.Generator().manual_seed(1)
    total = torch.stack([(torch.randn(output.shape, generator=generator) * output).sum() for output in outputs]).sum()
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad and p.numel()]
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    for (name, _), gradient in zip(named, gradients, strict=True):
        mend = "Remove it, or set requires_grad to False."
        demand(gradient is not None, where, f"no output depends on the parameter {name!r}", mend=mend)
        assert gradient is not None
        demand(torch.isfinite(gradient).all(), where, f"the gradient of {name!r} is not finite")

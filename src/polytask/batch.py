"""What flows through a network: rows in batches, features with their static shapes, and the data set they are cut from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Inputs = Mapping[str, Tensor]

# In evaluation rows of images go through a network by so many bytes of pixels: its features are many times as large, and on a
# CPU they then stay in its cache.
LARGEST_BATCH, FEWEST = 2**18, 16
LARGEST_MOVED = 2**33  # bytes of images that are kept on a GPU


class Features(NamedTuple):
    """The output of a stem or stage: a vector ``[B, D]``, a sequence ``[B, L, D]`` or a map ``[B, D, *space]``.

    A sequence has a mask, bool ``[B, L]``, True where there is something. With ``members`` > 1 (an ensemble) the tensor has one
    more axis after the first: ``[B, members, ...]``.
    """

    tensor: Tensor
    mask: Bool[Tensor, "B L"] | None = None


@dataclass(frozen=True)
class FeatureSpec:
    """The static shape of Features: what is known before any row is seen.

    Attributes:
        kind: "vector", "sequence" or "map".
        width: D, the number of features (channels).
        space: The extents of a map, or ``(L,)`` for a sequence of fixed length; empty where not known.
        members: Ensemble members.
        grid: Of a sequence whose first elements are the places of a map, row by row: the extents of that map.
    """

    kind: Literal["vector", "sequence", "map"]
    width: int
    space: tuple[int, ...] = ()
    members: int = 1
    grid: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Mixed:
    """With what the inputs of a batch were mixed (mixup).

    Attributes:
        order: The row of the batch that was mixed into each; a permutation.
        share: How much of a row is its own.
    """

    order: Int[Tensor, " B"]
    share: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows, with what is known of them.

    Attributes:
        inputs: The input tensors, one mapping per distinct set of input columns (empty where the batch has none of its rows);
            rows of the batch are ordered by set.
        targets: Per task ``[B, ...]``, with any valid value where the label is missing.
        labeled: Per task the indices of the rows that have a label, int64; None where all have.
        n_rows: B.
        weights: How much each row counts, ``[B]``, for the tasks whose rows do not count alike.
        rows: Where each stands in the data set it was cut from.
        mixed: What its inputs were mixed with; None where they are its own.
    """

    inputs: tuple[Inputs, ...]
    targets: Mapping[str, Tensor]
    labeled: Mapping[str, Int[Tensor, " n"] | None]
    n_rows: int
    weights: Mapping[str, Float[Tensor, " B"]] = field(default_factory=dict)
    rows: Int[Tensor, " B"] | None = None
    mixed: Mixed | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks with at least one label in this batch."""
        return tuple(name for name, rows in self.labeled.items() if rows is None or len(rows))

    def without(self, tasks: Iterable[str]) -> Batch:
        """The same rows without the labels of these tasks."""
        left_out = set(tasks)
        targets = {name: target for name, target in self.targets.items() if name not in left_out}
        return replace(self, targets=targets, labeled={name: self.labeled[name] for name in targets})

    def labeled_as(self, order: Int[Tensor, " B"]) -> Batch:
        """The same inputs with the labels of other rows of it."""
        labeled = {
            task: None if r is None else self.present(task)[order].nonzero().squeeze(1) for task, r in self.labeled.items()
        }
        targets, weights = (
            {task: value.index_select(0, order) for task, value in each.items()} for each in (self.targets, self.weights)
        )
        return replace(self, targets=targets, labeled=labeled, weights=weights)

    def present(self, task: str) -> Bool[Tensor, " B"]:
        """Which rows have a label of ``task``."""
        rows, target = self.labeled[task], self.targets[task]
        if rows is None:
            return torch.ones(self.n_rows, dtype=torch.bool, device=target.device)
        return torch.zeros(self.n_rows, dtype=torch.bool, device=target.device).index_fill(0, rows, True)


@dataclass(frozen=True)
class Stored:
    """Some rows of a large tensor, which is not copied: it may be mapped from a file, and is read as batches are cut from it.

    Attributes:
        array: ``[M, ...]``.
        rows: The N rows of it, int64.
        device: Where batches are wanted.
    """

    array: Tensor
    rows: Int[Tensor, " N"]
    device: torch.device = torch.device("cpu")  # noqa: RUF009  # it is a constant

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, mask: Bool[Tensor, " N"]) -> Tensor:
        """The rows where ``mask`` is True, copied: ``[n, ...]``."""
        return self.index_select(0, mask.nonzero().squeeze(1))

    def index_select(self, dim: int, index: Int[Tensor, " B"]) -> Tensor:
        """As ``Tensor.index_select``, of rows: ``[B, ...]``."""
        rows = self.rows.index_select(dim, index.to(self.rows.device))
        return self.array.index_select(dim, rows).to(self.device)

    def to(self, device: torch.device) -> Tensor | Stored:
        """The rows for another device: there where they are few enough, else batches are moved as they are cut."""
        n_bytes = len(self.rows) * self.array[:1].nbytes
        if device.type == "cpu" or n_bytes > LARGEST_MOVED:
            return replace(self, device=device)
        return self.array.index_select(0, self.rows).to(device)


@dataclass(frozen=True)
class Dataset:
    """Rows that batches are cut from by index.

    Attributes:
        inputs: One mapping of tensors per distinct set of input columns; set after set they hold the rows 0 .. N-1.
        targets: Per task ``[N, ...]``; where ``present`` is False the value is valid but means nothing.
        present: Per task bool ``[N]``.
        sources: Per source bool ``[N]``: the rows that come from it; empty where nobody asks.
        weights: How much each row counts, ``[N]``, for the tasks whose rows do not count alike.
    """

    inputs: tuple[Mapping[str, Tensor | Stored], ...]
    targets: Mapping[str, Tensor | Stored]
    present: Mapping[str, Bool[Tensor, " N"]]
    sources: Mapping[str, Bool[Tensor, " N"]] = field(default_factory=dict)
    weights: Mapping[str, Float[Tensor, " N"]] = field(default_factory=dict)

    @cached_property
    def _starts(self) -> list[int]:
        """The first row of each input set, and N."""
        return [0, *accumulate(n_rows(inputs) for inputs in self.inputs)]

    @cached_property
    def _bytes_of_images(self) -> int:
        """How large the images of a row are at most."""
        every = [value for part in (*self.inputs, self.targets) for value in part.values()]
        whole = [value.array if isinstance(value, Stored) else value for value in every]
        return max((value[:1].nbytes for value in whole if value.ndim > 2), default=0)

    @cached_property
    def _complete(self) -> dict[str, bool]:
        """Whether every row has a label, per task."""
        return {name: bool(mask.all()) for name, mask in self.present.items()}

    @property
    def n_rows(self) -> int:
        """N, over all input sets."""
        return self._starts[-1]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in the recipe's order."""
        return tuple(self.targets)

    def select(self, tasks: Iterable[str]) -> Dataset:
        """The same rows with these tasks only."""
        kept = list(tasks)
        return replace(
            self,
            targets={t: self.targets[t] for t in kept},
            present={t: self.present[t] for t in kept},
            weights={t: self.weights[t] for t in kept if t in self.weights},
        )

    def to(self, device: torch.device) -> Dataset:
        """The same data set on another device."""
        return Dataset(
            tuple({key: value.to(device) for key, value in inputs.items()} for inputs in self.inputs),
            {task: target.to(device) for task, target in self.targets.items()},
            {task: mask.to(device) for task, mask in self.present.items()},
            {source: mask.to(device) for source, mask in self.sources.items()},
            {task: weights.to(device) for task, weights in self.weights.items()},
        )

    def batch(self, rows: Int[Tensor, " B"]) -> Batch:
        """Cut out a batch. With several input sets the rows are put in the order of the sets."""
        starts = self._starts
        if len(self.inputs) == 1:
            inputs = tuple({key: value.index_select(0, rows) for key, value in part.items()} for part in self.inputs)
        else:
            rows = rows.sort().values
            cuts = torch.searchsorted(rows, torch.tensor(starts, device=rows.device)).tolist()
            inputs = tuple(
                {key: value.index_select(0, rows[cuts[i] : cuts[i + 1]] - starts[i]) for key, value in part.items()}
                for i, part in enumerate(self.inputs)
            )
        targets = {task: target.index_select(0, rows) for task, target in self.targets.items()}
        weights = {task: weights.index_select(0, rows) for task, weights in self.weights.items()}
        return Batch(inputs, targets, {task: self._labeled(task, rows) for task in self.targets}, len(rows), weights, rows)

    def where(self, mask: Bool[Tensor, " N"]) -> Dataset:
        """The rows where ``mask`` is True."""
        index = mask.nonzero().squeeze(1)
        inputs = tuple(
            {key: _rows_of(value, index[(index >= start) & (index < start + n)] - start) for key, value in part.items()}
            for part, start, n in zip(self.inputs, self._starts, map(n_rows, self.inputs), strict=False)
        )
        targets = {task: _rows_of(target, index) for task, target in self.targets.items()}
        masks = (self.present, self.sources, self.weights)
        present, sources, weights = ({name: each.index_select(0, index) for name, each in kind.items()} for kind in masks)
        return Dataset(inputs, targets, present, sources=sources, weights=weights)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(tensor.device for part in self.inputs for tensor in part.values())

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in order, ``size`` at a time; fewer where rows are large."""
        device = self.device
        size = min(size, max(FEWEST, LARGEST_BATCH // max(self._bytes_of_images, 1)))
        for start in range(0, self.n_rows, size):
            yield self.batch(torch.arange(start, min(start + size, self.n_rows), device=device))

    def _labeled(self, task: str, rows: Tensor) -> Tensor | None:
        if self._complete[task]:
            return None
        mask = self.present[task].index_select(0, rows)
        labeled = mask.nonzero().squeeze(1)
        return None if len(labeled) == len(rows) else labeled


def _rows_of(value: Tensor | Stored, rows: Tensor) -> Tensor | Stored:
    """Some rows: a copy, but of images, which are larger than all the rest."""
    if isinstance(value, Stored):
        return replace(value, rows=value.rows.index_select(0, rows))
    return Stored(value, rows) if value.ndim > 2 and value.device.type == "cpu" else value.index_select(0, rows)


def n_rows(inputs: Mapping[str, Tensor | Stored]) -> int:
    """The rows of one input set; 0 for an empty mapping."""
    return len(next(iter(inputs.values()))) if inputs else 0


def has_rows(inputs: Inputs) -> bool:
    """Whether one input set has any: by shape, for len() is a constant to a network that is traced for any number of rows."""
    return bool(inputs) and bool(next(iter(inputs.values())).shape[0] != 0)


def concatenate(parts: Sequence[Features]) -> Features:
    """Rows of several Features of one spec, one after the other; shorter sequences are padded and masked."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].mask is None:
        return Features(torch.cat([part.tensor for part in parts]))
    length = max(part.tensor.shape[-2] for part in parts)
    tensors = [torch.nn.functional.pad(p.tensor, (0, 0, 0, length - p.tensor.shape[-2])) for p in parts]
    masks = [torch.nn.functional.pad(p.mask, (0, length - p.mask.shape[1])) for p in parts if p.mask is not None]
    return Features(torch.cat(tensors), torch.cat(masks))


def folded(features: Features, members: int) -> Features:
    """Ensemble members as rows, the members of a row one after the other; all of them have its mask."""
    mask = None if features.mask is None else features.mask.repeat_interleave(members, 0)
    return Features(features.tensor.flatten(0, 1), mask)


def widened(features: Features, spec: FeatureSpec, values: Float[Tensor, "B *members D"]) -> Features:
    """Features with more channels, which are the same at every place of a sequence or map.

    Args:
        features: Of this spec.
        spec: See ``features``.
        values: The channels to add, of each row and member.

    Example:
        >>> spec = FeatureSpec("map", 1, (1, 2))
        >>> widened(Features(torch.zeros(1, 1, 1, 2)), spec, torch.ones(1, 1)).tensor
        tensor([[[[0., 0.]],
        <BLANKLINE>
                 [[1., 1.]]]])
    """
    tensor, place = features.tensor, 1 if spec.members == 1 else 2
    values = values.to(tensor.dtype)
    if spec.kind == "vector":
        return Features(torch.cat([tensor, values], -1))
    if spec.kind == "sequence":
        spread = values.unsqueeze(place).expand(*tensor.shape[:-1], values.shape[-1])
        return Features(torch.cat([tensor, spread], -1), features.mask)
    space = tensor.shape[place + 1 :]
    spread = values.reshape(*values.shape, *(1 for _ in space)).expand(*values.shape, *space)
    return Features(torch.cat([tensor, spread], place), features.mask)


def map_space(spec: FeatureSpec) -> tuple[int, ...]:
    """The extents of the map with two axes that features are, or begin with; empty where there is none of known extents."""
    space = spec.space if spec.kind == "map" else spec.grid
    return space if len(space) == 2 else ()


def as_map(features: Features, spec: FeatureSpec) -> Float[Tensor, "B D H W"]:
    """The map that features are, or begin with.

    Example:
        >>> spec = FeatureSpec("sequence", 3, grid=(2, 2))
        >>> as_map(Features(torch.zeros(1, 5, 3)), spec).shape
        torch.Size([1, 3, 2, 2])
    """
    if spec.kind == "map":
        return features.tensor
    n_rows, n_columns = spec.grid
    places: Tensor = features.tensor[:, : n_rows * n_columns].transpose(1, 2)
    return places.reshape(*places.shape[:2], n_rows, n_columns)


def masked_mean(values: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
    """The mean over the places where ``mask`` is True; zero where there are none.

    Example:
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    kept = mask.unsqueeze(-1).to(values.dtype)
    return (values * kept).sum(1) / kept.sum(1).clamp(min=1)

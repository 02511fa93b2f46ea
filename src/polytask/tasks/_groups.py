"""What the tasks that put rows together share: labels as codes that need no training, and the metrics of groups and neighbors.

A group has no name: its number means nothing but that rows with the same one belong together.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from polytask.tasks._classes import label_text
from polytask.tasks._metrics import mean

UNKNOWN = -1
ROWS_AT_ONCE = 2048
Weights = Tensor | None


def label_codes(column: pa.Array, where: str) -> Tensor:
    """The labels ``[N]`` as int64 codes in the order of their text, -1 where there is none; other rows give other codes.

    Raises:
        PolytaskError: They are no text, numbers or booleans.

    Example:
        >>> label_codes(pa.array(["dog", None, "cat", "dog"]), "")
        tensor([ 1, -1,  0,  1])
    """
    text = label_text(column, where)
    known = sorted(text.unique().drop_null().to_pylist())
    codes = pa.compute.index_in(text, value_set=pa.array(known, pa.string()))
    return torch.from_numpy(codes.fill_null(UNKNOWN).to_numpy(zero_copy_only=False).astype(np.int64))


def table_of(group: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """How many rows, or what weight of them, are in each group and of each class, float64 ``[K, C]``; without unknown classes.

    Example:
        >>> table_of(torch.tensor([0, 0, 1]), torch.tensor([1, 0, -1]))
        tensor([[1., 1.]], dtype=torch.float64)
    """
    known = target >= 0
    each = torch.ones(len(target), dtype=torch.float64) if weights is None else weights.double()
    group, target = (codes[known].unique(return_inverse=True) for codes in (group, target))
    n_groups, n_classes = len(group[0]), len(target[0])
    sums = torch.bincount(group[1] * n_classes + target[1], weights=each[known], minlength=n_groups * n_classes)
    return sums.view(n_groups, n_classes)


def nmi(group: Tensor, target: Tensor, weights: Weights = None) -> float:
    """The mutual information of group and class divided by the mean of their entropies: 1 where one says the other, else less.

    It is scikit-learn's ``normalized_mutual_info_score``; nan where no class is known.

    Example:
        >>> nmi(torch.tensor([5, 5, 2, 2]), torch.tensor([0, 0, 1, 1]))
        1.0
    """
    table = table_of(group, target, weights)
    if not table.numel():
        return math.nan
    whole, of_group, of_class = (_entropy(part) for part in (table.flatten(), table.sum(1), table.sum(0)))
    both = of_group + of_class
    return min(1.0, max(0.0, 2 * (both - whole) / both)) if both > 0 else 1.0


def ari(group: Tensor, target: Tensor, weights: Weights = None) -> float:
    """The share of pairs of rows that are together or apart in both, adjusted for chance (Hubert 1985): 1 is alike, 0 chance.

    It is scikit-learn's ``adjusted_rand_score``; nan where fewer than two classes of rows are known.
    """
    table = table_of(group, target, weights)
    total = _pairs(table.sum())
    if not table.numel() or total <= 0:
        return math.nan
    both, of_group, of_class = (float(_pairs(part).sum()) for part in (table, table.sum(1), table.sum(0)))
    chance, most = of_group * of_class / float(total), (of_group + of_class) / 2
    return (both - chance) / (most - chance) if most != chance else 1.0


def matched_accuracy(group: Tensor, target: Tensor, weights: Weights = None) -> float:
    """The share of rows that are right where every group stands for one class, and no two for the same: the best such choice.

    Equation 10 of Xie 2016 (arXiv:1511.06335), by the Hungarian method; nan where no class is known.

    Example:
        >>> matched_accuracy(torch.tensor([3, 3, 0, 0]), torch.tensor([0, 0, 1, 0]))
        0.75
    """
    table = table_of(group, target, weights)
    if not table.numel():
        return math.nan
    return float(table.numpy()[linear_sum_assignment(table.numpy(), maximize=True)].sum() / table.sum())


def silhouette(distance: Tensor, target: Tensor, weights: Weights = None) -> Tensor:
    """How much nearer rows are to their own centroid than to the next: the mean of (b - a) / b with distances a and b.

    The silhouette with the distance to a group's centroid in place of the mean distance to its rows, as for k-means (Vendramin
    2010, doi:10.1002/sam.10080, section 2.2.2); it asks for no distance between rows. No label is looked at.

    Args:
        distance: Of each row to every centroid, ``[N, K]``.
        target: Not looked at.
        weights: How much each row counts.

    Example:
        >>> silhouette(torch.tensor([[1.0, 4.0], [3.0, 3.0]]), torch.zeros(2))
        tensor(0.3750, dtype=torch.float64)
    """
    own, other = distance.double().topk(2, 1, largest=False).values.unbind(1)
    return mean(1 - torch.where(other > 0, own / other, 1.0), weights)


def evenness(distance: Tensor, target: Tensor, weights: Weights = None) -> float:
    """The entropy of the sizes of K groups, divided by log K: 1 where all are of one size, 0 where all rows are in one.

    Args:
        distance: Of each row to every centroid, ``[N, K]``.
        target: Not looked at.
        weights: How much each row counts.
    """
    each = None if weights is None else weights.double()
    return _entropy(torch.bincount(distance.argmin(1), weights=each, minlength=distance.shape[1])) / math.log(distance.shape[1])


def found_among(vector: Tensor, target: Tensor, k: int) -> Tensor:
    """Whether one of the k nearest other rows by cosine is of a row's class, ``[N]``; nan where no other row is.

    Args:
        vector: ``[N, D]``.
        target: The classes, ``[N]``.
        k: How many are looked at.

    Example:
        >>> found_among(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]]), torch.tensor([0, 1, 0, 2]), 1)
        tensor([0., nan, 0., nan], dtype=torch.float64)
    """
    unit, found = functional.normalize(vector.float(), dim=1), []
    for start in range(0, len(unit), ROWS_AT_ONCE):
        piece = slice(start, start + ROWS_AT_ONCE)
        near = unit[piece] @ unit.T
        near[torch.arange(len(near)), torch.arange(start, start + len(near))] = -math.inf
        others = near.topk(min(k, len(unit)), 1)
        same = (target[others.indices] == target[piece].unsqueeze(1)) & others.values.isfinite()
        found.append(same.any(1))
    _, which, sizes = target.unique(return_inverse=True, return_counts=True)
    hits = torch.cat(found).double() if found else torch.zeros(0, dtype=torch.float64)
    return torch.where(sizes[which] > 1, hits, math.nan)


def _entropy(sizes: Tensor) -> float:
    shares = sizes.double() / sizes.sum()
    return float(torch.special.entr(shares).sum())


def _pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) / 2

"""Centroids in the shared representation, and how near a row is to each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec
from polytask.head import Head, OutputSpec, pooled

N_STARTS = 20  # of k-means, as in the paper
MAX_ROWS = 20_000  # that k-means is told of


class Cluster(Head):
    """The similarity of a row's pooled features z to K learned centroids m: log 1 / (1 + |z - m|^2 / s), one for each.

    A softmax of these K numbers is a Student's t distribution with one degree of freedom, equation 1 of Xie 2016. There s is 1;
    here it is the mean squared distance of a training row to its centroid when they are found: so the distribution is as sharp
    whatever the size and number of the features.

    The centroids are found by k-means (Lloyd's, the best of 20 starts, on up to 20,000 rows) in the features that the training
    rows have when the loss of the task begins, and learned by it from then on. The members of an ensemble have centroids of
    their own, found in the features of all of them side by side: so a cluster is the same to each.
    """

    paper: ClassVar[str] = "Xie 2016 (DEC), arXiv:1511.06335, equation 1"
    knows_members: ClassVar[bool] = True
    has_start: ClassVar[bool] = False

    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        return Centroids(specs[-1], output.width)


class Centroids(nn.Module):
    """See Cluster.

    Attributes:
        begun: Whether the centroids were found; until then they are drawn at random.
    """

    spread: Tensor
    found: Tensor

    def __init__(self, spec: FeatureSpec, n_clusters: int) -> None:
        super().__init__()
        self.spec = spec
        members = () if spec.members == 1 else (spec.members,)
        self.centroids = nn.Parameter(torch.randn(*members, n_clusters, spec.width))
        self.register_buffer("spread", torch.ones(*members, 1))
        self.register_buffer("found", torch.zeros((), dtype=torch.bool))

    def forward(self, features: Sequence[Features]) -> Float[Tensor, "B *members K"]:
        vectors = pooled(features[-1], self.spec)
        if not torch.is_autocast_enabled(vectors.device.type):
            return self._similarity(vectors)
        with torch.autocast(vectors.device.type, enabled=False):  # differences of large numbers
            return self._similarity(vectors.float())

    def _similarity(self, vectors: Float[Tensor, "B *members D"]) -> Float[Tensor, "B *members K"]:
        products = (vectors.unsqueeze(-2) @ self.centroids.mT).squeeze(-2)
        squares = vectors.square().sum(-1, keepdim=True) - 2 * products + self.centroids.square().sum(-1)
        return -torch.log1p(squares.clamp(min=0) / self.spread)

    @property
    def begun(self) -> bool:
        return bool(self.found)

    @torch.no_grad()
    def begin(self, vectors: Float[Tensor, "N *members D"], seed: int) -> None:
        """Find the centroids among the pooled features of the training rows.

        Args:
            vectors: These.
            seed: Of where k-means starts, and of the rows that it is told of where there are more than 20,000.
        """
        draw = torch.Generator().manual_seed(seed)
        vectors = vectors.double().cpu()[torch.randperm(len(vectors), generator=draw)[:MAX_ROWS]]
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # of fewer points than clusters, which the task tells in the end
            k_means = KMeans(self.centroids.shape[-2], n_init=N_STARTS, random_state=seed % 2**32).fit(
                vectors.flatten(1).numpy()
            )
        centers = torch.from_numpy(k_means.cluster_centers_).unflatten(1, vectors.shape[1:])  # [K, *members, D]
        apart = (vectors - centers[torch.from_numpy(k_means.labels_).long()]).square().sum(-1, keepdim=True).mean(0)
        self.centroids.copy_(centers.movedim(0, -2))
        self.spread.copy_(apart.clamp(min=torch.finfo(torch.float32).eps))
        self.found.fill_(True)

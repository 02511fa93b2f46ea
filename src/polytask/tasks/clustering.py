"""Groups of rows that are alike, found without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from polytask.answers import AnswerColumn
from polytask.errors import PolytaskError, counted
from polytask.scorer import Scorer
from polytask.task import Codec, Task
from polytask.tasks._classes import label_text
from polytask.tasks._groups import ari, evenness, label_codes, matched_accuracy, nmi, silhouette

UNLABELED = ""
SHARPNESS = 0.2  # the entropic regularization of balanced targets, see Clustering
ROUNDS = 20  # of Sinkhorn's algorithm, which it then solves to a percent
WARM_STEPS = 300
SMALL = 0.1  # of the mean size: a cluster that is told of


class Clustering(Task):
    """Which of K groups of alike rows, found in the shared representation while other tasks shape it.

    No label is learned from: every row teaches it. Where ``column`` is given its labels are used for scores alone (and, as
    those of every task, to spread them evenly over the parts of a split); some may be missing, or all where rows are evaluated.

    The output of the head ``cluster`` says how similar a row is to each of K centroids; q, its softmax, is the soft assignment.
    The loss of a row is the cross-entropy of q under a target p that is made of the q of all rows of the batch, and no gradient
    goes through. It is divided by log K, that of a row which is as near to every centroid.

    "balanced" targets are the assignment that agrees best with q where all clusters are of one size: p_ij = u_i v_j q_ij^(1/e),
    with u and v such that rows sum to 1 and columns to B / K (optimal transport with entropic regularization e = 0.2, by 20
    rounds of Sinkhorn's algorithm; Asano 2020 and Caron 2020, equation 3, on batches). That all rows fall into one cluster is
    the worst that can happen to this loss. Give batches of several times K rows.

    "dec" targets are sharpened q, divided by the size of the cluster: p_ij is proportional to q_ij^2 / sum_i q_ij (Xie 2016,
    equation 3, on batches; its divergence of p and q has the same gradient). With ``reconstruction`` beside it this is IDEC
    (Guo 2017). It is for clusters of unlike sizes; it may leave some empty, of which a note tells.

    Until the loss begins, other tasks shape the features; then the centroids are found by k-means.

    Metrics: where labels are known ``nmi`` (normalized mutual information), ``ari`` (adjusted Rand index) and ``accuracy``
    (under the best matching of clusters and classes); always ``silhouette`` (by distances to centroids) and ``evenness`` (the
    entropy of the sizes: 1 where all are alike, 0 where all rows are in one). Without ``column`` the last two by default.

    Args:
        n_clusters: K.
        column: Labels to score by; None for none.
        targets: See above.
        warmup: Epochs before the loss begins; None for about 300 steps, at most a third of all. Where no other task is trained
            with the same features it begins at once.
    """

    paper: ClassVar[str] = (
        "Asano 2020 (SeLa), arXiv:1911.05371; Caron 2020 (SwAV), arXiv:2006.09882; Xie 2016 (DEC), arXiv:1511.06335"
    )
    default_metrics: ClassVar[tuple[str, ...]] = ("nmi", "ari", "accuracy", "silhouette", "evenness")
    couples_rows: ClassVar[bool] = True
    usual_head: ClassVar[str | None] = "cluster"

    n_clusters: int = Field(default=10, ge=2)
    targets: Literal["balanced", "dec"] = "balanced"
    warmup: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _head_has_centroids(self) -> Clustering:
        if self.head is not None and self.head.kind != "cluster":
            mend = "Leave the head of the task out."
            raise PolytaskError(
                "a cluster is the nearest centroid of the head cluster", where="head", found=self.head.kind, mend=mend
            )
        return self

    @property
    def label_columns(self) -> tuple[str, ...]:
        return () if self.column is None else (self.column,)

    @property
    def needed_columns(self) -> tuple[str, ...]:
        return () if self.weight_column is None else (self.weight_column,)

    def begins(self, n_steps: int, n_epochs: int) -> int:
        if self.warmup is None:
            return min(math.ceil(WARM_STEPS / max(n_steps, 1)), n_epochs // 3)
        if self.warmup >= n_epochs:
            found, mend = f"{self.warmup} of {counted(n_epochs, 'epoch')}", "Lower warmup, or raise trainer.epochs."
            raise PolytaskError(
                "the warm-up lasts as long as the training", where=f"task {self.name!r}", found=found, mend=mend
            )
        return self.warmup

    def labels_of(self, table: pa.Table) -> pa.Array:
        """Text in every row, empty where there is no label."""
        if self.column is None or self.column not in table.column_names:
            return pa.array([UNLABELED] * len(table), pa.string())
        return label_text(super().labels_of(table), self.place).fill_null(UNLABELED)

    def fit_target(self, column: pa.Array) -> Codec:
        if len(column) < self.n_clusters:
            found, mend = counted(len(column), "training row"), "Lower n_clusters."
            raise PolytaskError(f"{self.n_clusters} clusters need as many rows", where=self.place, found=found, mend=mend)
        return Codec(width=self.n_clusters, start=(0.0,) * self.n_clusters, dtype="int64")

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        """Codes of the labels, -1 where there is none: what they are called does not matter to any metric."""
        text = column.cast(pa.string())
        present = torch.from_numpy(text.is_valid().to_numpy(zero_copy_only=False).copy())
        known = pa.compute.not_equal(text, UNLABELED)
        return label_codes(pa.compute.if_else(known, text, None), self.place), present

    def row_losses(self, output: Float[Tensor, "B width"], target: Tensor) -> Float[Tensor, " B"]:
        logs = output.log_softmax(1)
        with torch.no_grad():
            wanted = balanced_targets(logs) if self.targets == "balanced" else dec_targets(logs)
        return -(wanted * logs).sum(1)

    def estimate(self, output: Float[Tensor, "B width"]) -> Tensor:
        """The similarity to each centroid, from 0 to 1."""
        return output.exp()

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        """The nearest centroid; the soft assignment; the distance to each centroid, in root mean squared distances."""
        similarity = estimate.double().clamp(min=torch.finfo(torch.float32).tiny)
        return {
            "group": similarity.argmax(1),
            "probability": similarity / similarity.sum(1, keepdim=True),
            "distance": (1 / similarity - 1).clamp(min=0).sqrt(),
        }

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        each = (AnswerColumn(name=f"{self.name}:{k}", view="probability", at=k, detail=True) for k in range(codec.width))
        return (AnswerColumn(name=self.name, view="group"), *each)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        every = (
            Scorer("nmi", nmi, higher_is_better=True, reads="group", is_ratio=False),
            Scorer("ari", ari, higher_is_better=True, reads="group", is_ratio=False),
            Scorer("accuracy", matched_accuracy, higher_is_better=True, reads="group"),
            Scorer("silhouette", silhouette, higher_is_better=True, reads="distance", is_ratio=False),
            Scorer("evenness", evenness, higher_is_better=True, reads="distance", is_ratio=False),
        )
        return {scorer.name: scorer for scorer in every}

    def chosen_scorers(self, codec: Codec) -> dict[str, Scorer]:
        chosen = super().chosen_scorers(codec)
        if self.metrics is None and self.column is None:
            return {name: scorer for name, scorer in chosen.items() if scorer.reads == "distance"}
        return chosen

    def remarks(self, views: Mapping[str, Tensor], codec: Codec) -> list[str]:
        """Says which clusters are empty or very small."""
        sizes = torch.bincount(views["group"], minlength=codec.width)
        small, empty = int((sizes < SMALL * len(views["group"]) / codec.width).sum()), int((sizes == 0).sum())
        if not small:
            return []
        mend = "" if self.targets == "balanced" else ", or targets: balanced, which makes them of one size"
        return [
            f"task {self.name!r}: of {codec.width} clusters {small} hold less than a tenth of the mean number of training "
            f"rows, {empty} none at all. Try a smaller n_clusters{mend}"
        ]


@torch.no_grad()
def balanced_targets(logs: Float[Tensor, "B K"], rounds: int = ROUNDS) -> Float[Tensor, "B K"]:
    """The soft assignment nearest to one of these logarithms where all K clusters have B / K rows: rows sum to 1.

    Example:
        >>> balanced_targets(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]).log(), rounds=100)
        tensor([[1., 0.],
                [1., 0.],
                [0., 1.],
                [0., 1.]])
    """
    kernel = logs / SHARPNESS
    column = torch.zeros_like(kernel[:1])
    for _ in range(rounds):
        row = -(kernel + column).logsumexp(1, keepdim=True)
        column = -(kernel + row).logsumexp(0, keepdim=True)
    return (kernel + column).softmax(1)


def dec_targets(logs: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The square of q divided by the sizes of the clusters, and then by the sum of each row.

    Example:
        >>> dec_targets(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log())
        tensor([[0.3750, 0.6250],
                [0.8438, 0.1562]])
    """
    return (2 * logs - logs.logsumexp(0, keepdim=True)).softmax(1)

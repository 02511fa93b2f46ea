"""What the encoders of tables share: how columns become vectors, and how vectors are normalized."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from rtdl_num_embeddings import PeriodicEmbeddings, PiecewiseLinearEmbeddings
from tabm import LayerNormEnsemble
from torch import Tensor, nn

from polytask.batch import Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder

Embedding = Literal["piecewise", "periodic", "plain"]
Normalization = Literal["layer", "batch", "none"]


class ColumnEncoder(Encoder, abstract=True):
    """An encoder in which every column becomes a small vector first.

    Args:
        width: D, the width of the stem's output and of every stage.
        dropout: Probability of dropping a unit.
        embedding: How numbers enter: through piecewise-linear functions whose bins were found on the training rows (Gorishniy
            2022, equation 1, in the variant that adds a linear path; a number beyond their ends counts as the nearest end, as
            in a tree), through learned sines and cosines (section 3.3 there), or as they are.
        embedding_width: The length of a column's vector.
        frequency_scale: The deviation of the initial frequencies of a periodic embedding, in turns per deviation of the column.
    """

    width: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    embedding: Embedding = "piecewise"
    embedding_width: int = Field(default=12, ge=1)
    frequency_scale: float = Field(default=0.01, gt=0)

    def columns(self, codec: InputCodec) -> ColumnVectors:
        """The module that makes vectors of the columns."""
        return ColumnVectors(codec, self.embedding, self.embedding_width, self.frequency_scale)


class ColumnVectors(nn.Module):
    """Numbers ``[B, n]`` and category codes ``[B, m]`` to the vectors of all columns, one after the other.

    Args:
        codec: What there are.
        embedding: As for ColumnEncoder, as are
        width: the length of a vector and
        frequency_scale: the deviation of initial frequencies.

    Attributes:
        widths: The length of each column's vector, numbers first.
    """

    offsets: Tensor

    def __init__(
        self, codec: InputCodec, embedding: Embedding = "piecewise", width: int = 12, frequency_scale: float = 0.01
    ) -> None:
        super().__init__()
        n_numbers, d = len(codec.numbers), width
        self.numbers: nn.Module = nn.Identity()
        if n_numbers and embedding != "plain":
            made = _periodic(codec, d, frequency_scale) if embedding == "periodic" else _piecewise(codec, d)
            self.numbers = nn.Sequential(made, nn.Flatten())
        sizes = torch.tensor([0, *codec.cardinalities])
        self.categories = CategoryEmbedding(int(sizes.sum()), d)
        self.register_buffer("offsets", sizes.cumsum(0)[:-1], persistent=False)
        self.widths = [1 if embedding == "plain" else d] * n_numbers + [d] * len(codec.cardinalities)

    def forward(self, inputs: Inputs) -> Tensor:
        columns = []
        if inputs["numbers"].shape[1]:
            columns.append(self.numbers(inputs["numbers"]))
        if inputs["categories"].shape[1]:
            columns.append(self.categories(inputs["categories"], self.offsets))
        return torch.cat(columns, 1) if len(columns) > 1 else columns[0]


class CategoryEmbedding(nn.Module):
    """A vector per category of every column, in one matrix; code 0 of a column is the zero vector."""

    def __init__(self, n_codes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_codes, width).uniform_(-1, 1) / width**0.5)

    def forward(self, codes: Int[Tensor, "B m"], offsets: Int[Tensor, " m"]) -> Float[Tensor, "B m_times_d"]:
        vectors = nn.functional.embedding(codes + offsets, self.weight)
        return (vectors * (codes > 0).unsqueeze(2)).flatten(1)


class BatchNorm(nn.Module):
    """Batch normalization of ``[B, D]`` or, each member apart, of ``[B, members, D]``.

    A row alone has no statistics of its own: it is normalized by the running ones, in training too.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features)

    def forward(self, x: Tensor) -> Tensor:
        flat, norm = x.flatten(1), self.norm
        if self.training and len(flat) == 1:
            mean, variance = norm.running_mean, norm.running_var
            flat = nn.functional.batch_norm(flat, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)
        else:
            flat = norm(flat)
        return flat.view_as(x)


def normalized(kind: Normalization, width: int, members: int = 1) -> nn.Module:
    """The layer that normalizes ``[B, width]``, or each member of ``[B, members, width]`` apart."""
    if kind == "batch":
        return BatchNorm(members * width)
    if kind == "layer":
        ensemble: nn.Module = LayerNormEnsemble(width, k=members)
        return nn.LayerNorm(width) if members == 1 else ensemble
    return nn.Identity()


def _periodic(codec: InputCodec, width: int, frequency_scale: float) -> nn.Module:
    made: nn.Module = PeriodicEmbeddings(len(codec.numbers), width, frequency_init_scale=frequency_scale, lite=False)
    return made


def _piecewise(codec: InputCodec, width: int) -> nn.Module:
    bins = [torch.tensor(edges) for edges in codec.bins]
    ends = Ends(torch.stack([edges[0] for edges in bins]), torch.stack([edges[-1] for edges in bins]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*just two bin edges")  # as a boolean or a "is missing" has
        piecewise: nn.Module = PiecewiseLinearEmbeddings(bins, width, activation=False, version="B")
    return nn.Sequential(ends, piecewise)


class Ends(nn.Module):
    """Numbers ``[B, n]`` held between the least and the largest of the training rows.

    The last piece of a piecewise-linear function would go on in its direction: a date 100 days after the training rows is nine
    of its pieces away, and activations become nine times what any row has taught.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Float[Tensor, " n"], high: Float[Tensor, " n"]) -> None:
        super().__init__()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def forward(self, numbers: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        return numbers.clamp(self.low, self.high)

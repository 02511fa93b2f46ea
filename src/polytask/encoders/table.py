"""Columns of a table through embeddings and a residual multi-layer perceptron."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part


class Table(Encoder):
    """Every column becomes a small vector, all vectors one linear layer, then residual blocks.

    Numbers go through piecewise-linear embeddings (Gorishniy 2022, equation 1, in the variant that adds a linear path), whose
    bins were found on the training rows, or are taken as they are. Categories have learned vectors; one never seen in
    training has the zero vector. A block is x + dropout(linear(dropout(relu(linear(norm(x)))))), as in the ResNet of
    Gorishniy 2021.

    Args:
        width: D, the width of the stem's output and of every block.
        depth: The number of blocks, which are the stages.
        dropout: Probability of dropping a unit.
        embedding: How numbers enter.
        embedding_width: The length of a column's vector.
    """

    paper: ClassVar[str] = "Gorishniy 2021, arXiv:2106.11959; numerical embeddings: Gorishniy 2022, arXiv:2203.05556"
    width: int = Field(default=256, ge=1)
    depth: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    embedding: Literal["piecewise", "plain"] = "piecewise"
    embedding_width: int = Field(default=12, ge=1)

    def stem(self, codec: InputCodec) -> Part:
        return Part(FeatureSpec("vector", self.width), lambda: TableStem(self, codec))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(spec, lambda: ResidualBlock(self.width, self.dropout)) for _ in range(self.depth)]


class TableStem(nn.Module):
    """Numbers ``[B, n]`` and category codes ``[B, m]`` to ``[B, D]``."""

    offsets: Tensor

    def __init__(self, encoder: Table, codec: InputCodec) -> None:
        super().__init__()
        n_numbers, d = len(codec.numbers), encoder.embedding_width
        self.numbers: nn.Module = nn.Identity()
        per_number = 1
        if n_numbers and encoder.embedding == "piecewise":
            bins = [torch.tensor(edges) for edges in codec.bins]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*just two bin edges")  # as a boolean or a "is missing" has
                embedding = PiecewiseLinearEmbeddings(bins, d, activation=False, version="B")
            self.numbers = nn.Sequential(embedding, nn.Flatten())
            per_number = d
        sizes = torch.tensor([0, *codec.cardinalities])
        self.categories = CategoryEmbedding(int(sizes.sum()), d)
        self.register_buffer("offsets", sizes.cumsum(0)[:-1], persistent=False)
        n_in = n_numbers * per_number + len(codec.cardinalities) * d
        self.mix = nn.Linear(n_in, encoder.width)

    def forward(self, inputs: Inputs) -> Features:
        columns = []
        if inputs["numbers"].shape[1]:
            columns.append(self.numbers(inputs["numbers"]))
        if inputs["categories"].shape[1]:
            columns.append(self.categories(inputs["categories"], self.offsets))
        return Features(self.mix(torch.cat(columns, 1) if len(columns) > 1 else columns[0]))


class CategoryEmbedding(nn.Module):
    """A vector per category of every column, in one matrix; code 0 of a column is the zero vector."""

    def __init__(self, n_codes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_codes, width).uniform_(-1, 1) / width**0.5)

    def forward(self, codes: Int[Tensor, "B m"], offsets: Int[Tensor, " m"]) -> Float[Tensor, "B m_times_d"]:
        vectors = nn.functional.embedding(codes + offsets, self.weight)
        return (vectors * (codes > 0).unsqueeze(2)).flatten(1)


class ResidualBlock(nn.Module):
    """x + dropout(linear(dropout(relu(linear(norm(x))))))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.Dropout(dropout),
        )

    def forward(self, features: Features) -> Features:
        return Features(features.tensor + self.block(features.tensor))

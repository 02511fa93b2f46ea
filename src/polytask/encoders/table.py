"""Columns of a table through embeddings and a residual multi-layer perceptron."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Part
from polytask.encoders._table import ColumnEncoder, Normalization, normalized


class Table(ColumnEncoder):
    """Every column becomes a small vector, all vectors one linear layer, then residual blocks.

    Categories have learned vectors; one never seen in training has the zero vector. A block is x +
    dropout(linear(dropout(relu(linear(norm(x)))))), as in the ResNet of Gorishniy 2021.

    Args:
        depth: The number of blocks, which are the stages.
        normalization: Of the features at the beginning of every block.
    """

    paper: ClassVar[str] = "Gorishniy 2021, arXiv:2106.11959; numerical embeddings: Gorishniy 2022, arXiv:2203.05556"
    depth: int = Field(default=2, ge=1)
    normalization: Normalization = "layer"

    def stem(self, codec: InputCodec) -> Part:
        return Part(FeatureSpec("vector", self.width), lambda: TableStem(self, codec))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(spec, lambda: ResidualBlock(self)) for _ in range(self.depth)]


class TableStem(nn.Module):
    """The columns' vectors through one linear layer."""

    def __init__(self, encoder: Table, codec: InputCodec) -> None:
        super().__init__()
        self.columns = encoder.columns(codec)
        self.mix = nn.Linear(sum(self.columns.widths), encoder.width)

    def forward(self, inputs: Inputs) -> Features:
        return Features(self.mix(self.columns(inputs)))


class ResidualBlock(nn.Module):
    """x + dropout(linear(dropout(relu(linear(norm(x))))))."""

    def __init__(self, encoder: Table) -> None:
        super().__init__()
        width, dropout = encoder.width, encoder.dropout
        self.block = nn.Sequential(
            normalized(encoder.normalization, width),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.Dropout(dropout),
        )

    def forward(self, features: Features) -> Features:
        return Features(features.tensor + self.block(features.tensor))

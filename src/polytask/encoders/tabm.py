"""Columns of a table through an ensemble of perceptrons that share their weights."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from tabm import ElementwiseAffine
from torch import nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Part
from polytask.encoders._table import ColumnEncoder, Normalization, normalized


class TabM(ColumnEncoder):
    """Every column becomes a small vector, which each member of an ensemble scales in its own way; layers are shared by all.

    This is the "mini" variant: the scaling before the first layer is what a member has for itself, besides its part of the
    heads' output layers and of a normalization. The loss is the mean of the members' losses, the prediction the mean of their
    predictions. A layer is dropout(relu(norm(linear(x)))); the stem has one, and each stage is one.

    Args:
        depth: The number of layers after the stem's, which are the stages.
        members: How many networks share the layers.
        normalization: Of the features of every layer, each member apart.
    """

    paper: ClassVar[str] = "Gorishniy 2025, arXiv:2410.24210; numerical embeddings: Gorishniy 2022, arXiv:2203.05556"
    depth: int = Field(default=1, ge=1)
    members: int = Field(default=8, ge=2)
    normalization: Normalization = "none"

    def stem(self, codec: InputCodec) -> Part:
        return Part(FeatureSpec("vector", self.width, members=self.members), lambda: TabMStem(self, codec))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(spec, lambda: Layer(self, self.width)) for _ in range(self.depth)]


class Layer(nn.Module):
    """dropout(relu(norm(linear(x)))) for every member."""

    def __init__(self, encoder: TabM, n_in: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Linear(n_in, encoder.width),
            normalized(encoder.normalization, encoder.width, encoder.members),
            nn.ReLU(),
            nn.Dropout(encoder.dropout),
        )

    def forward(self, features: Features) -> Features:
        return Features(self.layer(features.tensor))


class TabMStem(nn.Module):
    """The columns' vectors, scaled by each member, through the first layer."""

    def __init__(self, encoder: TabM, codec: InputCodec) -> None:
        super().__init__()
        self.columns = encoder.columns(codec)
        n_in, k = sum(self.columns.widths), encoder.members
        # As the package's own TabM: a column's whole vector starts with one factor, and a bare number keeps its size.
        start = "random-signs" if encoder.embedding == "plain" else "normal"
        chunks = self.columns.widths
        self.scale = ElementwiseAffine((k, n_in), bias=False, scaling_init=start, scaling_init_chunks=chunks)
        self.layer = Layer(encoder, n_in)
        self.members = k

    def forward(self, inputs: Inputs) -> Features:
        vectors = self.columns(inputs)
        return self.layer(Features(self.scale(vectors.unsqueeze(1).expand(-1, self.members, -1))))  # type: ignore[no-any-return]

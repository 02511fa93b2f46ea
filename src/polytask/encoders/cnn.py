"""Images through convolutions and pooling, and by choice a fully connected layer."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn

from polytask.batch import FeatureSpec
from polytask.columns import InputCodec
from polytask.encoder import Part
from polytask.encoders._image import ImageEncoder, Layers, MapStem, convolution, few_places, halved, map_stages


class CNN(ImageEncoder):
    """Convolutions that halve the sides of a map, as in LeNet-5, and a layer that reads all its places.

        image -- stem -- stage 1 -- stage 2 -- ... -- vector
        32x32    16x16     8x8        4x4             256

    The stem and every stage but the last are a convolution (5 x 5 in the stem, then 3 x 3), the largest of 2 x 2, group
    normalization and a ReLU. The last flattens the map, of which at most 4 x 4 places are left by taking means, to one vector:
    so a network can tell left from right, where the mean over all places cannot. Numbers and categories beside the image are
    fused in the stem: their vector stands at every place of its map.

    Args:
        widths: The channels of the stem and of each stage with a map.
        vector: The width of the last stage; None ends with the map, whose mean over all places the heads read.
        dropout: Probability of dropping a number of the vector.
    """

    paper: ClassVar[str] = "LeCun 1998, doi:10.1109/5.726791; group normalization: Wu 2018, arXiv:1803.08494"
    widths: tuple[int, ...] = Field(default=(16, 32, 64), min_length=2)
    vector: int | None = Field(default=256, ge=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)

    def stem(self, codec: InputCodec) -> Part:
        space, width = halved(self.space(codec)), self.widths[0]
        spec = FeatureSpec("map", width, space)
        return Part(spec, lambda: MapStem(codec, width, lambda channels: convolution(channels, width, kernel=5)))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        parts = map_stages(self.widths, spec)
        if self.vector is not None:
            last = parts[-1].spec
            parts.append(Part(FeatureSpec("vector", self.vector), lambda: self._vector(last)))
        return parts

    def _vector(self, spec: FeatureSpec) -> nn.Module:
        assert self.vector is not None
        fewer, n_places = few_places(spec.space)
        return Layers(
            fewer,
            nn.Flatten(),
            nn.Linear(spec.width * n_places, self.vector),
            nn.ReLU(),
            nn.Dropout(self.dropout),
        )

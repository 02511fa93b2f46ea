"""A decoder: from the last stage up to an answer at every pixel, with links to the stages on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from polytask.batch import Features, FeatureSpec, as_map, map_space
from polytask.errors import PolytaskError, listed
from polytask.head import Head, OutputSpec, pooled
from polytask.layers import group_norm


class Upsampling(Head):
    """A decoder as in U-Net, with sums where that puts channels side by side.

    It begins with the last stage, a vector or a map, at the places of the smallest map. Then from map to map of the encoder:
    resize to its places, add a 1 x 1 convolution of what the encoder has there (``links``), and a block: 3 x 3 convolution,
    group normalization, ReLU. From the largest map a 3 x 3 convolution makes all pixels at each of its places (sub-pixel
    convolution).

    Args:
        width: The channels of the decoder.
        links: Whether it reads the stages on the way. Without them all that it knows of an image is in the last stage: an
            autoencoder has a bottleneck.

    Raises:
        PolytaskError: The encoder has no map.
    """

    paper: ClassVar[str] = "U-Net: Ronneberger 2015, arXiv:1505.04597; sub-pixel convolution: Shi 2016, arXiv:1609.05158"
    dense: ClassVar[bool] = True

    width: int = Field(default=32, ge=1)
    links: bool = True

    def build(self, specs: Sequence[FeatureSpec], output: OutputSpec) -> nn.Module:
        if not any(map_space(spec) for spec in specs):
            found = f"its stem and stages give {listed(dict.fromkeys(spec.kind for spec in specs))}s"
            mend = "Take one of images: encoder: cnn, and say which column is the image: --image photo."
            raise PolytaskError("the head upsampling needs an encoder with maps", found=found, mend=mend)
        return Decoder(specs, output, self.width, self.links)


class Decoder(nn.Module):
    """See Upsampling."""

    def __init__(self, specs: Sequence[FeatureSpec], output: OutputSpec, width: int, links: bool) -> None:
        super().__init__()
        self.specs, self.space, self.last = tuple(specs), output.space, specs[-1]
        # Of maps with the same places the deepest is read.
        deepest = {space: index for index, spec in enumerate(specs) if (space := map_space(spec))}
        self.places = sorted(deepest, key=lambda space: space[0] * space[1])
        self.read = [deepest[space] for space in self.places]
        self.width, smallest = width, self.places[0]
        self.begin: nn.Module
        self.is_map = bool(map_space(self.last))
        if self.is_map:
            self.begin = nn.Conv2d(self.last.width, width, 1)
        else:
            self.begin = nn.Linear(self.last.width, width * smallest[0] * smallest[1])
        linked = [index for index in self.read if index != len(specs) - 1] if links else []
        self.links = nn.ModuleDict({str(index): nn.Conv2d(specs[index].width, width, 1) for index in linked})
        self.blocks = nn.ModuleList(block(width) for _ in self.places)
        self.factors = tuple(-(-whole // side) for whole, side in zip(output.space, self.places[-1], strict=True))
        self.out = nn.Conv2d(width, output.width * self.factors[0] * self.factors[1], 3, padding=1)
        with torch.no_grad():
            assert self.out.bias is not None
            self.out.bias.copy_(output.start.repeat_interleave(self.factors[0] * self.factors[1]))

    def forward(self, features: Sequence[Features]) -> Tensor:
        x = self._begun(features[-1])
        for space, index, layer in zip(self.places, self.read, self.blocks, strict=True):
            x = resized(x, space)
            if str(index) in self.links:
                x = x + self.links[str(index)](as_map(features[index], self.specs[index]))
            x = layer(x)
        return self._pixels(self.out(x))

    def _begun(self, features: Features) -> Tensor:
        if self.is_map:
            return self.begin(as_map(features, self.last))  # type: ignore[no-any-return]
        vector = pooled(features, self.last)
        return self.begin(vector).view(-1, self.width, *self.places[0])  # type: ignore[no-any-return]

    def _pixels(self, x: Tensor) -> Tensor:
        """``[B, K f g, h, w] -> [B, K, H, W]``: the f x g pixels of each place, of which the last may be left out."""
        down, right = self.factors
        x = x.unflatten(1, (-1, down, right)).permute(0, 1, 4, 2, 5, 3)
        x = x.flatten(4, 5).flatten(2, 3)
        return x[:, :, : self.space[0], : self.space[1]]


def block(width: int) -> nn.Sequential:
    """3 x 3 convolution, group normalization, ReLU."""
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), group_norm(width), nn.ReLU())


def resized(x: Tensor, space: tuple[int, ...]) -> Tensor:
    """A map with other places."""
    return x if x.shape[2:] == space else functional.interpolate(x, space, mode="nearest")

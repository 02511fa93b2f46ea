"""Images through a residual network."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import nn

from polytask.batch import Features, FeatureSpec
from polytask.columns import InputCodec
from polytask.encoder import Part
from polytask.encoders._image import ImageEncoder, MapStem, halved
from polytask.layers import group_norm

SMALL = 64


class ResNet(ImageEncoder):
    """Residual blocks of two 3 x 3 convolutions; every stage after the first halves the map and is wider.

    The stem is one 3 x 3 convolution for images of up to 64 pixels, as in the paper's networks for CIFAR; for larger ones it is
    7 x 7 with stride 2 and the largest of 2 x 2, so that their sides are quartered at once. A stage's first block brings a
    shorter map by a 1 x 1 convolution. Normalization is by groups of channels, where the paper has it by batch: see the
    encoder cnn. Heads read the mean over all places. Numbers and categories beside the image are fused in the stem.

    Args:
        widths: The channels of each stage; the stem has those of the first.
        blocks: Residual blocks in every stage.
    """

    paper: ClassVar[str] = "He 2015, arXiv:1512.03385, section 4.2; group normalization: Wu 2018, arXiv:1803.08494"
    widths: tuple[int, ...] = Field(default=(16, 32, 64), min_length=1)
    blocks: int = Field(default=2, ge=1)

    def stem(self, codec: InputCodec) -> Part:
        space, width = self.space(codec), self.widths[0]
        large = max(space) > SMALL
        spec = FeatureSpec("map", width, halved(space, 2) if large else space)
        return Part(spec, lambda: MapStem(codec, width, lambda channels: _stem(channels, width, large)))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        n_in = [self.widths[0], *self.widths[:-1]]
        return [
            Part(
                FeatureSpec("map", width, halved(spec.space, index)),
                partial(self._stage, n, width, index),
            )
            for index, (n, width) in enumerate(zip(n_in, self.widths, strict=True))
        ]

    def _stage(self, n_in: int, width: int, index: int) -> nn.Module:
        first = Block(n_in, width, stride=2 if index else 1)
        return nn.Sequential(first, *(Block(width, width) for _ in range(self.blocks - 1)))


class Block(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))); where the map changes its shape, a convolution brings x to it."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
            group_norm(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            group_norm(n_out),
        )
        self.short: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:
            self.short = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), group_norm(n_out))

    def forward(self, features: Features) -> Features:
        x = features.tensor
        return Features((self.short(x) + self.change(x)).relu())


def _stem(n_in: int, width: int, large: bool) -> nn.Sequential:
    if large:
        first, pool = nn.Conv2d(n_in, width, 7, 2, padding=3, bias=False), nn.MaxPool2d(2, ceil_mode=True)
        return nn.Sequential(first, pool, group_norm(width), nn.ReLU())
    return nn.Sequential(nn.Conv2d(n_in, width, 3, padding=1, bias=False), group_norm(width), nn.ReLU())

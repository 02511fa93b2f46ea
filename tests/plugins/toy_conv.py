"""An encoder of map features: the table's numbers as a picture of one channel."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import nn
from torch.nn import functional

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part
from polytask.errors import PolytaskError


class ToyConv(Encoder):
    """The numbers, padded with zeros, as a map ``[B, 1, side, side]``; the second stage halves its side.

    Args:
        width: Channels of the stem.
        side: Height and width of the map; side * side is the most numbers a table may have.
    """

    paper: ClassVar[str] = "LeCun 1998, doi:10.1109/5.726791"
    width: int = Field(default=4, ge=1)
    side: int = Field(default=4, ge=2)

    def stem(self, codec: InputCodec) -> Part:
        if len(codec.numbers) > self.side**2:
            found = f"{len(codec.numbers)} numbers"
            raise PolytaskError(
                "the table does not fit the map", where="encoder toy_conv", found=found, mend="Give a larger side."
            )
        return Part(FeatureSpec("map", self.width, (self.side, self.side)), lambda: PictureStem(self.width, self.side))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        half = ((self.side + 1) // 2,) * 2
        return [
            Part(spec, lambda: ConvStage(self.width, self.width, stride=1)),
            Part(FeatureSpec("map", 2 * self.width, half), lambda: ConvStage(self.width, 2 * self.width, stride=2)),
        ]


class PictureStem(nn.Module):
    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.conv = nn.Conv2d(1, width, 3, padding=1)

    def forward(self, inputs: Inputs) -> Features:
        numbers = inputs["numbers"]
        padded = functional.pad(numbers, (0, self.side**2 - numbers.shape[1]))
        return Features(self.conv(padded.view(-1, 1, self.side, self.side)))


class ConvStage(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, padding=1), nn.GroupNorm(1, n_out), nn.ReLU(), nn.Dropout(0.1)
        )

    def forward(self, features: Features) -> Features:
        return Features(self.block(features.tensor))

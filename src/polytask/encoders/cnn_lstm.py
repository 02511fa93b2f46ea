"""Images through convolutions whose features are read row by row by a recurrent network."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from polytask.batch import Features, FeatureSpec
from polytask.columns import InputCodec
from polytask.encoder import Part
from polytask.encoders._image import ImageEncoder, MapStem, convolution, halved, map_stages

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class CNNLSTM(ImageEncoder):
    """Convolutions as in the encoder cnn; then the rows of the map, from top to bottom, are the steps of a recurrent network.

        image -- stem -- stages with maps -- stages with sequences
        32x32    16x16   8x8                 8 steps of 64

    A step reads all places and channels of its row. Numbers and categories beside the image are fused in the stem. Heads read
    the mean over the steps.

    Args:
        widths: The channels of the stem and of each stage with a map.
        width: The state of the recurrent network in each direction.
        depth: Recurrent layers, each of them a stage.
        cell: rnn, gru or lstm.
        bidirectional: Whether each layer also reads from bottom to top; its features are those of both directions.
    """

    paper: ClassVar[str] = "Shi 2015, arXiv:1507.05717 (convolutional recurrent network); LSTM: Hochreiter 1997"
    widths: tuple[int, ...] = Field(default=(16, 32), min_length=1)
    width: int = Field(default=64, ge=1)
    depth: int = Field(default=1, ge=1)
    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    bidirectional: bool = True

    def stem(self, codec: InputCodec) -> Part:
        width = self.widths[0]
        spec = FeatureSpec("map", width, halved(self.space(codec)))
        return Part(spec, lambda: MapStem(codec, width, lambda channels: convolution(channels, width, kernel=5)))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        parts = map_stages(self.widths, spec)
        last = parts[-1].spec if parts else spec
        out = FeatureSpec("sequence", self.width * (1 + self.bidirectional), last.space[:1])
        parts.append(Part(out, lambda: Recurrent(self, last.width * last.space[1])))
        parts += [Part(out, lambda: Recurrent(self, out.width)) for _ in range(self.depth - 1)]
        return parts


class Recurrent(nn.Module):
    """A recurrent layer over the steps of a sequence, or the rows of a map ``[B, C, H, W]``, each a vector ``[C W]``."""

    def __init__(self, encoder: CNNLSTM, n_in: int) -> None:
        super().__init__()
        self.layer = CELLS[encoder.cell](n_in, encoder.width, batch_first=True, bidirectional=encoder.bidirectional)

    def forward(self, features: Features) -> Features:
        x, mask = features
        if x.ndim == 4:
            x = x.permute(0, 2, 1, 3).flatten(2)
            mask = x.new_ones(x.shape[:2]).bool()
        return Features(self.layer(x)[0], mask)

"""Images, or the frames of clips, through convolutions whose features are read in order by a recurrent network."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from polytask.batch import Features, FeatureSpec
from polytask.columns import InputCodec
from polytask.encoder import Part
from polytask.encoders._image import ImageEncoder, MapStem, convolution, few_places, halved, map_stages

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class CNNLSTM(ImageEncoder):
    """Convolutions as in the encoder cnn; then a recurrent network reads the frames of a clip, or the rows of an image.

        image    -- stem     -- stages with maps -- stages with sequences
        32x32       16x16       8x8                 8 steps of 64
        12x32x32    12x16x16    12x8x8              12 steps of 64

    The convolutions go over every frame by itself. Of a clip a step of the recurrent network reads a frame, of which 4 x 4
    places at most are left by taking means; of an image it reads a row of the map, from top to bottom. Numbers and categories
    beside the image are fused in the stem, and stand in every frame. Heads read the mean over the steps.

    Args:
        widths: The channels of the stem and of each stage with a map.
        width: The state of the recurrent network in each direction.
        depth: Recurrent layers, each of them a stage.
        cell: rnn, gru or lstm.
        bidirectional: Whether each layer also reads from last to first; its features are those of both directions.
    """

    paper: ClassVar[str] = (
        "Donahue 2014, arXiv:1411.4389 (frames of a clip); Shi 2015, arXiv:1507.05717 (rows of an image); LSTM: Hochreiter 1997"
    )
    reads_clips: ClassVar[bool] = True
    widths: tuple[int, ...] = Field(default=(16, 32), min_length=1)
    width: int = Field(default=64, ge=1)
    depth: int = Field(default=1, ge=1)
    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    bidirectional: bool = True

    def stem(self, codec: InputCodec) -> Part:
        width, size = self.widths[0], self.space(codec)
        frames = codec.image_features[0].frames
        spec = FeatureSpec("map", width, halved(size if frames == 1 else (frames, *size)))
        return Part(spec, lambda: MapStem(codec, width, lambda channels: convolution(channels, width, kernel=5)))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        parts = map_stages(self.widths, spec)
        last = parts[-1].spec if parts else spec
        out = FeatureSpec("sequence", self.width * (1 + self.bidirectional), last.space[:1])
        parts.append(Part(out, lambda: Recurrent(self, last)))
        parts += [Part(out, lambda: Recurrent(self, out)) for _ in range(self.depth - 1)]
        return parts


class Recurrent(nn.Module):
    """A recurrent layer over the steps of a sequence, the rows of a map ``[B, C, H, W]``, or the frames ``[B, C, T, H, W]``."""

    def __init__(self, encoder: CNNLSTM, spec: FeatureSpec) -> None:
        super().__init__()
        self.fewer: nn.Module = nn.Identity()
        n_in = spec.width
        if spec.kind == "map":
            self.fewer, n_places = few_places(spec.space[1:]) if len(spec.space) == 3 else (nn.Identity(), spec.space[1])
            n_in *= n_places
        self.layer = CELLS[encoder.cell](n_in, encoder.width, batch_first=True, bidirectional=encoder.bidirectional)

    def forward(self, features: Features) -> Features:
        x, mask = features
        if mask is None:
            x = x.transpose(1, 2)  # steps before channels
            steps = self.fewer(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1])) if x.ndim == 5 else x
            x = steps.flatten(2)
            mask = x.new_ones(x.shape[:2]).bool()
        return Features(self.layer(x)[0], mask)

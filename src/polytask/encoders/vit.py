"""Images as patches that look at one another."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Part
from polytask.encoders._image import ImageEncoder, Inlets
from polytask.errors import PolytaskError

PATCHES = 8
SMALLEST = 2  # on digits of 8 x 8 single pixels learned next to nothing in 12 epochs (accuracy .36), these .95


class ViT(ImageEncoder):
    """A small vision transformer: patches of an image as a sequence, to which each stage, a block of attention, adds.

    A block is x + attention(norm(x)), then x + mlp(norm(x)); after the last comes a normalization. Each patch has a learned
    vector for its place, and heads read the mean over all patches, where the paper has a token for the class. Numbers and
    categories beside the image are one more token, and a second image is more of them: inputs are fused by attention.

    Args:
        width: The length of a patch's vector.
        depth: The number of blocks, which are the stages.
        heads: Of the attention; they share the width.
        patch: The sides of a patch in pixels; None for what cuts the longer side of the image into eight, but 2 at least.
        expansion: How much wider the hidden layer of a block's perceptron is.
        dropout: Probability of dropping a number of what a block adds.
    """

    paper: ClassVar[str] = "Dosovitskiy 2020, arXiv:2010.11929; mean over patches: Beyer 2022, arXiv:2205.01580"
    width: int = Field(default=96, ge=1)
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    patch: int | None = Field(default=None, ge=1)
    expansion: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    def model_post_init(self, _: object) -> None:
        """Refuse heads that do not share the width."""
        if self.width % self.heads:
            found = f"{self.heads} heads, width {self.width}"
            raise PolytaskError("the heads must share the width evenly", where="encoder vit", found=found)

    def stem(self, codec: InputCodec) -> Part:
        space = self.space(codec)
        patch = self.patch or max(SMALLEST, -(-max(space) // PATCHES))
        grid = tuple(-(-side // patch) for side in space)
        return Part(FeatureSpec("sequence", self.width, grid=grid), lambda: TokenStem(codec, self.width, space, patch))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(spec, partial(Block, self, last=index == self.depth - 1)) for index in range(self.depth)]


class Patches(nn.Module):
    """``[B, C, H, W] -> [B, L, D]``: a linear layer on each patch, and a vector for its place.

    An image whose sides are no multiples of a patch has zeros, the mean color, at its right and lower end.
    """

    def __init__(self, n_in: int, width: int, space: tuple[int, int], patch: int) -> None:
        super().__init__()
        n_rows, n_columns = (-(-side // patch) for side in space)
        self.padding = (0, n_columns * patch - space[1], 0, n_rows * patch - space[0])
        self.embed = nn.Conv2d(n_in, width, patch, patch)
        self.places = nn.Parameter(torch.randn(n_rows * n_columns, width) * 0.02)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.embed(functional.pad(image, self.padding)).flatten(2).transpose(1, 2)
        return tokens + self.places


class TokenStem(nn.Module):
    """The patches of all images, and one token of the other columns."""

    def __init__(self, codec: InputCodec, width: int, space: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.inlets = Inlets(codec, width, lambda channels: Patches(channels, width, space, patch))

    def forward(self, inputs: Inputs) -> Features:
        tokens, vector = self.inlets(inputs)
        every = torch.cat([*tokens, *([] if vector is None else [vector.unsqueeze(1)])], 1)
        return Features(every, torch.ones(every.shape[:2], dtype=torch.bool, device=every.device))


class Block(nn.Module):
    """A transformer block, normalized before each of its two parts."""

    def __init__(self, encoder: ViT, last: bool) -> None:
        super().__init__()
        width, hidden = encoder.width, encoder.expansion * encoder.width
        self.heads = encoder.heads
        self.before = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Sequential(nn.Linear(width, width), nn.Dropout(encoder.dropout))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(encoder.dropout)
        )
        self.after: nn.Module = nn.LayerNorm(width) if last else nn.Identity()

    def forward(self, features: Features) -> Features:
        x, mask = features
        split = self.ask(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, L, D]
        kept = None if mask is None else mask[:, None, None, :]
        seen = functional.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=kept)
        x = x + self.answer(seen.transpose(1, 2).flatten(2))
        return Features(self.after(x + self.mlp(x)), mask)

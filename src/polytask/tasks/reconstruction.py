"""The input image again, of what the network kept of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from torch import Tensor

from polytask.answers import AnswerColumn
from polytask.batch import Inputs, Stored, n_rows
from polytask.scorer import Scorer
from polytask.task import Codec
from polytask.tasks._dense import DenseTask, dense_scorer, mean_where

PIECE = 4096  # images whose bytes are counted at once
N_PATCHES = 8  # along the longer side of an image


class Reconstruction(DenseTask):
    """An input image, as it went in: every row with an image teaches it, labels or not.

    Its column is that of an image among the inputs, which it stays. The loss of a row is the mean over pixels and channels of
    the error of brightness less the training mean of the channel, divided by its deviation.

    Args:
        masked: The share of an image's patches that is hidden from the network while it learns, under the mean color; the loss
            is then of these alone. Other tasks see the whole image, in a pass of their own; answers are of whole images.
        patch: The sides of a patch in pixels; None for what cuts the longer side of the image into eight.

    Metrics: ``rmse`` and ``mae`` of brightness from 0 to 1, over all pixels of all rows; ``psnr``, -20 log10 of the former, in
    decibels.

    Answers are arrays of bytes ``[H, W]``, or ``[H, W, 3]`` of colors.
    """

    spatial: ClassVar[Literal["codes", "numbers", "image"] | None] = "image"
    paper: ClassVar[str] = "masked: Xie 2021, arXiv:2111.09886"
    losses: ClassVar[tuple[str, ...]] = ("mse", "l1")
    default_metrics: ClassVar[tuple[str, ...]] = ("rmse", "psnr")

    masked: float = Field(default=0.0, ge=0, lt=1)
    patch: int | None = Field(default=None, ge=1)

    @property
    def hides(self) -> bool:
        return self.masked > 0

    def hidden(self, inputs: Sequence[Inputs], target: Tensor, codec: Codec, seed: int) -> tuple[tuple[Inputs, ...], Tensor]:
        """Images with patches under the mean color, and as target brightness with a channel that is 1 where it is hidden."""
        assert codec.image is not None
        key, generator = codec.image.key, torch.Generator().manual_seed(seed)
        mean = torch.tensor(codec.image.mean, device=target.device).round().to(torch.uint8).view(-1, 1, 1)
        seen: list[Inputs] = []
        marks = []
        for part in inputs:
            mask = self._patches(n_rows(part), codec.space, generator).to(target.device)
            seen.append({**part, key: torch.where(mask, mean, part[key])} if key in part else part)
            marks.append(mask)
        return tuple(seen), torch.cat([target, torch.cat(marks)], 1)

    def _patches(self, n: int, space: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "B 1 H W"]:
        """Where images are hidden: the same number of patches of each."""
        side = self.patch or -(-max(space) // N_PATCHES)
        grid = [-(-extent // side) for extent in space]
        n_hidden = max(1, min(round(self.masked * math.prod(grid)), math.prod(grid) - 1))
        order = torch.rand(n, math.prod(grid), generator=generator).argsort(1).argsort(1)
        spread = (order < n_hidden).view(n, 1, *grid).repeat_interleave(side, 2).repeat_interleave(side, 3)
        return spread[:, :, : space[0], : space[1]]

    @property
    def barred_columns(self) -> tuple[str, ...]:
        return () if self.weight_column is None else (self.weight_column,)

    def labels_of(self, table: pa.Table) -> pa.Array:
        """True in every row with an image."""
        there = table.column(self.label_column).is_valid().to_numpy()
        return pa.array(np.ones(len(table), np.bool_), mask=~there)

    def fit_target(self, column: pa.Array) -> Codec:
        return Codec(space=(1, 1), dtype="uint8")

    def encode(self, column: pa.Array, codec: Codec) -> tuple[Tensor, Bool[Tensor, " N"]]:
        """Which rows have an image; the images themselves are those of the inputs."""
        present = torch.from_numpy(column.is_valid().to_numpy(zero_copy_only=False).copy())
        return torch.zeros((len(column), codec.width, *codec.space), dtype=torch.uint8), present

    def best_constant(self, target: Stored, codec: Codec, weights: Float[Tensor, " N"]) -> Float[Tensor, " width"]:
        if self.loss != "l1":
            counts = self._counts(target, weights)
            mean = (counts * torch.arange(256)).sum(1) / counts.sum(1)
            return self._learned(mean.view(1, -1, 1, 1), codec).flatten()
        counts = self._counts(target, weights).cumsum(1)
        median = torch.stack([torch.searchsorted(each, each[-1:] / 2) for each in counts])
        return self._learned(median.view(1, -1, 1, 1), codec).flatten()

    def _counts(self, target: Stored, weights: Tensor) -> Tensor:
        """How many pixels have each brightness, per channel ``[C, 256]``."""
        counts = torch.zeros(target.array.shape[1], 256, dtype=torch.float64)
        for rows in torch.arange(len(target)).split(PIECE):
            pixels = target.index_select(0, rows).flatten(2)
            each = weights[rows].double().view(-1, 1).expand(-1, pixels.shape[2]).flatten()
            for channel in range(len(counts)):
                counts[channel] += torch.bincount(pixels[:, channel].flatten(), each, minlength=256)
        return counts

    def _learned(self, pixels: Tensor, codec: Codec) -> Tensor:
        """Brightness on the scale of the loss."""
        mean, deviation = _moments(codec, pixels)
        return (pixels - mean) / deviation

    def on_scale(self, target: UInt8[Tensor, "B D H W"], codec: Codec) -> Float[Tensor, "B D H W"]:
        """Brightness on the scale of the loss; what is hidden of it stays the last channel, where there is such."""
        pixels, marks = target[:, : codec.width], target[:, codec.width :]
        return torch.cat([self._learned(pixels, codec), marks], 1) if marks.shape[1] else self._learned(pixels, codec)

    def row_losses(self, output: Float[Tensor, "B C H W"], target: Float[Tensor, "B D H W"]) -> Float[Tensor, " B"]:
        pixels, marks = target[:, : output.shape[1]], target[:, output.shape[1] :]
        apart = (output - pixels).abs() if self.loss == "l1" else (output - pixels).square()
        return mean_where(apart, marks.bool().expand_as(apart)) if marks.shape[1] else apart.flatten(1).mean(1)

    def estimate(self, output: Float[Tensor, "B C H W"]) -> Tensor:
        return output

    def merged(self, outputs: Float[Tensor, "B members C H W"]) -> Float[Tensor, "B C H W"]:
        return outputs.mean(1)

    def views(self, estimate: Tensor, codec: Codec) -> dict[str, Tensor]:
        """Brightness from 0 to 255, with the channels last where there are three."""
        mean, deviation = _moments(codec, estimate)
        return {"value": _channels_last((estimate * deviation + mean).clamp(0, 255))}

    def truth(self, target: Tensor, codec: Codec) -> Tensor:
        return _channels_last(target)

    def statistics(self, views: Any, target: Tensor, codec: Codec) -> Float[Tensor, "B n"]:
        """Of each row the mean square and the mean size of the error of brightness from 0 to 1, and 1."""
        value = views["value"]
        apart = (value.view(target.shape) if value.ndim == 3 else value.movedim(-1, 1)).double() - target.double()
        each = apart.flatten(1) / 255
        return torch.stack([each.square().mean(1), each.abs().mean(1), torch.ones(len(each), dtype=torch.float64)], 1)

    def answer_columns(self, codec: Codec) -> tuple[AnswerColumn, ...]:
        return (AnswerColumn(name=self.name, view="value", rounded=True),)

    def scorers(self, codec: Codec) -> dict[str, Scorer]:
        found = [
            dense_scorer("rmse", lambda sums: (sums[0] / sums[2]).sqrt(), False),
            dense_scorer("mae", lambda sums: sums[1] / sums[2], False),
            dense_scorer("psnr", lambda sums: -10 * (sums[0] / sums[2]).log10(), True, is_ratio=False),
        ]
        return {scorer.name: scorer for scorer in found}


def _channels_last(pixels: Tensor) -> Tensor:
    """``[B, H, W]``, or ``[B, H, W, C]`` of several channels."""
    return pixels.squeeze(1) if pixels.shape[1] == 1 else pixels.movedim(1, -1)


def _moments(codec: Codec, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, where a tensor is."""
    assert codec.image is not None
    mean, deviation = codec.image.mean, codec.image.deviation
    return torch.tensor(mean, device=like.device).view(-1, 1, 1), torch.tensor(deviation, device=like.device).view(-1, 1, 1)

"""The parts of a network of transformers as a stem and stages, each with what it has learned."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Pace
from polytask.encoders._image import Inlets, halved
from polytask.encoders._transformers import Backbone, asked_of, first
from polytask.images import ImageFeature

SMALL = 0.01  # the weights by which other columns enter: the network begins nearly as it has learned


@dataclass(frozen=True)
class Step:
    """A layer with what it is called with, the channels of its output, and the spec of that and of what comes after it."""

    layer: nn.Module
    options: Mapping[str, Any]
    width: int
    spec: FeatureSpec


def stages_of(backbone: Backbone, spec: FeatureSpec, parts: int) -> list[Stage]:
    """The stages after a stem of this spec: those of the network's paper, or runs of layers with as many channels.

    Where all layers are alike they are put into ``parts`` stages.
    """
    steps = _steps(backbone, spec)
    widths, n = [step.width for step in steps], len(steps)
    if backbone.layout.stages:
        ends = list(range(1, n + 1))
    elif len(set(widths)) > 1:
        ends = [i for i in range(1, n + 1) if i == n or widths[i] != widths[i - 1]]
    else:
        parts = min(parts, n)
        ends = [round(n * (i + 1) / parts) for i in range(parts)]
    after = [backbone.after if end == n else [] for end in ends]
    return [Stage(steps[i:j], last) for (i, j), last in zip(pairwise([0, *ends]), after, strict=True)]


def _steps(backbone: Backbone, spec: FeatureSpec) -> list[Step]:
    windowed, patch = _windowed(backbone), _patch(backbone) or (1, 1)
    grid = spec.space if spec.kind == "map" else spec.grid
    image = tuple(n * side for n, side in zip(grid, patch, strict=False))
    x = torch.zeros(1, spec.width, *spec.space) if spec.kind == "map" else torch.zeros(1, *spec.space, spec.width)
    x, steps = _flat(x) if windowed else x, []
    with torch.no_grad():
        for layer in backbone.layers:
            options = asked_of(layer, attention_mask=None, input_dimensions=grid, resolution=image)
            y = x = first(layer(x, **options))
            if windowed and x.shape[1] != math.prod(grid):
                grid = halved(grid)
            for module in backbone.after if layer is backbone.layers[-1] else ():
                y = module(y)
            after = FeatureSpec("map", y.shape[2], grid) if windowed else _spec(y, spec.grid)
            steps.append(Step(layer, options, x.shape[1 if x.ndim == 4 else 2], after))
    return steps


class Known(nn.Module):
    """Layers with what they have learned; batch normalization keeps the statistics that it came with."""

    pace: Pace

    def copied(self, pace: Pace | None) -> Self:
        """A copy that is trained at a pace; None where it is not."""
        made = copy.deepcopy(self)
        if pace is None:
            return made.requires_grad_(False)
        made.pace = pace
        return made

    def train(self, mode: bool = True) -> Self:
        """As for any module, but normalization by other rows stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class Embed(Known):
    """Pixels ``[B, C, H, W]`` to a map ``[B, D, h, w]``, or to a sequence ``[B, L, D]`` of patches, then other tokens.

    Args:
        backbone: The network.
        space: H and W.
    """

    def __init__(self, backbone: Backbone, space: tuple[int, int]) -> None:
        super().__init__()
        own = getattr(backbone.network.config, "image_size", space)
        other = space != ((own, own) if isinstance(own, int) else tuple(own))
        self.layers = nn.ModuleList(backbone.stem)
        self.n_channels = int(getattr(backbone.network.config, "num_channels", 3))
        self.options = asked_of(backbone.stem[0], interpolate_pos_encoding=other)
        self.space, self.patch, self.windowed = space, _patch(backbone), _windowed(backbone)
        self.grid = () if self.patch is None else tuple(-(-n // side) for n, side in zip(space, self.patch, strict=True))

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> Tensor:
        x = pixels
        for index, layer in enumerate(self.layers):
            x = first(layer(x, **({} if index else self.options)))
        if self.windowed:
            places: Tensor = x.mT.unflatten(2, self.grid)
            return places
        return x.roll(-_n_others(x, self.grid), 1) if x.ndim == 3 else x

    def spec_of(self, pixels: Tensor) -> FeatureSpec:
        """What it makes of such pixels."""
        with torch.no_grad():
            spec = _spec(self(pixels), self.grid)
        if spec.kind == "sequence" and self.patch and any(n % side for n, side in zip(self.space, self.patch, strict=True)):
            raise ValueError(f"no whole number of patches of {' x '.join(map(str, self.patch))}")
        return spec


class Stage(Known):
    """Some layers one after the other, and what comes after them."""

    def __init__(self, steps: Sequence[Step], after: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(step.layer for step in steps)
        self.options = [dict(step.options) for step in steps]
        self.after = nn.ModuleList(after)
        self.spec = steps[-1].spec
        self.windowed = "input_dimensions" in self.options[0]

    def forward(self, features: Features) -> Features:
        x, mask = features
        n = _n_others(x, self.spec.grid) if self.spec.kind == "sequence" else 0
        x = _flat(x) if self.windowed else x.roll(n, 1) if n else x
        for layer, options in zip(self.layers, self.options, strict=True):
            x = first(layer(x, **options))
        for module in self.after:
            x = module(x)
        return Features(x.mT.unflatten(2, self.spec.space) if self.windowed else x.roll(-n, 1) if n else x, mask)


class Prepared(nn.Module):
    """Bytes as the numbers that the network has learned from; a grey image is repeated for each of its channels.

    Args:
        image: The image; where the model says nothing of pixels, less its mean over the training images, by their deviation.
        n_channels: That the network reads.
        settings: What the model's preprocessor_config.json says.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, image: ImageFeature, n_channels: int, settings: Mapping[str, Any] | None) -> None:
        super().__init__()
        said = settings or {}
        mean, deviation = said.get("image_mean"), said.get("image_std")
        if settings is None or (said.get("do_normalize", True) and not (mean and deviation)):
            mean, deviation, said = image.mean, image.deviation, {"do_rescale": False}
        elif not said.get("do_normalize", True):
            mean, deviation = [0.0], [1.0]
        factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
        offset = -1.0 if said.get("rescale_offset") else 0.0
        means, deviations = (torch.tensor(values).view(-1, 1, 1).expand(n_channels, 1, 1) for values in (mean, deviation))
        self.register_buffer("scale", factor / deviations, persistent=False)
        self.register_buffer("shift", (offset - means) / deviations, persistent=False)
        self.turned = bool(said.get("do_flip_channel_order"))  # blue first

    def forward(self, pixels: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        colors = pixels.flip(1) if self.turned else pixels
        return (colors * self.scale + self.shift).contiguous(memory_format=torch.channels_last)


class PretrainedStem(nn.Module):
    """The mean of what the stem of the network makes of each image, and the other columns' vector at every place.

    Args:
        codec: The inputs.
        embed: The stem of the network, of which each image has a copy.
        spec: Of its output.
        pace: How it is trained.
        settings: What the model says of pixels.
    """

    def __init__(
        self, codec: InputCodec, embed: Embed, spec: FeatureSpec, pace: Pace | None, settings: Mapping[str, Any] | None
    ) -> None:
        super().__init__()
        n_channels = embed.n_channels
        self.inlets = Inlets(
            codec, spec.width, lambda _: embed.copied(pace), lambda image: Prepared(image, n_channels, settings)
        )
        self.is_map = spec.kind == "map"
        entry = self.inlets.columns[-1] if isinstance(self.inlets.columns, nn.Sequential) else None
        if isinstance(entry, nn.Linear):
            nn.init.normal_(entry.weight, std=SMALL)
            nn.init.zeros_(entry.bias)

    def forward(self, inputs: Inputs) -> Features:
        images, vector = self.inlets(inputs)
        x = images[0] if len(images) == 1 else torch.stack(images).mean(0)
        if vector is not None:
            x = x + (vector[:, :, None, None] if self.is_map else vector.unsqueeze(1))
        return Features(x, None if self.is_map else torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))


def differs(backbone: Backbone, embed: Embed, stages: Sequence[Stage], pixels: Tensor) -> float:
    """By how much what the parts give of pixels differs from what the whole network gives, as a share of the largest number."""
    network = copy.deepcopy(backbone.network)  # for it leaves hooks in itself
    with torch.no_grad():
        features = Features(embed(pixels))
        for stage in stages:
            features = stage(features)
        mine = _flat(features.tensor) if embed.windowed else features.tensor
        mine = mine.roll(_n_others(mine, embed.grid), 1) if mine.ndim == 3 and not embed.windowed else mine
        theirs = network(pixel_values=pixels, **asked_of(network, **embed.options)).last_hidden_state
    return math.inf if mine.shape != theirs.shape else float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))


def _windowed(backbone: Backbone) -> bool:
    """Whether its layers read a map as the sequence of its places, and are told its sides."""
    return bool(asked_of(backbone.layers[0], input_dimensions=()))


def _patch(backbone: Backbone) -> tuple[int, ...] | None:
    """Height and width of a patch, where images are cut into such."""
    size = getattr(backbone.network.config, "patch_size", None)
    return (size, size) if isinstance(size, int) else None if size is None else tuple(size)


def _n_others(x: Float[Tensor, "B L D"], grid: tuple[int, ...]) -> int:
    """How many tokens are no patches: transformers puts them first, here they are last."""
    return x.shape[1] - math.prod(grid)


def _flat(x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B L D"]:
    return x.flatten(2).mT


def _spec(x: Tensor, grid: tuple[int, ...]) -> FeatureSpec:
    if x.ndim == 4:
        return FeatureSpec("map", x.shape[1], tuple(x.shape[2:]))
    return FeatureSpec("sequence", x.shape[2], (x.shape[1],), grid=grid)

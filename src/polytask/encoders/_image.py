"""What the encoders of images share: pixels as numbers, convolutions, and how images and other columns become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part
from polytask.encoders._table import ColumnVectors
from polytask.errors import PolytaskError, counted, listed
from polytask.images import ImageFeature
from polytask.layers import group_norm

SIDE = 4


class ImageEncoder(Encoder, abstract=True):
    """An encoder of images; numbers, categories and further images beside them are fused in its stem."""

    reads_images: ClassVar[bool] = True

    def space(self, codec: InputCodec) -> tuple[int, int]:
        """Height and width of the images, which are alike, as is how many frames they have.

        Raises:
            PolytaskError: They are not.
        """
        where, images = f"encoder {self.kind}", codec.image_features
        sizes = {(image.height, image.width) for image in images}
        if len(sizes) > 1:
            found = listed(f"{image.column!r} {image.height} x {image.width}" for image in images)
            mend = "Set images.size, as in --set images.size=64."
            raise PolytaskError("images of several sizes", where=where, found=found, mend=mend)
        if len({image.frames for image in images}) > 1:
            found = listed(f"{image.column!r} {counted(image.frames, 'frame')}" for image in images)
            mend = "Set images.frames, as in --set images.frames=8: a still image is then a clip that stands still."
            raise PolytaskError("images of several numbers of frames", where=where, found=found, mend=mend)
        return sizes.pop()


class Pixels(nn.Module):
    """Bytes as numbers: each channel less its mean over the training images, divided by their deviation.

    The frames of clips ``[B, T, C, H, W]`` are rows of what comes out.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, image: ImageFeature) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(image.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(image.deviation).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: UInt8[Tensor, "B *frames C H W"]) -> Float[Tensor, "rows C H W"]:
        rows = pixels.flatten(0, -4)
        return ((rows - self.mean) * self.scale).contiguous(memory_format=torch.channels_last)


class Inlets(nn.Module):
    """Every image through a module of its own, ``[B, C, H, W] -> [B, ...]``, and all other columns to one vector ``[B, D]``.

    Of clips of T frames these are ``[B T, ...]``.

    Args:
        codec: The inputs.
        width: D.
        build: The module for images of so many channels.
        pixels: What makes numbers of an image's bytes.
    """

    def __init__(
        self,
        codec: InputCodec,
        width: int,
        build: Callable[[int], nn.Module],
        pixels: Callable[[ImageFeature], nn.Module] = Pixels,
    ) -> None:
        super().__init__()
        self.keys = [image.key for image in codec.image_features]
        self.images = nn.ModuleList(nn.Sequential(pixels(image), build(image.channels)) for image in codec.image_features)
        self.columns: nn.Module | None = None
        if codec.numbers or codec.cardinalities:
            vectors = ColumnVectors(codec)
            self.columns = nn.Sequential(vectors, nn.Linear(sum(vectors.widths), width))

    def forward(self, inputs: Inputs) -> tuple[list[Tensor], Tensor | None]:
        images = [image(inputs[key]) for key, image in zip(self.keys, self.images, strict=True)]
        return images, None if self.columns is None else self.columns(inputs)

    @property
    def n_inputs(self) -> int:
        """How many images, and vectors of other columns, there are."""
        return len(self.images) + (self.columns is not None)


class MapStem(nn.Module):
    """One map of all inputs: the images' maps, and the other columns' vector at every place, through a 1 x 1 convolution.

    With one image alone it is that image's map. Clips have a map of three axes: frames, height, width.
    """

    def __init__(self, codec: InputCodec, width: int, build: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.inlets = Inlets(codec, width, build)
        n, self.frames = self.inlets.n_inputs, codec.image_features[0].frames
        self.fuse: nn.Module = nn.Conv2d(n * width, width, 1) if n > 1 else nn.Identity()

    def forward(self, inputs: Inputs) -> Features:
        maps, vector = self.inlets(inputs)
        if vector is not None:
            vector = vector.repeat_interleave(self.frames, 0) if self.frames > 1 else vector
            maps.append(vector[:, :, None, None].expand(-1, -1, *maps[0].shape[2:]))
        fused = self.fuse(torch.cat(maps, 1) if len(maps) > 1 else maps[0])
        # On a CPU convolutions are 1.15 times as fast so on grey images, and 1.45 times on color: the stages after it go on in
        # this order. (Weights in it would be faster still, but optimizers mistake their places where gradients are in another.)
        fused = fused.contiguous(memory_format=torch.channels_last)
        return Features(fused if self.frames == 1 else unfolded(fused, self.frames))


def unfolded(rows: Tensor, frames: int) -> Tensor:
    """The frames of clips from the rows, ``[B T, D, H, W] -> [B, D, T, H, W]``."""
    frames_apart: Tensor = rows.unflatten(0, (-1, frames))
    return frames_apart.transpose(1, 2)


class Layers(nn.Module):
    """Layers on the tensor of features; those of a still map go over every frame of a clip's."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Features) -> Features:
        x = features.tensor
        if x.ndim < 5:
            return Features(self.layers(x))
        return Features(unfolded(self.layers(x.transpose(1, 2).flatten(0, 1)), x.shape[2]))


def convolution(n_in: int, n_out: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, largest of 2 x 2, group norm, ReLU: the sides are halved, rounded up.

    Pooling comes first: the largest of normalized numbers would be theirs too, and a quarter of them is left to normalize.
    """
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2),
        nn.MaxPool2d(2, ceil_mode=True),
        group_norm(n_out),
        nn.ReLU(),
    )


def halved(space: Sequence[int], times: int = 1) -> tuple[int, ...]:
    """The sides of a map after so many halvings, each rounded up; the frames of a clip's stay."""
    return (*space[:-2], *(-(-side // 2**times) for side in space[-2:]))


def few_places(space: Sequence[int]) -> tuple[nn.Module, int]:
    """A layer that leaves 4 x 4 places of a map at most, by taking means, and how many it leaves."""
    windows = [-(-side // SIDE) for side in space]
    left = [-(-side // window) for side, window in zip(space, windows, strict=True)]
    layer = nn.AvgPool2d((windows[0], windows[1]), ceil_mode=True) if max(windows) > 1 else nn.Identity()
    return layer, left[0] * left[1]


def map_stages(widths: Sequence[int], spec: FeatureSpec) -> list[Part]:
    """A convolution after another, from a stem with ``spec`` and the first of these widths."""
    parts = []
    for index, (n_in, n_out) in enumerate(pairwise(widths)):
        parts.append(Part(FeatureSpec("map", n_out, halved(spec.space, index + 1)), partial(_stage, n_in, n_out)))
    return parts


def _stage(n_in: int, n_out: int) -> Layers:
    return Layers(*convolution(n_in, n_out))

"""Which changes of training images are asked for: the part of a recipe that says how these are augmented."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import ConfigDict, Field

from polytask.component import Settings

# As the fields of Augmentation are called, and what a task may vary with.
Operation = Literal[
    "flip", "vertical_flip", "crop", "shift", "rotation", "zoom", "shear", "color", "erasing", "mixup"
]  # fmt: skip
GEOMETRY: tuple[Operation, ...] = ("flip", "vertical_flip", "crop", "shift", "rotation", "zoom", "shear")


class Augmentation(Settings):
    """How the images of training rows are changed at random, in every step anew; nothing is, unless it is said.

    A row's images and its labels that are images (masks, depth) move alike. What was outside the picture is its mirror image,
    where such labels say nothing. Validation rows, and rows to be answered, are as they are. An operation that a task
    ``varies_with`` is left out.

    Args:
        flip: The share of the images whose left and right are exchanged.
        vertical_flip: Likewise top and bottom.
        crop: Up to this share of each side is cut away, and the rest brought to the size.
        shift: Up to this share of each side, in either direction.
        rotation: Up to so many degrees, either way.
        zoom: Up to this share larger or smaller; 0.25 is from 4/5 to 5/4.
        shear: Up to so many degrees that upright lines lean, either way.
        color: Brightness, contrast and, where there are colors, saturation are each multiplied by 1 - color to 1 + color.
        erasing: The share of the images in which a rectangle gets the mean color: 2 to 33 % of the area, 0.3 to 3.3 times as
            high as wide. What an image shows there is still to be told by tasks that tell something of every pixel.
        mixup: Two images of a batch, and the losses for their labels, are mixed in the proportions t and 1 - t, where t is
            drawn from Beta(mixup, mixup) for each batch; the paper takes 0.1 to 0.4.

    References:
        Zhang 2018, arXiv:1710.09412 (mixup). Zhong 2017, arXiv:1708.04896 (erasing).

    Example:
        >>> Augmentation(flip=0.5, rotation=15).operations
        ('flip', 'rotation')
        >>> Augmentation(flip=0.5, rotation=15).without(["flip"]).operations
        ('rotation',)
    """

    model_config = ConfigDict(strict=True)  # `flip: yes` would be every image's

    flip: float = Field(default=0.0, ge=0, le=1)
    vertical_flip: float = Field(default=0.0, ge=0, le=1)
    crop: float = Field(default=0.0, ge=0, lt=1)
    shift: float = Field(default=0.0, ge=0, le=1)
    rotation: float = Field(default=0.0, ge=0, le=180)
    zoom: float = Field(default=0.0, ge=0)
    shear: float = Field(default=0.0, ge=0, lt=90)
    color: float = Field(default=0.0, ge=0, le=1)
    erasing: float = Field(default=0.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Those asked for."""
        return tuple(name for name in type(self).model_fields if getattr(self, name))  # type: ignore[misc]

    def without(self, operations: Iterable[Operation]) -> Self:
        """The same, but for these."""
        return self.model_copy(update=dict.fromkeys(operations, 0.0))

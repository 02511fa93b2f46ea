"""Somebody's own network as an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polytask.batch import Features, FeatureSpec, Inputs
from polytask.columns import InputCodec
from polytask.encoder import Encoder, Part, copies_of
from polytask.encoders._image import Pixels
from polytask.errors import PolytaskError, listed


class External(Encoder):
    """Any ``nn.Module`` that maps floats to ``[B, D]``; give the module itself where an encoder is asked for.

    Of a table it reads ``[B, n]``: the numbers, then one column of zeros and ones per category. Where an image is the one input
    it reads ``[B, C, H, W]``: each channel less its mean over the training images, divided by their deviation, and a missing
    image is zeros. It may then return a map, ``[B, D, h, w]``, which tasks of pixels need. An image beside other columns is
    refused. A saved model holds its weights but not its code: ``load(path, modules={name: module})`` brings it back.
    """

    placeholder: ClassVar[bool] = True
    name: str
    module: Any = Field(default=None, exclude=True, repr=False)

    def check_reads(self, images: Sequence[str], others: Sequence[str]) -> None:
        """Refuse an image beside anything else."""
        beside = [name for name in others if name not in {f"{image} is missing" for image in images}]
        if len(images) > 1 or (images and beside):
            found, mend = listed([*images, *beside]), "Drop the others, or take encoder: cnn, which reads them together."
            raise PolytaskError(
                "a network of your own reads a table, or one image alone", where=self.name, found=found, mend=mend
            )

    def check_pixels(self, task: str, kind: str) -> None:
        """A task of pixels finds out from the features: those of somebody's network may be a map."""

    def stem(self, codec: InputCodec) -> Part:
        if self.module is None:
            mend = f"load(path, modules={{{self.name!r}: the module}})"
            raise PolytaskError(f"the encoder is the external module {self.name!r}, which is not in the file", mend=mend)
        make, of_images = copies_of(self.module), bool(codec.image_features)
        try:
            with torch.no_grad():
                shape = ExternalStem(make(), codec).eval()(codec.made_up(2)).tensor.shape
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            what = f"the encoder cannot read the {'image' if of_images else 'table'}"
            found = f"{type(error).__name__}: {error}"
            raise PolytaskError(what, where=self.name, found=found, mend=f"It must read floats {_said(codec)}.") from error
        if len(shape) not in ((2, 4) if of_images else (2,)):
            what = f"the encoder does not return {'vectors or maps' if of_images else 'vectors'}"
            mend = f"Return one vector per row, [B, D]{', or a map, [B, D, h, w]' if of_images else ''}."
            raise PolytaskError(what, where=self.name, found=f"shape {tuple(shape)}", mend=mend)
        kind: Literal["vector", "map"] = "vector" if len(shape) == 2 else "map"
        return Part(FeatureSpec(kind, shape[1], tuple(shape[2:])), lambda: ExternalStem(make(), codec))

    def stages(self, spec: FeatureSpec) -> list[Part]:
        return [Part(spec, nn.Identity)]


class ExternalStem(nn.Module):
    """The image, or all columns, as floats, then the module."""

    def __init__(self, module: nn.Module, codec: InputCodec) -> None:
        super().__init__()
        self.module, self.cardinalities = module, codec.cardinalities
        image = codec.image_features[0] if codec.image_features else None
        self.key = "" if image is None else image.key
        self.pixels = None if image is None else Pixels(image)

    def forward(self, inputs: Inputs) -> Features:
        if self.pixels is not None:
            return Features(self.module(self.pixels(inputs[self.key]).contiguous()))  # for people call view
        codes = inputs["categories"]
        columns: list[Tensor] = [inputs["numbers"]]
        columns += [nn.functional.one_hot(codes[:, i], n)[:, 1:].float() for i, n in enumerate(self.cardinalities)]
        return Features(self.module(torch.cat(columns, 1)))


def _said(codec: InputCodec) -> str:
    """What there is to read, in words."""
    if codec.image_features:
        return f"[B, {', '.join(map(str, codec.image_features[0].shape))}]: channels, height and width"
    n_numbers = len(codec.numbers)
    n_columns = n_numbers + sum(codec.cardinalities) - len(codec.cardinalities)
    return f"[B, {n_columns}]: {n_numbers} numbers, then a column of 0 and 1 per category"
